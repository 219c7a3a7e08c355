"""What the pages of a scan add up to, how many passes it takes, and what a finished one proves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.evidence import ProbeResult, ProbeStatus, VersionCount
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant
from state_api.domain.lifecycle import ENDED_STATUSES, RUNNING_STATUSES, RuntimeStatus, Source
from state_api.domain.scans import _TOLD_APART, LISTED, Scan, shown_as
from state_api.domain.sightings import Sighting
from tests.domain.builders import AZURE_STORAGE, at, sighting, waiver

COMPLETED = RuntimeStatus.COMPLETED

NONE = Exemptions()
EXEMPT = Exemptions(("Nightly*",), (waiver("stuck"),))
SINCE = -12
"""When the scans here began, by the backend's clock and in seconds after noon."""

STORED = TypeAdapter(Scan)

SIGHTINGS = st.builds(
    Sighting,
    instance_id=st.sampled_from(["order-1", "order-2", "naïve/№ \x00", "", "stuck"]) | st.text(max_size=3),
    function_name=st.sampled_from(["ProcessOrder", "NightlySync", ""]),
    version=st.sampled_from([None, "", "1.4.0", "2.0"]),
    runtime_status=st.sampled_from(RuntimeStatus),
    created_at=st.integers(-15, -9).map(at),
    updated_at=st.integers(-15, -9).map(at),
    stamp=st.sampled_from(["1", "2"]),
)
PAGES = st.lists(st.lists(SIGHTINGS, max_size=4), max_size=6)


def begun(*cursors: str) -> Scan:
    """A scan that has read nothing yet; it passes over `again` once more if it must."""
    return Scan(at(-10), at(SINCE), list(cursors), ["again"], "the key")


def ended(instance_id: str = "order-1", updated: float = -5) -> Sighting:
    """An instance that ended while the scan went on."""
    return sighting(instance_id, status=COMPLETED, updated=updated)


def read(scan: Scan, *pages: Iterable[Sighting], exemptions: Exemptions = NONE) -> bool:
    """One pass that shows these pages; whether the scan is finished after it."""
    for page in pages:
        scan.add(page, exemptions)
    scan.cursors.clear()
    return scan.finished()


def complete(scan: Scan) -> ProbeResult:
    return scan.result(ProbeStatus.COMPLETE, AZURE_STORAGE, at())


# Passes


def test_the_instances_whose_stamps_are_compared_are_counted_for_each_pass() -> None:
    scan = begun("whole")
    scan.add([ended("order-1"), ended("order-2"), sighting("sync", function_name="NightlySync")], EXEMPT)
    assert scan.compared == 2
    scan.cursors.clear()
    assert not scan.finished()
    scan.add([ended("order-1")], EXEMPT)
    assert scan.compared == 1


def test_a_hub_that_shows_nothing_is_read_once() -> None:
    scan = begun("whole")
    assert read(scan, [])
    assert scan.passes == 1
    assert not complete(scan).found_blocking


@pytest.mark.parametrize("page", [[], [ended()], [sighting()]], ids=["nothing", "a change", "an active one"])
def test_a_scan_is_not_finished_while_a_cursor_is_left(page: list[Sighting]) -> None:
    scan = begun("whole")
    scan.add(page, NONE)
    assert not scan.finished()
    assert (scan.passes, scan.cursors) == (1, ["whole"])


def test_what_changed_meanwhile_calls_for_another_pass_over_what_changed() -> None:
    scan = begun("whole")
    assert not read(scan, [ended()])
    assert (scan.passes, scan.cursors) == (2, ["again"])


def test_a_pass_does_not_use_up_the_cursors_of_the_next() -> None:
    scan = begun("whole")
    read(scan, [ended()])
    read(scan, [ended(), ended("order-2")])
    assert (scan.passes, scan.cursors) == (3, ["again"])


def test_a_second_pass_with_the_very_changes_of_the_first_is_enough() -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1")], [ended("order-2")])
    assert read(scan, [ended("order-2"), ended("order-1")])
    assert scan.passes == 2


