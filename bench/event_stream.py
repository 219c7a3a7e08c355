"""An endless stream of lifecycle events of one task hub: orchestrations that start and, later, end, all mixed."""

import json
import random
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, parse_instant
from state_api.domain.task_hubs.lifecycle import Instance, instance_from_event, merge_instances
from state_api.services.event_parser import parse_event

FUNCTIONS = ("ProcessOrder", "ShipOrder", "RefundOrder")
_LAG_JITTER_EVENTS = 100
"""Events by which the time between a start and its end differs."""
_TOPIC = "/subscriptions/0/resourceGroups/shop/providers/Microsoft.EventGrid/topics/shop-lifecycle"
_START_AGE_SECONDS = 3600
_EVENT_INTERVAL_TICKS = TICKS_PER_SECOND // 1000
"""A thousandth of a second from event to event; the first is an hour old, so that none is ahead of its time."""


def min_lag_events(in_flight: int) -> int:
    """Events between a start and its end, at the least, where so many are in flight. A start and its end are never in
    flight at once: they could be written as one, which saves a write that real orchestrations do not save."""
    return in_flight + in_flight // 4 + 50


def warm_up_events(lag: int) -> int:
    """Events after which a stream ends as many orchestrations as it starts."""
    return lag + _LAG_JITTER_EVENTS


class EventStream:
    """The stream of one hub, the same for the same seed but for its times."""

    def __init__(self, hub: str, seed: int = 1, *, lag: int) -> None:
        self.hub = hub
        self._random = random.Random(seed)
        self._lag_events = lag
        self._number = 0
        self._started_at = int((time.time() - _START_AGE_SECONDS) * TICKS_PER_SECOND)
        self._running: deque[tuple[int, str, str]] = deque()

    @property
    def active_count(self) -> int:
        """How many have started and not ended so far."""
        return len(self._running)

    def next_events(self, count: int) -> list[dict[str, Any]]:
        """The next events, in the Event Grid schema."""
        return [self._next() for _ in range(count)]

    def _next(self) -> dict[str, Any]:
        self._number += 1
        timestamp = format_instant(Instant(self._started_at + self._number * _EVENT_INTERVAL_TICKS))
        if self._running and self._running[0][0] <= self._number:
            _, instance_id, function = self._running.popleft()
            return event(self.hub, instance_id, "Completed", timestamp, function)
        instance_id = uuid.UUID(int=self._random.getrandbits(128), version=4).hex
        function = self._random.choice(FUNCTIONS)
        # In the order of the starts, but with gaps that differ, so that starts and ends are mixed.
        last = self._running[-1][0] if self._running else 0
        due = max(last, self._number + self._lag_events + self._random.randrange(_LAG_JITTER_EVENTS))
        self._running.append((due, instance_id, function))
        return event(self.hub, instance_id, "Running", timestamp, function)


def event(hub: str, instance_id: str, status: str, timestamp: str, function: str = FUNCTIONS[0]) -> dict[str, Any]:
    """One event as Event Grid delivers it."""
    return {
        "id": str(uuid.uuid4()),
        "topic": _TOPIC,
        "subject": f"durable/orchestrator/{status}",
        "data": {
            "hubName": hub,
            "functionName": function,
            "instanceId": instance_id,
            "reason": "",
            "runtimeStatus": status,
        },
        "eventType": "orchestratorEvent",
        "eventTime": timestamp,
        "metadataVersion": "1",
        "dataVersion": "1.0",
    }


def encode_events(events: Sequence[dict[str, Any]]) -> bytes:
    """The body of a delivery."""
    return json.dumps(events, separators=(",", ":")).encode()


def instances(events: Sequence[dict[str, Any]], known: dict[str, Instance]) -> list[tuple[Instance | None, Instance]]:
    """For each event its instance before and after it. `known` holds those that have started, and is kept up."""
    changes: list[tuple[Instance | None, Instance]] = []
    for one in events:
        understood = instance_from_event(parse_event(one, parse_instant(one["eventTime"])))
        before = known.pop(understood.instance_id, None)
        after = understood if before is None else merge_instances(before, understood)
        if after.active:
            known[after.instance_id] = after
        changes.append((before, after))
    return changes
