"""The record of an instance is independent of the order and repetition of its events."""

from functools import reduce

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.task_hubs.lifecycle import (
    ACTIVE_STATUSES,
    ENDED_STATUSES,
    MAX_REASON_LENGTH,
    EvidenceSource,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    apply_event,
    instance_from_event,
    merge_instances,
    shorten_reason,
)
from tests.domain.builders import NOON, build_lifecycle_event, noon_plus

RUNNING = RuntimeStatus.RUNNING
COMPLETED = RuntimeStatus.COMPLETED

TICKS = st.integers(0, 4).map(lambda tick: Instant(NOON + tick))
"""Few times, so that several events often have the same time."""


def build_event_strategy(instance_ids: st.SearchStrategy[str]) -> st.SearchStrategy[LifecycleEvent]:
    """Events with any status of these instances, at few different times."""
    return st.builds(
        LifecycleEvent,
        task_hub=st.just("v41"),
        instance_id=instance_ids,
        function_name=st.sampled_from(["", "ProcessOrder", "ShipOrder"]),
        runtime_status=st.sampled_from(RuntimeStatus),
        reason=st.sampled_from(["", "out of stock", "timed out"]),
        occurred_at=TICKS,
    )


EVENTS = build_event_strategy(st.just("order-1"))
SOME_EVENTS = st.lists(EVENTS, min_size=1, max_size=8)


def merge_events(*events: LifecycleEvent) -> Instance:
    """The record of an instance after these events were applied in this order."""
    first, *rest = events
    return reduce(apply_event, rest, apply_event(None, first))


RECORDS = SOME_EVENTS.map(lambda events: merge_events(*events))


@given(RECORDS, RECORDS)
def test_merging_is_commutative(first: Instance, other: Instance) -> None:
    assert merge_instances(first, other) == merge_instances(other, first)


@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_associative(first: Instance, other: Instance, third: Instance) -> None:
    assert merge_instances(merge_instances(first, other), third) == merge_instances(
        first, merge_instances(other, third)
    )


@given(RECORDS)
def test_merging_is_idempotent(record: Instance) -> None:
    assert merge_instances(record, record) == record


@given(st.data(), SOME_EVENTS)
def test_order_and_duplicates_of_events_make_no_difference(data: st.DataObject, events: list[LifecycleEvent]) -> None:
    copies = data.draw(st.lists(st.sampled_from(events), max_size=8), label="delivered again")
    delivered = data.draw(st.permutations(events + copies), label="as delivered")
    assert merge_events(*delivered) == merge_events(*events)


@given(SOME_EVENTS, SOME_EVENTS)
def test_two_halves_of_a_history_merge_to_the_whole_history(
    some: list[LifecycleEvent], others: list[LifecycleEvent]
) -> None:
    assert merge_instances(merge_events(*some), merge_events(*others)) == merge_events(*some, *others)


@given(SOME_EVENTS)
def test_a_duplicate_event_adds_nothing(events: list[LifecycleEvent]) -> None:
    record = merge_events(*events)
    assert all(apply_event(record, known) == record for known in events)


@given(SOME_EVENTS)
def test_an_instance_is_active_exactly_when_its_latest_start_is_later_than_every_end(
    events: list[LifecycleEvent],
) -> None:
    starts = [event.occurred_at for event in events if event.runtime_status in ACTIVE_STATUSES]
    ends = [event.occurred_at for event in events if event.runtime_status in ENDED_STATUSES]
    assert merge_events(*events).active is bool(starts and all(max(starts) > end for end in ends))


@given(SOME_EVENTS)
def test_the_status_of_an_instance_agrees_with_whether_it_is_active(events: list[LifecycleEvent]) -> None:
    record = merge_events(*events)
    assert (record.runtime_status in ACTIVE_STATUSES) is record.active


@given(SOME_EVENTS)
def test_the_last_event_is_the_latest_by_the_publishers_clock(events: list[LifecycleEvent]) -> None:
    assert merge_events(*events).last_event_at == max(event.occurred_at for event in events)