@pytest.mark.parametrize(
    "second",
    [
        [ended("order-1"), ended("order-2")],
        [ended("order-2")],
        [ended("order-1", updated=-4)],
    ],
    ids=["another one as well", "another one", "the same one at another time"],
)
def test_a_second_pass_with_other_changes_calls_for_a_third(second: list[Sighting]) -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1")])
    assert not read(scan, second)
    assert read(scan, second)
    assert scan.passes == 3


def test_a_pass_is_compared_with_the_one_right_before_it() -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1")])
    assert not read(scan, [ended("order-2")])
    assert not read(scan, [ended("order-1")])
    assert scan.passes == 4


def test_a_blocking_instance_ends_a_scan_whatever_has_changed() -> None:
    scan = begun("whole")
    assert read(scan, [ended("order-1"), sighting("order-2")])
    assert complete(scan).found_blocking


def test_an_instance_that_an_earlier_pass_has_ignored_blocks_once_its_id_is_that_of_another_function() -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1"), sighting("x", "NightlySync", created=-9)], exemptions=EXEMPT)
    assert read(scan, [ended("order-1"), sighting("x", "ProcessOrder", created=-5)], exemptions=EXEMPT)
    assert [one.function_name for one in complete(scan).active] == ["ProcessOrder"]


def test_an_instance_that_an_earlier_page_has_ignored_blocks_once_its_id_is_that_of_another_function() -> None:
    scan = begun("whole")
    pages = [[sighting("x", "NightlySync", created=-9)], [sighting("x", "ProcessOrder", created=-5)]]
    assert read(scan, *pages, *pages, exemptions=EXEMPT)
    result = complete(scan)
    assert [one.function_name for one in result.active] == ["ProcessOrder"]
    assert (scan.blocking, scan.ignored) == (1, 1)


def test_an_instance_that_two_pages_of_a_later_pass_show_counts_once() -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1")])
    assert read(scan, [sighting("order-2", created=-5)], [sighting("order-2", created=-5)])
    assert complete(scan).active_count == 1


def test_a_blocking_instance_that_the_second_pass_shows_ends_the_scan() -> None:
    scan = begun("whole")
    assert not read(scan, [ended("order-1")])
    assert read(scan, [ended("order-1"), sighting("order-2", created=-5)])
    assert [one.instance_id for one in complete(scan).active] == ["order-2"]


@given(PAGES)
def test_a_scan_that_is_finished_stays_so(pages: list[list[Sighting]]) -> None:
    scan = begun("whole")
    while not read(scan, *pages, exemptions=EXEMPT):
        pass
    before = replace(scan)
    assert scan.finished()
    assert scan == before


@given(PAGES)
def test_a_hub_that_does_not_change_any_more_is_read_twice_at_most(pages: list[list[Sighting]]) -> None:
    scan = begun("whole")
    assert read(scan, *pages, exemptions=EXEMPT) or read(scan, *pages, exemptions=EXEMPT)


@given(st.lists(SIGHTINGS, max_size=8, unique_by=lambda one: one.instance_id), st.data())
def test_it_never_shows_in_which_order_and_in_how_many_pages_instances_came(
    sightings: list[Sighting], data: st.DataObject
) -> None:
    whole, paged = begun("whole"), begun("whole")
    read(whole, sightings, exemptions=EXEMPT)
    shuffled = data.draw(st.permutations(sightings), label="as they came")
    cut = data.draw(st.integers(0, len(shuffled)), label="first page")
    read(paged, shuffled[:cut], shuffled[cut:], exemptions=EXEMPT)
    assert paged.changes_before == whole.changes_before
    assert paged.passes == whole.passes
    assert replace(complete(paged), waived=()) == replace(complete(whole), waived=())
    assert set(complete(paged).waived) == set(complete(whole).waived)


# What a finished scan proves


@dataclass
class Row:
    active: bool
    created_at: Instant
    stamp: int = 0


