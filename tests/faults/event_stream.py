"""Generates orders that start and may end, and the events that the platform publishes for them. Knows the record that
each order must have once all events have arrived (docs/concepts.md, Events and the merge)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, parse_instant
from tests.builders import event, timestamp

RUNNING = "Running"
_OUTCOMES = ("Completed", "Completed", "Completed", "Completed", "Failed", "Terminated")
_FUNCTIONS = ("ProcessOrder", "ShipOrder", "Refund")
_AWKWARD_IDS = ("order/{}", "order#{}?x", "bestellung-ü-{}", "a|{}|b", "i^{}")
"""Ids with characters that table keys do not allow, and ids that look like the server's own keys."""


@dataclass
class ExpectedRecords:
    """The records of a task hub after all `events`, which are in the order of publication."""

    hub: str
    events: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By instance id, the instance as ListInstances must return it."""

    @property
    def active(self) -> list[str]:
        """The ids of the orders that have not ended."""
        return [order for order, record in self.expected.items() if record["active"]]

    def add_event(self, order: str, status: str, time: str, function: str, reason: str = "") -> None:
        """Add an event, and change the expected record: later evidence wins."""
        self.events.append(event(self.hub, order, status, time=time, function=function, reason=reason))
        record = self.expected.setdefault(
            order,
            {"instanceId": order, "startedAt": None, "finishedAt": None, "outcome": None, "reason": None}
            | {"functionName": function, "lastEventAt": time, "source": "event"},
        )
        if status == RUNNING:
            record["startedAt"] = max(record["startedAt"] or "", time)
        else:
            record |= {"finishedAt": time, "outcome": status, "reason": reason}
        record["lastEventAt"] = max(record["lastEventAt"], time)
        record["active"] = record["finishedAt"] is None
        record["runtimeStatus"] = record["outcome"] or RUNNING

    def end_active(self) -> list[dict[str, Any]]:
        """End all active orders now. Returns the new events."""
        event_count = len(self.events)
        for order in self.active:
            self.add_event(order, "Completed", timestamp(), self.expected[order]["functionName"])
        return self.events[event_count:]


def generate_orders(
    hub: str, events: int, seed: int, span_seconds: float = 3600, active_share: float = 0.05
) -> ExpectedRecords:
    """Generate `events` events whose times are spread over the last `span_seconds`. Most orders run for a while and
    end; a share of `active_share` stays active. Some starts are published twice, with another id and time, as the
    extension does when an episode crashes (PLATFORM: Lifecycle events 2)."""
    rng = random.Random(seed)
    transitions: list[tuple[float, str, str, str, str]] = []
    number = 0
    while len(transitions) < events:
        number += 1
        order = rng.choice(_AWKWARD_IDS).format(number) if rng.random() < 0.05 else f"order-{number}"
        function, start = rng.choice(_FUNCTIONS), number + rng.random() / 2
        transitions.append((start, order, RUNNING, function, ""))
        if rng.random() < 0.08 and len(transitions) < events:
            transitions.append((start + 0.3, order, RUNNING, function, ""))
        if rng.random() >= active_share and len(transitions) < events:
            outcome = rng.choice(_OUTCOMES)
            reason = f"Orchestrator function '{function}' failed: card declined" if outcome == "Failed" else ""
            transitions.append((start + 0.4 + rng.expovariate(1 / 50), order, outcome, function, reason))
    transitions.sort()
    first, last = transitions[0][0], transitions[-1][0]
    ended_at = parse_instant(timestamp())
    expected = ExpectedRecords(hub)
    for moment, order, status, function, reason in transitions:
        ago = (last - moment) / (last - first) * span_seconds
        time = format_instant(Instant(ended_at - int(ago * TICKS_PER_SECOND)))
        expected.add_event(order, status, time, function, reason)
    return expected


def instance_id_of(event: dict[str, Any]) -> str:
    """The instance id of an event."""
    instance_id: str = event["data"]["instanceId"]
    return instance_id


def is_start(event: dict[str, Any]) -> bool:
    """Whether an event reports that an instance runs."""
    status: str = event["data"]["runtimeStatus"]
    return status == RUNNING


def find_lost_events(acknowledged: Sequence[dict[str, Any]], rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that no row contains: neither the event nor later evidence of the same kind."""
    return [
        event
        for event in acknowledged
        if rows.get(instance_id_of(event), {}).get("StartedAt" if is_start(event) else "FinishedAt", "")
        < event["eventTime"]
    ]
