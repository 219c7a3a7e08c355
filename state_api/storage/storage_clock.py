"""The storage's clock, between two bounds that the Date header of responses shows (docs/correctness.md, Two bounds of
one clock)."""

import time
from email.utils import parsedate_to_datetime

from state_api.domain.instants import TICKS_PER_SECOND, Instant


class StorageClock:
    """Implements `Clock` by the Date header of responses. An offset is how far the storage's clock is ahead of this
    machine's monotonic clock.

    - `now` adds the greatest offset of two windows, because each response shows an offset that is too small.
    - `upper_bound` adds the greatest offset that the response to the latest request allows.
    """

    _SET_BACK_SECONDS = 1.0
    """How far a response must be behind the estimate, at least, to show that the storage's clock was set back."""
    _WINDOW_SECONDS = 60.0
    """How long responses are collected for one offset. The offset also counts during the window after its own, and no
    longer, so that a fast clock on this machine does not move the estimate ahead."""

    def __init__(self) -> None:
        """A clock without a response. All offsets are in seconds, from the time of this machine's monotonic clock."""
        self._offset: float | None = None
        self._previous_offset: float | None = None
        self._window_offset: float | None = None
        self._window_began_at = 0.0
        self._latest_estimate: float | None = None
        self._max_offset: float | None = None
        self._last_sent_at = 0.0
        self._last_response_at: float | None = None

    def observe_date(self, date: str, sent_at: float) -> None:
        """Update the estimate from the Date header of a response. `sent_at` is when its request was sent, in seconds of
        `time.monotonic`. The header is cut to whole seconds and delayed by the network, so the greatest of several
        offsets is the closest."""
        now = time.monotonic()
        try:
            server_time = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        self._last_response_at = now
        offset = server_time - now
        # The greatest offset that this response allows: a response that was long on its way, or that waited to be
        # read, does not show that the clock was set back.
        max_offset = server_time + 1 - sent_at
        self._discard_disproved_estimates(max_offset, now)
        if self._max_offset is None or sent_at >= self._last_sent_at or offset > self._max_offset:
            # A suspension stops this machine's monotonic clock, so the offset grows. The bound of the latest request
            # includes all suspensions before it. A response with a larger offset shows a suspension since then, even
            # if it answers an earlier request.
            self._max_offset, self._last_sent_at = max_offset, max(sent_at, self._last_sent_at)
        if self._window_offset is None or now - self._window_began_at >= self._WINDOW_SECONDS:
            self._begin_window(offset, now)
        else:
            self._window_offset = max(self._window_offset, offset)
        offsets = [value for value in (self._previous_offset, self._window_offset) if value is not None]
        self._offset = max(offsets)

    def _discard_disproved_estimates(self, max_offset: float, now: float) -> None:
        """Discard the estimates that this greatest possible offset disproves."""
        if self._offset is not None and max_offset <= self._offset - self._SET_BACK_SECONDS:
            self._previous_offset = self._window_offset = self._latest_estimate = None
        elif self._latest_estimate is not None:
            self._latest_estimate = min(self._latest_estimate, now + max_offset)

    def _begin_window(self, offset: float, now: float) -> None:
        """Collect offsets for a new window. After two windows without a response nothing of the time before counts: the
        clock of this machine may have gained much since."""
        if now - self._window_began_at < 2 * self._WINDOW_SECONDS:
            self._previous_offset = self._window_offset
        else:
            self._previous_offset = self._latest_estimate = None
        self._window_offset, self._window_began_at = offset, now

    @property
    def synchronized(self) -> bool:
        """Whether the storage has responded yet."""
        return self._offset is not None

    def had_response_within(self, seconds: float) -> bool:
        """Whether the storage has responded in the last `seconds` of this machine's monotonic clock."""
        return self._last_response_at is not None and time.monotonic() - self._last_response_at <= seconds

    def now(self) -> Instant:
        """A time that the storage's clock has reached; before the first response, the time of this machine."""
        return Instant(int(self._estimate_seconds() * TICKS_PER_SECOND))

    def upper_bound(self) -> Instant:
        """A time that the storage's clock has not passed; before the first response, the time of this machine."""
        estimate = self._estimate_seconds()
        bound = estimate if self._max_offset is None else self._max_offset + time.monotonic()
        return Instant(int(max(estimate, bound) * TICKS_PER_SECOND))

    def _estimate_seconds(self) -> float:
        """The estimate in seconds since 1970."""
        if self._offset is None:
            return time.time()
        # The offset shrinks when its window is over. The storage's clock was at least at the earlier estimate, so the
        # estimate stands still meanwhile. If it went back, a wait would sleep past its moment, and a probe would be in
        # the future.
        estimate = self._offset + time.monotonic()
        self._latest_estimate = max(estimate, self._latest_estimate or estimate)
        return self._latest_estimate
