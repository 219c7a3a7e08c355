"""How a start that a probe has observed is recorded, and that repeated look-ups correct any record."""

from dataclasses import replace
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import (
    ENDED_STATUSES,
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
    ObservedState,
    observe_state,
    reconcile_start,
)
from tests.domain.builders import NOON, build_lifecycle_event, build_observed_instance, noon_plus
from tests.domain.reconciliation_builders import (
    COMPLETED,
    ENDS,
    EVENTS,
    NOT_ACTIVE_OR_UNKNOWN,
    OBSERVED_ACTIVE,
    RECORDS,
    RUNNING,
    TIMES_AROUND_NOON,
    build_event_strategy,
    build_record,
    build_start,
    record_observed_end,
    record_observed_start,
)

# Starts that no event has reported


@given(RECORDS, OBSERVED_ACTIVE, TIMES_AROUND_NOON)
def test_no_start_is_missing_exactly_if_the_records_show_the_instance_active_under_its_name(
    known: Instance, seen: ObservedInstance, now: Instant
) -> None:
    same_name = seen.function_name in ("", known.function_name)
    assert (reconcile_start(known, seen, now) is None) is (known.active and same_name)


@given(RECORDS, OBSERVED_ACTIVE, TIMES_AROUND_NOON)
def test_an_instance_that_runs_under_another_name_is_recorded_once_under_that_name(
    known: Instance, seen: ObservedInstance, now: Instant
) -> None:
    """The policy may ignore the recorded function and not the running one, so the record gets the running one."""
    evidence = reconcile_start(known, seen, now)
    if evidence is None:
        return
    recorded = merge_instances(known, evidence)
    assert recorded.active
    assert seen.function_name in ("", recorded.function_name)
    assert reconcile_start(recorded, seen, now) is None


@given(NOT_ACTIVE_OR_UNKNOWN, OBSERVED_ACTIVE, TIMES_AROUND_NOON)
def test_an_instance_is_active_after_an_observed_start(
    known: Instance | None, seen: ObservedInstance, now: Instant
) -> None:
    after = record_observed_start(known, seen, now)
    assert after.active
    assert after.runtime_status is seen.runtime_status
    assert after.source is EvidenceSource.PROBE


@given(NOT_ACTIVE_OR_UNKNOWN, OBSERVED_ACTIVE, TIMES_AROUND_NOON)
def test_an_observed_start_is_recorded_once(known: Instance | None, seen: ObservedInstance, now: Instant) -> None:
    evidence = reconcile_start(known, seen, now)
    assert evidence is not None
    recorded = record_observed_start(known, seen, now)
    assert merge_instances(recorded, evidence) == recorded
    assert reconcile_start(recorded, seen, now) is None


@given(NOT_ACTIVE_OR_UNKNOWN, OBSERVED_ACTIVE, TIMES_AROUND_NOON, EVENTS, st.data())
def test_the_time_at_which_an_observed_start_is_recorded_makes_no_difference(
    known: Instance | None, seen: ObservedInstance, now: Instant, events: list[LifecycleEvent], data: st.DataObject
) -> None:
    evidence = [item for item in (known, reconcile_start(known, seen, now)) if item is not None]
    evidence += map(instance_from_event, events)
    shuffled = data.draw(st.permutations(evidence), label="as recorded")
    assert reduce(merge_instances, shuffled) == reduce(merge_instances, evidence)


@given(ENDS, OBSERVED_ACTIVE, TIMES_AROUND_NOON, build_event_strategy(ENDED_STATUSES))
def test_any_end_after_the_recorded_one_ends_an_observed_start(
    finished: Finished, seen: ObservedInstance, now: Instant, end: LifecycleEvent
) -> None:
    known = record_observed_start(Instance("order-1", finished=finished), seen, now)
    assert apply_event(known, end).active is (end.occurred_at <= finished.at)


