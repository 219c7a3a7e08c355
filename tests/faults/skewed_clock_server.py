"""The server on a machine whose clock is wrong: `python -m tests.faults.skewed_clock_server serve …`, with the seconds
that it is ahead in the environment. Everything that tells the time of day is shifted before anything else is loaded,
so that the server and all of its libraries see the same wrong time. What counts durations is not: that does not go
wrong."""

import datetime
import os
import sys
import time
from typing import Any, Self

SKEW_VARIABLE = "FAULT_SKEW_SECONDS"


def shift_clock(seconds: int) -> None:
    """Set this process's clock ahead."""
    for name in ("time", "time_ns", "gmtime", "localtime"):
        setattr(time, name, _shifted(name, seconds))

    class Wrong(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Self:
            return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Self:
            return cls.fromtimestamp(time.time())

    datetime.datetime = Wrong  # type: ignore[misc]


def _shifted(name: str, seconds: int) -> Any:
    right = getattr(time, name)
    now = time.time
    if name == "time":
        return lambda: right() + seconds
    if name == "time_ns":
        return lambda: right() + seconds * 10**9
    return lambda moment=None: right(now() if moment is None else moment)


if __name__ == "__main__":
    shift_clock(int(os.environ[SKEW_VARIABLE]))
    # Only now, so that all that it loads gets the shifted names.
    from state_api.__main__ import main

    sys.exit(main())
