"""What one transaction writes: pure decisions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.task_hubs.lifecycle import (
    MAX_REASON_LENGTH,
    EvidenceSource,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    instance_from_event,
    merge_instances,
)
from state_api.domain.task_hubs.reconciliation import reconcile_end
from state_api.domain.task_hubs.timeline import CounterKey, count_instance, duration_bin, minute_of
from state_api.storage.timeline_counters import MAX_ROW_CHARACTERS, TimelineCounters
from state_api.storage.timeline_rows import bucket_of
from state_api.storage.transaction_plan import (
    MAX_OPERATIONS,
    InstanceUpdate,
    StoredInstance,
    TransactionPlan,
    plan_transaction,
)
from state_api.storage.transactions import request_lines

START = parse_instant("2026-11-20T09:00:00Z")
NO_ROW = StoredInstance()


def instance_record(
    instance_id: str, status: str = "Running", tick: int = 0, function_name: str = "ProcessOrder"
) -> Instance:
    """The record of an instance after one event, `tick` ticks after the start of all of them."""
    return instance_from_event(
        LifecycleEvent("hub", instance_id, function_name, RuntimeStatus(status), "", Instant(START + tick))
    )


def event_update(
    instance_id: str, status: str = "Running", tick: int = 0, function_name: str = "ProcessOrder"
) -> InstanceUpdate:
    """The update that one event makes."""
    return InstanceUpdate(instance_id, (instance_record(instance_id, status, tick, function_name),))


def plan_updates(updates: Sequence[InstanceUpdate], stored: Mapping[str, StoredInstance]) -> TransactionPlan:
    """The first transaction of these updates. All minutes are counted."""
    return plan_transaction("00", updates, stored, first_counted_minute=0)


def written_rows(plan: TransactionPlan) -> list[tuple[str, str]]:
    """The operation and the kind of each row that the plan writes."""
    return [(operation[0], operation[1]["RowKey"].split("|")[0]) for operation in plan.operations]


def operation_count(plan: TransactionPlan) -> int:
    """The operations of the transaction, with those for counters, for stamps and for the correction epoch."""
    counter_rows = {bucket_of(key.minute) for key in plan.counter_changes}
    return len(plan.operations) + len(counter_rows) + len(plan.activity_stamps) + plan.advances_epoch


def test_a_start_writes_both_rows_and_an_end_deletes_the_active_row() -> None:
    started = plan_updates([event_update("a")], {"a": NO_ROW})
    assert written_rows(started) == [("create", "i"), ("upsert", "a")]
    stored = {"a": StoredInstance(started.rows[0].instance, "etag")}
    ended = plan_updates([event_update("a", "Completed", 5)], stored)
    assert written_rows(ended) == [("update", "i"), ("delete", "a")]
    assert ended.operations[0][2]["etag"] == "etag"  # type: ignore[misc]  # an update has its condition


def test_a_start_and_an_end_in_one_transaction_write_one_row() -> None:
    plan = plan_updates([event_update("a"), event_update("a", "Completed", 5), event_update("a")], {"a": NO_ROW})
    assert written_rows(plan) == [("create", "i")]
    assert plan.effective == [(True,), (True,), (False,)]


def test_a_change_that_the_record_contains_writes_nothing() -> None:
    stored = {"a": StoredInstance(instance_record("a"), "etag")}
    plan = plan_updates([event_update("a"), event_update("a", tick=-5)], stored)
    assert (list(plan.operations), dict(plan.activity_stamps), plan.effective) == ([], {}, [(False,), (False,)])


def test_corrections_and_changes_of_entities_do_not_stamp_activity() -> None:
    correction = Instance(
        "a", started=Started(Instant(START), RuntimeStatus.RUNNING, "ProcessOrder", EvidenceSource.PROBE)
    )
    plan = plan_updates(
        [InstanceUpdate("a", (correction,), stamps_activity=False), event_update("@counter@x")],
        {"a": NO_ROW, "@counter@x": NO_ROW},
    )
    assert dict(plan.activity_stamps) == {}
    assert written_rows(plan) == [("create", "i"), ("upsert", "a"), ("create", "i")]
    both = plan_updates(
        [InstanceUpdate("a", (correction,), stamps_activity=False), event_update("a", tick=7)], {"a": NO_ROW}
    )
    assert dict(both.activity_stamps) == {"ProcessOrder": START + 7}


def test_a_confirmation_by_a_probe_is_written_once_without_a_stamp() -> None:
    stored = instance_record("a")
    assert stored.started is not None
    correction = InstanceUpdate(
        "a", (replace(stored, started=replace(stored.started, confirmed_backend="place")),), stamps_activity=False
    )
    plan = plan_updates([correction], {"a": StoredInstance(stored, "etag")})
    assert (plan.advances_epoch, dict(plan.activity_stamps), written_rows(plan)) == (
        False,
        {},
        [("update", "i"), ("upsert", "a")],
    )
    assert plan.effective == [(True,)]
    confirmed = plan.rows[0].instance
    assert not plan_updates([correction, event_update("a")], {"a": StoredInstance(confirmed, "etag")}).operations
    assert not plan_updates(
        [correction], {"a": StoredInstance(merge_instances(confirmed, instance_record("a", tick=1)), "etag")}
    ).operations


def correction_of_end(instance_id: str, tick: int = 0) -> InstanceUpdate:
    """The correction of an instance that a probe has found to have ended."""
    return InstanceUpdate(
        instance_id, (reconcile_end(instance_record(instance_id, tick=tick), None),), stamps_activity=False
    )


def test_only_a_correction_that_ends_an_active_instance_advances_the_epoch() -> None:
    active = {"a": StoredInstance(instance_record("a"), "etag"), "b": StoredInstance(instance_record("b"), "etag")}
    plan = plan_updates([correction_of_end("a")], active)
    assert (plan.advances_epoch, dict(plan.activity_stamps), written_rows(plan)) == (
        True,
        {},
        [("update", "i"), ("delete", "a")],
    )
    assert not plan_updates([correction_of_end("b", tick=-5)], active).advances_epoch, (
        "the instance has started again since"
    )
    assert not plan_updates(
        [event_update("a", "Completed", 5), correction_of_end("a", tick=2)], active
    ).advances_epoch, "an event ended it first"
    assert not plan_updates([event_update("a", "Completed", 5)], active).advances_epoch
    ended = {"a": StoredInstance(merge_instances(instance_record("a"), instance_record("a", "Completed", 5)), "etag")}
    started_again = replace(ended["a"].instance or instance_record("a"), started=instance_record("a", tick=6).started)
    assert not plan_updates([InstanceUpdate("a", (started_again,), stamps_activity=False)], ended).advances_epoch, (
        "the correction is a start"
    )


def test_a_new_epoch_takes_one_operation_of_the_transaction() -> None:
    active = {f"{n}": StoredInstance(instance_record(f"{n}"), "etag") for n in range(60)}
    plan = plan_updates([correction_of_end(name) for name in active], active)
    assert (len(plan.effective), operation_count(plan)) == (49, 100)


def test_a_function_is_stamped_once_with_its_latest_event() -> None:
    updates = [event_update("a", tick=3), event_update("b", tick=9), event_update("c", tick=4, function_name="Ship")]
    plan = plan_updates(updates, {"a": NO_ROW, "b": NO_ROW, "c": NO_ROW})
    assert dict(plan.activity_stamps) == {"ProcessOrder": START + 9, "Ship": START + 4}


def test_an_id_that_two_functions_used_is_stamped_without_a_function_name() -> None:
    plan = plan_updates([event_update("a"), event_update("a", "Completed", 5, "Ship")], {"a": NO_ROW})
    assert dict(plan.activity_stamps) == {"": START + 5}
    plan = plan_updates(
        [event_update("a", tick=5, function_name="Ship")], {"a": StoredInstance(instance_record("a"), "etag")}
    )
    assert dict(plan.activity_stamps) == {"": START + 5}


def test_a_transaction_has_the_first_updates_that_fit() -> None:
    updates = [event_update(f"{n}") for n in range(200)]
    plan = plan_updates(updates, {update.instance_id: NO_ROW for update in updates})
    assert (len(plan.effective), operation_count(plan)) == (49, 100)
    updates = [event_update(f"{n}", function_name=f"Function{n}") for n in range(200)]
    plan = plan_updates(updates, {update.instance_id: NO_ROW for update in updates})
    assert (len(plan.effective), operation_count(plan)) == (33, 100)


def update_with_long_reason(instance_id: str, at: int = 0) -> InstanceUpdate:
    """A failure with the longest reason."""
    event = LifecycleEvent("hub", instance_id, "Ship", RuntimeStatus.FAILED, "😀" * 4000, Instant(START + at))
    return InstanceUpdate(instance_id, (instance_from_event(event),))


def test_long_reasons_are_spread_over_transactions() -> None:
    updates = [update_with_long_reason(f"{number}") for number in range(90)]
    plan = plan_updates(updates, {update.instance_id: NO_ROW for update in updates})
    assert len(plan.effective) == 50


def test_a_long_reason_that_is_written_again_counts_too() -> None:
    stored = {
        f"{number}": StoredInstance(update_with_long_reason(f"{number}").changes[0], "etag") for number in range(90)
    }
    plan = plan_updates([event_update(name, tick=-1) for name in stored], stored)
    assert len(plan.effective) == 50


def test_many_failures_of_one_instance_count_as_one_row_and_one_reason() -> None:
    updates = [update_with_long_reason("again", number) for number in range(90)]
    plan = plan_updates(updates, {"again": NO_ROW})
    assert (len(plan.effective), len(plan.rows)) == (90, 1)


def test_every_operation_belongs_to_an_instance() -> None:
    plan = plan_updates(
        [event_update("a"), event_update("b"), event_update("c", "Completed")],
        {"a": NO_ROW, "b": NO_ROW, "c": NO_ROW},
    )
    assert [plan.instance_of_operation(n) for n in range(6)] == ["a", "a", "b", "b", "c", None]


MINUTE_TICKS = seconds(60)


def started_long_ago(instance_id: str, minutes: int) -> StoredInstance:
    """An active instance that started so many minutes before the start of all of them."""
    return StoredInstance(instance_record(instance_id, tick=-minutes * MINUTE_TICKS), "etag")


def test_counters_of_ten_minutes_take_one_operation() -> None:
    """START is a full hour, so its row has the minutes from 0 to 9."""
    updates = [event_update(f"{n}", tick=n * MINUTE_TICKS) for n in range(12)]
    plan = plan_updates(updates, {update.instance_id: NO_ROW for update in updates})
    assert operation_count(plan) == 24 + 2 + 1
    assert sum(plan.counter_changes.values()) == 12


def test_ends_of_instances_that_started_at_different_times_leave_room_for_their_counters() -> None:
    stored = {f"{n}": started_long_ago(f"{n}", 10 * n) for n in range(1, 90)}
    plan = plan_updates([event_update(name, "Completed") for name in stored], stored)
    # Two rows of each instance and the row that counts its start; the row that counts all ends, and the stamp.
    assert (len(plan.effective), operation_count(plan)) == (32, 98)


def test_minutes_that_are_not_shown_are_not_counted() -> None:
    stored = {"old": started_long_ago("old", 90), "recent": started_long_ago("recent", 30)}
    updates = [event_update(name, "Completed") for name in stored]
    plan = plan_transaction("00", updates, stored, first_counted_minute=minute_of(START) - 60)
    assert {(key.minute - minute_of(START), key.counter): change for key, change in plan.counter_changes.items()} == {
        (0, "completed"): 2,
        (-30, f"cohort.completed.{duration_bin(30 * MINUTE_TICKS)}"): 1,
    }


def test_counters_that_cancel_out_are_not_written() -> None:
    stored = {"moves": StoredInstance(instance_record("moves"), "etag")}
    updates = [event_update("moves", tick=MINUTE_TICKS), event_update("fills", tick=0)]
    plan = plan_updates(updates, {**stored, "fills": NO_ROW})
    assert {(key.minute - minute_of(START), key.counter): change for key, change in plan.counter_changes.items()} == {
        (1, "started"): 1
    }


def longest_end(number: int) -> InstanceUpdate:
    """A failure with a name, a reason and a key of the greatest length, of an instance that started long before."""
    instance_id = f"{number:03d}" + "\U0001f600" * 230
    started = LifecycleEvent("hub", instance_id, "\U0001f600" * 256, RuntimeStatus.RUNNING, "", START)
    started = replace(started, occurred_at=Instant(START - 10 * number * MINUTE_TICKS))
    failed = replace(
        started, runtime_status=RuntimeStatus.FAILED, reason="\U0001f600" * MAX_REASON_LENGTH, occurred_at=START
    )
    return InstanceUpdate(instance_id, (instance_from_event(started), instance_from_event(failed)))


def test_the_longest_transaction_with_full_rows_of_counters_is_shorter_than_the_service_allows() -> None:
    updates = [longest_end(number) for number in range(1, 100)]
    plan = plan_updates(updates, {update.instance_id: NO_ROW for update in updates})
    assert (len(plan.rows), operation_count(plan)) == (49, 100)
    counters = TimelineCounters()
    minutes = {key.minute for key in plan.counter_changes}
    rows = counters.take_rows(
        "table", "00", {CounterKey(minute, "F", f"cohort.failed.{n}"): 1 for minute in minutes for n in range(280)}
    )
    for row in rows:
        row.build_write()
        assert 7_500 < row.characters <= MAX_ROW_CHARACTERS
    counters.return_rows(rows, ["etag"] * len(rows))
    full_rows = counters.take_rows("table", "00", plan.counter_changes)
    assert {row.key for row in full_rows} == {row.key for row in rows}
    operations = [*plan.operations, *(row.build_write() for row in full_rows)]
    lines = (line for operation in operations for line in request_lines("http://state", operation, cosmos=False))
    overhead = 300 * len(operations)
    assert sum(len(line.encode()) + 2 for line in lines) + overhead < 3 * 1024 * 1024, "the service allows 4 MiB"


STATUSES = st.sampled_from(["Running", "Completed", "Failed"])
IDS = st.integers(0, 60).map(str)
TICKS = st.integers(0, 5).map(lambda half_minutes: half_minutes * MINUTE_TICKS // 2)
EVENTS = st.builds(event_update, IDS, STATUSES, TICKS, st.sampled_from(["One", "Two", "Three"]))
UPDATES = st.one_of(EVENTS, st.builds(correction_of_end, IDS, TICKS))


@given(st.lists(UPDATES, min_size=1, max_size=150))
def test_all_plans_together_record_and_count_the_merge_of_all_changes(updates: Sequence[InstanceUpdate]) -> None:
    stored: dict[str, StoredInstance] = {}
    left = list(updates)
    effects: list[tuple[bool, ...]] = []
    counts: Counter[CounterKey] = Counter()
    while left:
        plan = plan_updates(left, {update.instance_id: stored.get(update.instance_id, NO_ROW) for update in left})
        assert plan.effective
        assert operation_count(plan) <= MAX_OPERATIONS
        keys = [(operation[1]["PartitionKey"], operation[1]["RowKey"]) for operation in plan.operations]
        assert len(set(keys)) == len(keys), "a transaction must not have a row twice"
        stored |= {row.instance.instance_id: StoredInstance(row.instance, "etag") for row in plan.rows}
        effects += plan.effective
        counts.update(plan.counter_changes)
        left = left[len(plan.effective) :]
    by_id: dict[str, list[Instance]] = {}
    expected: list[tuple[bool, ...]] = []
    for instance_update in updates:
        instance_id = instance_update.instance_id
        before = by_id.get(instance_id)
        by_id[instance_id] = [*(before or []), *instance_update.changes]
        expected.append(
            (before is None or reduce(merge_instances, before) != reduce(merge_instances, by_id[instance_id]),)
        )
    assert effects == expected
    final = {instance_id: reduce(merge_instances, changes) for instance_id, changes in by_id.items()}
    assert {instance_id: record.instance for instance_id, record in stored.items()} == final
    assert +counts == sum((Counter(count_instance(instance)) for instance in final.values()), Counter())


@pytest.mark.parametrize("count", [1, 2, 99])
def test_the_first_update_always_fits(count: int) -> None:
    changes = tuple(instance_record("a", "Running", n, f"F{n}") for n in range(count))
    plan = plan_updates([InstanceUpdate("a", changes)], {"a": StoredInstance(instance_record("a", tick=-1), "etag")})
    assert plan.effective == [(True,) * count]
    assert written_rows(plan) == [("update", "i"), ("delete", "a"), ("upsert", "a")]
