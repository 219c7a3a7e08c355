"""How probes correct the records, and that a correction never hides later events."""

from dataclasses import replace
from functools import reduce
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import (
    ACTIVE_STATUSES,
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
    PURGED_REASON,
    START_GRACE_PERIOD,
    ObservedState,
    confirm_start,
    is_recent_start,
    observe_state,
    reconcile_end,
    reconcile_start,
)
from tests.domain.builders import NOON, build_lifecycle_event, build_observed_instance, noon_plus

BACKEND_ID = "managementApi at its address"
RUNNING = RuntimeStatus.RUNNING
COMPLETED = RuntimeStatus.COMPLETED

TIMES_AROUND_NOON = st.builds(
    lambda skews, ticks: Instant(NOON + skews * CLOCK_SKEW + ticks), st.integers(-3, 3), st.integers(-1, 1)
)
"""Few times, so that they often differ by exactly the skew, or by a tick more or less."""
NAMES = st.sampled_from(["", "ProcessOrder", "ShipOrder"])


def build_event_strategy(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[LifecycleEvent]:
    return st.builds(build_lifecycle_event, st.sampled_from(sorted(statuses)), TIMES_AROUND_NOON, function_name=NAMES)


def build_observation_strategy(statuses: frozenset[RuntimeStatus]) -> st.SearchStrategy[ObservedInstance]:
    return st.builds(
        ObservedInstance,
        instance_id=st.just("order-1"),
        function_name=NAMES,
        version=st.none(),
        runtime_status=st.sampled_from(sorted(statuses)),
        created_at=TIMES_AROUND_NOON,
        updated_at=TIMES_AROUND_NOON,
        stamp=st.just("any"),
    )


STARTS = st.builds(
    Started, TIMES_AROUND_NOON, st.sampled_from(sorted(ACTIVE_STATUSES)), NAMES, st.sampled_from(EvidenceSource)
)
ENDS = st.builds(
    Finished,
    TIMES_AROUND_NOON,
    st.sampled_from(sorted(ENDED_STATUSES)),
    st.just(""),
    NAMES,
    st.sampled_from(EvidenceSource),
)
STARTED = st.builds(Instance, st.just("order-1"), STARTS, st.none() | ENDS)
"""Records with a start, active or not."""
RECORDS = STARTED | st.builds(Instance, st.just("order-1"), st.none(), ENDS)
NOT_ACTIVE_OR_UNKNOWN = st.none() | RECORDS.filter(lambda known: not known.active)
"""Records of an instance that is not active, or no record."""
EVENTS = st.lists(build_event_strategy(frozenset(RuntimeStatus)), max_size=5)
OBSERVED_ACTIVE = build_observation_strategy(ACTIVE_STATUSES)
OBSERVED_ENDED = build_observation_strategy(ENDED_STATUSES)


def build_start(offset: float = 0, source: EvidenceSource = EvidenceSource.EVENT) -> Started:
    return Started(noon_plus(offset), RUNNING, "ProcessOrder", source)


def build_record(started: float | None = None, finished: float | None = None) -> Instance:
    """The record after events at these times."""
    events = [] if started is None else [build_lifecycle_event(RUNNING, noon_plus(started))]
    events += [] if finished is None else [build_lifecycle_event(COMPLETED, noon_plus(finished))]
    return reduce(merge_instances, map(instance_from_event, events))


def record_observed_end(instance: Instance, seen: ObservedInstance | None) -> Instance:
    """The record after an observed end is recorded."""
    return merge_instances(instance, reconcile_end(instance, seen))


def record_observed_start(instance: Instance | None, seen: ObservedInstance, now: Instant = NOON) -> Instance:
    """The record after a missed start is recorded."""
    evidence = reconcile_start(instance, seen, now)
    assert evidence is not None
    return evidence if instance is None else merge_instances(instance, evidence)


# What the task hub says of a start


@given(STARTS, OBSERVED_ACTIVE)
def test_an_instance_that_the_task_hub_shows_active_is_active(started: Started, seen: ObservedInstance) -> None:
    assert observe_state(started, seen) is ObservedState.ACTIVE


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_start_that_a_probe_recorded_has_ended_once_the_task_hub_shows_it_ended_or_not_at_all(
    started: Started, seen: ObservedInstance | None
) -> None:
    assert observe_state(replace(started, source=EvidenceSource.PROBE), seen) is ObservedState.ENDED


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_published_start_is_unconfirmed_exactly_while_the_task_hub_shows_only_older_writes(
    started: Started, seen: ObservedInstance | None
) -> None:
    state = observe_state(replace(started, source=EvidenceSource.EVENT), seen)
    older = seen is None or seen.updated_at < started.at - CLOCK_SKEW
    assert state is (ObservedState.UNCONFIRMED if older else ObservedState.ENDED)


@pytest.mark.parametrize(
    ("updated", "expected"),
    [
        (-1.0000001, ObservedState.UNCONFIRMED),
        (-1, ObservedState.ENDED),
        (0, ObservedState.ENDED),
        (60, ObservedState.ENDED),
    ],
)
def test_a_published_start_has_ended_if_the_final_row_was_written_at_most_the_skew_before_it(
    updated: float, expected: ObservedState
) -> None:
    assert observe_state(build_start(0), build_observed_instance(status=COMPLETED, updated=updated)) is expected


@pytest.mark.parametrize("status", sorted(ENDED_STATUSES))
def test_every_final_status_that_the_task_hub_shows_is_an_end(status: RuntimeStatus) -> None:
    assert observe_state(build_start(-60), build_observed_instance(status=status, updated=-5)) is ObservedState.ENDED


def test_a_published_start_that_the_task_hub_does_not_show_is_unconfirmed() -> None:
    assert observe_state(build_start(), None) is ObservedState.UNCONFIRMED


@given(STARTS, st.none() | OBSERVED_ENDED)
def test_a_confirmed_start_has_ended_once_the_same_backend_shows_it_ended_or_not_at_all(
    started: Started, seen: ObservedInstance | None
) -> None:
    assert observe_state(replace(started, confirmed_backend=BACKEND_ID), seen, BACKEND_ID) is ObservedState.ENDED


@given(STARTS, st.none() | OBSERVED_ENDED, st.sampled_from(["", "another place"]))
def test_a_confirmation_by_another_backend_does_not_count(
    started: Started, seen: ObservedInstance | None, confirmed: str
) -> None:
    assert observe_state(replace(started, confirmed_backend=confirmed), seen, BACKEND_ID) is observe_state(
        started, seen
    )
    assert observe_state(replace(started, confirmed_backend=confirmed), seen) is observe_state(started, seen)


# What a probe has shown of a start that events reported


def test_an_active_instance_that_was_written_since_its_start_confirms_the_start() -> None:
    assert confirm_start(
        build_start(-60), build_observed_instance(updated=-60), backend_id=BACKEND_ID, observed_at=noon_plus()
    ) == replace(build_start(-60), confirmed_backend=BACKEND_ID)


@pytest.mark.parametrize(("age", "confirmed"), [(-5, False), (0, False), (0.9999999, False), (1, True), (60, True)])
def test_a_start_is_confirmed_only_if_every_later_start_has_a_later_time(age: float, *, confirmed: bool) -> None:
    """A restart that is published after the read, by a clock that is behind, must not count as this start."""
    assert (
        confirm_start(
            build_start(-age), build_observed_instance(updated=0), backend_id=BACKEND_ID, observed_at=noon_plus()
        )
        is not None
    ) is confirmed


@pytest.mark.parametrize(("updated", "confirmed"), [(-61.0000001, False), (-61, True), (-60, True), (0, True)])
def test_a_row_that_was_written_before_a_start_does_not_confirm_it(updated: float, *, confirmed: bool) -> None:
    assert (
        confirm_start(
            build_start(-60), build_observed_instance(updated=updated), backend_id=BACKEND_ID, observed_at=noon_plus()
        )
        is not None
    ) is confirmed


@given(STARTS, OBSERVED_ACTIVE | OBSERVED_ENDED, TIMES_AROUND_NOON)
def test_a_start_is_confirmed_once_and_only_by_a_known_backend_and_only_if_events_reported_it(
    started: Started, seen: ObservedInstance, looked_at: Instant
) -> None:
    once = confirm_start(started, seen, backend_id=BACKEND_ID, observed_at=looked_at)
    assert once is None or confirm_start(once, seen, backend_id=BACKEND_ID, observed_at=looked_at) is None
    assert confirm_start(started, seen, backend_id="", observed_at=looked_at) is None
    assert (
        confirm_start(replace(started, source=EvidenceSource.PROBE), seen, backend_id=BACKEND_ID, observed_at=looked_at)
        is None
    )


@given(STARTS, OBSERVED_ENDED, TIMES_AROUND_NOON)
def test_an_end_confirms_no_start(started: Started, seen: ObservedInstance, looked_at: Instant) -> None:
    assert confirm_start(started, seen, backend_id=BACKEND_ID, observed_at=looked_at) is None


@given(started=STARTS, later=build_event_strategy(ACTIVE_STATUSES), confirmed_first=st.booleans())
def test_a_confirmation_of_a_start_does_not_confirm_a_later_start_in_either_order(
    started: Started, later: LifecycleEvent, *, confirmed_first: bool
) -> None:
    later = replace(later, occurred_at=Instant(started.at + 1))
    confirmed = Instance("order-1", replace(started, confirmed_backend=BACKEND_ID))
    pieces = [confirmed, instance_from_event(later)]
    known = reduce(merge_instances, pieces if confirmed_first else pieces[::-1])
    assert known.started is not None
    assert known.started.at == later.occurred_at
    assert known.started.confirmed_backend == ""


@given(STARTS)
def test_a_duplicate_of_the_event_leaves_its_start_confirmed(started: Started) -> None:
    duplicate = Instance("order-1", started)
    confirmed = Instance("order-1", replace(started, confirmed_backend=BACKEND_ID))
    assert merge_instances(confirmed, duplicate) == merge_instances(duplicate, confirmed) == confirmed


@given(st.integers(0, 2 * CLOCK_SKEW), st.integers(1, 3 * CLOCK_SKEW), st.integers(-CLOCK_SKEW + 1, CLOCK_SKEW - 1))
def test_a_read_never_closes_a_start_that_is_published_after_it(age: int, gap: int, skew: int) -> None:
    """The instance is shown, ends, is purged and starts again under its id as a message only.

    The clock of its worker differs from the storage's by less than the skew.
    """
    first = replace(build_start(), at=Instant(NOON - age))
    seen = replace(build_observed_instance(), updated_at=first.at)
    known = Instance("order-1", confirm_start(first, seen, backend_id=BACKEND_ID, observed_at=NOON) or first)
    known = apply_event(known, build_lifecycle_event(RUNNING, Instant(NOON + gap + skew)))
    assert known.started is not None
    if NOON + gap + skew > first.at or known.started.confirmed_backend:
        assert observe_state(known.started, None, BACKEND_ID) is ObservedState.UNCONFIRMED


@pytest.mark.parametrize(("age", "recent"), [(-5, True), (0, True), (599.9999999, True), (600, False), (601, False)])
def test_without_sight_of_messages_an_unconfirmed_start_blocks_for_ten_minutes(age: float, *, recent: bool) -> None:
    assert seconds(600) == START_GRACE_PERIOD
    assert is_recent_start(build_start(-age), noon_plus()) is recent


# The end that a probe saw


@given(STARTED, st.none() | OBSERVED_ENDED)
def test_an_instance_is_not_active_after_an_observed_end(known: Instance, seen: ObservedInstance | None) -> None:
    assert not record_observed_end(known, seen).active


@given(STARTED, st.none() | OBSERVED_ENDED)
def test_an_observed_end_is_recorded_once(known: Instance, seen: ObservedInstance | None) -> None:
    once = record_observed_end(known, seen)
    assert merge_instances(once, reconcile_end(known, seen)) == once
    assert record_observed_end(once, seen) == once


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


# The start that events missed


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
    """The policy may ignore the recorded name."""
    evidence = reconcile_start(known, seen, now)
    if evidence is None:
        return
    once = merge_instances(known, evidence)
    assert once.active
    assert seen.function_name in ("", once.function_name)
    assert reconcile_start(once, seen, now) is None


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
    once = record_observed_start(known, seen, now)
    assert merge_instances(once, evidence) == once
    assert reconcile_start(once, seen, now) is None


@given(NOT_ACTIVE_OR_UNKNOWN, OBSERVED_ACTIVE, TIMES_AROUND_NOON, EVENTS, st.data())
def test_the_time_at_which_an_observed_start_is_recorded_makes_no_difference(
    known: Instance | None, seen: ObservedInstance, now: Instant, events: list[LifecycleEvent], data: st.DataObject
) -> None:
    evidence = [
        evidence_item for evidence_item in (known, reconcile_start(known, seen, now)) if evidence_item is not None
    ]
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


# Looking again and again


def record_lookup(known: Instance | None, seen: ObservedInstance, now: Instant) -> Instance | None:
    """The record after a read of the task hub."""
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
    """The task hub starts and ends an instance in turn. Workers with different clocks publish some of these changes."""
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
            known = record_lookup(known, row, row.updated_at)
            assert (known is not None and known.active) is row.active
