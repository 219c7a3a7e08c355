"""Event Grid between the platform and the server: it loses events, doubles, delays and reorders them."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.instants import Instant
from tests.simulator.traits import Traits

_FOLLOWING = (0, 0, 0, 1, 1, 2, 3, 5, 8)
_MUCH_LATER = (5, 8, 13, 100)


@dataclass(eq=False, slots=True)
class Published:
    """An event on its way. `execution` is whose it is, by the number that the platform gave it."""

    event: dict[str, Any]
    instance_id: str
    status: str
    occurred_at: Instant
    execution: int
    due: int = 0


@dataclass(slots=True)
class Transport:
    """`step` is the time by which events come due."""

    rng: random.Random
    traits: Traits
    tally: Counter[str]
    step: int = 0
    _on_the_way: list[Published] = field(default_factory=list)

    def publish(self, published: Published) -> str:
        """Take an event; what becomes of it, for the log."""
        self.tally["published"] += 1
        if self.rng.random() < self.traits.loss:
            self.tally["lost"] += 1
            return "lost"
        published.due = self.step + self._delay()
        self._on_the_way.append(published)
        if self.rng.random() >= self.traits.doubled:
            return f"due {published.due}"
        self.tally["doubled"] += 1
        again = Published(
            published.event,
            published.instance_id,
            published.status,
            published.occurred_at,
            published.execution,
            published.due + self._delay(),
        )
        self._on_the_way.append(again)
        return f"due {published.due} and {again.due}"

    def due(self) -> list[list[Published]]:
        """The batches that arrive now, in any order."""
        return self._batches([one for one in self._on_the_way if one.due <= self.step])

    def rest(self) -> list[list[Published]]:
        """The batches that arrive in the end; some events are lost instead."""
        lost = [one for one in self._on_the_way if self.rng.random() < self.traits.loss]
        self.tally["lost"] += len(lost)
        for one in lost:
            self._on_the_way.remove(one)
        return self._batches(list(self._on_the_way))

    def _batches(self, arriving: list[Published]) -> list[list[Published]]:
        for one in arriving:
            self._on_the_way.remove(one)
        in_order = sorted(arriving, key=lambda one: one.occurred_at)
        self.rng.shuffle(arriving)
        self.tally["reordered"] += arriving != in_order
        batches = []
        while arriving:
            size = self.rng.choice((2, 100, 100)) if len(arriving) > 1 else 1
            batches.append(arriving[:size])
            arriving = arriving[size:]
        return batches

    def _delay(self) -> int:
        delay = self.rng.choice(_MUCH_LATER if self.rng.random() < self.traits.late else _FOLLOWING)
        self.tally["delayed"] += delay > 0
        return delay
