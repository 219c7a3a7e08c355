"""What events say about an instance, whatever order they come in and however often."""

from functools import reduce

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.lifecycle import (
    ENDED_STATUSES,
    MAX_REASON,
    RUNNING_STATUSES,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Source,
    apply,
    instance_of,
    merge,
    short_reason,
)
from tests.domain.builders import NOON, at, event

RUNNING = RuntimeStatus.RUNNING
COMPLETED = RuntimeStatus.COMPLETED

TICKS = st.integers(0, 4).map(lambda tick: Instant(NOON + tick))
"""Few times, so that events often share one."""


def events_of(instance_ids: st.SearchStrategy[str]) -> st.SearchStrategy[LifecycleEvent]:
    return st.builds(
        LifecycleEvent,
        task_hub=st.just("v41"),
        instance_id=instance_ids,
        function_name=st.sampled_from(["", "ProcessOrder", "ShipOrder"]),
        runtime_status=st.sampled_from(RuntimeStatus),
        reason=st.sampled_from(["", "out of stock", "timed out"]),
        occurred_at=TICKS,
    )


EVENTS = events_of(st.just("order-1"))
SOME_EVENTS = st.lists(EVENTS, min_size=1, max_size=8)


def after(*events: LifecycleEvent) -> Instance:
    """The record after these events, in this order."""
    first, *rest = events
    return reduce(apply, rest, apply(None, first))


RECORDS = SOME_EVENTS.map(lambda events: after(*events))


@given(RECORDS, RECORDS)
def test_merging_is_commutative(one: Instance, other: Instance) -> None:
    assert merge(one, other) == merge(other, one)


@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_associative(one: Instance, other: Instance, third: Instance) -> None:
    assert merge(merge(one, other), third) == merge(one, merge(other, third))


@given(RECORDS)
def test_merging_is_idempotent(record: Instance) -> None:
    assert merge(record, record) == record


@given(st.data(), SOME_EVENTS)
def test_order_and_duplicates_of_events_never_show(data: st.DataObject, events: list[LifecycleEvent]) -> None:
    copies = data.draw(st.lists(st.sampled_from(events), max_size=8), label="delivered again")
    delivered = data.draw(st.permutations(events + copies), label="as delivered")
    assert after(*delivered) == after(*events)


@given(SOME_EVENTS, SOME_EVENTS)
def test_two_halves_of_a_history_merge_to_the_whole(some: list[LifecycleEvent], others: list[LifecycleEvent]) -> None:
    assert merge(after(*some), after(*others)) == after(*some, *others)


@given(SOME_EVENTS)
def test_an_event_that_is_known_adds_nothing(events: list[LifecycleEvent]) -> None:
    record = after(*events)
    assert all(apply(record, known) == record for known in events)


@given(SOME_EVENTS)
def test_an_instance_is_active_exactly_when_its_latest_start_is_later_than_every_end(
    events: list[LifecycleEvent],
) -> None:
    starts = [one.occurred_at for one in events if one.runtime_status in RUNNING_STATUSES]
    ends = [one.occurred_at for one in events if one.runtime_status in ENDED_STATUSES]
    assert after(*events).active is bool(starts and all(max(starts) > end for end in ends))


@given(SOME_EVENTS)
def test_the_status_of_an_instance_agrees_with_whether_it_is_active(events: list[LifecycleEvent]) -> None:
    record = after(*events)
    assert (record.runtime_status in RUNNING_STATUSES) is record.active


@given(SOME_EVENTS)
def test_the_last_event_is_the_latest_by_the_publishers_clock(events: list[LifecycleEvent]) -> None:
    assert after(*events).last_event_at == max(one.occurred_at for one in events)


@given(st.lists(events_of(st.just("@counter@order-1")), min_size=1, max_size=8))
def test_an_entity_is_recorded_and_never_active(events: list[LifecycleEvent]) -> None:
    record = after(*events)
    assert not record.active
    assert record.last_event_at == max(one.occurred_at for one in events)


def test_an_entity_shows_the_status_that_its_events_give() -> None:
    assert after(event(RUNNING, instance_id="@counter@order-1")).runtime_status is RUNNING


@given(EVENTS)
@example(event(RUNNING))
@example(event(COMPLETED))
def test_the_first_event_makes_the_record(first: LifecycleEvent) -> None:
    assert apply(None, first) == instance_of(first)


@pytest.mark.parametrize("status", sorted(RUNNING_STATUSES))
def test_an_instance_is_active_after_an_event_that_shows_it_running(status: RuntimeStatus) -> None:
    record = after(event(status))
    assert record.active
    assert record.runtime_status is status
    assert record.finished is None


@pytest.mark.parametrize("status", sorted(ENDED_STATUSES))
def test_an_instance_is_not_active_after_its_end(status: RuntimeStatus) -> None:
    record = after(event(RUNNING, at(0)), event(status, at(1), reason="done"))
    assert not record.active
    assert record.runtime_status is status
    assert record.finished is not None
    assert record.finished.reason == "done"


def test_every_status_is_evidence_of_running_or_of_an_end() -> None:
    assert set(RuntimeStatus) == RUNNING_STATUSES | ENDED_STATUSES
    assert not RUNNING_STATUSES & ENDED_STATUSES


