"""Whether a subscription of the topic delivers lifecycle events to the server, and with the retries and dead letters of
the templates. Pure."""

from collections.abc import Sequence
from itertools import count
from urllib.parse import urlsplit

from safe_deploy.azure_event_grid import (
    EVENT_LIFETIME_MINUTES,
    EVENT_TYPE,
    MAX_DELIVERY_ATTEMPTS,
    RECORDING_FUNCTION,
    SUBSCRIPTION_NAME,
    EventSubscription,
)
from safe_deploy.diagnostics.results import CheckResult, CheckStatus

CHECK = "event subscription"


def select_subscriptions(
    subscriptions: Sequence[EventSubscription], *, server_url: str, function_app_id: str | None
) -> list[EventSubscription]:
    """Those that deliver to the server: to its function, or to its webhook."""
    function_id = f"{function_app_id}/functions/{RECORDING_FUNCTION}".lower() if function_app_id else None
    host = urlsplit(server_url).hostname
    return [
        subscription
        for subscription in subscriptions
        if (function_id is not None and subscription.function_id.lower() == function_id)
        or (subscription.webhook and urlsplit(subscription.webhook).hostname == host)
    ]


def choose_subscription_name(taken: Sequence[str]) -> str:
    """A name for a new subscription of a topic, which Event Grid compares without case.

    `az` replaces a subscription with the same name. It may be that of another server, which would get no events then.
    """
    known = {name.lower() for name in taken}
    names = (SUBSCRIPTION_NAME if number == 1 else f"{SUBSCRIPTION_NAME}-{number}" for number in count(1))
    return next(name for name in names if name not in known)


def assess_subscriptions(topic: str, to_server: Sequence[EventSubscription], total: int) -> CheckResult:
    """The result for the subscriptions of a topic: those that deliver to the server, and the number of all."""
    if not to_server:
        others = f". It has {total} for other places" if total else ""
        message = f"topic {topic} has no subscription that delivers to the server, so no event arrives{others}"
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    taking = [item for item in to_server if item.event_types is None or EVENT_TYPE in item.event_types]
    if not taking:
        message = (
            f"subscription {to_server[0].name} of topic {topic} leaves out events of the type {EVENT_TYPE}. Run az "
            f"eventgrid event-subscription update with --included-event-types {EVENT_TYPE}"
        )
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    ready = [item for item in taking if item.state in ("", "Succeeded")]
    if not ready:
        message = f"subscription {taking[0].name} of topic {topic} is {taking[0].state}, and not ready for events"
        return CheckResult(CHECK, CheckStatus.FAILED, message)
    problems = [_find_problems(item) for item in ready]
    best = min(problems, key=len)
    subscription = ready[problems.index(best)]
    if best:
        message = (
            f"subscription {subscription.name} of topic {topic} {' and '.join(best)}, so events are lost for ever "
            "while the server is down. Run az eventgrid event-subscription update; see infra/event-subscription.bicep"
        )
        return CheckResult(CHECK, CheckStatus.WARNING, message)
    return CheckResult(
        CHECK, CheckStatus.OK, f"subscription {subscription.name} of topic {topic} delivers to the server"
    )


def _find_problems(subscription: EventSubscription) -> list[str]:
    """What the templates have and this subscription lacks."""
    problems = []
    if not subscription.has_dead_letters:
        problems.append("has no dead-letter container")
    if subscription.max_delivery_attempts < MAX_DELIVERY_ATTEMPTS:
        problems.append(f"gives up after {subscription.max_delivery_attempts} attempts")
    if subscription.lifetime_minutes < EVENT_LIFETIME_MINUTES:
        problems.append(f"gives up after {subscription.lifetime_minutes} minutes")
    return problems
