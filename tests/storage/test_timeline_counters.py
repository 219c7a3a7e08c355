"""Which counter rows a transaction writes: never one that another transaction has, or whose content is unknown."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.task_hubs.timeline import CounterKey, add_up_counts
from state_api.storage.timeline_counters import MAX_ROW_CHARACTERS, CounterRow, TimelineCounters
from state_api.storage.timeline_rows import counts_from_row

TABLE, SHARD = "table", "00"


def starts(minute: int, count: int = 1, function_name: str = "ProcessOrder") -> Mapping[CounterKey, int]:
    """The change by so many starts in one minute."""
    return {CounterKey(minute, function_name, "started"): count}


def take(counters: TimelineCounters, changes: Mapping[CounterKey, int]) -> CounterRow:
    """The only row that a transaction with these changes writes."""
    (row,) = counters.take_rows(TABLE, SHARD, changes)
    return row


def test_a_row_that_was_written_is_written_again_under_its_new_etag() -> None:
    counters = TimelineCounters()
    row = take(counters, starts(0))
    assert row.build_write()[0] == "create"
    counters.return_rows([row], ["first"])
    again = take(counters, starts(9))
    operation = again.build_write()
    assert (again.key, operation[0]) == (row.key, "update")
    assert operation[2]["etag"] == "first"  # type: ignore[misc]  # an update has its condition
    assert counts_from_row(operation[1]) == {**starts(0), **starts(9)}


def test_two_transactions_in_flight_have_different_rows_and_both_are_used_again() -> None:
    counters = TimelineCounters()
    rows = [take(counters, starts(0)), take(counters, starts(1))]
    assert rows[0].key != rows[1].key
    counters.return_rows(rows, ["first", "second"])
    assert {take(counters, starts(2)).key, take(counters, starts(3)).key} == {row.key for row in rows}


def test_minutes_of_different_rows_are_written_to_different_rows() -> None:
    rows = TimelineCounters().take_rows(TABLE, SHARD, {**starts(9), **starts(10), **starts(19)})
    assert [sorted(counts_from_row(row.build_write()[1]).values()) for row in rows] == [[1], [1, 1]]


def test_a_full_row_is_not_written_again() -> None:
    counters = TimelineCounters()
    row = take(counters, starts(0, function_name="x" * MAX_ROW_CHARACTERS))
    row.build_write()
    counters.return_rows([row], ["etag"])
    assert len(counters) == 0
    assert take(counters, starts(0)).key != row.key


def test_the_rows_of_a_deleted_table_are_forgotten() -> None:
    counters = TimelineCounters()
    rows = [*counters.take_rows("deleted", SHARD, starts(0)), *counters.take_rows("kept", SHARD, starts(0))]
    counters.return_rows(rows, ["etag", "etag"])
    counters.invalidate_cache("deleted")
    assert len(counters) == 1
    assert counters.take_rows("deleted", SHARD, starts(0))[0].etag is None


def test_a_later_row_of_a_shard_begins_once() -> None:
    counters = TimelineCounters()
    assert not counters.begins_bucket(TABLE, SHARD, [])
    assert [
        counters.begins_bucket(TABLE, shard, counters.take_rows(TABLE, shard, starts(minute)))
        for shard, minute in [("00", 15), ("00", 19), ("00", 5), ("01", 5), ("00", 20), ("00", 25)]
    ] == [True, False, False, True, True, False]


OUTCOMES = st.sampled_from(["written", "lost", "never arrives"])


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(-2, 3), OUTCOMES, st.integers(0, 3)), max_size=30))
def test_the_stored_rows_add_up_to_the_changes_that_were_written(steps: list[tuple[int, int, str, int]]) -> None:
    """`lost` is a transaction that was written although its response says something else. Up to four are in flight."""
    counters, expected = TimelineCounters(), Counter[CounterKey]()
    stored: dict[str, tuple[str, Mapping[CounterKey, int]]] = {}
    in_flight: list[tuple[list[CounterRow], Mapping[CounterKey, int], str]] = []

    def finish() -> None:
        """End the oldest transaction in flight."""
        rows, changes, outcome = in_flight.pop(0)
        if outcome == "never arrives":
            return
        for row in rows:
            operation = row.build_write()
            assert (row.key in stored) == (operation[0] == "update")
            assert row.key not in stored or stored[row.key][0] == row.etag
            stored[row.key] = (f"{row.etag}+", counts_from_row(operation[1]))
        expected.update(changes)
        if outcome == "written":
            counters.return_rows(rows, [stored[row.key][0] for row in rows])

    for minute, change, outcome, most_in_flight in steps:
        changes = {**starts(minute, change), **starts(minute + 10, 1)}
        in_flight.append((counters.take_rows(TABLE, SHARD, changes), changes, outcome))
        while len(in_flight) > most_in_flight:
            finish()
    while in_flight:
        finish()
    assert add_up_counts(counts for _, counts in stored.values()) == add_up_counts([expected])
