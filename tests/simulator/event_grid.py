"""Event Grid between the platform and the server: it loses, duplicates, delays and reorders events."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.instants import Instant
from tests.simulator.parameters import SimulationParameters

_SHORT_DELAYS = (0, 0, 0, 1, 1, 2, 3, 5, 8)
_LONG_DELAYS = (5, 8, 13, 100)


@dataclass(eq=False, slots=True)
class PublishedEvent:
    """An event in transit. `execution` is the number of the execution that published it."""

    event: dict[str, Any]
    instance_id: str
    status: str
    occurred_at: Instant
    execution: int
    due: int = 0


@dataclass(slots=True)
class SimulatedEventGrid:
    """`step` is the simulated time at which events are due."""

    rng: random.Random
    traits: SimulationParameters
    tally: Counter[str]
    step: int = 0
    reliable: bool = False
    """Whether events arrive at once and none is lost."""
    _in_transit: list[PublishedEvent] = field(default_factory=list)

    def publish(self, published: PublishedEvent) -> str:
        """Accept an event. Returns what happens to it, for the log."""
        self.tally["published"] += 1
        if self.reliable:
            published.due = self.step
            self._in_transit.append(published)
            return "due now"
        if self.rng.random() < self.traits.loss_probability:
            self.tally["lost"] += 1
            return "lost"
        published.due = self.step + self._delay()
        self._in_transit.append(published)
        if self.rng.random() >= self.traits.duplicate_probability:
            return f"due {published.due}"
        self.tally["doubled"] += 1
        duplicate = PublishedEvent(
            published.event,
            published.instance_id,
            published.status,
            published.occurred_at,
            published.execution,
            published.due + self._delay(),
        )
        self._in_transit.append(duplicate)
        return f"due {published.due} and {duplicate.due}"

    def due(self) -> list[list[PublishedEvent]]:
        """The batches that arrive now, in any order."""
        return self._batches([event for event in self._in_transit if event.due <= self.step])

    def take_remaining(self) -> list[list[PublishedEvent]]:
        """The batches that arrive at the end. Some events are lost."""
        lost = [event for event in self._in_transit if self.rng.random() < self.traits.loss_probability]
        self.tally["lost"] += len(lost)
        for event in lost:
            self._in_transit.remove(event)
        return self._batches(list(self._in_transit))

    def _batches(self, arriving: list[PublishedEvent]) -> list[list[PublishedEvent]]:
        for event in arriving:
            self._in_transit.remove(event)
        in_order = sorted(arriving, key=lambda event: event.occurred_at)
        self.rng.shuffle(arriving)
        self.tally["reordered"] += arriving != in_order
        batches = []
        while arriving:
            size = self.rng.choice((2, 100, 100)) if len(arriving) > 1 else 1
            batches.append(arriving[:size])
            arriving = arriving[size:]
        return batches

    def _delay(self) -> int:
        delay = self.rng.choice(
            _LONG_DELAYS if self.rng.random() < self.traits.long_delay_probability else _SHORT_DELAYS
        )
        self.tally["delayed"] += delay > 0
        return delay
