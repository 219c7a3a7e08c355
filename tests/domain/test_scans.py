"""What the pages of a scan add up to, how many passes it needs, and what a complete scan proves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus, VersionCount
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import MessageEvidence, MessageState, ObservedQueues, QueueSnapshot
from state_api.domain.readiness.scans import (
    _MAX_DEDUPLICATED,
    MAX_LISTED_BLOCKING,
    Scan,
    assess_scan_messages,
    find_quiet_period,
    to_active_instance,
)
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, ENDED_STATUSES, EvidenceSource, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import AZURE_STORAGE, build_observed_instance, build_waiver, noon_plus

COMPLETED = RuntimeStatus.COMPLETED

NO_EXEMPTIONS = Exemptions()
SOME_EXEMPTIONS = Exemptions(("Nightly*",), (build_waiver("stuck"),))
SCAN_BEGAN = -12
"""When the scans here began, by the backend's clock and in seconds after noon."""

STORED = TypeAdapter(Scan)

OBSERVED_INSTANCES = st.builds(
    ObservedInstance,
    instance_id=st.sampled_from(["order-1", "order-2", "naïve/№ \x00", "", "stuck"]) | st.text(max_size=3),
    function_name=st.sampled_from(["ProcessOrder", "NightlySync", ""]),
    version=st.sampled_from([None, "", "1.4.0", "2.0"]),
    runtime_status=st.sampled_from(RuntimeStatus),
    created_at=st.integers(-15, -9).map(noon_plus),
    updated_at=st.integers(-15, -9).map(noon_plus),
    stamp=st.sampled_from(["1", "2"]),
)
PAGES = st.lists(st.lists(OBSERVED_INSTANCES, max_size=4), max_size=6)


def build_scan(*cursors: str) -> Scan:
    """A scan that has read nothing yet. Its next passes read the range `again`."""
    return Scan(noon_plus(-10), noon_plus(SCAN_BEGAN), list(cursors), ["again"], "the key")


def build_observed_end(instance_id: str = "order-1", updated: float = -5) -> ObservedInstance:
    """An instance that ended while the scan was running."""
    return build_observed_instance(instance_id, status=COMPLETED, updated=updated)


def read_pass(scan: Scan, *pages: Iterable[ObservedInstance], exemptions: Exemptions = NO_EXEMPTIONS) -> bool:
    """One pass over these pages. Returns whether the scan is complete after it."""
    for page in pages:
        scan.add_page(page, exemptions)
    scan.cursors.clear()
    return scan.finish_pass()


def build_complete_result(scan: Scan) -> ProbeResult:
    return scan.to_result(ProbeStatus.COMPLETE, AZURE_STORAGE, noon_plus())


# Passes


def test_the_instances_whose_stamps_are_compared_are_counted_for_each_pass() -> None:
    scan = build_scan("whole")
    scan.add_page(
        [
            build_observed_end("order-1"),
            build_observed_end("order-2"),
            build_observed_instance("sync", function_name="NightlySync"),
        ],
        SOME_EXEMPTIONS,
    )
    assert scan.stamp_count == 2
    scan.cursors.clear()
    assert not scan.finish_pass()
    scan.add_page([build_observed_end("order-1")], SOME_EXEMPTIONS)
    assert scan.stamp_count == 1


def test_a_task_hub_without_active_or_changed_instances_needs_one_pass() -> None:
    scan = build_scan("whole")
    assert read_pass(scan, [])
    assert scan.pass_number == 1
    assert not build_complete_result(scan).found_blocking


@pytest.mark.parametrize(
    "page", [[], [build_observed_end()], [build_observed_instance()]], ids=["nothing", "a change", "an active one"]
)
def test_a_scan_is_not_finished_while_a_cursor_is_left(page: list[ObservedInstance]) -> None:
    scan = build_scan("whole")
    scan.add_page(page, NO_EXEMPTIONS)
    assert not scan.finish_pass()
    assert (scan.pass_number, scan.cursors) == (1, ["whole"])


