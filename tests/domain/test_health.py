"""The health of a candidate: which rule decides, at which boundary, and what is reported of both versions."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import (
    MAX_EVIDENCE,
    HealthCode,
    HealthEvidence,
    HealthStatus,
    assess_health,
    split_strata,
)
from state_api.domain.task_hubs.timeline import minute_of
from tests.domain.builders import build_active_instance, noon_plus
from tests.domain.health_builders import assess, build_cohort

NOON_MINUTE = minute_of(noon_plus())


def test_a_candidate_that_fails_much_more_often_is_unhealthy() -> None:
    health = assess(build_cohort(50, 20), build_cohort(950, 20))
    assert health.status is HealthStatus.UNHEALTHY
    assert health.decided_by.code is HealthCode.FAILURE_RATE_HIGHER
    assert health.evidence.unhealthy >= health.evidence.threshold == 20
    assert health.decided_by.message.startswith(
        "20 of 50 finished instances of the candidate failed, and 20 of 950 of the baseline. "
        "The evidence that the candidate fails more often than the baseline is "
    )


def test_a_candidate_that_fails_as_often_as_the_baseline_is_undecided() -> None:
    health = assess(build_cohort(500, 50), build_cohort(500, 50))
    assert (health.status, health.decided_by.code) == (HealthStatus.UNDECIDED, HealthCode.EVIDENCE_INCONCLUSIVE)


def test_a_candidate_that_fails_as_often_is_healthy_if_twice_the_rate_is_tolerated() -> None:
    health = assess(build_cohort(500, 50), build_cohort(500, 50), Analysis(tolerated_ratio=2.0))
    assert (health.status, health.decided_by.code) == (HealthStatus.HEALTHY, HealthCode.FAILURE_RATE_NOT_HIGHER)
    assert health.evidence.healthy >= 20
    assert "does not fail more than 2 times as often as the baseline is " in health.decided_by.message


def test_a_candidate_that_hardly_ever_fails_is_healthy_once_enough_instances_have_finished() -> None:
    candidate, baseline = build_cohort(100, active=91), build_cohort(100, 50)
    health = assess(candidate, baseline)
    assert (health.status, health.decided_by.code) == (HealthStatus.UNDECIDED, HealthCode.TOO_FEW_FINISHED)
    assert health.evidence.healthy >= 20
    assert health.decided_by.message.endswith("At least 10 instances of the candidate must have finished.")
    assert assess(build_cohort(100, active=90), baseline).status is HealthStatus.HEALTHY


def test_a_candidate_can_be_unhealthy_before_enough_instances_have_finished() -> None:
    assert assess(build_cohort(5, 5), build_cohort(995, 5)).status is HealthStatus.UNHEALTHY


def test_a_candidate_without_any_instance_is_undecided() -> None:
    health = assess(build_cohort(), build_cohort(100, 10))
    assert (health.status, health.decided_by.code) == (HealthStatus.UNDECIDED, HealthCode.TOO_FEW_FINISHED)
    assert health.evidence.unhealthy == pytest.approx(1)
    assert (health.candidate.rate, health.candidate.interval, health.candidate.durations) == (None, None, None)
    assert health.observed_share == 0


def test_a_comparison_without_strata_is_undecided() -> None:
    health = assess_health(HealthEvidence([], []), Analysis(), noon_plus())
    assert health.status is HealthStatus.UNDECIDED
    assert health.observed_share is None


def test_a_stratum_without_starts_has_no_observed_share() -> None:
    assert assess(build_cohort(), build_cohort()).observed_share is None


@pytest.mark.parametrize(("age_seconds", "unhealthy"), [(1800, False), (1801, True)])
def test_an_instance_that_is_active_for_too_long_is_unhealthy(age_seconds: int, unhealthy: bool) -> None:
    analysis = Analysis(maximum_active_age_minutes=30)
    health = assess(
        build_cohort(20, active=1),
        build_cohort(20),
        analysis,
        oldest_active=build_active_instance(),
        now=noon_plus(age_seconds),
    )
    assert (health.status is HealthStatus.UNHEALTHY) == unhealthy
    if unhealthy:
        assert health.decided_by.code is HealthCode.ACTIVE_TOO_LONG
        assert health.decided_by.message == (
            "Instance order-1 of ProcessOrder has been active for 30 min; the analysis allows 30 min."
        )


@pytest.mark.parametrize(
    ("oldest", "limit"), [(None, 30), (build_active_instance(since=-9000), None)], ids=["nothing active", "no limit"]
)
def test_no_instance_is_active_for_too_long(oldest: ActiveInstance | None, limit: int | None) -> None:
    health = assess(
        build_cohort(20), build_cohort(20), Analysis(maximum_active_age_minutes=limit), oldest_active=oldest
    )
    assert health.status is HealthStatus.UNDECIDED


def test_an_active_instance_without_a_function_name_is_named_by_its_id() -> None:
    health = assess(
        build_cohort(20, active=1),
        build_cohort(20),
        Analysis(maximum_active_age_minutes=1),
        oldest_active=replace(build_active_instance(since=-300), function_name=""),
    )
    assert health.decided_by.message.startswith("Instance order-1 of an unknown function has been active for 5 min")


def test_the_failure_rate_is_named_where_an_instance_is_active_for_too_long_as_well() -> None:
    health = assess(
        build_cohort(50, 20),
        build_cohort(950, 20),
        Analysis(maximum_active_age_minutes=1),
        oldest_active=build_active_instance(since=-300),
    )
    assert health.decided_by.code is HealthCode.FAILURE_RATE_HIGHER


def test_terminated_and_canceled_instances_have_ended_and_not_failed() -> None:
    candidate = assess(
        build_cohort(20, 2, active=3, terminated=4, canceled=5, duration_counts={40: 17}), build_cohort()
    ).candidate
    assert (candidate.started, candidate.finished, candidate.active) == (20, 17, 3)
    assert (candidate.failed, candidate.terminated, candidate.canceled) == (2, 4, 5)
    assert candidate.rate == 2 / 17
    assert candidate.interval is not None
    assert candidate.interval.low < 2 / 17 < candidate.interval.high
    # The middle of bin 40 is at 2 ** (40.5 / 4) ms.
    assert candidate.durations is not None
    assert candidate.durations.median_seconds == candidate.durations.p95_seconds == pytest.approx(1.117, abs=0.001)


def test_the_figures_of_all_strata_are_added_and_the_observed_share_is_that_of_the_last() -> None:
    evidence = HealthEvidence(
        [build_cohort(10, 1), build_cohort(50, 2)],
        [build_cohort(90, 3), build_cohort(150, 4)],
        configured_share=25,
    )
    health = assess_health(evidence, Analysis(), noon_plus())
    assert (health.candidate.started, health.candidate.failed) == (60, 3)
    assert (health.baseline.started, health.baseline.failed) == (240, 7)
    assert (health.configured_share, health.observed_share) == (25, 25.0)


def test_candidate_and_baseline_must_have_the_same_strata() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        assess_health(HealthEvidence([build_cohort()], []), Analysis(), noon_plus())


def test_evidence_that_no_float_holds_is_reported_as_the_largest() -> None:
    health = assess(build_cohort(5000, 5000), build_cohort(5000))
    assert health.evidence.unhealthy == pytest.approx(MAX_EVIDENCE)
    assert health.evidence.healthy >= 0


@pytest.mark.parametrize(("confidence", "threshold"), [(0.95, 20), (0.99, 100), (0.8, 5)])
def test_the_threshold_follows_from_the_confidence(confidence: float, threshold: float) -> None:
    assert assess(build_cohort(), build_cohort(), Analysis(confidence=confidence)).evidence.threshold == threshold


def test_each_minute_in_which_the_share_changed_is_a_stratum_of_its_own() -> None:
    changes = [noon_plus(30), noon_plus(600), noon_plus(659), noon_plus(660)]
    strata = split_strata(changes, until=noon_plus(1230))
    assert [(first - NOON_MINUTE, end - NOON_MINUTE) for first, end in strata] == [
        (0, 1), (1, 10), (10, 11), (11, 12), (12, 21),
    ]  # fmt: skip


def test_strata_cover_each_minute_from_the_beginning_to_the_present_once() -> None:
    assert split_strata([noon_plus(5)], until=noon_plus(10)) == [(NOON_MINUTE, NOON_MINUTE + 1)]
    assert split_strata([], until=noon_plus(10)) == []
    assert split_strata([noon_plus(120)], until=noon_plus(10)) == [], "a change that is still to come"
