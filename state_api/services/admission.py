"""The limit on the bytes of deliveries that the server holds at once. A delivery above the limit is refused, and Event
Grid sends it again later. Memory stays bounded, and admitted deliveries are recorded before Event Grid stops waiting.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from state_api.domain.errors import TooManyEvents

CAPACITY_BYTES = 8 * 1024 * 1024
"""Bytes of deliveries that are held at once: about 12,000 events."""
SMALL_DELIVERY_BYTES = 64 * 1024
"""Bytes up to which an unfinished delivery counts only towards `CAPACITY_BYTES`. All that unfinished deliveries hold
beyond this size is also limited to half of the capacity, so that callers that never finish large deliveries do not
block small ones."""
UNFINISHED_SECONDS = 1
"""Age in seconds from which on an unfinished delivery is revoked when another one needs its bytes. Event Grid sends
its largest delivery, 1 MB, in less time."""
LATE_SECONDS = 3
"""Seconds of recording after which a delivery counts as late. Event Grid waits 30 s for a response (PLATFORM: Event
Grid delivery). While many deliveries are late, a new one would be recorded after Event Grid had given up."""
MAX_LATE_BYTES = 1024 * 1024
"""Bytes of late deliveries above which new deliveries are refused: the size of the largest delivery that Event Grid
sends, because a single slow delivery must not stop all others."""
MIN_DELIVERY_BYTES = 2 * 1024
"""Bytes that a delivery counts as at least. A smaller one needs this much memory besides its events."""
_RETRY_AFTER_SECONDS = 5


@dataclass(slots=True, eq=False)
class Reservation:
    """The bytes that one delivery holds. Bytes count when they arrive; a Content-Length reserves nothing."""

    controller: "AdmissionController"
    began_at: float
    held_bytes: int = 0
    arrived_bytes: int = 0
    revoked: bool = False
    """Whether another delivery has got the bytes. Then the request of this one is refused."""
    on_revoked: Callable[[], None] | None = None

    @property
    def shared_bytes(self) -> int:
        """Bytes held beyond SMALL_DELIVERY_BYTES."""
        return max(0, self.held_bytes - SMALL_DELIVERY_BYTES)

    def add_bytes(self, size: int) -> None:
        """Hold `size` more bytes. Raises TooManyEvents when they do not fit; a single delivery always fits."""
        if self.revoked:
            raise _too_many_events()
        self.arrived_bytes += size
        self.controller.hold_bytes(self, max(self.arrived_bytes, MIN_DELIVERY_BYTES) - self.held_bytes)

    def finish_arrival(self) -> None:
        """The whole delivery has arrived. From now on it is being recorded: it can be late, and cannot be revoked."""
        self.controller.start_recording(self)


class AdmissionController:
    """Admits deliveries while they hold at most `capacity_bytes`, and late ones at most `max_late_bytes`.

    A delivery is late once its recording has taken LATE_SECONDS. `monotonic` is the clock, in seconds."""

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
        """Reserve bytes for a delivery that arrives in parts. Raises TooManyEvents."""
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
        """Reserve bytes for a delivery of `size` bytes that has arrived. Raises TooManyEvents."""
        with self.reserve_arriving() as reservation:
            # The shared limit of unfinished deliveries does not apply to it.
            self._unfinished.pop(reservation)
            reservation.add_bytes(size)
            reservation.finish_arrival()
            yield

    def hold_bytes(self, reservation: Reservation, size: int) -> None:
        """Count `size` more bytes for the reservation. Revokes slow deliveries to make room. Raises TooManyEvents."""
        if size <= 0:
            return
        while not self._fits(reservation, size):
            self._revoke_largest(reservation)
        self._held_bytes += size
        reservation.held_bytes += size

    def start_recording(self, reservation: Reservation) -> None:
        """Begin to measure how long the delivery takes."""
        self._unfinished.pop(reservation, None)
        self._recording_since[reservation] = self._monotonic()

    def _fits(self, reservation: Reservation, size: int) -> bool:
        """Whether `size` more bytes fit: into the capacity of all deliveries, and, for one that is still arriving, into
        the half that unfinished deliveries share. Its first SMALL_DELIVERY_BYTES do not count for the half."""
        if self._held_bytes > reservation.held_bytes and self._held_bytes + size > self._capacity_bytes:
            return False
        if reservation not in self._unfinished or reservation.held_bytes + size <= SMALL_DELIVERY_BYTES:
            return True
        shared_by_others = sum(other.shared_bytes for other in self._unfinished if other is not reservation)
        shared_by_this = reservation.held_bytes + size - SMALL_DELIVERY_BYTES
        return shared_by_others == 0 or shared_by_others + shared_by_this <= self._capacity_bytes // 2

    def _revoke_largest(self, reservation: Reservation) -> None:
        """Revoke the largest other delivery that is unfinished after UNFINISHED_SECONDS. Raises TooManyEvents if there
        is none."""
        slow_since = self._monotonic() - UNFINISHED_SECONDS
        slow = [other for other in self._unfinished if other is not reservation and other.began_at <= slow_since]
        if not slow:
            raise _too_many_events()
        revoked = max(slow, key=lambda other: other.held_bytes)
        revoked.revoked = True
        self._release(revoked)
        if revoked.on_revoked is not None:
            revoked.on_revoked()

    def _release(self, reservation: Reservation) -> None:
        """Give back the bytes of a delivery that is recorded, refused or revoked. Calling it again has no further
        effect."""
        self._held_bytes -= reservation.held_bytes
        reservation.held_bytes = 0
        self._unfinished.pop(reservation, None)
        self._recording_since.pop(reservation, None)

    def _count_late_bytes(self) -> int:
        """Bytes of late deliveries; stops counting above the limit. Deliveries are in the order in which their
        recording began."""
        late_since = self._monotonic() - LATE_SECONDS
        late_bytes = 0
        for reservation, began_at in self._recording_since.items():
            if began_at > late_since or late_bytes > self._max_late_bytes:
                break
            late_bytes += reservation.held_bytes
        return late_bytes


def _too_many_events() -> TooManyEvents:
    """The error with which Event Grid, or another publisher, sends the delivery again."""
    return TooManyEvents(
        "the server has reached its limit for deliveries in progress: send this delivery again",
        retry_after=_RETRY_AFTER_SECONDS,
    )
