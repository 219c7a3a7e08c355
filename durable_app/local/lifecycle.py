"""Lifecycle events: what the extension publishes about an episode of an orchestration, in its shape, and how it
publishes. The shape was read in the extension's EventGridLifeCycleNotificationHelper."""

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
_UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Notice:
    """That an instance has come to a runtime status."""

    function_name: str
    instance_id: str
    runtime_status: str
    reason: str = ""


def event(task_hub: str, notice: Notice, now: datetime, event_id: str) -> dict[str, Any]:
    """The event as the extension writes it; the topic and the metadata version are Event Grid's to fill in."""
    return {
        "id": event_id,
        "topic": None,
        "subject": f"durable/orchestrator/{notice.runtime_status}",
        "data": {
            "hubName": task_hub,
            "functionName": notice.function_name,
            "instanceId": notice.instance_id,
            "reason": notice.reason,
            "runtimeStatus": notice.runtime_status,
        },
        "eventType": "orchestratorEvent",
        # .NET counts in units of 100 ns.
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z",
        "metadataVersion": None,
        "dataVersion": "1.0",
    }


@dataclass(frozen=True, slots=True)
class Notifications:
    """The part `notifications.eventGrid` of host.json."""

    endpoint: str
    key: str
    retries: int = 0
    interval: timedelta = timedelta(minutes=5)
    retry_statuses: Sequence[int] = ()
    event_types: Sequence[str] = EVENT_TYPES

    @classmethod
    def of(
        cls,
        host: Mapping[str, Any],
        settings: Mapping[str, str],
        endpoint: str | None = None,
        retry_seconds: float | None = None,
    ) -> "Notifications | None":
        """From host.json and the app settings, as the extension reads them; what is given beside takes precedence. None
        if there is no endpoint. Raises ValueError if there is no key for it."""
        given = host["extensions"]["durableTask"].get("notifications", {}).get("eventGrid", {})
        written = given.get("topicEndpoint", "")
        named = written.startswith("%") and written.endswith("%")
        place = endpoint or (settings.get(written.strip("%"), "") if named else written)
        if not place:
            return None
        key = settings.get(given["keySettingName"], "")
        if not key:
            raise ValueError(f"set {given['keySettingName']} to the key of {place}")
        hours, minutes, seconds = map(float, given.get("publishRetryInterval", "00:05:00").split(":"))
        interval = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return cls(
            place,
            key,
            given.get("publishRetryCount", 0),
            interval if retry_seconds is None else timedelta(seconds=retry_seconds),
            given.get("publishRetryHttpStatus", ()),
            given.get("publishEventTypes") or EVENT_TYPES,
        )

    def retries_after(self, error: OSError) -> bool:
        """Whether the extension tries again: always if nobody answered, and after an answer only if it is 503 or one of
        `publishRetryHttpStatus`."""
        return not isinstance(error, HTTPError) or error.code == _UNAVAILABLE or error.code in self.retry_statuses

    def wants(self, runtime_status: str) -> bool:
        return ("Started" if runtime_status == "Running" else runtime_status) in self.event_types


class Publisher:
    """Posts events one by one. One that cannot be posted is logged and dropped: the orchestration goes on."""

    def __init__(
        self, task_hub: str, notifications: Notifications | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._task_hub = task_hub
        self._notifications = notifications
        self._sleep = sleep

    def publish(self, notice: Notice) -> None:
        """Returns when the event is delivered or given up."""
        to = self._notifications
        if to is None or not to.wants(notice.runtime_status):
            return
        made = event(self._task_hub, notice, datetime.now(UTC), str(uuid.uuid4()))
        for _ in range(to.retries + 1):
            try:
                self._post(to, made)
            except OSError as error:
                log.warning("event %s of %s not published: %s", notice.runtime_status, notice.instance_id, error)
                if not to.retries_after(error):
                    break
                # After the last attempt too, as the extension does.
                self._sleep(to.interval.total_seconds())
            else:
                return
        log.error("event %s of %s given up", notice.runtime_status, notice.instance_id)

    @staticmethod
    def _post(to: Notifications, made: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "aeg-sas-key": to.key}
        request = urllib.request.Request(to.endpoint, json.dumps([made]).encode(), headers)  # noqa: S310
        # It was started with this endpoint, on a developer's machine.
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS):  # noqa: S310
            pass
