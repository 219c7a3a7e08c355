"""Durations in options, such as `90`, `90s`, `15m`, `2h`, `1d` or `1h30m`. A number alone is seconds."""

import re
from collections.abc import Callable
from datetime import timedelta

import typer

from safe_deploy.errors import UsageError

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_DURATION = re.compile(rf"{_NUMBER}|(?:{_NUMBER}[smhd])+")
_PART = re.compile(rf"({_NUMBER})([smhd]?)")
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_DURATION = timedelta(days=366)
_EXAMPLES = "such as 90s, 15m, 2h or 1d"


class Seconds(float):
    """A number of seconds that is shown as a duration, such as `1h`: the default of an option, for its help."""

    def __str__(self) -> str:
        return format_duration(timedelta(seconds=self)).replace(" ", "").replace("min", "m")


def duration_parser(minimum: Seconds, maximum: Seconds) -> Callable[[str | float], Seconds]:
    """A parser for an option of Typer whose value is a number of seconds."""

    def parse(value: str | float) -> Seconds:
        """The seconds of a text. Typer also passes the default, which is a number. Raises BadParameter, to which Typer
        adds the names of the option and its variable."""
        if isinstance(value, float | int):
            return Seconds(value)
        duration = _parse(value)
        if duration is None or not minimum <= duration.total_seconds() <= maximum:
            raise typer.BadParameter(
                f"{value!r} is no duration from {minimum} to {maximum}, {_EXAMPLES}. A number alone is seconds"
            )
        return Seconds(duration.total_seconds())

    return parse


def parse_duration(text: str, *, option: str) -> timedelta:
    """The duration in the value of an option. Raises UsageError, which names the option, for other texts, for 0, and
    for more than 366 days."""
    duration = _parse(text)
    if duration is None or not timedelta() < duration <= _MAX_DURATION:
        raise UsageError(
            f"{option} takes durations above 0 and up to {_MAX_DURATION.days} days, {_EXAMPLES}, and not {text!r}. A "
            "number alone is seconds"
        )
    return duration


def parse_whole_minutes(text: str, *, option: str) -> int:
    """The minutes in the value of an option. Raises UsageError for a duration that is not whole minutes."""
    minutes = parse_duration(text, option=option) / timedelta(minutes=1)
    if not minutes.is_integer():
        raise UsageError(f"{option} takes whole minutes, such as 5m or 1h, and not {text!r}")
    return int(minutes)


def format_duration(duration: timedelta) -> str:
    """The duration in the largest unit in which it is a whole number: `90 s`, `15 min`, `2 h`, `1 d`."""
    seconds = duration.total_seconds()
    for unit_seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds and seconds % unit_seconds == 0:
            return f"{seconds / unit_seconds:.10g} {unit}"
    return f"{seconds:.10g} s"


def _parse(text: str) -> timedelta | None:
    """The duration that a text stands for, None if it stands for none."""
    text = text.strip()
    if not _DURATION.fullmatch(text):
        return None
    try:
        return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in _PART.findall(text)), timedelta())
    except OverflowError:
        return None
