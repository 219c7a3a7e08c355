"""What the platform really did: orders that start and may end, the events that tell of them, and how a record of each
must look once all events have arrived (docs/concepts.md, Events and the merge)."""

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
"""Ids with what table keys do not take, and such as look like keys of the server's own."""


@dataclass
class ExpectedRecords:
    """`events` in the order in which they were published; `active` are the ids of those orders that have not ended
    when all of them have arrived."""

    hub: str
    events: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per instance id, what ListInstances must say."""

    @property
    def active(self) -> list[str]:
        return [order for order, record in self.expected.items() if record["active"]]

    def add_event(self, order: str, status: str, time: str, function: str, reason: str = "") -> None:
        """One more event, and what it changes: the later evidence wins."""
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
        """End what is still active, now; the events of it."""
        before = len(self.events)
        for order in self.active:
            self.add_event(order, "Completed", timestamp(), self.expected[order]["functionName"])
        return self.events[before:]


def generate_orders(
    hub: str, events: int, seed: int, span_seconds: float = 3600, active_share: float = 0.05
) -> ExpectedRecords:
    """A stream of that many events whose times are spread over the last `span_seconds` seconds. Most orders run for a
    while and end; a share of `active_share` has not ended. Some starts are told twice, with another id and time, as the
    extension does when an episode crashes (PLATFORM: Lifecycle events 2)."""
    rng = random.Random(seed)
    story: list[tuple[float, str, str, str, str]] = []
    number = 0
    while len(story) < events:
        number += 1
        order = rng.choice(_AWKWARD_IDS).format(number) if rng.random() < 0.05 else f"order-{number}"
        function, start = rng.choice(_FUNCTIONS), number + rng.random() / 2
        story.append((start, order, RUNNING, function, ""))
        if rng.random() < 0.08 and len(story) < events:
            story.append((start + 0.3, order, RUNNING, function, ""))
        if rng.random() >= active_share and len(story) < events:
            outcome = rng.choice(_OUTCOMES)
            reason = f"Orchestrator function '{function}' failed: card declined" if outcome == "Failed" else ""
            story.append((start + 0.4 + rng.expovariate(1 / 50), order, outcome, function, reason))
    story.sort()
    first, last = story[0][0], story[-1][0]
    ended_at = parse_instant(timestamp())
    truth = ExpectedRecords(hub)
    for moment, order, status, function, reason in story:
        ago = (last - moment) / (last - first) * span_seconds
        time = format_instant(Instant(ended_at - int(ago * TICKS_PER_SECOND)))
        truth.add_event(order, status, time, function, reason)
    return truth


def instance_id_of(one: dict[str, Any]) -> str:
    """The instance id of an event."""
    order: str = one["data"]["instanceId"]
    return order


def is_start(one: dict[str, Any]) -> bool:
    status: str = one["data"]["runtimeStatus"]
    return status == RUNNING


def find_lost_events(acknowledged: Sequence[dict[str, Any]], rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of these events that no row holds, neither them nor later evidence of the same kind."""
    return [
        one
        for one in acknowledged
        if rows.get(instance_id_of(one), {}).get("StartedAt" if is_start(one) else "FinishedAt", "") < one["eventTime"]
    ]
