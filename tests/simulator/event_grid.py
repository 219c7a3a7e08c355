"""Event Grid between the platform and the server: it loses, duplicates, delays and reorders events."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.instants import Instant
from tests.simulator.parameters import SimulationParameters

_BATCH_SIZES = (2, 100, 100)
_SHORT_DELAY_STEPS = (0, 0, 0, 1, 1, 2, 3, 5, 8)
_LONG_DELAY_STEPS = (5, 8, 13, 100)


@dataclass(eq=False, slots=True)
class PublishedEvent:
    """An event in transit.

    `execution` is the number of the execution that published it. `due_step` is the step at which it is delivered."""

    event: dict[str, Any]
    instance_id: str
    status: str
    occurred_at: Instant
    execution: int
    due_step: int = 0


@dataclass(slots=True)
class SimulatedEventGrid:
    """Delivers the published events later, in random batches. `step` is the simulated time."""

    rng: random.Random
    parameters: SimulationParameters
    tally: Counter[str]
    step: int = 0
    reliable: bool = False
    """Whether events arrive at once and none is lost."""
    _in_transit: list[PublishedEvent] = field(default_factory=list)

    def publish(self, published: PublishedEvent) -> str:
        """Accept an event. Returns what happens to it, for the log."""
        self.tally["published"] += 1
        if self.reliable:
            published.due_step = self.step
            self._in_transit.append(published)
            return "due now"
        if self.rng.random() < self.parameters.loss_probability:
            self.tally["lost"] += 1
            return "lost"
        published.due_step = self.step + self._draw_delay_steps()
        self._in_transit.append(published)
        if self.rng.random() >= self.parameters.duplicate_probability:
            return f"due {published.due_step}"
        self.tally["duplicated"] += 1
        duplicate = PublishedEvent(
            published.event,
            published.instance_id,
            published.status,
            published.occurred_at,
            published.execution,
            published.due_step + self._draw_delay_steps(),
        )
        self._in_transit.append(duplicate)
        return f"due {published.due_step} and {duplicate.due_step}"

    def take_due_batches(self) -> list[list[PublishedEvent]]:
        """Take the events that are due out of transit. Returns them in random batches, in random order."""
        return self._take_in_random_batches([event for event in self._in_transit if event.due_step <= self.step])

    def take_remaining_batches(self) -> list[list[PublishedEvent]]:
        """Take all events out of transit at the end. Some are lost. Returns the others in random batches."""
        lost = [event for event in self._in_transit if self.rng.random() < self.parameters.loss_probability]
        self.tally["lost"] += len(lost)
        for event in lost:
            self._in_transit.remove(event)
        return self._take_in_random_batches(list(self._in_transit))

    def _take_in_random_batches(self, arriving: list[PublishedEvent]) -> list[list[PublishedEvent]]:
        """Shuffle the events that arrive now, and divide them into deliveries of random sizes."""
        for event in arriving:
            self._in_transit.remove(event)
        in_order = sorted(arriving, key=lambda event: event.occurred_at)
        self.rng.shuffle(arriving)
        self.tally["reordered"] += arriving != in_order
        batches = []
        while arriving:
            size = self.rng.choice(_BATCH_SIZES) if len(arriving) > 1 else 1
            batches.append(arriving[:size])
            arriving = arriving[size:]
        return batches

    def _draw_delay_steps(self) -> int:
        """The number of steps after which a delivery arrives."""
        delay = self.rng.choice(
            _LONG_DELAY_STEPS if self.rng.random() < self.parameters.long_delay_probability else _SHORT_DELAY_STEPS
        )
        self.tally["delayed"] += delay > 0
        return delay
