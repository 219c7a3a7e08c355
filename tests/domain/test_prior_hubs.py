"""A slot that may carry more than one task hub: Ready only if all of it is, and every reason is told."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.verdict import Verdict
from tests.domain.builders import not_ready_verdict, ready_verdict

VERIFIED = replace(ready_verdict(), assurance=Assurance.VERIFIED)


def test_a_verdict_with_nothing_beneath_is_that_of_the_staged_hub() -> None:
    for verdict in (ready_verdict(), not_ready_verdict(), VERIFIED):
        assert combine_verdicts(verdict, []) == verdict


@pytest.mark.parametrize(
    ("staged", "beneath", "expected"),
    [
        (ready_verdict(), [ready_verdict(), ready_verdict()], True),
        (ready_verdict(), [ready_verdict(), not_ready_verdict()], False),
        (not_ready_verdict(), [ready_verdict()], False),
    ],
)
def test_it_is_ready_if_all_of_it_is(staged: Verdict, beneath: list[Verdict], *, expected: bool) -> None:
    verdict = combine_verdicts(staged, beneath)
    assert verdict.ready is expected
    assert verdict.evidence == staged.evidence
    assert bool(verdict.reasons) is not expected


def test_what_is_active_is_counted_together_and_a_reason_is_told_once() -> None:
    verdict_on_one = not_ready_verdict()
    verdict = combine_verdicts(
        verdict_on_one,
        [replace(verdict_on_one, active_count_is_lower_bound=True, ignored_count=3, retry_after_seconds=99)],
    )
    assert verdict.active_count == 2 * verdict_on_one.active_count
    assert verdict.has_running == verdict_on_one.has_running
    assert (verdict.active_count_is_lower_bound, verdict.ignored_count) == (True, verdict_on_one.ignored_count + 3)
    assert verdict.reasons == verdict_on_one.reasons
    assert verdict.retry_after_seconds == 99
    started = [active.started_at for active in verdict.active]
    assert started == sorted(started)
    assert len(started) == min(20, 2 * len(verdict_on_one.active))


def test_it_is_verified_if_all_of_it_is() -> None:
    assert combine_verdicts(VERIFIED, [VERIFIED]).assurance is Assurance.VERIFIED
    assert combine_verdicts(VERIFIED, [ready_verdict()]).assurance is Assurance.EVENTS
    assert combine_verdicts(ready_verdict(), [VERIFIED]).assurance is Assurance.EVENTS