def test_changes_during_a_pass_require_another_pass_over_the_changes() -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end()])
    assert (scan.pass_number, scan.cursors) == (2, ["again"])


def test_a_pass_does_not_consume_the_cursors_of_the_next_pass() -> None:
    scan = build_scan("whole")
    read_pass(scan, [build_observed_end()])
    read_pass(scan, [build_observed_end(), build_observed_end("order-2")])
    assert (scan.pass_number, scan.cursors) == (3, ["again"])


def test_a_second_pass_with_exactly_the_changes_of_the_first_completes_the_scan() -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end("order-1")], [build_observed_end("order-2")])
    assert read_pass(scan, [build_observed_end("order-2"), build_observed_end("order-1")])
    assert scan.pass_number == 2


@pytest.mark.parametrize(
    "second",
    [
        [build_observed_end("order-1"), build_observed_end("order-2")],
        [build_observed_end("order-2")],
        [build_observed_end("order-1", updated=-4)],
    ],
    ids=["another one as well", "another one", "the same one at another time"],
)
def test_a_second_pass_with_other_changes_requires_a_third(second: list[ObservedInstance]) -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end("order-1")])
    assert not read_pass(scan, second)
    assert read_pass(scan, second)
    assert scan.pass_number == 3


def test_a_pass_is_compared_with_the_pass_immediately_before_it() -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end("order-1")])
    assert not read_pass(scan, [build_observed_end("order-2")])
    assert not read_pass(scan, [build_observed_end("order-1")])
    assert scan.pass_number == 4


def test_a_blocking_instance_completes_a_scan_regardless_of_changes() -> None:
    scan = build_scan("whole")
    assert read_pass(scan, [build_observed_end("order-1"), build_observed_instance("order-2")])
    assert build_complete_result(scan).found_blocking


def test_an_instance_that_an_earlier_pass_ignored_blocks_once_its_id_runs_another_function() -> None:
    scan = build_scan("whole")
    assert not read_pass(
        scan,
        [build_observed_end("order-1"), build_observed_instance("x", "NightlySync", created=-9)],
        exemptions=SOME_EXEMPTIONS,
    )
    assert read_pass(
        scan,
        [build_observed_end("order-1"), build_observed_instance("x", "ProcessOrder", created=-5)],
        exemptions=SOME_EXEMPTIONS,
    )
    assert [instance.function_name for instance in build_complete_result(scan).active] == ["ProcessOrder"]


def test_an_instance_that_an_earlier_page_ignored_blocks_once_its_id_runs_another_function() -> None:
    scan = build_scan("whole")
    pages = [
        [build_observed_instance("x", "NightlySync", created=-9)],
        [build_observed_instance("x", "ProcessOrder", created=-5)],
    ]
    assert read_pass(scan, *pages, *pages, exemptions=SOME_EXEMPTIONS)
    result = build_complete_result(scan)
    assert [instance.function_name for instance in result.active] == ["ProcessOrder"]
    assert (scan.blocking_count, scan.ignored_count) == (1, 1)


def test_an_instance_on_two_pages_of_a_later_pass_counts_once() -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end("order-1")])
    assert read_pass(
        scan, [build_observed_instance("order-2", created=-5)], [build_observed_instance("order-2", created=-5)]
    )
    assert build_complete_result(scan).active_count == 1


def test_a_blocking_instance_in_the_second_pass_completes_the_scan() -> None:
    scan = build_scan("whole")
    assert not read_pass(scan, [build_observed_end("order-1")])
    assert read_pass(scan, [build_observed_end("order-1"), build_observed_instance("order-2", created=-5)])
    assert [instance.instance_id for instance in build_complete_result(scan).active] == ["order-2"]


@given(PAGES)
def test_a_complete_scan_stays_complete(pages: list[list[ObservedInstance]]) -> None:
    scan = build_scan("whole")
    while not read_pass(scan, *pages, exemptions=SOME_EXEMPTIONS):
        pass
    before = replace(scan)
    assert scan.finish_pass()
    assert scan == before


