"""How much is being recorded at once. What does not fit is refused and comes again later: memory stays bounded, and
what was let in is done before Event Grid stops waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from state_api.domain.errors import TooManyEvents

CAPACITY = 8 * 1024 * 1024
"""Bytes of deliveries that are held at once, some 12,000 events."""
LATE_SECONDS = 3
"""How long a delivery may take before it counts as late. Event Grid waits 30 s for an answer (PLATFORM: Event Grid
delivery): if much is late, what is let in now would only be recorded for nobody."""
LATE = 1024 * 1024
"""Bytes of late deliveries that there may be: the largest that Event Grid sends. One that is slow for a reason of its
own must not stop all others."""
LEAST = 2 * 1024
"""Bytes that a delivery counts for at least: a small one costs as much beside its events."""
_RETRY_AFTER = 5


@dataclass(slots=True, eq=False)
class Room:
    """The room of one delivery."""

    intake: "Intake"
    held: int = 0
    counted: int = 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more. Raises TooManyEvents when there is no room; one delivery alone always has."""
        self.counted += size
        self.intake.hold(self, max(self.counted, LEAST) - self.held)

    def complete(self) -> None:
        """All of it is here: from now on it is recorded, and can be late."""
        self.intake.begin(self)


class Intake:
    def __init__(
        self, capacity: int = CAPACITY, late: int = LATE, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._late = late
        self._monotonic = monotonic
        self._held = 0
        self._begun: dict[Room, float] = {}

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for a delivery that comes bit by bit. Raises TooManyEvents."""
        if self._held_late() > self._late:
            raise _refused()
        room = Room(self)
        try:
            room.take(0)
            yield room
        finally:
            self._held -= room.held
            self._begun.pop(room, None)

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Room for a delivery that is here, of `size` bytes. Raises TooManyEvents."""
        with self.room() as room:
            room.take(size)
            room.complete()
            yield

    def hold(self, room: Room, size: int) -> None:
        if size > 0:
            if self._held > room.held and self._held + size > self._capacity:
                raise _refused()
            self._held += size
            room.held += size

    def begin(self, room: Room) -> None:
        self._begun[room] = self._monotonic()

    def _held_late(self) -> int:
        """Bytes of the deliveries that take long; they are the first, in the order in which they began."""
        before = self._monotonic() - LATE_SECONDS
        held = 0
        for room, began in self._begun.items():
            if began > before or held > self._late:
                break
            held += room.held
        return held


def _refused() -> TooManyEvents:
    return TooManyEvents(
        "more events are being recorded than this server has room for; send this delivery again",
        retry_after=_RETRY_AFTER,
    )
