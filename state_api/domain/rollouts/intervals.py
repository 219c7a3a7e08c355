"""The interval of a rate that was observed in a number of cases."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Interval:
    """The lowest and the highest rate that the observation is compatible with."""

    low: float
    high: float


def estimate_rate(count: int, total: int, confidence: float) -> Interval | None:
    """The Wilson score interval of `count` in `total` cases (Wilson, 1927), for one look. None without cases.

    It stays between 0 and 1, and has a length also where no case or every case counts.
    """
    if total == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, weight = count / total, z * z / total
    middle = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(rate * (1 - rate) / total + weight / (4 * total))
    # At a rate of 0 or 1, rounding could lead beyond it.
    return Interval(min(rate, max(0.0, middle - half)), max(rate, min(1.0, middle + half)))
