"""What one transaction holds: pure decisions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.healing import ended
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.lifecycle import Instance, LifecycleEvent, RuntimeStatus, Source, Started, instance_of, merge
from state_api.storage.plans import MAX_OPERATIONS, Evidence, Known, Plan, plan

START = parse_instant("2026-11-20T09:00:00Z")
UNKNOWN = Known()


def piece(instance_id: str, status: str = "Running", tick: int = 0, name: str = "ProcessOrder") -> Instance:
    return instance_of(LifecycleEvent("hub", instance_id, name, RuntimeStatus(status), "", Instant(START + tick)))


def one(instance_id: str, status: str = "Running", tick: int = 0, name: str = "ProcessOrder") -> Evidence:
    return Evidence(instance_id, (piece(instance_id, status, tick, name),))


def written(made: Plan) -> list[tuple[str, str]]:
    return [(operation[0], operation[1]["RowKey"].split("|")[0]) for operation in made.operations]


def size(made: Plan) -> int:
    return len(made.operations) + len(made.beats) + made.closes


def test_a_start_writes_both_rows_and_an_end_takes_the_second_away() -> None:
    started = plan("00", [one("a")], {"a": UNKNOWN})
    assert written(started) == [("create", "i"), ("upsert", "a")]
    known = {"a": Known(started.rows[0].instance, "etag")}
    ended = plan("00", [one("a", "Completed", 5)], known)
    assert written(ended) == [("update", "i"), ("delete", "a")]
    assert ended.operations[0][2]["etag"] == "etag"  # type: ignore[misc]  # an update has its condition


def test_a_life_within_one_batch_is_one_row() -> None:
    made = plan("00", [one("a"), one("a", "Completed", 5), one("a")], {"a": UNKNOWN})
    assert written(made) == [("create", "i")]
    assert made.effective == [(True,), (True,), (False,)]


def test_what_is_known_already_writes_nothing() -> None:
    known = {"a": Known(piece("a"), "etag")}
    made = plan("00", [one("a"), one("a", tick=-5)], known)
    assert (list(made.operations), dict(made.beats), made.effective) == ([], {}, [(False,), (False,)])


def test_what_a_probe_saw_does_not_beat_and_entities_do_not_either() -> None:
    seen = Instance("a", started=Started(Instant(START), RuntimeStatus.RUNNING, "ProcessOrder", Source.PROBE))
    made = plan("00", [Evidence("a", (seen,), beating=False), one("@counter@x")], {"a": UNKNOWN, "@counter@x": UNKNOWN})
    assert dict(made.beats) == {}
    assert written(made) == [("create", "i"), ("upsert", "a"), ("create", "i")]
    both = plan("00", [Evidence("a", (seen,), beating=False), one("a", tick=7)], {"a": UNKNOWN})
    assert dict(both.beats) == {"ProcessOrder": START + 7}


def test_that_a_probe_has_shown_an_instance_is_written_once_without_a_stamp() -> None:
    known = piece("a")
    assert known.started is not None
    seen = Evidence("a", (replace(known, started=replace(known.started, confirmed_backend="place")),), beating=False)
    made = plan("00", [seen], {"a": Known(known, "etag")})
    assert (made.closes, dict(made.beats), written(made)) == (False, {}, [("update", "i"), ("upsert", "a")])
    assert made.effective == [(True,)]
    confirmed = made.rows[0].instance
    assert not plan("00", [seen, one("a")], {"a": Known(confirmed, "etag")}).operations
    assert not plan("00", [seen], {"a": Known(merge(confirmed, piece("a", tick=1)), "etag")}).operations


def closing(instance_id: str, tick: int = 0) -> Evidence:
    """What a look-up brings for an instance that has ended."""
    return Evidence(instance_id, (ended(piece(instance_id, tick=tick), None),), beating=False)


def test_what_a_look_up_closes_is_stamped_and_nothing_else_is() -> None:
    active = {"a": Known(piece("a"), "etag"), "b": Known(piece("b"), "etag")}
    made = plan("00", [closing("a")], active)
    assert (made.closes, dict(made.beats), written(made)) == (True, {}, [("update", "i"), ("delete", "a")])
    assert not plan("00", [closing("b", tick=-5)], active).closes, "it has started again since"
    assert not plan("00", [one("a", "Completed", 5), closing("a", tick=2)], active).closes, "an event was faster"
    assert not plan("00", [one("a", "Completed", 5)], active).closes
    over = {"a": Known(merge(piece("a"), piece("a", "Completed", 5)), "etag")}
    again = replace(over["a"].instance or piece("a"), started=piece("a", tick=6).started)
    assert not plan("00", [Evidence("a", (again,), beating=False)], over).closes, "it shows one that runs"


def test_the_stamp_of_what_is_closed_takes_room_in_the_transaction() -> None:
    active = {f"{n}": Known(piece(f"{n}"), "etag") for n in range(60)}
    made = plan("00", [closing(name) for name in active], active)
    assert (len(made.effective), size(made)) == (49, 99)


def test_a_function_beats_once_with_its_latest_event() -> None:
    evidence = [one("a", tick=3), one("b", tick=9), one("c", tick=4, name="Ship")]
    made = plan("00", evidence, {"a": UNKNOWN, "b": UNKNOWN, "c": UNKNOWN})
    assert dict(made.beats) == {"ProcessOrder": START + 9, "Ship": START + 4}


def test_an_id_that_changed_its_function_beats_under_no_name() -> None:
    made = plan("00", [one("a"), one("a", "Completed", 5, "Ship")], {"a": UNKNOWN})
    assert dict(made.beats) == {"": START + 5}
    made = plan("00", [one("a", tick=5, name="Ship")], {"a": Known(piece("a"), "etag")})
    assert dict(made.beats) == {"": START + 5}


def test_a_transaction_holds_what_fits_and_leaves_the_rest() -> None:
    evidence = [one(f"{n}") for n in range(200)]
    made = plan("00", evidence, {one.instance_id: UNKNOWN for one in evidence})
    assert (len(made.effective), size(made)) == (49, 99)
    evidence = [one(f"{n}", name=f"Function{n}") for n in range(200)]
    made = plan("00", evidence, {one.instance_id: UNKNOWN for one in evidence})
    assert (len(made.effective), size(made)) == (33, 99)


def failed(instance_id: str, at: int = 0) -> Evidence:
    """With the longest reason that there is."""
    event = LifecycleEvent("hub", instance_id, "Ship", RuntimeStatus.FAILED, "😀" * 4000, Instant(START + at))
    return Evidence(instance_id, (instance_of(event),))


def test_long_reasons_are_spread_over_transactions() -> None:
    evidence = [failed(f"{number}") for number in range(90)]
    made = plan("00", evidence, {one.instance_id: UNKNOWN for one in evidence})
    assert len(made.effective) == 50


def test_a_long_reason_that_is_only_written_again_takes_as_much_room() -> None:
    known = {f"{number}": Known(failed(f"{number}").pieces[0], "etag") for number in range(90)}
    made = plan("00", [one(name, tick=-1) for name in known], known)
    assert len(made.effective) == 50


def test_many_ends_of_one_instance_are_one_row_and_one_reason() -> None:
    evidence = [failed("again", number) for number in range(90)]
    made = plan("00", evidence, {"again": UNKNOWN})
    assert (len(made.effective), len(made.rows)) == (90, 1)


def test_the_storage_names_an_operation_and_that_tells_the_instance() -> None:
    made = plan("00", [one("a"), one("b"), one("c", "Completed")], {"a": UNKNOWN, "b": UNKNOWN, "c": UNKNOWN})
    assert [made.culprit(n) for n in range(6)] == ["a", "a", "b", "b", "c", None]


STATUSES = st.sampled_from(["Running", "Completed", "Failed"])
IDS = st.integers(0, 60).map(str)
EVENTS = st.builds(one, IDS, STATUSES, st.integers(0, 5), st.sampled_from(["One", "Two", "Three"]))
PIECES = st.one_of(EVENTS, st.builds(closing, IDS, st.integers(0, 5)))


@given(st.lists(PIECES, min_size=1, max_size=150))
def test_plan_after_plan_records_what_merging_all_does(evidence: Sequence[Evidence]) -> None:
    known: dict[str, Known] = {}
    left = list(evidence)
    effects: list[tuple[bool, ...]] = []
    while left:
        made = plan("00", left, {one.instance_id: known.get(one.instance_id, UNKNOWN) for one in left})
        assert made.effective
        assert size(made) <= MAX_OPERATIONS
        keys = [(operation[1]["PartitionKey"], operation[1]["RowKey"]) for operation in made.operations]
        assert len(set(keys)) == len(keys), "a transaction must not hold a row twice"
        known |= {row.instance.instance_id: Known(row.instance, "etag") for row in made.rows}
        effects += made.effective
        left = left[len(made.effective) :]
    by_id: dict[str, list[Instance]] = {}
    expected: list[tuple[bool, ...]] = []
    for each in evidence:
        before = by_id.get(each.instance_id)
        by_id[each.instance_id] = [*(before or []), *each.pieces]
        expected.append((before is None or reduce(merge, before) != reduce(merge, by_id[each.instance_id]),))
    assert effects == expected
    assert {key: one.instance for key, one in known.items()} == {
        key: reduce(merge, pieces) for key, pieces in by_id.items()
    }


@pytest.mark.parametrize("count", [1, 2, 99])
def test_one_piece_of_evidence_always_fits(count: int) -> None:
    pieces = tuple(piece("a", "Running", n, f"F{n}") for n in range(count))
    made = plan("00", [Evidence("a", pieces)], {"a": Known(piece("a", tick=-1), "etag")})
    assert made.effective == [(True,) * count]
    assert written(made) == [("update", "i"), ("delete", "a"), ("upsert", "a")]
