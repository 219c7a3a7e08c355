"""Points in time with the precision of .NET, 100 ns. Two lifecycle events of an instance can have the same microsecond
(PLATFORM: Lifecycle events 8), and their order decides whether the instance is active."""

import re
from datetime import UTC, datetime, timedelta
from typing import NewType

Instant = NewType("Instant", int)
"""Ticks of 100 ns since 1970-01-01T00:00:00Z."""

TICKS_PER_SECOND = 10_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,12}))?([Zz]|[+-]\d{2}:\d{2})?", re.ASCII)


def seconds(amount: float) -> int:
    """The ticks in `amount` seconds."""
    return round(amount * TICKS_PER_SECOND)


def parse_instant(text: str) -> Instant:
    """Parse an RFC 3339 time. Digits beyond 100 ns are cut off. A time without an offset is UTC, as .NET writes it.
    Raises ValueError for any other text, and for years that a `datetime` cannot hold."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:64]!r}")
    date, time, fraction, offset = match.groups()
    offset = "+00:00" if offset is None or offset in "Zz" else offset
    try:
        # Converted to UTC first, because the offset can lead to a year that a datetime cannot hold.
        whole = (datetime.fromisoformat(f"{date}T{time}{offset}").astimezone(UTC) - _EPOCH) // timedelta(seconds=1)
    except OverflowError as error:
        raise ValueError(f"not a representable time: {text[:64]!r}") from error
    return Instant(whole * TICKS_PER_SECOND + int((fraction or "0").ljust(7, "0")[:7]))


def instant_from(moment: datetime) -> Instant:
    """The instant of a datetime. A datetime without a time zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Instant((aware - _EPOCH) // timedelta(microseconds=1) * 10)


def datetime_of(instant: Instant) -> datetime:
    """The aware datetime in UTC, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=instant // 10)


def format_instant(instant: Instant) -> str:
    """The instant as RFC 3339 text in UTC, always with seven digits, so that texts sort by time.

    Works for the years 1 to 9999, to which `parse_instant` limits its results.
    """
    whole, ticks = divmod(instant, TICKS_PER_SECOND)
    moment = (_EPOCH + timedelta(seconds=whole)).replace(tzinfo=None)
    return f"{moment.isoformat()}.{ticks:07d}Z"


def format_duration(ticks: int) -> str:
    """A duration for people: `40 s`, `12 min`, `3 h`, `5 d`. Negative durations become `0 s`."""
    duration_seconds = max(0, ticks // TICKS_PER_SECOND)
    for unit, unit_seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        # Hours and days are used from two on, because "1 h" would hide up to 59 minutes. Minutes are used from one on.
        if duration_seconds >= 2 * unit_seconds or (unit == "min" and duration_seconds >= unit_seconds):
            return f"{duration_seconds // unit_seconds} {unit}"
    return f"{duration_seconds} s"
