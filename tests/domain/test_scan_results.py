"""The result of a scan, and a scan that is stored between two calls."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.scans import Scan, to_active_instance
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import AZURE_STORAGE, build_observed_instance, noon_plus
from tests.domain.scan_builders import PAGES, SOME_EXEMPTIONS, build_complete_result, build_scan, read_pass

STORED = TypeAdapter(Scan)


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


# A scan that is stored between two calls


@given(PAGES, st.integers(0, 2**64 - 1), st.none() | st.integers(0, 2**64 - 1), st.floats(0, 86_400))
def test_a_scan_is_unchanged_after_it_was_stored_and_loaded(
    pages: list[list[ObservedInstance]], stamp_digest: int, previous_stamp_digest: int | None, read_seconds: float
) -> None:
    scan = build_scan("whole", '[3, {"NextPartitionKey": "1!8"}]')
    for page in pages:
        scan.add_page(page, SOME_EXEMPTIONS)
    scan.scanned, scan.page_count, scan.recorded_count, scan.call_count, scan.read_seconds = 1180, 3, 7, 2, read_seconds
    scan.stamp_digest, scan.previous_stamp_digest = stamp_digest, previous_stamp_digest
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


def test_an_incomplete_scan_says_how_far_it_came() -> None:
    scan = build_scan("left", "left too")
    scan.page_count = 3
    result = scan.to_incomplete_result(AZURE_STORAGE, noon_plus())
    assert result.status is ProbeStatus.INCOMPLETE
    assert result.message == "3 pages are read, 2 ranges are left in pass 1; the next request continues the scan"