@given(PAGES)
def test_a_task_hub_that_no_longer_changes_needs_at_most_two_passes(pages: list[list[ObservedInstance]]) -> None:
    scan = build_scan("whole")
    assert read_pass(scan, *pages, exemptions=SOME_EXEMPTIONS) or read_pass(scan, *pages, exemptions=SOME_EXEMPTIONS)


@given(st.lists(OBSERVED_INSTANCES, max_size=8, unique_by=lambda instance: instance.instance_id), st.data())
def test_the_order_and_number_of_pages_do_not_affect_the_result(
    observed_instances: list[ObservedInstance], data: st.DataObject
) -> None:
    whole, paged = build_scan("whole"), build_scan("whole")
    read_pass(whole, observed_instances, exemptions=SOME_EXEMPTIONS)
    shuffled = data.draw(st.permutations(observed_instances), label="as they came")
    cut = data.draw(st.integers(0, len(shuffled)), label="first page")
    read_pass(paged, shuffled[:cut], shuffled[cut:], exemptions=SOME_EXEMPTIONS)
    assert paged.previous_stamp_digest == whole.previous_stamp_digest
    assert paged.pass_number == whole.pass_number
    assert replace(build_complete_result(paged), waived=()) == replace(build_complete_result(whole), waived=())
    assert set(build_complete_result(paged).waived) == set(build_complete_result(whole).waived)


# What a finished scan proves


@dataclass
class ChangingRow:
    active: bool
    created_at: Instant
    stamp: int = 0


@dataclass
class ChangingTaskHub:
    """A task hub in which only active instances start others.

    A row whose stamp is not 0 has changed since the scan began.
    """

    rows: list[ChangingRow | None]
    stamps: int = field(default=0)

    def start_another(self, by: int, to: int, *, ends: bool) -> None:
        """Let an active instance start another one, and perhaps end."""
        starter = self.rows[by]
        if starter is None or not starter.active:
            return
        target = self.rows[to]
        if target is None or not target.active:
            created_at = Instant(noon_plus(SCAN_BEGAN) + self._next_stamp())
            self.rows[to] = ChangingRow(active=True, created_at=created_at, stamp=self.stamps)
        if ends:
            starter.active, starter.stamp = False, self._next_stamp()

    def end(self, number: int) -> None:
        row = self.rows[number]
        if row is not None and row.active:
            row.active, row.stamp = False, self._next_stamp()

    def page(self, number: int) -> list[ObservedInstance]:
        """The rows that are active or have changed, as a backend returns them."""
        row = self.rows[number]
        if row is None or not (row.active or row.stamp):
            return []
        status = RuntimeStatus.RUNNING if row.active else COMPLETED
        created = row.created_at
        return [ObservedInstance(f"order-{number}", "ProcessOrder", None, status, created, created, str(row.stamp))]

    @property
    def active(self) -> bool:
        return any(row is not None and row.active for row in self.rows)

    def _next_stamp(self) -> int:
        self.stamps += 1
        return self.stamps


NUMBERS = st.integers(0, 4)
ROWS = st.lists(
    st.none() | st.builds(ChangingRow, st.booleans(), st.sampled_from([noon_plus(-3600), noon_plus(SCAN_BEGAN)])),
    min_size=5,
    max_size=5,
)
STEPS = st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), max_size=2)
"""Changes between two pages: which instance starts which, whether it ends then, or which instance ends."""


@given(ROWS, st.lists(STEPS, max_size=20), st.permutations(range(5)), st.permutations(range(5)))
def test_a_complete_scan_that_found_nothing_proves_that_nothing_is_active_despite_changes_during_it(
    rows: list[ChangingRow | None],
    steps: list[list[tuple[int, int, bool]]],
    one_way: Sequence[int],
    other_way: Sequence[int],
) -> None:
    hub, scan = ChangingTaskHub(rows), build_scan("whole")
    to_come = iter(steps)
    while not scan.finish_pass():
        for number in one_way if scan.pass_number % 2 else other_way:
            for by, to, ends in next(to_come, []):
                if by == to:
                    hub.end(to)
                else:
                    hub.start_another(by, to, ends=ends)
            scan.add_page(hub.page(number), NO_EXEMPTIONS)
        scan.cursors.clear()
    assert build_complete_result(scan).found_blocking or not hub.active