@dataclass
class Hub:
    """A hub in which instances are started by active instances alone. A row whose stamp is not 0 has changed since the
    scan began."""

    rows: list[Row | None]
    stamps: int = field(default=0)

    def hand_over(self, by: int, to: int, ends: bool) -> None:
        """Let an active instance start another one, and perhaps end."""
        starter = self.rows[by]
        if starter is None or not starter.active:
            return
        target = self.rows[to]
        if target is None or not target.active:
            self.rows[to] = Row(True, Instant(at(SINCE) + self._next_stamp()), self.stamps)
        if ends:
            starter.active, starter.stamp = False, self._next_stamp()

    def end(self, number: int) -> None:
        row = self.rows[number]
        if row is not None and row.active:
            row.active, row.stamp = False, self._next_stamp()

    def page(self, number: int) -> list[Sighting]:
        """What is active or has changed, as a backend shows it."""
        row = self.rows[number]
        if row is None or not (row.active or row.stamp):
            return []
        status = RuntimeStatus.RUNNING if row.active else COMPLETED
        created = row.created_at
        return [Sighting(f"order-{number}", "ProcessOrder", None, status, created, created, str(row.stamp))]

    @property
    def active(self) -> bool:
        return any(row is not None and row.active for row in self.rows)

    def _next_stamp(self) -> int:
        self.stamps += 1
        return self.stamps


NUMBERS = st.integers(0, 4)
ROWS = st.lists(
    st.none() | st.builds(Row, st.booleans(), st.sampled_from([at(-3600), at(SINCE)])), min_size=5, max_size=5
)
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), max_size=2)
"""What happens between two pages: who starts whom, and whether it ends then; who ends."""


@given(ROWS, st.lists(STEPS, max_size=20), st.permutations(range(5)), st.permutations(range(5)))
def test_a_finished_scan_that_found_nothing_proves_that_nothing_is_active_whatever_went_on_behind_its_back(
    rows: list[Row | None], steps: list[list[tuple[int, int, bool]]], one_way: Sequence[int], other_way: Sequence[int]
) -> None:
    hub, scan = Hub(rows), begun("whole")
    to_come = iter(steps)
    while not scan.finished():
        for number in one_way if scan.passes % 2 else other_way:
            for by, to, ends in next(to_come, []):
                if by == to:
                    hub.end(to)
                else:
                    hub.hand_over(by, to, ends)
            scan.add(hub.page(number), NONE)
        scan.cursors.clear()
    assert complete(scan).found_blocking or not hub.active


# What blocks and what does not


def test_an_active_instance_blocks_as_the_task_hub_shows_it() -> None:
    seen = sighting("order-1", "ProcessOrder", RuntimeStatus.SUSPENDED, -3600, -60, "1.4.0")
    scan = begun("whole")
    assert scan.add([seen, ended("order-2")], NONE) == [seen]
    (shown,) = complete(scan).active
    assert shown == shown_as(seen)
    assert (shown.instance_id, shown.function_name) == ("order-1", "ProcessOrder")
    assert (shown.runtime_status, shown.version) == (RuntimeStatus.SUSPENDED, "1.4.0")
    assert (shown.started_at, shown.last_event_at) == (at(-3600), at(-60))
    assert shown.source is Source.PROBE


@pytest.mark.parametrize("status", RuntimeStatus)
def test_an_instance_blocks_in_every_status_but_those_of_an_end(status: RuntimeStatus) -> None:
    scan = begun("whole")
    scan.add([sighting(status=status)], NONE)
    assert complete(scan).found_blocking is (status in RUNNING_STATUSES)
    assert bool(scan.changes) is (status in ENDED_STATUSES)


def test_an_instance_of_an_ignored_function_is_counted_and_does_not_block() -> None:
    scan = begun("whole")
    assert scan.add([sighting("sync", "NightlySync")], EXEMPT) == []
    assert read(scan)
    result = complete(scan)
    assert (result.active, result.ignored_count, result.unlisted) == ((), 1, 0)
    assert not result.found_blocking


def test_a_waived_instance_is_listed_and_does_not_block() -> None:
    scan = begun("whole")
    assert scan.add([sighting("stuck")], EXEMPT) == []
    assert read(scan)
    assert [one.instance_id for one in complete(scan).waived] == ["stuck"]
    assert (scan.blocking, scan.ignored, complete(scan).found_blocking) == (0, 0, False)


def test_a_waived_instance_of_an_ignored_function_is_listed() -> None:
    scan = begun("whole")
    read(scan, [sighting("stuck", "NightlySync")], exemptions=EXEMPT)
    assert [one.instance_id for one in complete(scan).waived] == ["stuck"]
    assert scan.ignored == 0


