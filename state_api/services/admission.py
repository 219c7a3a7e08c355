"""How many bytes of deliveries the server holds at once. What does not fit is refused and is sent again later: memory
stays bounded, and what is admitted is recorded before Event Grid stops waiting."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from state_api.domain.errors import TooManyEvents

CAPACITY_BYTES = 8 * 1024 * 1024
"""Bytes of deliveries that are held at once, some 12,000 events."""
SMALL_DELIVERY_BYTES = 64 * 1024
"""Bytes of an unfinished delivery that count for `CAPACITY_BYTES` alone. What an unfinished delivery holds beyond that
also counts for half of the capacity, which all unfinished deliveries share: some callers that never finish large
deliveries do not keep small ones out."""
UNFINISHED_SECONDS = 1
"""Seconds after which an unfinished delivery gives way when another one needs its bytes. Event Grid sends its largest,
1 MB, in less."""
LATE_SECONDS = 3
"""Seconds after which a delivery counts as late. Event Grid waits 30 s for an answer (PLATFORM: Event Grid delivery);
when many are late, a delivery admitted now would be recorded after Event Grid had given up."""
MAX_LATE_BYTES = 1024 * 1024
"""Bytes of late deliveries above which new ones are refused: the largest delivery that Event Grid sends. A single slow
delivery must not stop all others."""
MIN_DELIVERY_BYTES = 2 * 1024
"""Bytes that a delivery counts for at least: a small one costs as much beside its events."""
_RETRY_AFTER_SECONDS = 5


@dataclass(slots=True, eq=False)
class Reservation:
    """The bytes that one delivery holds. They are counted as they arrive: what a request's Content-Length promises
    reserves nothing."""

    controller: "AdmissionController"
    began_at: float
    held_bytes: int = 0
    arrived_bytes: int = 0
    revoked: bool = False
    """Whether the bytes were given to another delivery. The request is refused then."""
    on_revoked: Callable[[], None] | None = None

    @property
    def shared_bytes(self) -> int:
        """Bytes held beyond SMALL_DELIVERY_BYTES."""
        return max(0, self.held_bytes - SMALL_DELIVERY_BYTES)

    def add_bytes(self, size: int) -> None:
        """Hold `size` bytes more. Raises TooManyEvents when there is no capacity; a delivery alone always has it."""
        if self.revoked:
            raise _too_many_events()
        self.arrived_bytes += size
        self.controller.hold_bytes(self, max(self.arrived_bytes, MIN_DELIVERY_BYTES) - self.held_bytes)

    def finish_arrival(self) -> None:
        """The whole delivery is here. From now on it is recorded, can be late and does not give way."""
        self.controller.start_recording(self)


class AdmissionController:
    def __init__(
        self,
        capacity_bytes: int = CAPACITY_BYTES,
        max_late_bytes: int = MAX_LATE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._max_late_bytes = max_late_bytes
        self._monotonic = monotonic
        self._held_bytes = 0
        self._unfinished: dict[Reservation, None] = {}
        self._recording_since: dict[Reservation, float] = {}

    @contextmanager
    def reserve_arriving(self) -> Iterator[Reservation]:
        """The reservation of a delivery that arrives in parts. Raises TooManyEvents."""
        if self._count_late_bytes() > self._max_late_bytes:
            raise _too_many_events()
        reservation = Reservation(self, self._monotonic())
        self._unfinished[reservation] = None
        try:
            reservation.add_bytes(0)
            yield reservation
        finally:
            self._release(reservation)

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """The reservation of a delivery of `size` bytes that is here. Raises TooManyEvents."""
        with self.reserve_arriving() as reservation:
            # It does not share what unfinished deliveries have.
            self._unfinished.pop(reservation)
            reservation.add_bytes(size)
            reservation.finish_arrival()
            yield

    def hold_bytes(self, reservation: Reservation, size: int) -> None:
        if size <= 0:
            return
        while not self._fits(reservation, size):
            self._revoke_largest(reservation)
        self._held_bytes += size
        reservation.held_bytes += size

    def start_recording(self, reservation: Reservation) -> None:
        self._unfinished.pop(reservation, None)
        self._recording_since[reservation] = self._monotonic()

    def _fits(self, reservation: Reservation, size: int) -> bool:
        if self._held_bytes > reservation.held_bytes and self._held_bytes + size > self._capacity_bytes:
            return False
        if reservation not in self._unfinished or reservation.held_bytes + size <= SMALL_DELIVERY_BYTES:
            return True
        others = sum(other.shared_bytes for other in self._unfinished if other is not reservation)
        return not others or others + reservation.held_bytes + size - SMALL_DELIVERY_BYTES <= self._capacity_bytes // 2

    def _revoke_largest(self, reservation: Reservation) -> None:
        """Take its bytes from the largest delivery that should be here by now. Raises TooManyEvents if there is
        none."""
        before = self._monotonic() - UNFINISHED_SECONDS
        slow = [other for other in self._unfinished if other is not reservation and other.began_at <= before]
        if not slow:
            raise _too_many_events()
        revoked = max(slow, key=lambda other: other.held_bytes)
        revoked.revoked = True
        self._release(revoked)
        if revoked.on_revoked is not None:
            revoked.on_revoked()

    def _release(self, reservation: Reservation) -> None:
        self._held_bytes -= reservation.held_bytes
        reservation.held_bytes = 0
        self._unfinished.pop(reservation, None)
        self._recording_since.pop(reservation, None)

    def _count_late_bytes(self) -> int:
        """Bytes of the deliveries that take long; they are the first, in the order in which they began."""
        before = self._monotonic() - LATE_SECONDS
        held = 0
        for reservation, began in self._recording_since.items():
            if began > before or held > self._max_late_bytes:
                break
            held += reservation.held_bytes
        return held


def _too_many_events() -> TooManyEvents:
    return TooManyEvents(
        "the server has reached its limit for deliveries in progress; send this delivery again",
        retry_after=_RETRY_AFTER_SECONDS,
    )
