"""The verdict where the task hub's own storage can be read: what a probe must be to count, and what it proves."""

from dataclasses import replace

import pytest

from state_api.domain.lifecycle import RuntimeStatus
from state_api.domain.readiness import (
    ACTIVE_LIMIT,
    POLL_SECONDS,
    Activity,
    Assurance,
    Policy,
    ProbeResult,
    ProbeStatus,
    Reason,
    Verdict,
    assess,
)
from tests.domain.builders import active, at, evidence, probe, probed


def verified_by(result: ProbeResult | None, activity: Activity | None = None, policy: Policy | None = None) -> Verdict:
    """The verdict at noon on a hub whose storage a probe reads."""
    return assess(probed(result, activity), policy or Policy(), at())


def only_reason(verdict: Verdict) -> Reason:
    (reason,) = verdict.reasons
    return reason.code


def test_a_complete_and_young_probe_that_finds_nothing_verifies_that_a_hub_is_drained() -> None:
    verdict = verified_by(probe(scanned=1180))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_satisfies_a_policy_that_requires_verification() -> None:
    verdict = verified_by(probe(), policy=Policy(require_verification=True))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_policy_that_requires_verification_is_never_satisfied_by_events_alone() -> None:
    verdict = assess(evidence(), Policy(require_verification=True), at())
    assert only_reason(verdict) is Reason.VERIFICATION_REQUIRED
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == POLL_SECONDS
    assert verdict.reasons[0].message.startswith("the app's policy requires verification, but no probe of")


@pytest.mark.parametrize("require_verification", [True, False])
def test_a_configured_probe_without_a_result_is_waited_for(require_verification: bool) -> None:
    verdict = verified_by(None, policy=Policy(require_verification=require_verification))
    assert only_reason(verdict) is Reason.PROBE_PENDING
    assert verdict.reasons[0].message == "task hub v41 has not been verified by azureStorage yet"
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == POLL_SECONDS


def test_a_failed_probe_fails_closed_and_says_what_to_mend() -> None:
    verdict = verified_by(probe(status=ProbeStatus.FAILED, message="the connection DURABLE_STORAGE is not set"))
    assert only_reason(verdict) is Reason.PROBE_FAILED
    assert verdict.reasons[0].message == ("task hub v41 could not be read: the connection DURABLE_STORAGE is not set")
    assert verdict.assurance is Assurance.EVENTS


def test_a_probe_that_was_cut_short_fails_closed_and_says_how_far_it_came() -> None:
    verdict = verified_by(probe(status=ProbeStatus.INCOMPLETE, scanned=5000, message="it took longer than 20 s"))
    assert only_reason(verdict) is Reason.PROBE_INCOMPLETE
    assert verdict.reasons[0].message == (
        "the probe of task hub v41 has read 5000 rows and is not done: it took longer than 20 s"
    )
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize(("began", "is_ready"), [(-119.9999999, True), (-120, False), (-121, False)])
def test_a_probe_must_be_younger_than_the_freshness(began: float, is_ready: bool) -> None:
    assert verified_by(probe(began=began)).ready is is_ready


def test_an_app_sets_its_own_freshness() -> None:
    assert verified_by(probe(began=-300), policy=Policy(freshness_seconds=301)).ready
    assert not verified_by(probe(began=-300), policy=Policy(freshness_seconds=300)).ready


def test_a_stale_probe_says_when_it_began_and_verifies_nothing() -> None:
    verdict = verified_by(probe(began=-180))
    assert only_reason(verdict) is Reason.PROBE_STALE
    assert verdict.reasons[0].message == (
        "the last complete probe of task hub v41 began at 2026-11-20T11:57:00.0000000Z; "
        "it must be younger than 120 s and have begun after the last event"
    )
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize(("began", "is_ready"), [(-60.0000001, False), (-60, False), (-59.9999999, True)])
def test_a_probe_must_have_begun_after_the_last_event_was_recorded(began: float, is_ready: bool) -> None:
    verdict = verified_by(probe(began=began), Activity(last_recorded_at=at(-60)))
    assert verdict.ready is is_ready
    assert is_ready or only_reason(verdict) is Reason.PROBE_STALE