@pytest.mark.parametrize(
    "over",
    [sighting("sync", "NightlySync", COMPLETED), sighting("stuck", status=COMPLETED)],
    ids=["of an ignored function", "waived"],
)
def test_the_end_of_an_instance_that_may_stay_calls_for_no_other_pass(over: Sighting) -> None:
    scan = begun("whole")
    assert read(scan, [over], exemptions=EXEMPT)
    assert scan.passes == 1


def test_instances_that_may_stay_are_not_counted_again_in_later_passes() -> None:
    scan = begun("whole")
    page = [sighting("sync", "NightlySync"), sighting("stuck"), ended()]
    assert not read(scan, page, exemptions=EXEMPT)
    assert read(scan, page, exemptions=EXEMPT)
    result = complete(scan)
    assert [one.instance_id for one in result.waived] == ["stuck"]
    assert result.ignored_count == 1
    assert result.versions == (VersionCount(None, 2, at(-3600)),)


@given(PAGES)
def test_every_active_instance_is_counted_once_by_what_becomes_of_it_and_once_by_its_version(
    pages: list[list[Sighting]],
) -> None:
    scan = begun("whole")
    blocking = [one for page in pages for one in scan.add(page, EXEMPT)]
    assert scan.blocking == len(blocking)
    assert not any(EXEMPT.exempts(one.function_name, one.instance_id) for one in blocking)
    result = complete(scan)
    assert result.active_count == sum(count.active for count in result.versions)
    assert result.active_count == scan.blocking + scan.ignored + len(scan.waived)


# Counting


def test_active_instances_are_counted_by_version_with_the_oldest_start_of_each() -> None:
    scan = begun("whole")
    read(
        scan,
        [sighting("a", created=-300, version="2.0"), sighting("b", created=-900, version="1.4.0")],
        [sighting("c", created=-600, version="2.0"), sighting("d", created=-60), sighting("e", status=COMPLETED)],
    )
    assert complete(scan).versions == (
        VersionCount(None, 1, at(-60)),
        VersionCount("1.4.0", 1, at(-900)),
        VersionCount("2.0", 2, at(-600)),
    )


def test_instances_that_may_stay_are_counted_by_version_too() -> None:
    scan = begun("whole")
    page = [sighting("sync", "NightlySync", version="2.0"), sighting("stuck", version="2.0"), sighting(version="2.0")]
    read(scan, page, exemptions=EXEMPT)
    assert complete(scan).versions == (VersionCount("2.0", 3, at(-3600)),)
    assert complete(scan).active_count == 3


@pytest.mark.parametrize(("created", "counted"), [(SINCE - 0.0000001, 2), (SINCE, 1), (SINCE + 5, 1)])
def test_an_instance_that_two_pages_show_counts_once_if_it_is_new_since_the_scan_began(
    created: float, counted: int
) -> None:
    scan = begun("whole")
    seen = sighting(created=created)
    assert scan.add([seen], NONE) == [seen]
    assert scan.add([seen], NONE) == [seen][: counted - 1]
    result = complete(scan)
    assert (scan.blocking, len(result.active), result.active_count) == (counted, counted, counted)
    assert result.versions == (VersionCount(None, counted, at(created)),)


@pytest.mark.parametrize(("number", "counted_again"), [(_TOLD_APART - 1, 0), (_TOLD_APART, 1)])
def test_so_many_new_instances_are_told_apart_and_no_more(number: int, counted_again: int) -> None:
    scan = begun("whole")
    page = [sighting(f"order-{each}", created=-5) for each in range(_TOLD_APART + 1)]
    scan.add(page, NONE)
    scan.add([page[number]], NONE)
    assert scan.blocking == len(page) + counted_again
    assert len(scan.new) == _TOLD_APART


def test_the_oldest_blocking_instances_are_listed_and_all_are_counted() -> None:
    scan = begun("whole")
    young = [sighting(f"young-{number}", created=-60) for number in range(LISTED)]
    old = [sighting(f"old-{number}", created=-120 - number) for number in range(3)]
    read(scan, young, old)
    result = complete(scan)
    assert [one.instance_id for one in result.active[:4]] == ["old-2", "old-1", "old-0", "young-0"]
    assert (len(result.active), result.unlisted, result.active_count) == (LISTED, 3, LISTED + 3)


