"""The timeline is a fold over the records: it does not depend on the order of events, nor on who recorded them."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import (
    EvidenceSource,
    Finished,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    apply_event,
)
from state_api.domain.task_hubs.timeline import (
    BINS_PER_DOUBLING,
    Cohort,
    CounterKey,
    OutcomeCounts,
    Timeline,
    TimelinePoint,
    add_up_counts,
    count_change,
    count_instance,
    duration_bin,
    instant_of_minute,
    minute_of,
)
from tests.domain.builders import NOON, build_lifecycle_event, noon_plus

RUNNING, COMPLETED, FAILED = RuntimeStatus.RUNNING, RuntimeStatus.COMPLETED, RuntimeStatus.FAILED
NOON_MINUTE = minute_of(NOON)

EVENTS = st.lists(
    st.builds(
        build_lifecycle_event,
        st.sampled_from(RuntimeStatus),
        st.integers(0, 6).map(lambda half_minutes: noon_plus(30 * half_minutes)),
        st.sampled_from(["order-1", "order-2", "order-3", "@counter@orders"]),
        st.sampled_from(["", "ProcessOrder", "ShipOrder"]),
    ),
    max_size=12,
)
"""Few times and names, so that events often repeat, and instances often start again."""


def record_events(events: Iterable[LifecycleEvent]) -> dict[str, Instance]:
    """The records after these events, by instance id."""
    records: dict[str, Instance] = {}
    for event in events:
        records[event.instance_id] = apply_event(records.get(event.instance_id), event)
    return records


def fold_records(records: Iterable[Instance]) -> Timeline:
    """The timeline that these records count."""
    return add_up_counts(count_instance(record) for record in records)


def fold_events(*events: LifecycleEvent) -> Timeline:
    """The timeline after these events."""
    return fold_records(record_events(events).values())


def counts_at_noon(timeline: Timeline) -> dict[tuple[int, str], int]:
    """The counts of a timeline with one function, by the minute after noon and the counter."""
    return {(key.minute - NOON_MINUTE, key.counter): count for key, count in timeline.counts.items()}


@given(st.data(), EVENTS)
def test_the_changes_that_servers_count_add_up_to_the_fold_over_the_records(
    data: st.DataObject, events: list[LifecycleEvent]
) -> None:
    copies = data.draw(st.lists(st.sampled_from(events), max_size=6) if events else st.just([]), label="duplicates")
    delivered = data.draw(st.permutations(events + copies), label="as delivered")
    counted_by_servers: Sequence[Counter[CounterKey]] = [Counter(), Counter(), Counter()]
    records: dict[str, Instance] = {}
    for event in delivered:
        server = data.draw(st.sampled_from(counted_by_servers), label="recorded by")
        before = records.get(event.instance_id)
        records[event.instance_id] = apply_event(before, event)
        server.update(count_change(before, records[event.instance_id]))
    assert add_up_counts(counted_by_servers) == fold_records(record_events(events).values())


@given(EVENTS, st.integers(1, 5), st.integers(-3, 3))
def test_every_instance_counts_for_its_latest_start_and_at_most_one_end(
    events: list[LifecycleEvent], step_minutes: int, first_minute: int
) -> None:
    timeline = fold_events(*events)
    assert timeline.is_consistent
    orchestrations = {
        instance_id: record for instance_id, record in record_events(events).items() if not instance_id.startswith("@")
    }
    points = timeline.points(first_minute=NOON_MINUTE + first_minute, step_minutes=step_minutes)
    assert sum(point.started for point in points) == sum(
        record.started is not None for record in orchestrations.values()
    )
    assert sum(point.ends.total for point in points) == sum(not record.active for record in orchestrations.values())
    assert sum(point.cohort_active for point in points) == sum(record.active for record in orchestrations.values())
    assert all(point.cohort_active >= 0 for point in points)
    assert all((point.minute - NOON_MINUTE - first_minute) % step_minutes == 0 for point in points)


@given(EVENTS, st.integers(0, 4), st.integers(0, 4))
def test_a_cohort_is_the_instances_that_started_within_its_minutes(
    events: list[LifecycleEvent], first: int, length: int
) -> None:
    first_minute, end_minute = NOON_MINUTE + first, NOON_MINUTE + first + length
    cohort = fold_events(*events).cohort(first_minute, end_minute, ["Ship*"])
    members = [
        record
        for record in record_events(events).values()
        if record.started is not None
        and first_minute <= minute_of(record.started.at) < end_minute
        and record.function_name != "ShipOrder"
        and not record.instance_id.startswith("@")
    ]
    ended = [record for record in members if not record.active]

    def count_outcome(outcome: RuntimeStatus) -> int:
        """How many members ended in this way."""
        return sum(record.runtime_status is outcome for record in ended)

    assert cohort.started == Counter(minute_of(record.started.at) for record in members if record.started)
    assert cohort.failures == Counter(
        (minute_of(record.started.at), minute_of(record.finished.at))
        for record in ended
        if record.started and record.finished and record.runtime_status is FAILED
    )
    assert cohort.completed == count_outcome(COMPLETED)
    assert cohort.terminated == count_outcome(RuntimeStatus.TERMINATED)
    assert cohort.canceled == count_outcome(RuntimeStatus.CANCELED)
    assert sum(cohort.duration_counts.values()) == len(ended)
    assert sum(cohort.failures.values()) == count_outcome(FAILED)


def test_a_cohort_has_its_failures_by_the_minutes_of_start_and_end() -> None:
    ends = {"order-1": FAILED, "order-2": FAILED, "order-3": COMPLETED, "order-4": RuntimeStatus.CANCELED}
    timeline = fold_events(
        *(build_lifecycle_event(RUNNING, noon_plus(0), order) for order in ends),
        *(build_lifecycle_event(status, noon_plus(150), order) for order, status in ends.items()),
    )
    assert timeline.cohort(NOON_MINUTE, NOON_MINUTE + 1, ()) == Cohort(
        started={NOON_MINUTE: 4},
        failures={(NOON_MINUTE, NOON_MINUTE + 2): 2},
        completed=1,
        terminated=0,
        canceled=1,
        duration_counts={duration_bin(seconds(150)): 4},
    )


def test_a_cohort_leaves_out_functions_that_the_policy_ignores_and_starts_outside_its_minutes() -> None:
    timeline = fold_events(
        build_lifecycle_event(RUNNING, noon_plus(0), "order-1", "Bill"),
        build_lifecycle_event(RUNNING, noon_plus(0), "order-2", "ShipOrder"),
        build_lifecycle_event(RUNNING, noon_plus(60), "order-3", "Bill"),
    )
    assert timeline.cohort(NOON_MINUTE, NOON_MINUTE + 1, ["Ship*"]).started == {NOON_MINUTE: 1}
    assert timeline.cohort(NOON_MINUTE, NOON_MINUTE + 2, ()).started == {NOON_MINUTE: 2, NOON_MINUTE + 1: 1}


def test_an_end_counts_in_its_own_minute_and_under_the_minute_of_its_start() -> None:
    timeline = fold_events(
        build_lifecycle_event(RUNNING, noon_plus(30)), build_lifecycle_event(COMPLETED, noon_plus(190))
    )
    assert counts_at_noon(timeline) == {(0, "started"): 1, (3, "completed"): 1, (0, "cohort.completed.69"): 1}


def test_a_failure_counts_with_the_minutes_from_its_start_to_its_end() -> None:
    timeline = fold_events(build_lifecycle_event(RUNNING, noon_plus(59)), build_lifecycle_event(FAILED, noon_plus(61)))
    assert counts_at_noon(timeline) == {(0, "started"): 1, (1, "failed"): 1, (0, "cohort.failed.43.1"): 1}


def test_an_instance_that_continues_as_new_counts_once_from_its_latest_start() -> None:
    generations = [
        build_lifecycle_event(RUNNING, noon_plus(0)),
        build_lifecycle_event(COMPLETED, noon_plus(60)),
        build_lifecycle_event(RUNNING, noon_plus(60.004)),
    ]
    assert counts_at_noon(fold_events(*generations)) == {(1, "started"): 1}


def test_an_end_without_a_start_belongs_to_no_cohort() -> None:
    timeline = fold_events(build_lifecycle_event(COMPLETED, noon_plus(70)))
    assert counts_at_noon(timeline) == {(1, "completed"): 1}
    assert timeline.is_consistent


def test_an_end_that_a_probe_found_counts() -> None:
    record = Instance(
        "order-1",
        Started(NOON, RUNNING, "ProcessOrder"),
        Finished(NOON, RuntimeStatus.CANCELED, "", "ProcessOrder", EvidenceSource.PROBE),
    )
    assert counts_at_noon(fold_records([record])) == {
        (0, "started"): 1,
        (0, "canceled"): 1,
        (0, "cohort.canceled.0"): 1,
    }


def test_a_start_that_moves_is_counted_under_its_new_minute() -> None:
    before = record_events([build_lifecycle_event(RUNNING, noon_plus(0))])["order-1"]
    after = apply_event(before, build_lifecycle_event(RUNNING, noon_plus(120)))
    assert {(key.minute - NOON_MINUTE, key.counter): change for key, change in count_change(before, after).items()} == {
        (0, "started"): -1,
        (2, "started"): 1,
    }


def test_a_change_within_the_same_minute_changes_no_count() -> None:
    before = record_events([build_lifecycle_event(RUNNING, noon_plus(0))])["order-1"]
    assert count_change(before, apply_event(before, build_lifecycle_event(RUNNING, noon_plus(59)))) == {}


def test_points_are_in_order_of_time_and_then_of_function() -> None:
    timeline = fold_events(
        build_lifecycle_event(RUNNING, noon_plus(65), "order-1", "Ship"),
        build_lifecycle_event(RUNNING, noon_plus(65), "order-2", "Bill"),
        build_lifecycle_event(RUNNING, noon_plus(0), "order-3", "Ship"),
        build_lifecycle_event(COMPLETED, noon_plus(65), "order-3", "Ship"),
    )
    no_end, completed = OutcomeCounts(), OutcomeCounts(completed=1)
    assert timeline.points(first_minute=NOON_MINUTE, step_minutes=1) == [
        TimelinePoint(NOON_MINUTE, "Ship", 1, no_end, completed),
        TimelinePoint(NOON_MINUTE + 1, "Bill", 1, no_end, no_end),
        TimelinePoint(NOON_MINUTE + 1, "Ship", 1, completed, no_end),
    ]


@pytest.mark.parametrize(
    "counts",
    [{"started": -1}, {"completed": -1}, {"cohort.completed.3": 1}, {"started": 1, "cohort.failed.3.1": 2}],
)
def test_counts_that_no_records_have_are_not_consistent(counts: dict[str, int]) -> None:
    timeline = add_up_counts([{CounterKey(NOON_MINUTE, "Ship", counter): count for counter, count in counts.items()}])
    assert not timeline.is_consistent


def test_counters_that_cancel_out_are_left_out() -> None:
    key = CounterKey(NOON_MINUTE, "Ship", "started")
    timeline = add_up_counts([{key: 1}, {key: -1}])
    assert timeline.counts == {}
    assert timeline.points(first_minute=NOON_MINUTE, step_minutes=1) == []


@given(st.integers(0, 400_000_000))
def test_a_duration_is_between_the_beginnings_of_its_bin_and_the_next(milliseconds: int) -> None:
    number = duration_bin(seconds(milliseconds / 1000))
    assert 2 ** (number / BINS_PER_DOUBLING) <= max(1, milliseconds) < 2 ** ((number + 1) / BINS_PER_DOUBLING)


@given(st.integers(-100_000_000, 100_000_000).map(lambda offset: Instant(NOON + offset * 997)))
def test_a_time_is_within_its_minute(at: Instant) -> None:
    assert instant_of_minute(minute_of(at)) <= at < instant_of_minute(minute_of(at) + 1)
