"""Intervals of rates, and percentiles of durations that are counted in bins."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import TICKS_PER_SECOND
from state_api.domain.rollouts.durations import summarize_durations
from state_api.domain.rollouts.intervals import estimate_rate
from state_api.domain.task_hubs.timeline import duration_bin


def test_the_interval_of_a_rate_is_that_of_wilson() -> None:
    """At its ends, the rate that was observed is 1.96 standard deviations from the rate that is assumed."""
    interval = estimate_rate(4, 20, 0.95)
    assert interval is not None
    for assumed in (interval.low, interval.high):
        assert abs(assumed - 4 / 20) == pytest.approx(1.959964 * sqrt(assumed * (1 - assumed) / 20))


def test_there_is_no_interval_without_cases() -> None:
    assert estimate_rate(0, 0, 0.95) is None


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_an_interval_holds_the_rate_and_is_mirrored_for_the_opposite_count(case: tuple[int, int]) -> None:
    count, total = case
    interval, opposite = estimate_rate(count, total, 0.95), estimate_rate(total - count, total, 0.95)
    assert interval is not None
    assert opposite is not None
    assert 0 <= interval.low <= count / total <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.low == pytest.approx(1 - opposite.high, abs=1e-9)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50))
def test_percentiles_of_durations_are_exact_within_half_a_bin(milliseconds: list[int]) -> None:
    counts: dict[int, int] = {}
    for duration in milliseconds:
        in_bin = duration_bin(duration * TICKS_PER_SECOND // 1000)
        counts[in_bin] = counts.get(in_bin, 0) + 1
    durations = summarize_durations([counts])
    assert durations is not None
    ranked = sorted(milliseconds)
    for percent, estimate in ((50, durations.median_seconds), (95, durations.p95_seconds)):
        exact = ranked[-(-len(ranked) * percent // 100) - 1] / 1000
        assert estimate == pytest.approx(exact, rel=0.1)


def test_there_are_no_percentiles_without_ends() -> None:
    assert summarize_durations([]) is None
    assert summarize_durations([{}, {}]) is None