# What blocks and what does not


def test_an_active_instance_blocks_as_the_task_hub_shows_it() -> None:
    seen = build_observed_instance(
        "order-1", "ProcessOrder", RuntimeStatus.SUSPENDED, created=-3600, updated=-60, version="1.4.0"
    )
    scan = build_scan("whole")
    assert scan.add_page([seen, build_observed_end("order-2")], NO_EXEMPTIONS) == [seen]
    (listed,) = build_complete_result(scan).active
    assert listed == to_active_instance(seen)
    assert (listed.instance_id, listed.function_name) == ("order-1", "ProcessOrder")
    assert (listed.runtime_status, listed.version) == (RuntimeStatus.SUSPENDED, "1.4.0")
    assert (listed.started_at, listed.last_event_at) == (noon_plus(-3600), noon_plus(-60))
    assert listed.source is EvidenceSource.PROBE


@pytest.mark.parametrize("status", RuntimeStatus)
def test_an_instance_blocks_in_every_status_except_final_ones(status: RuntimeStatus) -> None:
    scan = build_scan("whole")
    scan.add_page([build_observed_instance(status=status)], NO_EXEMPTIONS)
    assert build_complete_result(scan).found_blocking is (status in ACTIVE_STATUSES)
    assert bool(scan.stamp_digest) is (status in ENDED_STATUSES)


def test_an_instance_of_an_ignored_function_is_counted_and_does_not_block() -> None:
    scan = build_scan("whole")
    assert scan.add_page([build_observed_instance("sync", "NightlySync")], SOME_EXEMPTIONS) == []
    assert read_pass(scan)
    result = build_complete_result(scan)
    assert (result.active, result.ignored_count, result.unlisted_count) == ((), 1, 0)
    assert not result.found_blocking


def test_a_waived_instance_is_listed_and_does_not_block() -> None:
    scan = build_scan("whole")
    assert scan.add_page([build_observed_instance("stuck")], SOME_EXEMPTIONS) == []
    assert read_pass(scan)
    assert [instance.instance_id for instance in build_complete_result(scan).waived] == ["stuck"]
    assert (scan.blocking_count, scan.ignored_count, build_complete_result(scan).found_blocking) == (0, 0, False)


def test_a_waived_instance_of_an_ignored_function_is_listed() -> None:
    scan = build_scan("whole")
    read_pass(scan, [build_observed_instance("stuck", "NightlySync")], exemptions=SOME_EXEMPTIONS)
    assert [instance.instance_id for instance in build_complete_result(scan).waived] == ["stuck"]
    assert scan.ignored_count == 0


@pytest.mark.parametrize(
    "over",
    [build_observed_instance("sync", "NightlySync", COMPLETED), build_observed_instance("stuck", status=COMPLETED)],
    ids=["of an ignored function", "waived"],
)
def test_the_end_of_an_exempt_instance_requires_no_other_pass(over: ObservedInstance) -> None:
    scan = build_scan("whole")
    assert read_pass(scan, [over], exemptions=SOME_EXEMPTIONS)
    assert scan.pass_number == 1


def test_exempt_instances_are_not_counted_again_in_later_passes() -> None:
    scan = build_scan("whole")
    page = [build_observed_instance("sync", "NightlySync"), build_observed_instance("stuck"), build_observed_end()]
    assert not read_pass(scan, page, exemptions=SOME_EXEMPTIONS)
    assert read_pass(scan, page, exemptions=SOME_EXEMPTIONS)
    result = build_complete_result(scan)
    assert [instance.instance_id for instance in result.waived] == ["stuck"]
    assert result.ignored_count == 1
    assert result.versions == (VersionCount(None, 2, noon_plus(-3600)),)


