"""The arithmetic of a comparison: rounds that take turns, ratios within a round, medians over rounds."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Name = TypeVar("Name")
Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Aim:
    """What a ratio should at least be, or at most."""

    minimum: float | None = None
    maximum: float | None = None

    def is_met(self, ratio: float) -> bool:
        return (self.minimum is None or ratio >= self.minimum) and (self.maximum is None or ratio <= self.maximum)

    def describe(self) -> str:
        return f"≥ {self.minimum:g}" if self.minimum is not None else f"≤ {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the results: `what` as a multiple of `against`, one ratio for each round."""

    what: str
    against: str
    ratios: tuple[float, ...]
    aim: Aim | None = None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def as_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "what": self.what,
            "against": self.against,
            "ratio": round_significant(self.ratio),
            "lowest": round_significant(min(self.ratios)),
            "highest": round_significant(max(self.ratios)),
            "rounds": len(self.ratios),
        }
        if self.aim is not None:
            # Judged as it is shown, so that no reader sees 0.80 miss an aim of 0.8.
            content |= {"aim": self.aim.describe(), "met": self.aim.is_met(round_significant(self.ratio))}
        return content


def compare_rounds(
    what: str, measured_values: Sequence[float], against: str, baseline_values: Sequence[float], aim: Aim | None = None
) -> Figure:
    """Ours as a multiple of theirs, round by round: what slows the machine down for a while slows both."""
    if not measured_values or len(measured_values) != len(baseline_values):
        raise ValueError("a comparison needs as many rounds on either side, and at least one")
    return Figure(
        what, against, tuple(one / other for one, other in zip(measured_values, baseline_values, strict=True)), aim
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed (nearest rank)."""
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile needs values, and a share above 0 and up to 1")
    ordered = sorted(values)
    # Ceiling, without the error that 0.07 * 100 has.
    rank = -(-round(share * 1_000_000) * len(ordered) // 1_000_000)
    return ordered[rank - 1]


def round_significant(value: float, digits: int = 3) -> float:
    """Rounded: more digits would promise what one run on one machine cannot hold."""
    return float(f"{value:.{digits}g}")


async def run_in_turns(
    rounds: int, variants: Mapping[Name, Callable[[], Awaitable[Sample]]]
) -> dict[Name, list[Sample]]:
    """Run each variant once a round, forwards and backwards by turns (A B, B A, …): none is always first, and a
    machine that becomes slower or faster does so for all."""
    samples: dict[Name, list[Sample]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            samples[name].append(await variants[name]())
    return samples
