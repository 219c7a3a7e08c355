"""A slot that may carry more than one task hub: Ready only if all of it is, and every reason is told."""

from dataclasses import replace

import pytest

from state_api.domain.beneath import combine
from state_api.domain.readiness import Assurance, Verdict
from tests.domain.builders import not_ready, ready

VERIFIED = replace(ready(), assurance=Assurance.VERIFIED)


def test_a_verdict_with_nothing_beneath_is_that_of_the_staged_hub() -> None:
    for verdict in (ready(), not_ready(), VERIFIED):
        assert combine(verdict, []) == verdict


@pytest.mark.parametrize(
    ("staged", "beneath", "expected"),
    [
        (ready(), [ready(), ready()], True),
        (ready(), [ready(), not_ready()], False),
        (not_ready(), [ready()], False),
    ],
)
def test_it_is_ready_if_all_of_it_is(staged: Verdict, beneath: list[Verdict], expected: bool) -> None:
    verdict = combine(staged, beneath)
    assert verdict.ready is expected
    assert verdict.evidence == staged.evidence
    assert bool(verdict.reasons) is not expected


def test_what_is_active_is_counted_together_and_a_reason_is_told_once() -> None:
    one = not_ready()
    verdict = combine(one, [replace(one, active_count_is_lower_bound=True, ignored_count=3, retry_after_seconds=99)])
    assert verdict.active_count == 2 * one.active_count
    assert verdict.has_running == one.has_running
    assert (verdict.active_count_is_lower_bound, verdict.ignored_count) == (True, one.ignored_count + 3)
    assert verdict.reasons == one.reasons
    assert verdict.retry_after_seconds == 99
    started = [active.started_at for active in verdict.active]
    assert started == sorted(started)
    assert len(started) == min(20, 2 * len(one.active))


def test_it_is_verified_if_all_of_it_is() -> None:
    assert combine(VERIFIED, [VERIFIED]).assurance is Assurance.VERIFIED
    assert combine(VERIFIED, [ready()]).assurance is Assurance.EVENTS
    assert combine(ready(), [VERIFIED]).assurance is Assurance.EVENTS
