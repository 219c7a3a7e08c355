"""Lifecycle events of orchestrations, in the shape of the Durable Functions extension, and their publication.

The shape comes from the extension's EventGridLifeCycleNotificationHelper."""

import json
import logging
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError

log = logging.getLogger(__name__)

EVENT_TYPES = ("Started", "Completed", "Failed", "Terminated")
_TIMEOUT_SECONDS = 30
_SERVICE_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class StatusChange:
    """An instance that has reached a runtime status."""

    function_name: str
    instance_id: str
    runtime_status: str
    reason: str = ""


def build_event(task_hub: str, status_change: StatusChange, now: datetime, event_id: str) -> dict[str, Any]:
    """The event as the extension posts it. Event Grid adds the topic and the metadata version."""
    return {
        "id": event_id,
        "topic": None,
        "subject": f"durable/orchestrator/{status_change.runtime_status}",
        "data": {
            "hubName": task_hub,
            "functionName": status_change.function_name,
            "instanceId": status_change.instance_id,
            "reason": status_change.reason,
            "runtimeStatus": status_change.runtime_status,
        },
        "eventType": "orchestratorEvent",
        # .NET counts in units of 100 ns.
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z",
        "metadataVersion": None,
        "dataVersion": "1.0",
    }


@dataclass(frozen=True, slots=True)
class NotificationSettings:
    """The section `notifications.eventGrid` of host.json."""

    endpoint: str
    key: str
    retry_count: int = 0
    retry_interval: timedelta = timedelta(minutes=5)
    retry_statuses: Sequence[int] = ()
    event_types: Sequence[str] = EVENT_TYPES

    @classmethod
    def from_host_json(
        cls,
        host_json: Mapping[str, Any],
        settings: Mapping[str, str],
        endpoint: str | None = None,
        retry_seconds: float | None = None,
    ) -> "NotificationSettings | None":
        """Read host.json and the app settings as the extension does. The other parameters override them.

        Returns None if there is no endpoint. Raises ValueError if there is no key for it."""
        event_grid = host_json["extensions"]["durableTask"].get("notifications", {}).get("eventGrid", {})
        configured_endpoint = event_grid.get("topicEndpoint", "")
        is_setting_name = configured_endpoint.startswith("%") and configured_endpoint.endswith("%")
        topic_endpoint = endpoint or (
            settings.get(configured_endpoint.strip("%"), "") if is_setting_name else configured_endpoint
        )
        if not topic_endpoint:
            return None
        key = settings.get(event_grid["keySettingName"], "")
        if not key:
            raise ValueError(f"set {event_grid['keySettingName']} to the key of {topic_endpoint}")
        hours, minutes, seconds = map(float, event_grid.get("publishRetryInterval", "00:05:00").split(":"))
        retry_interval = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return cls(
            topic_endpoint,
            key,
            event_grid.get("publishRetryCount", 0),
            retry_interval if retry_seconds is None else timedelta(seconds=retry_seconds),
            event_grid.get("publishRetryHttpStatus", ()),
            event_grid.get("publishEventTypes") or EVENT_TYPES,
        )

    def should_retry(self, error: OSError) -> bool:
        """Whether the extension posts the event again.

        It does after a failed connection, and after a response with status 503 or one of `publishRetryHttpStatus`."""
        return (
            not isinstance(error, HTTPError) or error.code == _SERVICE_UNAVAILABLE or error.code in self.retry_statuses
        )

    def publishes(self, runtime_status: str) -> bool:
        """Whether the app's host.json asks for this event. The extension calls the event of the status Running
        `Started`."""
        return ("Started" if runtime_status == "Running" else runtime_status) in self.event_types


class Publisher:
    """Posts events one by one. It logs and drops an event that it cannot post, and the orchestration continues."""

    def __init__(
        self, task_hub: str, notifications: NotificationSettings | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Publish the events of this task hub; without notifications, publish none. `sleep` waits between two
        attempts."""
        self._task_hub = task_hub
        self._notifications = notifications
        self._sleep = sleep

    def publish(self, status_change: StatusChange) -> None:
        """Post an event. Returns when the event is delivered or given up."""
        notifications = self._notifications
        if notifications is None or not notifications.publishes(status_change.runtime_status):
            return
        event_body = build_event(self._task_hub, status_change, datetime.now(UTC), str(uuid.uuid4()))
        for _ in range(notifications.retry_count + 1):
            try:
                self._post(notifications, event_body)
            except OSError as error:
                log.warning(
                    "event %s of %s not published: %s", status_change.runtime_status, status_change.instance_id, error
                )
                if not notifications.should_retry(error):
                    break
                # Also wait after the last attempt, as the extension does.
                self._sleep(notifications.retry_interval.total_seconds())
            else:
                return
        log.error("event %s of %s given up", status_change.runtime_status, status_change.instance_id)

    @staticmethod
    def _post(notifications: NotificationSettings, event_body: dict[str, Any]) -> None:
        """Send one event to the topic's endpoint. Raises OSError if it is not accepted."""
        headers = {"Content-Type": "application/json", "aeg-sas-key": notifications.key}
        request = urllib.request.Request(notifications.endpoint, json.dumps([event_body]).encode(), headers)  # noqa: S310
        # The person who started this engine on their own machine has chosen the endpoint, so its scheme is not checked.
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            pass