@given(PAGES)
def test_every_active_instance_is_counted_once_as_blocking_waived_or_ignored_and_once_by_version(
    pages: list[list[ObservedInstance]],
) -> None:
    scan = build_scan("whole")
    blocking = [instance for page in pages for instance in scan.add_page(page, SOME_EXEMPTIONS)]
    assert scan.blocking_count == len(blocking)
    assert not any(SOME_EXEMPTIONS.exempts(instance.function_name, instance.instance_id) for instance in blocking)
    result = build_complete_result(scan)
    assert result.active_count == sum(count.active for count in result.versions)
    assert result.active_count == scan.blocking_count + scan.ignored_count + len(scan.waived)


# Counting


def test_active_instances_are_counted_by_version_with_the_oldest_start_of_each() -> None:
    scan = build_scan("whole")
    read_pass(
        scan,
        [
            build_observed_instance("a", created=-300, version="2.0"),
            build_observed_instance("b", created=-900, version="1.4.0"),
        ],
        [
            build_observed_instance("c", created=-600, version="2.0"),
            build_observed_instance("d", created=-60),
            build_observed_instance("e", status=COMPLETED),
        ],
    )
    assert build_complete_result(scan).versions == (
        VersionCount(None, 1, noon_plus(-60)),
        VersionCount("1.4.0", 1, noon_plus(-900)),
        VersionCount("2.0", 2, noon_plus(-600)),
    )


def test_exempt_instances_are_counted_by_version_too() -> None:
    scan = build_scan("whole")
    page = [
        build_observed_instance("sync", "NightlySync", version="2.0"),
        build_observed_instance("stuck", version="2.0"),
        build_observed_instance(version="2.0"),
    ]
    read_pass(scan, page, exemptions=SOME_EXEMPTIONS)
    assert build_complete_result(scan).versions == (VersionCount("2.0", 3, noon_plus(-3600)),)
    assert build_complete_result(scan).active_count == 3


@pytest.mark.parametrize(("created", "counted"), [(SCAN_BEGAN - 0.0000001, 2), (SCAN_BEGAN, 1), (SCAN_BEGAN + 5, 1)])
def test_an_instance_that_two_pages_show_counts_once_if_it_is_new_since_the_scan_began(
    created: float, counted: int
) -> None:
    scan = build_scan("whole")
    seen = build_observed_instance(created=created)
    assert scan.add_page([seen], NO_EXEMPTIONS) == [seen]
    assert scan.add_page([seen], NO_EXEMPTIONS) == [seen][: counted - 1]
    result = build_complete_result(scan)
    assert (scan.blocking_count, len(result.active), result.active_count) == (counted, counted, counted)
    assert result.versions == (VersionCount(None, counted, noon_plus(created)),)


@pytest.mark.parametrize(("number", "counted_again"), [(_MAX_DEDUPLICATED - 1, 0), (_MAX_DEDUPLICATED, 1)])
def test_only_a_limited_number_of_new_instances_is_deduplicated(number: int, counted_again: int) -> None:
    scan = build_scan("whole")
    page = [build_observed_instance(f"order-{number}", created=-5) for number in range(_MAX_DEDUPLICATED + 1)]
    scan.add_page(page, NO_EXEMPTIONS)
    scan.add_page([page[number]], NO_EXEMPTIONS)
    assert scan.blocking_count == len(page) + counted_again
    assert len(scan.new_instance_hashes) == _MAX_DEDUPLICATED


def test_the_oldest_blocking_instances_are_listed_and_all_are_counted() -> None:
    scan = build_scan("whole")
    young = [build_observed_instance(f"young-{number}", created=-60) for number in range(MAX_LISTED_BLOCKING)]
    old = [build_observed_instance(f"old-{number}", created=-120 - number) for number in range(3)]
    read_pass(scan, young, old)
    result = build_complete_result(scan)
    assert [instance.instance_id for instance in result.active[:4]] == ["old-2", "old-1", "old-0", "young-0"]
    assert (len(result.active), result.unlisted_count, result.active_count) == (
        MAX_LISTED_BLOCKING,
        3,
        MAX_LISTED_BLOCKING + 3,
    )