@given(st.lists(build_event_strategy(st.just("@counter@order-1")), min_size=1, max_size=8))
def test_an_entity_is_recorded_and_never_active(events: list[LifecycleEvent]) -> None:
    record = merge_events(*events)
    assert not record.active
    assert record.last_event_at == max(event.occurred_at for event in events)


def test_an_entity_has_the_status_of_its_events() -> None:
    assert merge_events(build_lifecycle_event(RUNNING, instance_id="@counter@order-1")).runtime_status is RUNNING


@given(EVENTS)
@example(build_lifecycle_event(RUNNING))
@example(build_lifecycle_event(COMPLETED))
def test_the_first_event_creates_the_record(first: LifecycleEvent) -> None:
    assert apply_event(None, first) == instance_from_event(first)


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES))
def test_an_instance_is_active_after_an_event_that_shows_it_running(status: RuntimeStatus) -> None:
    record = merge_events(build_lifecycle_event(status))
    assert record.active
    assert record.runtime_status is status
    assert record.finished is None


@pytest.mark.parametrize("status", sorted(ENDED_STATUSES))
def test_an_instance_is_not_active_after_its_end(status: RuntimeStatus) -> None:
    record = merge_events(
        build_lifecycle_event(RUNNING, noon_plus(0)), build_lifecycle_event(status, noon_plus(1), reason="done")
    )
    assert not record.active
    assert record.runtime_status is status
    assert record.finished is not None
    assert record.finished.reason == "done"


def test_every_status_is_evidence_of_running_or_of_an_end() -> None:
    assert set(RuntimeStatus) == ACTIVE_STATUSES | ENDED_STATUSES
    assert not ACTIVE_STATUSES & ENDED_STATUSES


def test_an_end_without_a_start_is_not_active() -> None:
    record = merge_events(build_lifecycle_event(COMPLETED))
    assert not record.active
    assert record.started is None


def test_an_instance_that_is_started_again_after_its_end_is_active() -> None:
    assert merge_events(
        build_lifecycle_event(RUNNING, noon_plus(0)),
        build_lifecycle_event(RuntimeStatus.FAILED, noon_plus(1)),
        build_lifecycle_event(RUNNING, noon_plus(2)),
    ).active


@pytest.mark.parametrize("end", sorted(ENDED_STATUSES))
@pytest.mark.parametrize("running", sorted(ACTIVE_STATUSES))
def test_at_equal_times_the_end_wins(running: RuntimeStatus, end: RuntimeStatus) -> None:
    for events in [
        (build_lifecycle_event(running), build_lifecycle_event(end)),
        (build_lifecycle_event(end), build_lifecycle_event(running)),
    ]:
        assert not merge_events(*events).active
        assert merge_events(*events).runtime_status is end


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (RuntimeStatus.TERMINATED, RuntimeStatus.FAILED),
        (RuntimeStatus.FAILED, RuntimeStatus.COMPLETED),
        (RuntimeStatus.COMPLETED, RuntimeStatus.CANCELED),
    ],
)
def test_two_ends_at_the_same_time_have_one_winner_in_either_order(winner: RuntimeStatus, loser: RuntimeStatus) -> None:
    assert merge_events(build_lifecycle_event(winner), build_lifecycle_event(loser)).runtime_status is winner
    assert merge_events(build_lifecycle_event(loser), build_lifecycle_event(winner)).runtime_status is winner


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("out of stock", "out of stock"),
        ("out of stock\n  at Ship.run()\n", "out of stock"),
        ("out of stock\r\nat Ship", "out of stock"),
        ("\n\n out of stock \u2028at Ship", "out of stock"),
        (" \n\t", ""),
        ("x" * 5000, "x" * MAX_REASON_LENGTH),
    ],
)
def test_only_the_first_line_of_a_reason_is_kept(text: str, kept: str) -> None:
    assert shorten_reason(text) == kept


@given(st.text(st.sampled_from(" \n\r\x85\u2028\x1fab"), max_size=30), st.integers(0, 2 * MAX_REASON_LENGTH))
def test_a_short_reason_is_not_shortened_again(text: str, length: int) -> None:
    short = shorten_reason("x" * length + text)
    assert shorten_reason(short) == short
    assert len(short) <= MAX_REASON_LENGTH
    assert len(short.splitlines()) <= 1


