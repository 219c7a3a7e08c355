"""The time of the state server, as a router knows it between two responses. The clock of the router's machine may be
wrong by minutes, so only durations are measured here."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

_PRECISION = timedelta(seconds=2)
"""By how much the time in a response can be behind, differently in each. The server has it from its storage, in whole
seconds, so it is behind by less than a second and a round trip to the storage."""


class ServerClock:
    """An upper bound of the server's time. `read_seconds`: a clock that never goes back, in seconds."""

    def __init__(self, read_seconds: Callable[[], float] | None = None) -> None:
        self._read_seconds = read_seconds or _read_seconds
        self._upper_bound_at_zero: datetime | None = None

    def read_seconds(self) -> float:
        """The seconds since an arbitrary moment, for `observe`."""
        return self._read_seconds()

    def observe(self, server_time: datetime, *, asked_at: float) -> None:
        """Note the time in a response that has just arrived, to a request sent at `asked_at`.

        The server has written it between the two. So a request for which the server waits says little, and the best
        response so far counts. It counts until a later one shows that this machine measures time too slowly.
        """
        upper_bound_at_zero = server_time + _PRECISION - timedelta(seconds=asked_at)
        lower_bound_at_zero = server_time - timedelta(seconds=self._read_seconds())
        if self._upper_bound_at_zero is not None and self._upper_bound_at_zero >= lower_bound_at_zero:
            upper_bound_at_zero = min(upper_bound_at_zero, self._upper_bound_at_zero)
        self._upper_bound_at_zero = upper_bound_at_zero

    def upper_bound(self) -> datetime | None:
        """A time that the server has not passed yet; None before the first response."""
        if self._upper_bound_at_zero is None:
            return None
        return self._upper_bound_at_zero + timedelta(seconds=self._read_seconds())


def _read_seconds() -> float:
    """The seconds since an arbitrary moment. On Linux also those in which the machine was suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