def test_no_instance_is_unlisted_while_all_fit_into_the_list() -> None:
    scan = build_scan("whole")
    read_pass(scan, [build_observed_instance(f"order-{number}") for number in range(MAX_LISTED_BLOCKING)])
    assert (len(build_complete_result(scan).active), build_complete_result(scan).unlisted_count) == (
        MAX_LISTED_BLOCKING,
        0,
    )


def test_blocking_instances_of_the_same_age_are_listed_by_id() -> None:
    scan = build_scan("whole")
    read_pass(scan, [build_observed_instance("b"), build_observed_instance("c")], [build_observed_instance("a")])
    assert [instance.instance_id for instance in build_complete_result(scan).active] == ["a", "b", "c"]


def test_waived_instances_are_listed_regardless_of_how_many_block() -> None:
    scan = build_scan("whole")
    read_pass(
        scan,
        [
            build_observed_instance("stuck", created=-5),
            *(build_observed_instance(f"{number}") for number in range(MAX_LISTED_BLOCKING)),
        ],
        exemptions=SOME_EXEMPTIONS,
    )
    result = build_complete_result(scan)
    assert [instance.instance_id for instance in result.waived] == ["stuck"]
    assert (len(result.active), result.unlisted_count) == (MAX_LISTED_BLOCKING, 0)


# The result


def test_a_new_scan_has_read_nothing() -> None:
    scan = build_scan("whole")
    assert (scan.pass_number, scan.call_count) == (1, 1)
    assert (
        scan.page_count,
        scan.scanned,
        scan.recorded_count,
        scan.blocking_count,
        scan.ignored_count,
        scan.stamp_digest,
    ) == (0, 0, 0, 0, 0, 0)
    assert build_complete_result(scan) == ProbeResult(
        ProbeStatus.COMPLETE, AZURE_STORAGE, noon_plus(-10), ended_at=noon_plus(), request_key="the key"
    )


def test_a_result_says_what_was_read_and_when_and_under_which_exemptions() -> None:
    scan = build_scan()
    scan.scanned, scan.page_count, scan.read_seconds = 1180, 3, 41.6
    assert scan.to_result(
        ProbeStatus.INCOMPLETE, AZURE_STORAGE, noon_plus(-1), message="3 pages are read"
    ) == ProbeResult(
        ProbeStatus.INCOMPLETE,
        AZURE_STORAGE,
        began_at=noon_plus(-10),
        scanned=1180,
        message="3 pages are read",
        ended_at=noon_plus(-1),
        request_key="the key",
        read_seconds=42,
    )


@pytest.mark.parametrize(("calls", "resumed"), [(1, False), (2, True), (3, True)])
def test_a_result_says_whether_its_scan_was_resumed(calls: int, *, resumed: bool) -> None:
    assert build_complete_result(replace(build_scan(), call_count=calls)).resumed is resumed


def test_a_result_with_only_exempt_instances_found_nothing_that_blocks() -> None:
    result = replace(
        build_complete_result(build_scan()), ignored_count=2, waived=(to_active_instance(build_observed_instance()),)
    )
    assert not result.found_blocking
    assert result.active_count == 3


def test_a_result_that_counts_but_does_not_list_blocking_instances_found_them() -> None:
    assert replace(build_complete_result(build_scan()), unlisted_count=1).found_blocking


# Between two calls


@given(PAGES, st.integers(0, 2**64 - 1), st.none() | st.integers(0, 2**64 - 1), st.floats(0, 86_400))
def test_a_scan_is_unchanged_after_it_was_stored_and_loaded(
    pages: list[list[ObservedInstance]], changes: int, before: int | None, spent: float
) -> None:
    scan = build_scan("whole", '[3, {"NextPartitionKey": "1!8"}]')
    for page in pages:
        scan.add_page(page, SOME_EXEMPTIONS)
    scan.scanned, scan.page_count, scan.recorded_count, scan.call_count, scan.read_seconds = 1180, 3, 7, 2, spent
    scan.stamp_digest, scan.previous_stamp_digest = changes, before
    assert STORED.validate_json(STORED.dump_json(scan)) == scan


