"""A slot that may carry several task hubs is Ready only if all of them are, and its verdict has every reason."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.prior_hubs import combine_verdicts
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import PriorHub
from tests.domain.builders import build_not_ready_verdict, build_ready_verdict

VERIFIED = replace(build_ready_verdict(), assurance=Assurance.VERIFIED)


def test_a_verdict_without_prior_task_hubs_is_that_of_the_staged_one() -> None:
    for verdict in (build_ready_verdict(), build_not_ready_verdict(), VERIFIED):
        assert combine_verdicts(verdict, []) == verdict


@pytest.mark.parametrize(
    ("staged", "prior", "expected"),
    [
        (build_ready_verdict(), [build_ready_verdict(), build_ready_verdict()], True),
        (build_ready_verdict(), [build_ready_verdict(), build_not_ready_verdict()], False),
        (build_not_ready_verdict(), [build_ready_verdict()], False),
    ],
)
def test_a_slot_is_ready_if_all_its_task_hubs_are(staged: Verdict, prior: list[Verdict], *, expected: bool) -> None:
    verdict = combine_verdicts(staged, prior)
    assert verdict.ready is expected
    assert verdict.evidence == staged.evidence
    assert bool(verdict.reasons) is not expected


def test_active_instances_are_added_up_and_each_reason_occurs_once() -> None:
    verdict_on_one = build_not_ready_verdict()
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


def test_a_slot_is_verified_if_all_its_task_hubs_are() -> None:
    assert combine_verdicts(VERIFIED, [VERIFIED]).assurance is Assurance.VERIFIED
    assert combine_verdicts(VERIFIED, [build_ready_verdict()]).assurance is Assurance.EVENTS
    assert combine_verdicts(build_ready_verdict(), [VERIFIED]).assurance is Assurance.EVENTS


def test_a_task_hub_was_started_if_production_or_a_rollout_has_sent_it_requests() -> None:
    assert not PriorHub("v41", promoted=False).was_started
    assert PriorHub("v41", promoted=True).was_started
    assert PriorHub("v41", promoted=False, had_traffic=True).was_started
