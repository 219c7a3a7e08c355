"""How much is being recorded at once. What does not fit is refused and comes again later: memory stays bounded, and
what was let in is done before Event Grid stops waiting."""

from collections.abc import Iterator
from contextlib import contextmanager

from state_api.domain.errors import TooManyEvents

CAPACITY = 8 * 1024 * 1024
"""Bytes of deliveries, some 12,000 events. A slow storage writes as many in the 30 s that Event Grid waits
(docs/performance.md)."""
LEAST = 2 * 1024
"""Bytes that a delivery counts for at least: a small one costs as much beside its events."""
_RETRY_AFTER = 5


class Intake:
    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._held = 0

    @contextmanager
    def admitted(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while the delivery is read and recorded. Raises TooManyEvents when there is no room; one
        delivery alone always has."""
        size = max(size, LEAST)
        if self._held and self._held + size > self._capacity:
            raise TooManyEvents(
                "more events are being recorded than this server has room for; send this delivery again",
                retry_after=_RETRY_AFTER,
            )
        self._held += size
        try:
            yield
        finally:
            self._held -= size
