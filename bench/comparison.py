"""Comparisons: variants run in turns, each round gives a ratio, and a figure is the median of its rounds."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Name = TypeVar("Name")
Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Aim:
    """The smallest or largest ratio that a figure should have."""

    minimum: float | None = None
    maximum: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is within the limits of the aim."""
        return (self.minimum is None or ratio >= self.minimum) and (self.maximum is None or ratio <= self.maximum)

    def describe(self) -> str:
        """The aim as the report prints it, such as `≥ 1.5`."""
        return f"≥ {self.minimum:g}" if self.minimum is not None else f"≤ {self.maximum:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the results: `subject` as a multiple of `baseline`, with a ratio for each round."""

    subject: str
    baseline: str
    ratios: tuple[float, ...]
    aim: Aim | None = None

    @property
    def ratio(self) -> float:
        """The median of the ratios of all rounds: the figure that is reported and compared with the aim."""
        return statistics.median(self.ratios)

    def as_json(self) -> dict[str, Any]:
        """The figure as it is in the file of results."""
        figure: dict[str, Any] = {
            "subject": self.subject,
            "baseline": self.baseline,
            "ratio": round_significant(self.ratio),
            "lowest": round_significant(min(self.ratios)),
            "highest": round_significant(max(self.ratios)),
            "rounds": len(self.ratios),
        }
        if self.aim is not None:
            # Compare the rounded ratio, so that no reader sees 0.80 miss an aim of 0.8.
            figure |= {"aim": self.aim.describe(), "met": self.aim.is_met(round_significant(self.ratio))}
        return figure


def compare_rounds(
    subject: str,
    measured_values: Sequence[float],
    baseline: str,
    baseline_values: Sequence[float],
    aim: Aim | None = None,
) -> Figure:
    """Divide the measured value of each round by the baseline of the same round.

    A machine that is slow for a while slows both. Raises ValueError without rounds, or for unequal numbers of them."""
    if not measured_values or len(measured_values) != len(baseline_values):
        raise ValueError("a comparison needs as many rounds on either side, and at least one")
    return Figure(
        subject,
        baseline,
        tuple(
            measured / baseline_value for measured, baseline_value in zip(measured_values, baseline_values, strict=True)
        ),
        aim,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed (nearest rank)."""
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile needs values, and a share above 0 and up to 1")
    ordered = sorted(values)
    # Rounds up in integers: 0.07 * 100 is a little more than 7.
    rank = -(-round(share * 1_000_000) * len(ordered) // 1_000_000)
    return ordered[rank - 1]


def round_significant(value: float, digits: int = 3) -> float:
    """The value with this many significant digits, because one run on one machine is no more precise."""
    return float(f"{value:.{digits}g}")


async def run_in_turns(
    rounds: int, variants: Mapping[Name, Callable[[], Awaitable[Sample]]]
) -> dict[Name, list[Sample]]:
    """Run each variant once a round, in alternating order (A B, B A, …).

    So no variant is always first, and a machine that becomes slower or faster does so for all variants."""
    samples: dict[Name, list[Sample]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            samples[name].append(await variants[name]())
    return samples