@settings(deadline=None)
@given(st.lists(PAGES, min_size=3, max_size=3), st.data())
def test_a_scan_that_was_stored_at_any_time_continues_like_one_that_was_not(
    passes: list[list[list[ObservedInstance]]], data: st.DataObject
) -> None:
    resumed, uninterrupted = build_scan("whole"), build_scan("whole")
    for pages in passes:
        for page in pages:
            if data.draw(st.booleans(), label="stored"):
                resumed = STORED.validate_json(STORED.dump_json(resumed))
            assert resumed.add_page(page, SOME_EXEMPTIONS) == uninterrupted.add_page(page, SOME_EXEMPTIONS)
        assert read_pass(resumed) is read_pass(uninterrupted)
        assert resumed == uninterrupted
    assert build_complete_result(resumed) == build_complete_result(uninterrupted)


# Messages


def build_scan_with_queues(invisible: int = 1, *, read_at: float = 0) -> Scan:
    scan = build_scan("whole")
    snapshot = QueueSnapshot(message_count=invisible)
    scan.observed_queues = ObservedQueues(snapshot, 0, 0, noon_plus(read_at), noon_plus(read_at))
    return scan


NOTHING_REMEMBERED = MessageState("account")


def assess_messages_of_scan(
    scan: Scan, state: MessageState = NOTHING_REMEMBERED, *, exemptions: Exemptions = NO_EXEMPTIONS
) -> tuple[MessageEvidence | None, MessageState]:
    return assess_scan_messages(
        scan, state, exemptions=exemptions, message_visibility_seconds=300, last_recorded_at=None
    )


def test_without_a_read_of_the_queues_there_is_no_evidence_of_messages_and_no_quiet_period() -> None:
    _, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert remembered.quiet_period is not None
    assert assess_messages_of_scan(build_scan("whole"), remembered) == (None, NOTHING_REMEMBERED)


def test_unexplained_messages_stop_blocking_after_a_quiet_period() -> None:
    evidence, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert evidence is not None
    assert evidence.unexplained_count == 1
    later, remembered_later = assess_messages_of_scan(build_scan_with_queues(read_at=630), remembered)
    assert later is not None
    assert (later.unexplained_count, later.explained) == (0, 1)
    assert remembered_later == remembered


def test_a_quiet_period_under_other_exemptions_does_not_count() -> None:
    _, remembered = assess_messages_of_scan(build_scan_with_queues())
    assert find_quiet_period(remembered, SOME_EXEMPTIONS) is None
    later, _ = assess_messages_of_scan(build_scan_with_queues(read_at=630), remembered, exemptions=SOME_EXEMPTIONS)
    assert later is not None
    assert later.unexplained_count == 1


def test_a_scan_that_found_an_active_instance_begins_no_quiet_period() -> None:
    scan = build_scan_with_queues()
    scan.add_page([build_observed_instance()], NO_EXEMPTIONS)
    _, remembered = assess_messages_of_scan(scan)
    assert remembered.quiet_period is None


@pytest.mark.parametrize(("stamps", "begins"), [(1000, True), (1001, False)])
def test_a_scan_with_too_many_stamps_to_compare_begins_no_quiet_period(stamps: int, *, begins: bool) -> None:
    scan = build_scan_with_queues()
    scan.stamp_count = stamps
    _, remembered = assess_messages_of_scan(scan)
    assert (remembered.quiet_period is not None) is begins


def test_an_incomplete_scan_says_how_far_it_came() -> None:
    scan = build_scan("left", "left too")
    scan.page_count = 3
    result = scan.to_incomplete_result(AZURE_STORAGE, noon_plus())
    assert result.status is ProbeStatus.INCOMPLETE
    assert result.message == "3 pages are read, 2 ranges are left in pass 1; the next request continues the scan"