@given(OBSERVED_ACTIVE, TIMES_AROUND_NOON, build_event_strategy(ENDED_STATUSES))
def test_any_end_after_its_creation_ends_an_instance_without_a_record(
    seen: ObservedInstance, now: Instant, end: LifecycleEvent
) -> None:
    assert apply_event(record_observed_start(None, seen, now), end).active is (
        end.occurred_at < min(seen.created_at, now)
    )


def test_an_observed_instance_without_a_record_started_when_it_was_created() -> None:
    seen = build_observed_instance("lost", "ShipOrder", RuntimeStatus.PENDING, created=-60)
    assert reconcile_start(None, seen, noon_plus()) == Instance(
        "lost", Started(noon_plus(-60), RuntimeStatus.PENDING, "ShipOrder", EvidenceSource.PROBE)
    )


def test_an_observed_start_is_never_dated_ahead_of_the_clock() -> None:
    evidence = reconcile_start(None, build_observed_instance(created=5), noon_plus())
    assert evidence == Instance("order-1", Started(noon_plus(), RUNNING, "ProcessOrder", EvidenceSource.PROBE))


@pytest.mark.parametrize("created", [-3600, -5, 5])
def test_an_observed_start_is_dated_immediately_after_the_recorded_end(created: float) -> None:
    known = build_record(started=-60, finished=-30)
    evidence = reconcile_start(known, build_observed_instance(created=created), noon_plus())
    assert evidence is not None
    assert evidence.started == Started(Instant(noon_plus(-30) + 1), RUNNING, "ProcessOrder", EvidenceSource.PROBE)
    assert evidence.finished == known.finished


def test_a_late_event_of_a_missed_start_still_determines_its_time() -> None:
    started = apply_event(
        record_observed_start(build_record(finished=-60), build_observed_instance()),
        build_lifecycle_event(RUNNING, noon_plus(-5)),
    ).started
    assert started == build_start(-5)


def test_an_entity_is_never_active_in_an_observation() -> None:
    entity = build_observed_instance("@counter@order-1")
    known = record_observed_start(None, entity)
    assert not known.active
    assert not record_observed_start(known, entity).active
    assert not record_observed_end(known, None).active


# Repeated look-ups


def correct_record(known: Instance | None, seen: ObservedInstance, now: Instant) -> Instance | None:
    """Correct the record by what a read of the task hub has shown. Returns the record after it."""
    if known is not None and known.active:
        assert known.started is not None
        return known if observe_state(known.started, seen) is ObservedState.ACTIVE else record_observed_end(known, seen)
    if not seen.active:
        return known
    return record_observed_start(known, seen, now)


@given(
    st.lists(st.integers(1, 2 * CLOCK_SKEW), min_size=1, max_size=8),
    st.lists(st.integers(-CLOCK_SKEW, CLOCK_SKEW), min_size=8, max_size=8),
    st.data(),
)
def test_a_probe_corrects_the_record_regardless_of_lost_and_late_events(
    gaps: list[int], skews: list[int], data: st.DataObject
) -> None:
    """An instance starts and ends in turn. Workers with different clocks publish its events. Some events are lost."""
    moments = list(accumulate(gaps, initial=int(NOON)))[1:]
    rows = [
        replace(
            build_observed_instance(), runtime_status=COMPLETED if turn % 2 else RUNNING, updated_at=Instant(moment)
        )
        for turn, moment in enumerate(moments)
    ]
    published = [
        build_lifecycle_event(row.runtime_status, Instant(row.updated_at + skew))
        for row, skew in zip(rows, skews, strict=False)
    ]
    known: Instance | None = None
    for turn, row in enumerate(rows):
        for arrived in data.draw(st.lists(st.sampled_from(published[: turn + 1]), max_size=3), label="arrived"):
            known = apply_event(known, arrived)
        if turn == len(rows) - 1 or data.draw(st.booleans(), label="looked"):
            known = correct_record(known, row, row.updated_at)
            assert (known is not None and known.active) is row.active
