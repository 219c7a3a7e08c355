"""How many passes a scan needs, and what a complete scan proves although instances change during it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import build_observed_instance, noon_plus
from tests.domain.scan_builders import (
    COMPLETED,
    NO_EXEMPTIONS,
    OBSERVED_INSTANCES,
    PAGES,
    SCAN_BEGAN,
    SOME_EXEMPTIONS,
    build_complete_result,
    build_observed_end,
    build_scan,
    read_pass,
)

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
    """The row of an instance. `stamp` is the number of its last change since the scan began, or 0."""

    active: bool
    created_at: Instant
    stamp: int = 0


@dataclass
class ChangingTaskHub:
    """A task hub that changes during a scan. Only active instances start others. `stamps` counts the changes."""

    rows: list[ChangingRow | None]
    stamps: int = field(default=0)

    def start_another(self, starter_number: int, target_number: int, *, ends: bool) -> None:
        """Let an active instance start another one. `ends`: whether it ends then."""
        starter = self.rows[starter_number]
        if starter is None or not starter.active:
            return
        target = self.rows[target_number]
        if target is None or not target.active:
            created_at = Instant(noon_plus(SCAN_BEGAN) + self._next_stamp())
            self.rows[target_number] = ChangingRow(active=True, created_at=created_at, stamp=self.stamps)
        if ends:
            starter.active, starter.stamp = False, self._next_stamp()

    def end(self, number: int) -> None:
        """Let an instance end, if it is active."""
        row = self.rows[number]
        if row is not None and row.active:
            row.active, row.stamp = False, self._next_stamp()

    def read_page(self, number: int) -> list[ObservedInstance]:
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
"""Changes between two pages: number of the starter, number of the started instance, whether the starter ends.

With equal numbers, that instance ends."""


@given(ROWS, st.lists(STEPS, max_size=20), st.permutations(range(5)), st.permutations(range(5)))
def test_a_complete_scan_that_found_nothing_proves_that_nothing_is_active_despite_changes_during_it(
    rows: list[ChangingRow | None],
    steps: list[list[tuple[int, int, bool]]],
    order_of_odd_passes: Sequence[int],
    order_of_even_passes: Sequence[int],
) -> None:
    hub, scan = ChangingTaskHub(rows), build_scan("whole")
    remaining_steps = iter(steps)
    while not scan.finish_pass():
        for number in order_of_odd_passes if scan.pass_number % 2 else order_of_even_passes:
            for starter_number, target_number, ends in next(remaining_steps, []):
                if starter_number == target_number:
                    hub.end(target_number)
                else:
                    hub.start_another(starter_number, target_number, ends=ends)
            scan.add_page(hub.read_page(number), NO_EXEMPTIONS)
        scan.cursors.clear()
    assert build_complete_result(scan).found_blocking or not hub.active
