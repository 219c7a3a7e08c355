"""Which results answer a request, and which scans are resumed for it."""

from dataclasses import replace

import pytest

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import InstanceActivity, ProbeStatus
from state_api.domain.readiness.requirements import (
    VerificationMode,
    answers,
    can_resume,
    is_fresh_enough,
    must_wait,
    replaces_last_result,
)
from tests.domain.builders import NOON, noon_plus
from tests.domain.read_plan_builders import (
    FRESH,
    LISTING,
    NOTHING_ACTIVE,
    ORDER_1,
    build_requirements,
    build_result,
    build_scan,
)


@pytest.mark.parametrize(("ended", "waits"), [(-59, True), (-60, False), (-61, False)])
def test_a_pause_counts_from_the_end_of_the_probe(ended: float, *, waits: bool) -> None:
    paused = replace(build_result(began=-100), retry_after_seconds=60, ended_at=noon_plus(ended))
    assert must_wait(paused, NOON) is waits


@pytest.mark.parametrize(("began", "is_fresh"), [(1, True), (0.9, False), (-10, False)])
def test_a_fresh_result_began_a_second_after_the_request(began: float, *, is_fresh: bool) -> None:
    assert is_fresh_enough(build_result(began=began), FRESH) is is_fresh


@pytest.mark.parametrize(
    ("resumed", "read_seconds", "ended", "is_fresh"),
    [(True, 30, 0, True), (True, 30, -1, False), (True, 29, 0, False), (False, 30, 0, False), (True, 30, None, False)],
)
def test_a_large_task_hub_is_fresh_if_its_scan_ended_after_the_request(
    *, resumed: bool, read_seconds: int, ended: float | None, is_fresh: bool
) -> None:
    ended_at = None if ended is None else noon_plus(ended)
    large = replace(build_result(), resumed=resumed, read_seconds=read_seconds, ended_at=ended_at)
    assert is_fresh_enough(large, FRESH) is is_fresh


@pytest.mark.parametrize("mode", [VerificationMode.CACHED, VerificationMode.FRESH])
@pytest.mark.parametrize(("began", "answered"), [(-1.1, False), (-1, True)])
def test_a_probe_of_a_release_must_begin_after_routers_have_stopped_however_large_its_task_hub_is(
    mode: VerificationMode, began: float, *, answered: bool
) -> None:
    requirements = replace(build_requirements(mode), must_begin_after=noon_plus(-2))
    large = replace(build_result(began=began), resumed=True, read_seconds=60, ended_at=noon_plus(1))
    assert answers(large, requirements, NOTHING_ACTIVE, noon_plus(2)) is answered
    stored_scan = build_scan("a", began=began)
    stored_scan.read_seconds = 60
    assert can_resume(stored_scan, requirements, NOTHING_ACTIVE, noon_plus(2)) is answered


def test_a_probe_result_for_other_settings_of_the_app_does_not_answer_the_request() -> None:
    assert not answers(replace(build_result(), request_key="another key"), build_requirements(), NOTHING_ACTIVE, NOON)


@pytest.mark.parametrize(
    ("mode", "began", "read_seconds", "resumes"),
    [
        (VerificationMode.CACHED, -10, 0, True),
        (VerificationMode.CACHED, -120, 59, False),
        (VerificationMode.CACHED, -120, 60, True),
        (VerificationMode.FRESH, -10, 0, False),
        (VerificationMode.FRESH, 1, 0, True),
        (VerificationMode.FRESH, -10, 30, True),
    ],
)
def test_a_scan_is_resumed_while_it_can_still_answer(
    mode: VerificationMode, began: float, read_seconds: float, *, resumes: bool
) -> None:
    stored_scan = build_scan("a", began=began)
    stored_scan.read_seconds = read_seconds
    assert can_resume(stored_scan, build_requirements(mode), NOTHING_ACTIVE, Instant(NOON + seconds(2))) is resumes


def test_a_scan_under_another_key_is_not_resumed() -> None:
    assert not can_resume(
        replace(build_scan("a"), request_key="another key"), build_requirements(), NOTHING_ACTIVE, NOON
    )


def test_a_scan_that_the_records_supersede_is_resumed_only_for_a_list() -> None:
    superseding = InstanceActivity(last_recorded_at=NOON)
    assert not can_resume(build_scan("a"), build_requirements(), superseding, NOON)
    assert can_resume(build_scan("a"), LISTING, superseding, NOON)


@pytest.mark.parametrize("status", ProbeStatus)
def test_an_incomplete_result_is_stored_only_if_it_found_something(status: ProbeStatus) -> None:
    assert replaces_last_result(build_result(status=status)) is (status is not ProbeStatus.INCOMPLETE)
    assert replaces_last_result(build_result(ORDER_1, status=status))
