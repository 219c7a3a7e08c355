"""What one transaction holds: pure decisions."""

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
NOTHING_KNOWN = StoredInstance()


def instance_record(instance_id: str, status: str = "Running", tick: int = 0, name: str = "ProcessOrder") -> Instance:
    return instance_from_event(
        LifecycleEvent("hub", instance_id, name, RuntimeStatus(status), "", Instant(START + tick))
    )


def one(instance_id: str, status: str = "Running", tick: int = 0, name: str = "ProcessOrder") -> InstanceUpdate:
    return InstanceUpdate(instance_id, (instance_record(instance_id, status, tick, name),))


def written_rows(made: TransactionPlan) -> list[tuple[str, str]]:
    return [(operation[0], operation[1]["RowKey"].split("|")[0]) for operation in made.operations]


def operation_count(made: TransactionPlan) -> int:
    return len(made.operations) + len(made.activity_stamps) + made.advances_epoch


def test_a_start_writes_both_rows_and_an_end_takes_the_second_away() -> None:
    started = plan_transaction("00", [one("a")], {"a": NOTHING_KNOWN})
    assert written_rows(started) == [("create", "i"), ("upsert", "a")]
    known = {"a": StoredInstance(started.rows[0].instance, "etag")}
    ended = plan_transaction("00", [one("a", "Completed", 5)], known)
    assert written_rows(ended) == [("update", "i"), ("delete", "a")]
    assert ended.operations[0][2]["etag"] == "etag"  # type: ignore[misc]  # an update has its condition


def test_a_life_within_one_batch_is_one_row() -> None:
    made = plan_transaction("00", [one("a"), one("a", "Completed", 5), one("a")], {"a": NOTHING_KNOWN})
    assert written_rows(made) == [("create", "i")]
    assert made.effective == [(True,), (True,), (False,)]


def test_what_is_known_already_writes_nothing() -> None:
    known = {"a": StoredInstance(instance_record("a"), "etag")}
    made = plan_transaction("00", [one("a"), one("a", tick=-5)], known)
    assert (list(made.operations), dict(made.activity_stamps), made.effective) == ([], {}, [(False,), (False,)])


def test_what_a_probe_saw_does_not_beat_and_entities_do_not_either() -> None:
    seen = Instance("a", started=Started(Instant(START), RuntimeStatus.RUNNING, "ProcessOrder", EvidenceSource.PROBE))
    made = plan_transaction(
        "00",
        [InstanceUpdate("a", (seen,), stamps_activity=False), one("@counter@x")],
        {"a": NOTHING_KNOWN, "@counter@x": NOTHING_KNOWN},
    )
    assert dict(made.activity_stamps) == {}
    assert written_rows(made) == [("create", "i"), ("upsert", "a"), ("create", "i")]
    both = plan_transaction(
        "00", [InstanceUpdate("a", (seen,), stamps_activity=False), one("a", tick=7)], {"a": NOTHING_KNOWN}
    )
    assert dict(both.activity_stamps) == {"ProcessOrder": START + 7}


def test_that_a_probe_has_shown_an_instance_is_written_once_without_a_stamp() -> None:
    known = instance_record("a")
    assert known.started is not None
    seen = InstanceUpdate(
        "a", (replace(known, started=replace(known.started, confirmed_backend="place")),), stamps_activity=False
    )
    made = plan_transaction("00", [seen], {"a": StoredInstance(known, "etag")})
    assert (made.advances_epoch, dict(made.activity_stamps), written_rows(made)) == (
        False,
        {},
        [("update", "i"), ("upsert", "a")],
    )
    assert made.effective == [(True,)]
    confirmed = made.rows[0].instance
    assert not plan_transaction("00", [seen, one("a")], {"a": StoredInstance(confirmed, "etag")}).operations
    assert not plan_transaction(
        "00", [seen], {"a": StoredInstance(merge_instances(confirmed, instance_record("a", tick=1)), "etag")}
    ).operations


def evidence_of_end(instance_id: str, tick: int = 0) -> InstanceUpdate:
    """What a look-up brings for an instance that has ended."""
    return InstanceUpdate(
        instance_id, (reconcile_end(instance_record(instance_id, tick=tick), None),), stamps_activity=False
    )


def test_what_a_look_up_closes_is_stamped_and_nothing_else_is() -> None:
    active = {"a": StoredInstance(instance_record("a"), "etag"), "b": StoredInstance(instance_record("b"), "etag")}
    made = plan_transaction("00", [evidence_of_end("a")], active)
    assert (made.advances_epoch, dict(made.activity_stamps), written_rows(made)) == (
        True,
        {},
        [("update", "i"), ("delete", "a")],
    )
    assert not plan_transaction("00", [evidence_of_end("b", tick=-5)], active).advances_epoch, (
        "it has started again since"
    )
    assert not plan_transaction(
        "00", [one("a", "Completed", 5), evidence_of_end("a", tick=2)], active
    ).advances_epoch, "an event was faster"
    assert not plan_transaction("00", [one("a", "Completed", 5)], active).advances_epoch
    over = {"a": StoredInstance(merge_instances(instance_record("a"), instance_record("a", "Completed", 5)), "etag")}
    again = replace(over["a"].instance or instance_record("a"), started=instance_record("a", tick=6).started)
    assert not plan_transaction("00", [InstanceUpdate("a", (again,), stamps_activity=False)], over).advances_epoch, (
        "it shows one that runs"
    )


def test_the_stamp_of_what_is_closed_takes_room_in_the_transaction() -> None:
    active = {f"{n}": StoredInstance(instance_record(f"{n}"), "etag") for n in range(60)}
    made = plan_transaction("00", [evidence_of_end(name) for name in active], active)
    assert (len(made.effective), operation_count(made)) == (49, 99)