def test_a_verified_hub_still_has_to_settle() -> None:
    verdict = verified_by(probe(began=-5), Activity(last_recorded_at=at(-10)))
    assert only_reason(verdict) is Reason.SETTLING
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.retry_after_seconds == 20


def test_a_caller_polls_while_a_hub_settles_and_its_probe_is_stale() -> None:
    verdict = verified_by(probe(began=-20), Activity(last_recorded_at=at(-10)))
    assert [reason.code for reason in verdict.reasons] == [Reason.SETTLING, Reason.PROBE_STALE]
    assert verdict.retry_after_seconds == POLL_SECONDS


@pytest.mark.parametrize("status", ProbeStatus)
def test_an_instance_that_a_probe_finds_blocks_however_the_probe_ended(status: ProbeStatus) -> None:
    verdict = verified_by(probe(active("lost"), status=status))
    assert verdict.reasons[0].code is Reason.INSTANCES_ACTIVE
    assert verdict.has_running
    assert [one.instance_id for one in verdict.active] == ["lost"]


def test_a_good_probe_that_finds_active_instances_is_a_verified_no() -> None:
    verdict = verified_by(probe(active("lost")))
    assert only_reason(verdict) is Reason.INSTANCES_ACTIVE
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_that_finds_nothing_does_not_overrule_an_event_that_shows_an_instance_running() -> None:
    verdict = verified_by(probe(), Activity(active=(active(),), last_recorded_at=at(-600)))
    assert only_reason(verdict) is Reason.INSTANCES_ACTIVE


def test_an_instance_that_events_and_probe_both_show_counts_once_as_the_event_shows_it() -> None:
    by_probe = replace(active("both", since=-50), runtime_status=RuntimeStatus.SUSPENDED)
    activity = Activity(active=(active("both", since=-40), active("by-event", since=-30)))
    verdict = verified_by(probe(by_probe, active("by-probe", since=-60)), activity)
    assert verdict.active_count == 3
    assert [one.instance_id for one in verdict.active] == ["by-probe", "both", "by-event"]
    assert verdict.active[1].runtime_status is RuntimeStatus.RUNNING


def test_what_the_policy_ignores_may_stay_active_in_a_probe_too() -> None:
    verdict = verified_by(probe(active("sync", "NightlySync")), policy=Policy(ignore_functions=("Nightly*",)))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.ignored_count == 1


def test_a_result_that_is_left_from_a_probe_no_longer_configured_verifies_nothing() -> None:
    verdict = assess(replace(evidence(), probe=probe()), Policy(), at())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_an_instance_that_the_probe_shows_under_a_name_that_is_not_ignored_blocks() -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    shown = probed(probe(active("x", "ProcessOrder")), Activity(active=(active("x", "NightlySync"),)))
    verdict = assess(shown, policy, at())
    assert (verdict.ready, verdict.active_count) == (False, 1)


def test_an_ignored_instance_that_events_and_probe_show_is_counted_once() -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    verdict = assess(probed(probe(active("x", "NightlySync")), Activity(ignored_count=1)), policy, at())
    assert (verdict.ready, verdict.ignored_count) == (True, 1)


def test_a_probe_of_the_future_proves_nothing() -> None:
    shown = probed(replace(probe(), began_at=at(3600)))
    verdict = assess(shown, Policy(), at())
    assert [reason.code for reason in verdict.reasons] == [Reason.PROBE_STALE]


def test_a_probe_that_shows_very_many_gives_a_lower_bound_too() -> None:
    shown = probed(probe(*(active(f"x{n}", "ProcessOrder") for n in range(ACTIVE_LIMIT + 1))))
    verdict = assess(shown, Policy(), at())
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (ACTIVE_LIMIT, True)
