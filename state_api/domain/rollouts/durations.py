"""Medians and percentiles of durations that were counted in bins."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from state_api.domain.task_hubs.timeline import BINS_PER_DOUBLING


@dataclass(frozen=True, slots=True)
class Durations:
    """How long instances took that have ended, in seconds. Each figure differs from the exact one by 9 % at most."""

    median_seconds: float
    p95_seconds: float


def summarize_durations(counts_by_bin: Iterable[Mapping[int, int]]) -> Durations | None:
    """The median and the 95th percentile of all these counts together. None if they count nothing."""
    counts: Counter[int] = Counter()
    for own_counts in counts_by_bin:
        counts.update(own_counts)
    if not counts.total():
        return None
    return Durations(_find_percentile(counts, 50), _find_percentile(counts, 95))


def _find_percentile(counts: Counter[int], percent: int) -> float:
    """The geometric middle, in seconds, of the bin that holds the duration of this rank."""
    rank = -(-counts.total() * percent // 100)
    bins = sorted(counts)
    ends_up_to = list(accumulate(counts[duration_bin] for duration_bin in bins))
    return float(2 ** ((bins[bisect_left(ends_up_to, rank)] + 0.5) / BINS_PER_DOUBLING)) / 1000
