"""Events at random times, at a given rate, as many orchestrations publish them."""

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.event_stream import EventStream

EventBody = dict[str, Any]

UNCOUNTED_SECONDS = 0.5
"""Events that are due in the first part of a round are published and not counted: after the pause between two rounds,
connections have to be opened again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`events_per_second` for `seconds`, and for UNCOUNTED_SECONDS before. The same seed gives the same times."""

    events_per_second: float
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class PacedEvent:
    """An event and when it is due, in seconds from the start."""

    due_seconds: float
    body: EventBody

    @property
    def is_counted(self) -> bool:
        """Whether the event is due after the part of the round that does not count."""
        return self.due_seconds >= UNCOUNTED_SECONDS


@dataclass
class PublishingDelays:
    """Seconds from when a counted event was due until it was sent, and until it was acknowledged."""

    sent: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)


def plan_events(stream: EventStream, pace: Pace) -> list[PacedEvent]:
    """The next events of the stream, with exponentially distributed times between them."""
    random_source = random.Random(pace.seed)
    paced_events: list[PacedEvent] = []
    due_seconds = 0.0
    end_seconds = UNCOUNTED_SECONDS + pace.seconds
    while (due_seconds := due_seconds + random_source.expovariate(pace.events_per_second)) < end_seconds:
        (body,) = stream.next_events(1)
        paced_events.append(PacedEvent(due_seconds, body))
    return paced_events


def exempt_planned_events() -> None:
    """Exempt what exists now from garbage collection. Call it when the events of a round are prepared.

    A full collection would walk through all of them while nothing is published. Where the trigger is measured, they are
    in its process, which in Azure holds no events to come."""
    gc.collect()
    gc.freeze()


async def publish_when_due(
    paced_events: Sequence[PacedEvent], publish: Callable[[int], Awaitable[None]], *, begins_at: float
) -> PublishingDelays:
    """Await `publish(index)` for each event when it is due. It returns once the event is acknowledged. `begins_at` is a
    time of `time.perf_counter`, which all processes of a Linux machine share.

    An event does not wait for the acknowledgement of earlier ones: that would hide the delays of slow responses."""
    delays = PublishingDelays()

    async def publish_and_measure(index: int, event: PacedEvent) -> None:
        """Publish one event, and note by how much it was sent and acknowledged after the moment at which it was due."""
        sent_seconds = time.perf_counter() - begins_at - event.due_seconds
        await publish(index)
        if event.is_counted:
            delays.sent.append(sent_seconds)
            delays.acknowledged.append(time.perf_counter() - begins_at - event.due_seconds)

    async with asyncio.TaskGroup() as tasks:
        for index, event in enumerate(paced_events):
            await asyncio.sleep(begins_at + event.due_seconds - time.perf_counter())
            tasks.create_task(publish_and_measure(index, event))
    return delays