def test_two_equal_ends_with_different_reasons_have_one_winner_in_either_order() -> None:
    ends = (
        build_lifecycle_event(RuntimeStatus.FAILED, reason="out of stock"),
        build_lifecycle_event(RuntimeStatus.FAILED, reason="timed out"),
    )
    assert merge_events(*ends) == merge_events(*reversed(ends))


def test_two_starts_at_the_same_time_have_one_winner_in_either_order() -> None:
    starts = build_lifecycle_event(RuntimeStatus.PENDING), build_lifecycle_event(RuntimeStatus.SUSPENDED)
    assert merge_events(*starts) == merge_events(*reversed(starts))
    assert merge_events(*starts).active


def test_an_instance_that_continues_as_new_is_active_between_its_generations_and_after() -> None:
    completed, running = (
        build_lifecycle_event(COMPLETED, noon_plus(5)),
        build_lifecycle_event(RUNNING, noon_plus(5.004)),
    )
    assert merge_events(build_lifecycle_event(RUNNING, noon_plus(0)), completed, running).active


def test_the_next_generation_stays_active_when_its_start_comes_before_the_end_of_the_last() -> None:
    running, completed = (
        build_lifecycle_event(RUNNING, noon_plus(5.004)),
        build_lifecycle_event(COMPLETED, noon_plus(5)),
    )
    assert merge_events(build_lifecycle_event(RUNNING, noon_plus(0)), running, completed).active


def test_an_end_that_comes_before_its_start_still_ends_the_instance() -> None:
    assert not merge_events(
        build_lifecycle_event(COMPLETED, noon_plus(5)), build_lifecycle_event(RUNNING, noon_plus(0))
    ).active


def test_two_events_within_one_microsecond_are_distinguished_by_100_ns() -> None:
    completed = build_lifecycle_event(COMPLETED, parse_instant("2026-11-20T09:30:00.1234561Z"))
    running = build_lifecycle_event(RUNNING, parse_instant("2026-11-20T09:30:00.1234562Z"))
    assert merge_events(running, completed).active
    assert merge_events(completed, running).active


def test_a_running_event_published_again_by_a_crashed_episode_changes_nothing_but_the_time() -> None:
    record = merge_events(build_lifecycle_event(RUNNING, noon_plus(0)), build_lifecycle_event(RUNNING, noon_plus(3)))
    assert record.active
    assert record.started is not None
    assert record.started.at == noon_plus(3)


def test_the_function_name_is_that_of_the_latest_evidence() -> None:
    restarted = merge_events(
        build_lifecycle_event(RUNNING, noon_plus(0), function_name="ProcessOrder"),
        build_lifecycle_event(COMPLETED, noon_plus(1), function_name="ShipOrder"),
    )
    assert restarted.function_name == "ShipOrder"


def test_the_function_name_falls_back_to_older_evidence() -> None:
    assert (
        merge_events(
            build_lifecycle_event(RUNNING, noon_plus(0)),
            build_lifecycle_event(COMPLETED, noon_plus(1), function_name=""),
        ).function_name
        == "ProcessOrder"
    )


def test_the_function_name_is_empty_if_no_event_contains_it() -> None:
    assert (
        merge_events(
            build_lifecycle_event(RUNNING, function_name=""), build_lifecycle_event(COMPLETED, function_name="")
        ).function_name
        == ""
    )


@pytest.mark.parametrize("status", RuntimeStatus)
def test_the_evidence_of_an_event_comes_from_an_event(status: RuntimeStatus) -> None:
    assert merge_events(build_lifecycle_event(status)).source is EvidenceSource.EVENT


def test_records_of_different_instances_do_not_merge() -> None:
    with pytest.raises(ValueError, match="same instance"):
        merge_instances(
            merge_events(build_lifecycle_event(instance_id="order-1")),
            merge_events(build_lifecycle_event(instance_id="order-2")),
        )
