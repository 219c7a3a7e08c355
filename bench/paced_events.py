"""Events at random times, at a given rate, as many orchestrations publish them."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.event_stream import EventStream

EventBody = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pace:
    """`events_per_second` for `seconds`. The same seed gives the same times. `begins_at` is a time of
    `time.perf_counter`, which all processes of a Linux machine share."""

    events_per_second: float
    seconds: float
    seed: int
    begins_at: float


@dataclass(frozen=True, slots=True)
class PacedEvent:
    """An event and when it is due, in seconds from the start."""

    due_seconds: float
    body: EventBody


@dataclass
class PublishingDelays:
    """Seconds from when an event was due until it was sent, and until it was acknowledged."""

    sent: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)


def plan_events(stream: EventStream, pace: Pace) -> list[PacedEvent]:
    """The next events of the stream, with exponentially distributed times between them."""
    random_source = random.Random(pace.seed)
    paced_events: list[PacedEvent] = []
    due_seconds = 0.0
    while (due_seconds := due_seconds + random_source.expovariate(pace.events_per_second)) < pace.seconds:
        (body,) = stream.next_events(1)
        paced_events.append(PacedEvent(due_seconds, body))
    return paced_events


async def publish_when_due(
    paced_events: Sequence[PacedEvent], publish: Callable[[int], Awaitable[None]], *, begins_at: float
) -> PublishingDelays:
    """Await `publish(index)` for each event when it is due. It returns once the event is acknowledged.

    An event does not wait for the acknowledgement of earlier ones: that would hide the delays of slow responses."""
    delays = PublishingDelays()

    async def publish_and_measure(index: int, due_seconds: float) -> None:
        """Publish one event, and note by how much it was sent and acknowledged after the moment at which it was due."""
        delays.sent.append(time.perf_counter() - begins_at - due_seconds)
        await publish(index)
        delays.acknowledged.append(time.perf_counter() - begins_at - due_seconds)

    async with asyncio.TaskGroup() as tasks:
        for index, event in enumerate(paced_events):
            await asyncio.sleep(begins_at + event.due_seconds - time.perf_counter())
            tasks.create_task(publish_and_measure(index, event.due_seconds))
    return delays
