"""The steps of a rollout, as the option `--steps` has them: `10@15m,50@30m`."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from safe_deploy.durations import parse_duration
from safe_deploy.errors import UsageError

_SECONDS_PER_MINUTE = 60
_SYNTAX = "--steps takes shares in percent with their durations, such as 10@15m,50@30m"


@dataclass(frozen=True, slots=True)
class Step:
    """The candidate gets `weight` percent of the traffic for `duration`."""

    weight: int
    duration: timedelta

    def to_json(self) -> dict[str, Any]:
        """The step in the body of PutRollout. A whole number of minutes stays one."""
        minutes = self.duration.total_seconds() / _SECONDS_PER_MINUTE
        return {"weight": self.weight, "minutes": int(minutes) if minutes.is_integer() else minutes}


def parse_steps(text: str) -> tuple[Step, ...]:
    """The steps in the value of `--steps`. Raises UsageError for another syntax. The server checks the ranges."""
    return tuple(_parse_step(part.strip()) for part in text.split(","))


def _parse_step(text: str) -> Step:
    """One step, such as `10@15m`. A percent sign after the share is allowed."""
    weight, at, duration = text.partition("@")
    digits = weight.strip().removesuffix("%").strip()
    if not at or not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"{_SYNTAX}, and not {text!r}")
    if duration.strip()[-1:].isdigit():
        # A number alone would be seconds, and a rollout in seconds is never meant.
        raise UsageError(f"{_SYNTAX}, and not {text!r}: its duration has no unit")
    return Step(int(digits), parse_duration(duration, option="--steps"))
