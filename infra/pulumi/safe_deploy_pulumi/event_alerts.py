"""Alerts on lifecycle events that were not published, not delivered, or given up.

Verified verdicts do not depend on events, but are slower without them.
"""

from dataclasses import dataclass

import pulumi
from pulumi_azure_native.eventgrid import Topic
from pulumi_azure_native.monitor import (
    ActionGroup,
    MetricAlert,
    MetricAlertSingleResourceMultipleMetricCriteriaArgs,
    MetricCriteriaArgs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alert:
    name: str
    metric: str
    description: str
    severity: int
    threshold: int = 0


_ALERTS = (
    _Alert(
        name="events-dropped",
        metric="DroppedEventCount",
        description="Event Grid has given up lifecycle events and kept no copy.",
        severity=1,
    ),
    _Alert(
        name="events-dead-lettered",
        metric="DeadLetteredCount",
        description="Event Grid has given up lifecycle events and kept them in the container lifecycle-dead-letters.",
        severity=1,
    ),
    _Alert(
        name="event-deliveries-failing",
        metric="DeliveryAttemptFailCount",
        description="The state server does not accept lifecycle events. Event Grid delivers them again.",
        severity=2,
        # A cold start or a restart fails a few deliveries.
        threshold=20,
    ),
    _Alert(
        name="events-not-published",
        metric="PublishFailCount",
        description="The topic has refused lifecycle events of a durable app.",
        severity=2,
    ),
)


def create_event_alerts(
    topic: Topic, *, topic_name: str, resource_group: pulumi.Input[str], email: str, opts: pulumi.ResourceOptions
) -> None:
    """Create the alerts, which are shown in Azure Monitor, and are sent to `email` unless it is empty."""
    actions = []
    if email:
        operators = ActionGroup(
            f"{topic_name}-operators",
            action_group_name=f"{topic_name}-operators",
            resource_group_name=resource_group,
            location="global",
            enabled=True,
            group_short_name="stateserver",
            email_receivers=[{"name": "operators", "email_address": email, "use_common_alert_schema": True}],
            opts=opts,
        )
        actions = [operators.id]
    for alert in _ALERTS:
        MetricAlert(
            f"{topic_name}-{alert.name}",
            rule_name=f"{topic_name}-{alert.name}",
            resource_group_name=resource_group,
            location="global",
            description=alert.description,
            enabled=True,
            severity=alert.severity,
            scopes=[topic.id],
            evaluation_frequency="PT5M",
            window_size="PT15M",
            criteria=MetricAlertSingleResourceMultipleMetricCriteriaArgs(
                odata_type="Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria",
                all_of=[
                    MetricCriteriaArgs(
                        criterion_type="StaticThresholdCriterion",
                        name=alert.metric,
                        metric_namespace="Microsoft.EventGrid/topics",
                        metric_name=alert.metric,
                        operator="GreaterThan",
                        threshold=alert.threshold,
                        time_aggregation="Total",
                    )
                ],
            ),
            actions=[{"action_group_id": action} for action in actions],
            opts=opts,
        )