def test_as_many_as_can_be_listed_leave_none_unlisted() -> None:
    scan = begun("whole")
    read(scan, [sighting(f"order-{number}") for number in range(LISTED)])
    assert (len(complete(scan).active), complete(scan).unlisted) == (LISTED, 0)


def test_blocking_instances_of_the_same_age_are_listed_by_id() -> None:
    scan = begun("whole")
    read(scan, [sighting("b"), sighting("c")], [sighting("a")])
    assert [one.instance_id for one in complete(scan).active] == ["a", "b", "c"]


def test_waived_instances_are_listed_however_many_block() -> None:
    scan = begun("whole")
    read(scan, [sighting("stuck", created=-5), *(sighting(f"{each}") for each in range(LISTED))], exemptions=EXEMPT)
    result = complete(scan)
    assert [one.instance_id for one in result.waived] == ["stuck"]
    assert (len(result.active), result.unlisted) == (LISTED, 0)


# The result


def test_a_scan_begins_with_nothing_read() -> None:
    scan = begun("whole")
    assert (scan.passes, scan.calls) == (1, 1)
    assert (scan.pages, scan.scanned, scan.recorded, scan.blocking, scan.ignored, scan.changes) == (0, 0, 0, 0, 0, 0)
    assert complete(scan) == ProbeResult(
        ProbeStatus.COMPLETE, AZURE_STORAGE, at(-10), ended_at=at(), exemptions="the key"
    )


def test_a_result_says_what_was_read_and_when_and_under_which_exemptions() -> None:
    scan = begun()
    scan.scanned, scan.pages, scan.spent = 1180, 3, 41.6
    assert scan.result(ProbeStatus.INCOMPLETE, AZURE_STORAGE, at(-1), "3 pages are read") == ProbeResult(
        ProbeStatus.INCOMPLETE,
        AZURE_STORAGE,
        began_at=at(-10),
        scanned=1180,
        message="3 pages are read",
        ended_at=at(-1),
        exemptions="the key",
        took_seconds=42,
    )


@pytest.mark.parametrize(("calls", "carried_on"), [(1, False), (2, True), (3, True)])
def test_a_result_says_whether_it_took_more_than_one_call(calls: int, carried_on: bool) -> None:
    assert complete(replace(begun(), calls=calls)).carried_on is carried_on


def test_a_result_that_found_only_what_may_stay_found_nothing_that_blocks() -> None:
    result = replace(complete(begun()), ignored_count=2, waived=(shown_as(sighting()),))
    assert not result.found_blocking
    assert result.active_count == 3


def test_a_result_that_lists_none_of_what_blocks_has_found_it_all_the_same() -> None:
    assert replace(complete(begun()), unlisted=1).found_blocking


# Between two calls


@given(PAGES, st.integers(0, 2**64 - 1), st.none() | st.integers(0, 2**64 - 1), st.floats(0, 86_400))
def test_a_scan_that_is_stored_loses_nothing(
    pages: list[list[Sighting]], changes: int, before: int | None, spent: float
) -> None:
    scan = begun("whole", '[3, {"NextPartitionKey": "1!8"}]')
    for page in pages:
        scan.add(page, EXEMPT)
    scan.scanned, scan.pages, scan.recorded, scan.calls, scan.spent = 1180, 3, 7, 2, spent
    scan.changes, scan.changes_before = changes, before
    assert STORED.validate_json(STORED.dump_json(scan)) == scan


@settings(deadline=None)
@given(st.lists(PAGES, min_size=3, max_size=3), st.data())
def test_a_scan_that_is_stored_at_any_time_goes_on_as_if_nothing_had_been(
    passes: list[list[list[Sighting]]], data: st.DataObject
) -> None:
    carried_on, at_once = begun("whole"), begun("whole")
    for pages in passes:
        for page in pages:
            if data.draw(st.booleans(), label="stored"):
                carried_on = STORED.validate_json(STORED.dump_json(carried_on))
            assert carried_on.add(page, EXEMPT) == at_once.add(page, EXEMPT)
        assert read(carried_on) is read(at_once)
        assert carried_on == at_once
    assert complete(carried_on) == complete(at_once)
