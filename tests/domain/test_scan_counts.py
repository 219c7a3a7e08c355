"""Which instances of a scan block, and how blocking, waived and ignored instances are counted and listed."""

import pytest
from hypothesis import given

from state_api.domain.readiness.evidence import VersionCount
from state_api.domain.readiness.scans import (
    _MAX_DEDUPLICATED,
    MAX_LISTED_BLOCKING,
    to_active_instance,
)
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, ENDED_STATUSES, EvidenceSource, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import build_observed_instance, noon_plus
from tests.domain.scan_builders import (
    COMPLETED,
    NO_EXEMPTIONS,
    PAGES,
    SCAN_BEGAN,
    SOME_EXEMPTIONS,
    build_complete_result,
    build_observed_end,
    build_scan,
    read_pass,
)

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
    "ended_instance",
    [build_observed_instance("sync", "NightlySync", COMPLETED), build_observed_instance("stuck", status=COMPLETED)],
    ids=["of an ignored function", "waived"],
)
def test_the_end_of_an_exempt_instance_requires_no_other_pass(ended_instance: ObservedInstance) -> None:
    scan = build_scan("whole")
    assert read_pass(scan, [ended_instance], exemptions=SOME_EXEMPTIONS)
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
            build_observed_instance("order-1", created=-300, version="2.0"),
            build_observed_instance("order-2", created=-900, version="1.4.0"),
        ],
        [
            build_observed_instance("order-3", created=-600, version="2.0"),
            build_observed_instance("order-4", created=-60),
            build_observed_instance("order-5", status=COMPLETED),
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
    young_instances = [build_observed_instance(f"young-{number}", created=-60) for number in range(MAX_LISTED_BLOCKING)]
    old_instances = [build_observed_instance(f"old-{number}", created=-120 - number) for number in range(3)]
    read_pass(scan, young_instances, old_instances)
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
    read_pass(
        scan,
        [build_observed_instance("order-2"), build_observed_instance("order-3")],
        [build_observed_instance("order-1")],
    )
    assert [instance.instance_id for instance in build_complete_result(scan).active] == [
        "order-1",
        "order-2",
        "order-3",
    ]


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
