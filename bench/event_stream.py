"""An endless stream of lifecycle events of one task hub, in which starts and ends of orchestrations are mixed."""

import json
import random
import time
import uuid
from collections import deque
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, parse_instant
from state_api.domain.task_hubs.lifecycle import Instance, instance_from_event, merge_instances
from state_api.services.event_parser import parse_event

FUNCTIONS = ("ProcessOrder", "ShipOrder", "RefundOrder")
_LAG_JITTER_EVENTS = 100
"""The lag between a start and its end varies by up to this many events."""
_LAG_MARGIN_EVENTS = 50
"""A safety margin that is added to the lag."""
_TOPIC = "/subscriptions/0/resourceGroups/shop/providers/Microsoft.EventGrid/topics/shop-lifecycle"
_START_AGE_SECONDS = 3600
_EVENT_INTERVAL_TICKS = TICKS_PER_SECOND // 1000
"""A millisecond between two events. The first event is an hour old, so that none is in the future."""


def min_lag_events(in_flight: int) -> int:
    """The smallest number of events between a start and its end, if `in_flight` events are sent at once.

    A start and its end must not be in flight at once: the server would write both in one row, which saves a write that
    real orchestrations need."""
    return in_flight + in_flight // 4 + _LAG_MARGIN_EVENTS


def count_warm_up_events(lag: int) -> int:
    """The number of events after which a stream ends as many orchestrations as it starts."""
    return lag + _LAG_JITTER_EVENTS


class EventStream:
    """The stream of one task hub. The same seed gives the same stream, except for its times."""

    def __init__(self, hub: str, seed: int = 1, *, lag: int) -> None:
        """Begin a stream for one task hub. The same seed gives the same events. An orchestration ends at least `lag`
        events after its start."""
        self.hub = hub
        self._random = random.Random(seed)
        self._lag_events = lag
        self._number = 0
        self._started_at = int((time.time() - _START_AGE_SECONDS) * TICKS_PER_SECOND)
        # The number of the event that will end it, instance id and function of each active orchestration.
        self._running: deque[tuple[int, str, str]] = deque()

    @property
    def active_count(self) -> int:
        """The number of orchestrations that have started and not ended so far."""
        return len(self._running)

    def next_events(self, count: int) -> list[dict[str, Any]]:
        """The next events, in the Event Grid schema."""
        return [self._next_event() for _ in range(count)]

    def _next_event(self) -> dict[str, Any]:
        """The end of the orchestration that is due to end, or else the start of a new one."""
        self._number += 1
        timestamp = format_instant(Instant(self._started_at + self._number * _EVENT_INTERVAL_TICKS))
        if self._running and self._running[0][0] <= self._number:
            _, instance_id, function = self._running.popleft()
            return build_event(self.hub, instance_id, "Completed", timestamp, function)
        instance_id = uuid.UUID(int=self._random.getrandbits(128), version=4).hex
        function = self._random.choice(FUNCTIONS)
        # Orchestrations end in the order of their starts, after varying gaps, so that starts and ends are mixed.
        last_end_number = self._running[-1][0] if self._running else 0
        end_number = max(last_end_number, self._number + self._lag_events + self._random.randrange(_LAG_JITTER_EVENTS))
        self._running.append((end_number, instance_id, function))
        return build_event(self.hub, instance_id, "Running", timestamp, function)


class DeliveriesInTurns:
    """Takes each delivery from the next stream, so that many task hubs have events at the same time."""

    def __init__(self, streams: Sequence[EventStream]) -> None:
        """Take deliveries from these streams in turns."""
        self._streams = cycle(streams)

    def next_events(self, count: int) -> list[dict[str, Any]]:
        """The next events of the stream whose turn it is, in the Event Grid schema."""
        return next(self._streams).next_events(count)


def build_event(
    hub: str, instance_id: str, status: str, timestamp: str, function: str = FUNCTIONS[0]
) -> dict[str, Any]:
    """A lifecycle event in the Event Grid schema. Its time is `timestamp`, in ISO 8601."""
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
    """The JSON body of a delivery of these events."""
    return json.dumps(events, separators=(",", ":")).encode()


def apply_events(
    events: Sequence[dict[str, Any]], known: dict[str, Instance]
) -> list[tuple[Instance | None, Instance]]:
    """Apply the events to `known`, the active instances by id. Returns the instance before and after each event."""
    changes: list[tuple[Instance | None, Instance]] = []
    for event_body in events:
        change = instance_from_event(parse_event(event_body, parse_instant(event_body["eventTime"])))
        before = known.pop(change.instance_id, None)
        after = change if before is None else merge_instances(before, change)
        if after.active:
            known[after.instance_id] = after
        changes.append((before, after))
    return changes
