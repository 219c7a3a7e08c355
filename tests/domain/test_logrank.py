"""The safe logrank test: properties of its evidence for any instances."""

from collections.abc import Sequence
from math import comb, exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.rollouts.logrank import (
    RATIO_WEIGHTS,
    MinuteFailures,
    list_failures,
    log_evidence_of_higher_rate,
    log_evidence_of_lower_rate,
    log_likelihood_ratio,
)
from state_api.domain.task_hubs.timeline import Cohort
from tests.domain.health_builders import StartAndEnd, build_cohort, cohort_of

instances = st.lists(
    st.tuples(st.integers(0, 8), st.none() | st.integers(0, 6)).map(
        lambda drawn: (drawn[0], None if drawn[1] is None else drawn[0] + drawn[1])
    ),
    max_size=30,
)
"""Instances of one version: the minute of the start, and the minute of the failure of those that fail."""
tolerated_ratios = st.sampled_from([0.5, 1.0, 1.5, 3.0])


def evidence_of_higher_rate(candidate: Cohort, baseline: Cohort, tolerated_ratio: float = 1.0) -> float:
    return exp(log_evidence_of_higher_rate(list_failures(candidate, baseline), tolerated_ratio))


def evidence_of_lower_rate(candidate: Cohort, baseline: Cohort, tolerated_ratio: float = 1.0) -> float:
    return exp(log_evidence_of_lower_rate(list_failures(candidate, baseline), tolerated_ratio))


def test_the_weights_of_the_ratios_sum_to_one() -> None:
    """So evidence has a mean of 1 while the rate is tolerated, as that of each ratio has."""
    assert sum(RATIO_WEIGHTS.values()) == pytest.approx(1)
    assert min(RATIO_WEIGHTS) == 1.5
    assert max(RATIO_WEIGHTS) == 10


@given(instances, instances, tolerated_ratios)
def test_exchanging_the_versions_exchanges_the_two_kinds_of_evidence(
    candidate: Sequence[StartAndEnd], baseline: Sequence[StartAndEnd], tolerated_ratio: float
) -> None:
    higher = evidence_of_higher_rate(cohort_of(candidate), cohort_of(baseline), tolerated_ratio)
    lower = evidence_of_lower_rate(cohort_of(baseline), cohort_of(candidate), 1 / tolerated_ratio)
    assert higher == pytest.approx(lower)


@given(st.integers(0, 50), st.integers(0, 50), tolerated_ratios)
def test_without_a_failure_there_is_no_evidence(candidate: int, baseline: int, tolerated_ratio: float) -> None:
    cohorts = build_cohort(candidate), build_cohort(baseline)
    assert evidence_of_higher_rate(*cohorts, tolerated_ratio) == pytest.approx(1)
    assert evidence_of_lower_rate(*cohorts, tolerated_ratio) == pytest.approx(1)


@given(instances, tolerated_ratios)
def test_a_single_version_gives_no_evidence(alone: Sequence[StartAndEnd], tolerated_ratio: float) -> None:
    """All failures are its own, because all instances are."""
    for cohorts in ((cohort_of(alone), cohort_of([])), (cohort_of([]), cohort_of(alone))):
        assert evidence_of_higher_rate(*cohorts, tolerated_ratio) == pytest.approx(1)
        assert evidence_of_lower_rate(*cohorts, tolerated_ratio) == pytest.approx(1)


@given(instances, instances, tolerated_ratios, tolerated_ratios)
def test_a_higher_ratio_that_is_tolerated_never_leaves_more_evidence(
    candidate: Sequence[StartAndEnd], baseline: Sequence[StartAndEnd], ratio: float, other_ratio: float
) -> None:
    lenient, strict = max(ratio, other_ratio), min(ratio, other_ratio)
    failures = list_failures(cohort_of(candidate), cohort_of(baseline))
    for_lenient, for_strict = (log_evidence_of_higher_rate(failures, tolerated) for tolerated in (lenient, strict))
    assert for_lenient <= for_strict + 1e-9


@given(instances, instances)
def test_one_more_failure_of_the_candidate_never_lowers_the_evidence(
    candidate: Sequence[StartAndEnd], baseline: Sequence[StartAndEnd]
) -> None:
    """The instance that fails had started before, so that the shares stay as they were."""
    at_end = 20
    before = evidence_of_higher_rate(cohort_of([*candidate, (0, None)]), cohort_of(baseline))
    after = evidence_of_higher_rate(cohort_of([*candidate, (0, at_end)]), cohort_of(baseline))
    assert after >= before * (1 - 1e-9)


@given(instances, instances, st.randoms(use_true_random=False))
def test_the_order_of_instances_within_a_minute_changes_nothing(
    candidate: list[StartAndEnd], baseline: list[StartAndEnd], random: Random
) -> None:
    failures = list_failures(cohort_of(candidate), cohort_of(baseline))
    random.shuffle(candidate)
    random.shuffle(baseline)
    assert list_failures(cohort_of(candidate), cohort_of(baseline)) == failures


@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.sampled_from([1.5, 2.0, 5.0]))
def test_a_single_failure_counts_as_in_the_exact_safe_logrank_test(
    candidate: int, baseline: int, of_candidate: bool, ratio: float
) -> None:
    """That of safestats: the ratio of the probabilities that Fisher's noncentral hypergeometric distribution has."""
    failed = int(of_candidate)

    def probability(odds: float) -> float:
        ways = [comb(candidate, count) * comb(baseline, 1 - count) * odds**count for count in (0, 1)]
        return ways[failed] / sum(ways)

    minute = MinuteFailures(failed, 1 - failed, candidate / (candidate + baseline))
    assert exp(log_likelihood_ratio(minute, ratio, 1)) == pytest.approx(probability(ratio) / probability(1))


def test_instances_count_for_the_share_from_their_start_on_and_whether_they_have_ended_or_not() -> None:
    candidate = cohort_of([(0, None), (0, 1), (2, None)])
    baseline = cohort_of([(0, 3), (1, 1), (1, None), (3, None), (4, None)])
    assert list_failures(candidate, baseline) == [MinuteFailures(1, 1, 2 / 5), MinuteFailures(0, 1, 3 / 7)]


def test_thousands_of_failures_overflow_no_float() -> None:
    failures = [MinuteFailures(3, 3, 0.05)] * 3000
    assert log_evidence_of_higher_rate(failures, tolerated_ratio=1.0) > 10_000
    assert log_evidence_of_lower_rate(failures, tolerated_ratio=1.0) < -1_000
