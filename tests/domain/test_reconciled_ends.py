"""How an end that a probe has observed is recorded. It never hides a later start."""

from dataclasses import replace
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import (
    ACTIVE_STATUSES,
    EvidenceSource,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    apply_event,
    instance_from_event,
    merge_instances,
)
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import (
    CLOCK_SKEW,
    PURGED_REASON,
    reconcile_end,
)
from tests.domain.builders import build_lifecycle_event, build_observed_instance, noon_plus
from tests.domain.reconciliation_builders import (
    COMPLETED,
    EVENTS,
    OBSERVED_ENDED,
    STARTED,
    STARTS,
    build_event_strategy,
    build_record,
    record_observed_end,
    record_observed_start,
)

# Ends that a probe has observed


@given(STARTED, st.none() | OBSERVED_ENDED)
def test_an_instance_is_not_active_after_an_observed_end(known: Instance, seen: ObservedInstance | None) -> None:
    assert not record_observed_end(known, seen).active


@given(STARTED, st.none() | OBSERVED_ENDED)
def test_an_observed_end_is_recorded_once(known: Instance, seen: ObservedInstance | None) -> None:
    recorded = record_observed_end(known, seen)
    assert merge_instances(recorded, reconcile_end(known, seen)) == recorded
    assert record_observed_end(recorded, seen) == recorded


@given(STARTED, st.none() | OBSERVED_ENDED, EVENTS, st.data())
def test_the_time_at_which_an_observed_end_is_recorded_makes_no_difference(
    known: Instance, seen: ObservedInstance | None, events: list[LifecycleEvent], data: st.DataObject
) -> None:
    evidence = [known, reconcile_end(known, seen), *map(instance_from_event, events)]
    shuffled = data.draw(st.permutations(evidence), label="as recorded")
    assert reduce(merge_instances, shuffled) == reduce(merge_instances, evidence)


@given(STARTS, OBSERVED_ENDED, build_event_strategy(ACTIVE_STATUSES))
def test_an_observed_end_ends_earlier_starts_and_no_later_ones(
    started: Started, seen: ObservedInstance, later: LifecycleEvent
) -> None:
    known = record_observed_end(Instance("order-1", started), seen)
    assert apply_event(known, later).active is (later.occurred_at > max(started.at, seen.updated_at - CLOCK_SKEW))


@given(STARTS, build_event_strategy(ACTIVE_STATUSES))
def test_the_end_of_a_purged_instance_ends_this_start_and_no_later_one(started: Started, later: LifecycleEvent) -> None:
    known = record_observed_end(Instance("order-1", started), None)
    assert apply_event(known, later).active is (later.occurred_at > started.at)


@given(STARTS, st.none() | OBSERVED_ENDED, build_event_strategy(ACTIVE_STATUSES))
def test_a_start_that_is_later_than_the_observation_is_active_whenever_it_arrives(
    started: Started, seen: ObservedInstance | None, later: LifecycleEvent
) -> None:
    known = Instance("order-1", started)
    latest = started.at if seen is None else max(started.at, seen.updated_at)
    later = replace(later, occurred_at=Instant(latest + 1))
    assert apply_event(record_observed_end(known, seen), later).active
    assert merge_instances(instance_from_event(later), reconcile_end(known, seen)).active


def test_an_observed_end_is_dated_one_skew_before_the_row_was_written() -> None:
    finished = record_observed_end(
        build_record(started=-60), build_observed_instance(status=COMPLETED, updated=-5)
    ).finished
    assert finished == Finished(noon_plus(-6), COMPLETED, "", "ProcessOrder", EvidenceSource.PROBE)


def test_an_observed_end_is_dated_no_earlier_than_its_start() -> None:
    finished = record_observed_end(
        build_record(started=-5.5), build_observed_instance(status=RuntimeStatus.TERMINATED, updated=-5)
    ).finished
    assert finished == Finished(noon_plus(-5.5), RuntimeStatus.TERMINATED, "", "ProcessOrder", EvidenceSource.PROBE)


def test_a_purged_instance_counts_as_canceled_at_its_start() -> None:
    finished = record_observed_end(build_record(started=-60), None).finished
    assert finished == Finished(
        noon_plus(-60), RuntimeStatus.CANCELED, PURGED_REASON, "ProcessOrder", EvidenceSource.PROBE
    )


def test_a_late_event_of_the_end_still_determines_its_time_and_outcome() -> None:
    known = record_observed_end(build_record(started=-60), build_observed_instance(status=COMPLETED, updated=-5))
    failed = apply_event(known, build_lifecycle_event(RuntimeStatus.FAILED, noon_plus(-5.1), reason="out of stock"))
    assert failed.finished == Finished(
        noon_plus(-5.1), RuntimeStatus.FAILED, "out of stock", "ProcessOrder", EvidenceSource.EVENT
    )


def test_the_evidence_of_a_probe_comes_from_a_probe() -> None:
    assert record_observed_end(build_record(started=-60), None).source is EvidenceSource.PROBE
    assert record_observed_start(build_record(finished=-60), build_observed_instance()).source is EvidenceSource.PROBE