def test_a_function_beats_once_with_its_latest_event() -> None:
    evidence = [one("a", tick=3), one("b", tick=9), one("c", tick=4, name="Ship")]
    made = plan_transaction("00", evidence, {"a": NOTHING_KNOWN, "b": NOTHING_KNOWN, "c": NOTHING_KNOWN})
    assert dict(made.activity_stamps) == {"ProcessOrder": START + 9, "Ship": START + 4}


def test_an_id_that_changed_its_function_beats_under_no_name() -> None:
    made = plan_transaction("00", [one("a"), one("a", "Completed", 5, "Ship")], {"a": NOTHING_KNOWN})
    assert dict(made.activity_stamps) == {"": START + 5}
    made = plan_transaction("00", [one("a", tick=5, name="Ship")], {"a": StoredInstance(instance_record("a"), "etag")})
    assert dict(made.activity_stamps) == {"": START + 5}


def test_a_transaction_holds_what_fits_and_leaves_the_rest() -> None:
    evidence = [one(f"{n}") for n in range(200)]
    made = plan_transaction("00", evidence, {one.instance_id: NOTHING_KNOWN for one in evidence})
    assert (len(made.effective), operation_count(made)) == (49, 99)
    evidence = [one(f"{n}", name=f"Function{n}") for n in range(200)]
    made = plan_transaction("00", evidence, {one.instance_id: NOTHING_KNOWN for one in evidence})
    assert (len(made.effective), operation_count(made)) == (33, 99)


def evidence_of_failure(instance_id: str, at: int = 0) -> InstanceUpdate:
    """With the longest reason that there is."""
    event = LifecycleEvent("hub", instance_id, "Ship", RuntimeStatus.FAILED, "😀" * 4000, Instant(START + at))
    return InstanceUpdate(instance_id, (instance_from_event(event),))


def test_long_reasons_are_spread_over_transactions() -> None:
    evidence = [evidence_of_failure(f"{number}") for number in range(90)]
    made = plan_transaction("00", evidence, {one.instance_id: NOTHING_KNOWN for one in evidence})
    assert len(made.effective) == 50


def test_a_long_reason_that_is_only_written_again_takes_as_much_room() -> None:
    known = {f"{number}": StoredInstance(evidence_of_failure(f"{number}").changes[0], "etag") for number in range(90)}
    made = plan_transaction("00", [one(name, tick=-1) for name in known], known)
    assert len(made.effective) == 50


def test_many_ends_of_one_instance_are_one_row_and_one_reason() -> None:
    evidence = [evidence_of_failure("again", number) for number in range(90)]
    made = plan_transaction("00", evidence, {"again": NOTHING_KNOWN})
    assert (len(made.effective), len(made.rows)) == (90, 1)


def test_the_storage_names_an_operation_and_that_tells_the_instance() -> None:
    made = plan_transaction(
        "00", [one("a"), one("b"), one("c", "Completed")], {"a": NOTHING_KNOWN, "b": NOTHING_KNOWN, "c": NOTHING_KNOWN}
    )
    assert [made.instance_of_operation(n) for n in range(6)] == ["a", "a", "b", "b", "c", None]


STATUSES = st.sampled_from(["Running", "Completed", "Failed"])
IDS = st.integers(0, 60).map(str)
EVENTS = st.builds(one, IDS, STATUSES, st.integers(0, 5), st.sampled_from(["One", "Two", "Three"]))
EVIDENCE = st.one_of(EVENTS, st.builds(evidence_of_end, IDS, st.integers(0, 5)))


@given(st.lists(EVIDENCE, min_size=1, max_size=150))
def test_plan_after_plan_records_what_merging_all_does(evidence: Sequence[InstanceUpdate]) -> None:
    known: dict[str, StoredInstance] = {}
    left = list(evidence)
    effects: list[tuple[bool, ...]] = []
    while left:
        made = plan_transaction(
            "00", left, {one.instance_id: known.get(one.instance_id, NOTHING_KNOWN) for one in left}
        )
        assert made.effective
        assert operation_count(made) <= MAX_OPERATIONS
        keys = [(operation[1]["PartitionKey"], operation[1]["RowKey"]) for operation in made.operations]
        assert len(set(keys)) == len(keys), "a transaction must not hold a row twice"
        known |= {row.instance.instance_id: StoredInstance(row.instance, "etag") for row in made.rows}
        effects += made.effective
        left = left[len(made.effective) :]
    by_id: dict[str, list[Instance]] = {}
    expected: list[tuple[bool, ...]] = []
    for each in evidence:
        before = by_id.get(each.instance_id)
        by_id[each.instance_id] = [*(before or []), *each.changes]
        expected.append(
            (before is None or reduce(merge_instances, before) != reduce(merge_instances, by_id[each.instance_id]),)
        )
    assert effects == expected
    assert {key: one.instance for key, one in known.items()} == {
        key: reduce(merge_instances, changes) for key, changes in by_id.items()
    }


@pytest.mark.parametrize("count", [1, 2, 99])
def test_one_piece_of_evidence_always_fits(count: int) -> None:
    changes = tuple(instance_record("a", "Running", n, f"F{n}") for n in range(count))
    made = plan_transaction(
        "00", [InstanceUpdate("a", changes)], {"a": StoredInstance(instance_record("a", tick=-1), "etag")}
    )
    assert made.effective == [(True,) * count]
    assert written_rows(made) == [("update", "i"), ("delete", "a"), ("upsert", "a")]