def test_an_end_alone_is_enough_to_know_that_nothing_runs() -> None:
    record = after(event(COMPLETED))
    assert not record.active
    assert record.started is None


def test_an_instance_that_is_started_again_after_its_end_is_active() -> None:
    assert after(event(RUNNING, at(0)), event(RuntimeStatus.FAILED, at(1)), event(RUNNING, at(2))).active


@pytest.mark.parametrize("end", sorted(ENDED_STATUSES))
@pytest.mark.parametrize("running", sorted(RUNNING_STATUSES))
def test_at_equal_times_the_end_wins(running: RuntimeStatus, end: RuntimeStatus) -> None:
    for events in [(event(running), event(end)), (event(end), event(running))]:
        assert not after(*events).active
        assert after(*events).runtime_status is end


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (RuntimeStatus.TERMINATED, RuntimeStatus.FAILED),
        (RuntimeStatus.FAILED, RuntimeStatus.COMPLETED),
        (RuntimeStatus.COMPLETED, RuntimeStatus.CANCELED),
    ],
)
def test_two_ends_at_the_same_time_have_one_winner_in_either_order(winner: RuntimeStatus, loser: RuntimeStatus) -> None:
    assert after(event(winner), event(loser)).runtime_status is winner
    assert after(event(loser), event(winner)).runtime_status is winner


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("out of stock", "out of stock"),
        ("out of stock\n  at Ship.run()\n", "out of stock"),
        ("out of stock\r\nat Ship", "out of stock"),
        ("\n\n out of stock \u2028at Ship", "out of stock"),
        (" \n\t", ""),
        ("x" * 5000, "x" * MAX_REASON),
    ],
)
def test_of_a_reason_the_first_line_is_kept(text: str, kept: str) -> None:
    assert short_reason(text) == kept


@given(st.text(st.sampled_from(" \n\r\x85\u2028\x1fab"), max_size=30), st.integers(0, 2 * MAX_REASON))
def test_a_short_reason_is_not_shortened_again(text: str, length: int) -> None:
    short = short_reason("x" * length + text)
    assert short_reason(short) == short
    assert len(short) <= MAX_REASON
    assert len(short.splitlines()) <= 1


def test_two_equal_ends_with_different_reasons_have_one_winner_in_either_order() -> None:
    ends = event(RuntimeStatus.FAILED, reason="out of stock"), event(RuntimeStatus.FAILED, reason="timed out")
    assert after(*ends) == after(*reversed(ends))


def test_two_starts_at_the_same_time_have_one_winner_in_either_order() -> None:
    starts = event(RuntimeStatus.PENDING), event(RuntimeStatus.SUSPENDED)
    assert after(*starts) == after(*reversed(starts))
    assert after(*starts).active


def test_an_instance_that_continues_as_new_is_active_between_its_generations_and_after() -> None:
    completed, running = event(COMPLETED, at(5)), event(RUNNING, at(5.004))
    assert after(event(RUNNING, at(0)), completed, running).active


def test_the_next_generation_stays_active_when_its_start_comes_before_the_end_of_the_last() -> None:
    running, completed = event(RUNNING, at(5.004)), event(COMPLETED, at(5))
    assert after(event(RUNNING, at(0)), running, completed).active


def test_an_end_that_comes_before_its_start_still_ends_the_instance() -> None:
    assert not after(event(COMPLETED, at(5)), event(RUNNING, at(0))).active


def test_ticks_of_100_ns_tell_two_events_of_one_microsecond_apart() -> None:
    completed = event(COMPLETED, parse_instant("2026-11-20T09:30:00.1234561Z"))
    running = event(RUNNING, parse_instant("2026-11-20T09:30:00.1234562Z"))
    assert after(running, completed).active
    assert after(completed, running).active


def test_a_running_event_published_again_by_a_crashed_episode_changes_nothing_but_the_time() -> None:
    record = after(event(RUNNING, at(0)), event(RUNNING, at(3)))
    assert record.active
    assert record.started is not None
    assert record.started.at == at(3)


def test_the_function_name_is_that_of_the_latest_evidence() -> None:
    restarted = after(
        event(RUNNING, at(0), function_name="ProcessOrder"), event(COMPLETED, at(1), function_name="ShipOrder")
    )
    assert restarted.function_name == "ShipOrder"


def test_the_function_name_falls_back_to_older_evidence() -> None:
    assert after(event(RUNNING, at(0)), event(COMPLETED, at(1), function_name="")).function_name == "ProcessOrder"


def test_the_function_name_is_empty_when_no_event_carried_it() -> None:
    assert after(event(RUNNING, function_name=""), event(COMPLETED, function_name="")).function_name == ""


@pytest.mark.parametrize("status", RuntimeStatus)
def test_the_evidence_of_an_event_comes_from_an_event(status: RuntimeStatus) -> None:
    assert after(event(status)).source is Source.EVENT


def test_records_of_different_instances_do_not_merge() -> None:
    with pytest.raises(ValueError, match="same instance"):
        merge(after(event(instance_id="order-1")), after(event(instance_id="order-2")))
