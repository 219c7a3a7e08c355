"""What of the life of an orchestration counts for the health of a rollout, from its lifecycle events on."""

from collections.abc import Iterable, Sequence

import pytest

from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.health import HealthEvidence, SideHealth, assess_health, split_strata
from state_api.domain.task_hubs.lifecycle import (
    EvidenceSource,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    apply_event,
)
from state_api.domain.task_hubs.timeline import add_up_counts, count_instance
from tests.domain.builders import build_lifecycle_event, noon_plus
from tests.domain.health_builders import build_cohort

RUNNING, COMPLETED, FAILED = RuntimeStatus.RUNNING, RuntimeStatus.COMPLETED, RuntimeStatus.FAILED


def record(*events: LifecycleEvent) -> Instance:
    """The record of one instance after these events."""
    instance: Instance | None = None
    for event in events:
        instance = apply_event(instance, event)
    assert instance is not None
    return instance


def judge(instances: Iterable[Instance], ignore_functions: Sequence[str] = ()) -> SideHealth:
    """The figures of a candidate with these instances, of a comparison from noon until ten minutes later."""
    timeline = add_up_counts([count_instance(instance) for instance in instances])
    strata = split_strata([noon_plus()], noon_plus(600))
    cohorts = [timeline.cohort(first, end, ignore_functions) for first, end in strata]
    evidence = HealthEvidence(cohorts, [build_cohort() for _ in cohorts])
    return assess_health(evidence, Analysis(), noon_plus(600)).candidate


def counts_of(figures: SideHealth) -> tuple[int, int, int, int]:
    """Started, finished, failed and active."""
    return figures.started, figures.finished, figures.failed, figures.active


def test_a_failure_counts_in_the_cohort_of_its_start() -> None:
    before_noon = record(build_lifecycle_event(occurred_at=noon_plus(-1)), build_lifecycle_event(FAILED, noon_plus(90)))
    assert counts_of(judge([before_noon])) == (0, 0, 0, 0)
    after_noon = record(build_lifecycle_event(occurred_at=noon_plus(1)), build_lifecycle_event(FAILED, noon_plus(90)))
    assert counts_of(judge([after_noon])) == (1, 1, 1, 0)


@pytest.mark.parametrize("status", [RuntimeStatus.TERMINATED, RuntimeStatus.CANCELED])
def test_a_terminated_or_canceled_instance_has_ended_and_not_failed(status: RuntimeStatus) -> None:
    ended = record(build_lifecycle_event(), build_lifecycle_event(status, noon_plus(5)))
    assert counts_of(judge([ended])) == (1, 1, 0, 0)


def test_functions_that_the_policy_ignores_do_not_count() -> None:
    instances = [
        record(
            build_lifecycle_event(instance_id=name, function_name=name),
            build_lifecycle_event(FAILED, noon_plus(5), instance_id=name, function_name=name),
        )
        for name in ("ProcessOrder", "PollMailbox")
    ]
    assert counts_of(judge(instances, ["Poll*"])) == (1, 1, 1, 0)


def test_a_sub_orchestration_counts_as_an_instance_of_its_own_function() -> None:
    """An orchestration that handles the failure of its sub-orchestration has not failed itself."""
    parent = record(build_lifecycle_event(), build_lifecycle_event(COMPLETED, noon_plus(60)))
    child = record(
        build_lifecycle_event(instance_id="order-1:0", function_name="ShipOrder"),
        build_lifecycle_event(FAILED, noon_plus(30), instance_id="order-1:0", function_name="ShipOrder"),
    )
    assert counts_of(judge([parent, child])) == (2, 2, 1, 0)
    assert counts_of(judge([parent, child], ["ShipOrder"])) == (1, 1, 0, 0)


def test_an_instance_that_continues_as_new_counts_once() -> None:
    generations = [
        build_lifecycle_event(status, noon_plus(at))
        for status, at in [(RUNNING, 0), (COMPLETED, 60), (RUNNING, 60.1), (COMPLETED, 120), (RUNNING, 120.1)]
    ]
    assert counts_of(judge([record(*generations)])) == (1, 0, 0, 1)
    assert counts_of(judge([record(*generations, build_lifecycle_event(FAILED, noon_plus(180)))])) == (1, 1, 1, 0)


def test_an_instance_whose_end_was_lost_is_active_until_a_probe_has_seen_the_end() -> None:
    lost = record(build_lifecycle_event())
    assert counts_of(judge([lost])) == (1, 0, 0, 1)
    by_probe = Finished(noon_plus(30), FAILED, "", "ProcessOrder", EvidenceSource.PROBE)
    assert counts_of(judge([Instance("order-1", lost.started, by_probe)])) == (1, 1, 1, 0)


def test_an_entity_does_not_count() -> None:
    started = Started(noon_plus(), RUNNING, "counter")
    assert counts_of(judge([Instance("@counter@orders", started)])) == (0, 0, 0, 0)
