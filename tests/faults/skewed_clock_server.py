"""The server with a wrong clock: `python -m tests.faults.skewed_clock_server serve …`, with the seconds that the clock
is ahead in FAULT_SKEW_SECONDS. All functions for the time of day are replaced before any other module is loaded, so
that the server and its libraries see the same wrong time. Monotonic clocks stay right, as on a real machine."""

import datetime
import os
import sys
import time
from typing import Any, Self

SKEW_VARIABLE = "FAULT_SKEW_SECONDS"


def shift_clock(seconds: int) -> None:
    """Set the clock of this process ahead."""
    for name in ("time", "time_ns", "gmtime", "localtime"):
        setattr(time, name, _shifted(name, seconds))

    class SkewedDatetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Self:
            return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Self:
            return cls.fromtimestamp(time.time())

    datetime.datetime = SkewedDatetime  # type: ignore[misc]


def _shifted(name: str, seconds: int) -> Any:
    """A function like `time.{name}` that shows a time this many seconds ahead."""
    original = getattr(time, name)
    now = time.time
    if name == "time":
        return lambda: original() + seconds
    if name == "time_ns":
        return lambda: original() + seconds * 10**9
    return lambda moment=None: original(now() if moment is None else moment)


if __name__ == "__main__":
    shift_clock(int(os.environ[SKEW_VARIABLE]))
    # Imported only now, so that it uses the replaced functions.
    from state_api.__main__ import main

    sys.exit(main())
