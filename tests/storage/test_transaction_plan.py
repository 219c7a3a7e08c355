"""What one transaction writes: pure decisions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, parse_instant
from state_api.domain.task_hubs.lifecycle import (
    EvidenceSource,
    Instance,
    LifecycleEvent,
    RuntimeStatus,
    Started,
    instance_from_event,
    merge_instances,
)
from state_api.domain.task_hubs.reconciliation import reconcile_end
from state_api.storage.transaction_plan import (
    MAX_OPERATIONS,
    InstanceUpdate,
    StoredInstance,
    TransactionPlan,
    plan_transaction,
)

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


def written_rows(plan: TransactionPlan) -> list[tuple[str, str]]:
    """The operation and the kind of each row that the plan writes."""
    return [(operation[0], operation[1]["RowKey"].split("|")[0]) for operation in plan.operations]


def operation_count(plan: TransactionPlan) -> int:
    """The operations of the transaction, with those for stamps and for the correction epoch."""
    return len(plan.operations) + len(plan.activity_stamps) + plan.advances_epoch


def test_a_start_writes_both_rows_and_an_end_deletes_the_active_row() -> None:
    started = plan_transaction("00", [event_update("a")], {"a": NO_ROW})
    assert written_rows(started) == [("create", "i"), ("upsert", "a")]
    stored = {"a": StoredInstance(started.rows[0].instance, "etag")}
    ended = plan_transaction("00", [event_update("a", "Completed", 5)], stored)
    assert written_rows(ended) == [("update", "i"), ("delete", "a")]
    assert ended.operations[0][2]["etag"] == "etag"  # type: ignore[misc]  # an update has its condition


def test_a_start_and_an_end_in_one_transaction_write_one_row() -> None:
    plan = plan_transaction(
        "00", [event_update("a"), event_update("a", "Completed", 5), event_update("a")], {"a": NO_ROW}
    )
    assert written_rows(plan) == [("create", "i")]
    assert plan.effective == [(True,), (True,), (False,)]


def test_a_change_that_the_record_contains_writes_nothing() -> None:
    stored = {"a": StoredInstance(instance_record("a"), "etag")}
    plan = plan_transaction("00", [event_update("a"), event_update("a", tick=-5)], stored)
    assert (list(plan.operations), dict(plan.activity_stamps), plan.effective) == ([], {}, [(False,), (False,)])


def test_corrections_and_changes_of_entities_do_not_stamp_activity() -> None:
    correction = Instance(
        "a", started=Started(Instant(START), RuntimeStatus.RUNNING, "ProcessOrder", EvidenceSource.PROBE)
    )
    plan = plan_transaction(
        "00",
        [InstanceUpdate("a", (correction,), stamps_activity=False), event_update("@counter@x")],
        {"a": NO_ROW, "@counter@x": NO_ROW},
    )
    assert dict(plan.activity_stamps) == {}
    assert written_rows(plan) == [("create", "i"), ("upsert", "a"), ("create", "i")]
    both = plan_transaction(
        "00", [InstanceUpdate("a", (correction,), stamps_activity=False), event_update("a", tick=7)], {"a": NO_ROW}
    )
    assert dict(both.activity_stamps) == {"ProcessOrder": START + 7}


def test_a_confirmation_by_a_probe_is_written_once_without_a_stamp() -> None:
    stored = instance_record("a")
    assert stored.started is not None
    correction = InstanceUpdate(
        "a", (replace(stored, started=replace(stored.started, confirmed_backend="place")),), stamps_activity=False
    )
    plan = plan_transaction("00", [correction], {"a": StoredInstance(stored, "etag")})
    assert (plan.advances_epoch, dict(plan.activity_stamps), written_rows(plan)) == (
        False,
        {},
        [("update", "i"), ("upsert", "a")],
    )
    assert plan.effective == [(True,)]
    confirmed = plan.rows[0].instance
    assert not plan_transaction(
        "00", [correction, event_update("a")], {"a": StoredInstance(confirmed, "etag")}
    ).operations
    assert not plan_transaction(
        "00", [correction], {"a": StoredInstance(merge_instances(confirmed, instance_record("a", tick=1)), "etag")}
    ).operations


def correction_of_end(instance_id: str, tick: int = 0) -> InstanceUpdate:
    """The correction of an instance that a probe has found to have ended."""
    return InstanceUpdate(
        instance_id, (reconcile_end(instance_record(instance_id, tick=tick), None),), stamps_activity=False
    )


def test_only_a_correction_that_ends_an_active_instance_advances_the_epoch() -> None:
    active = {"a": StoredInstance(instance_record("a"), "etag"), "b": StoredInstance(instance_record("b"), "etag")}
    plan = plan_transaction("00", [correction_of_end("a")], active)
    assert (plan.advances_epoch, dict(plan.activity_stamps), written_rows(plan)) == (
        True,
        {},
        [("update", "i"), ("delete", "a")],
    )
    assert not plan_transaction("00", [correction_of_end("b", tick=-5)], active).advances_epoch, (
        "the instance has started again since"
    )
    assert not plan_transaction(
        "00", [event_update("a", "Completed", 5), correction_of_end("a", tick=2)], active
    ).advances_epoch, "an event ended it first"
    assert not plan_transaction("00", [event_update("a", "Completed", 5)], active).advances_epoch
    ended = {"a": StoredInstance(merge_instances(instance_record("a"), instance_record("a", "Completed", 5)), "etag")}
    started_again = replace(ended["a"].instance or instance_record("a"), started=instance_record("a", tick=6).started)
    assert not plan_transaction(
        "00", [InstanceUpdate("a", (started_again,), stamps_activity=False)], ended
    ).advances_epoch, "the correction is a start"


def test_a_new_epoch_takes_one_operation_of_the_transaction() -> None:
    active = {f"{n}": StoredInstance(instance_record(f"{n}"), "etag") for n in range(60)}
    plan = plan_transaction("00", [correction_of_end(name) for name in active], active)
    assert (len(plan.effective), operation_count(plan)) == (49, 99)


def test_a_function_is_stamped_once_with_its_latest_event() -> None:
    updates = [event_update("a", tick=3), event_update("b", tick=9), event_update("c", tick=4, function_name="Ship")]
    plan = plan_transaction("00", updates, {"a": NO_ROW, "b": NO_ROW, "c": NO_ROW})
    assert dict(plan.activity_stamps) == {"ProcessOrder": START + 9, "Ship": START + 4}


def test_an_id_that_two_functions_used_is_stamped_without_a_function_name() -> None:
    plan = plan_transaction("00", [event_update("a"), event_update("a", "Completed", 5, "Ship")], {"a": NO_ROW})
    assert dict(plan.activity_stamps) == {"": START + 5}
    plan = plan_transaction(
        "00", [event_update("a", tick=5, function_name="Ship")], {"a": StoredInstance(instance_record("a"), "etag")}
    )
    assert dict(plan.activity_stamps) == {"": START + 5}


def test_a_transaction_has_the_first_updates_that_fit() -> None:
    updates = [event_update(f"{n}") for n in range(200)]
    plan = plan_transaction("00", updates, {update.instance_id: NO_ROW for update in updates})
    assert (len(plan.effective), operation_count(plan)) == (49, 99)
    updates = [event_update(f"{n}", function_name=f"Function{n}") for n in range(200)]
    plan = plan_transaction("00", updates, {update.instance_id: NO_ROW for update in updates})
    assert (len(plan.effective), operation_count(plan)) == (33, 99)


def update_with_long_reason(instance_id: str, at: int = 0) -> InstanceUpdate:
    """A failure with the longest reason."""
    event = LifecycleEvent("hub", instance_id, "Ship", RuntimeStatus.FAILED, "😀" * 4000, Instant(START + at))
    return InstanceUpdate(instance_id, (instance_from_event(event),))


def test_long_reasons_are_spread_over_transactions() -> None:
    updates = [update_with_long_reason(f"{number}") for number in range(90)]
    plan = plan_transaction("00", updates, {update.instance_id: NO_ROW for update in updates})
    assert len(plan.effective) == 50


def test_a_long_reason_that_is_written_again_counts_too() -> None:
    stored = {
        f"{number}": StoredInstance(update_with_long_reason(f"{number}").changes[0], "etag") for number in range(90)
    }
    plan = plan_transaction("00", [event_update(name, tick=-1) for name in stored], stored)
    assert len(plan.effective) == 50


def test_many_failures_of_one_instance_count_as_one_row_and_one_reason() -> None:
    updates = [update_with_long_reason("again", number) for number in range(90)]
    plan = plan_transaction("00", updates, {"again": NO_ROW})
    assert (len(plan.effective), len(plan.rows)) == (90, 1)


def test_every_operation_belongs_to_an_instance() -> None:
    plan = plan_transaction(
        "00",
        [event_update("a"), event_update("b"), event_update("c", "Completed")],
        {"a": NO_ROW, "b": NO_ROW, "c": NO_ROW},
    )
    assert [plan.instance_of_operation(n) for n in range(6)] == ["a", "a", "b", "b", "c", None]


STATUSES = st.sampled_from(["Running", "Completed", "Failed"])
IDS = st.integers(0, 60).map(str)
EVENTS = st.builds(event_update, IDS, STATUSES, st.integers(0, 5), st.sampled_from(["One", "Two", "Three"]))
UPDATES = st.one_of(EVENTS, st.builds(correction_of_end, IDS, st.integers(0, 5)))


@given(st.lists(UPDATES, min_size=1, max_size=150))
def test_all_plans_together_record_the_merge_of_all_changes(updates: Sequence[InstanceUpdate]) -> None:
    stored: dict[str, StoredInstance] = {}
    left = list(updates)
    effects: list[tuple[bool, ...]] = []
    while left:
        plan = plan_transaction(
            "00", left, {update.instance_id: stored.get(update.instance_id, NO_ROW) for update in left}
        )
        assert plan.effective
        assert operation_count(plan) <= MAX_OPERATIONS
        keys = [(operation[1]["PartitionKey"], operation[1]["RowKey"]) for operation in plan.operations]
        assert len(set(keys)) == len(keys), "a transaction must not have a row twice"
        stored |= {row.instance.instance_id: StoredInstance(row.instance, "etag") for row in plan.rows}
        effects += plan.effective
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
    assert {instance_id: record.instance for instance_id, record in stored.items()} == {
        instance_id: reduce(merge_instances, changes) for instance_id, changes in by_id.items()
    }


@pytest.mark.parametrize("count", [1, 2, 99])
def test_the_first_update_always_fits(count: int) -> None:
    changes = tuple(instance_record("a", "Running", n, f"F{n}") for n in range(count))
    plan = plan_transaction(
        "00", [InstanceUpdate("a", changes)], {"a": StoredInstance(instance_record("a", tick=-1), "etag")}
    )
    assert plan.effective == [(True,) * count]
    assert written_rows(plan) == [("update", "i"), ("delete", "a"), ("upsert", "a")]
