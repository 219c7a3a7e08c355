"""The verdict with a provider: which probes are valid, and the reasons why another probe is needed."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import DEFAULT_RETRY_AFTER_SECONDS, assess_readiness
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_evidence_with_probe,
    build_probe_result,
    noon_plus,
)
from tests.domain.probe_verdicts import REASON_BY_FAILURE, assess_probe, get_only_reason


def test_a_complete_and_recent_probe_that_finds_nothing_verifies_that_a_task_hub_is_drained() -> None:
    verdict = assess_probe(build_probe_result(scanned=1180))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_satisfies_a_policy_that_requires_verification() -> None:
    verdict = assess_probe(build_probe_result(), policy=Policy(require_verification=True))
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED


def test_a_policy_that_requires_verification_is_never_satisfied_by_events_alone() -> None:
    verdict = assess_readiness(build_evidence(), Policy(require_verification=True), noon_plus())
    assert get_only_reason(verdict) is ReasonCode.VERIFICATION_REQUIRED
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS
    assert verdict.reasons[0].message.startswith("the app's policy requires verification, but no probe of")


@pytest.mark.parametrize("require_verification", [True, False])
def test_a_configured_probe_without_a_result_is_pending(*, require_verification: bool) -> None:
    verdict = assess_probe(None, policy=Policy(require_verification=require_verification))
    assert get_only_reason(verdict) is ReasonCode.PROBE_PENDING
    assert verdict.reasons[0].message == "task hub v41 has not been verified by azureStorage yet"
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


def test_every_probe_status_except_complete_is_a_reason() -> None:
    assert set(ProbeStatus) - set(REASON_BY_FAILURE) == {ProbeStatus.COMPLETE, ProbeStatus.INCOMPLETE}


@pytest.mark.parametrize(("status", "code"), REASON_BY_FAILURE.items())
def test_a_failed_probe_fails_closed_and_says_what_to_fix(status: ProbeStatus, code: ReasonCode) -> None:
    verdict = assess_probe(build_probe_result(status=status, message="the connection STATE_TASKHUBS_SHOP is not set"))
    assert get_only_reason(verdict) is code
    assert verdict.reasons[0].message == "task hub v41 could not be read: the connection STATE_TASKHUBS_SHOP is not set"
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


@pytest.mark.parametrize("status", REASON_BY_FAILURE)
@pytest.mark.parametrize(("asked", "retry_after"), [(None, 10), (0, 10), (9, 10), (11, 11), (300, 300), (301, 300)])
def test_retry_after_is_what_the_storage_asks_up_to_a_limit(
    status: ProbeStatus, asked: int | None, retry_after: int
) -> None:
    assert assess_probe(build_probe_result(status=status, retry_after_seconds=asked)).retry_after_seconds == retry_after


def test_retry_after_is_what_the_storage_asks_while_the_task_hub_settles_too() -> None:
    verdict = assess_probe(
        build_probe_result(status=ProbeStatus.THROTTLED, retry_after_seconds=60),
        InstanceActivity(last_recorded_at=noon_plus(-10)),
    )
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.SETTLING, ReasonCode.PROBE_THROTTLED]
    assert verdict.retry_after_seconds == 60


def test_an_incomplete_probe_fails_closed_and_says_how_far_it_came() -> None:
    verdict = assess_probe(
        build_probe_result(status=ProbeStatus.INCOMPLETE, scanned=5000, message="it took longer than 20 s")
    )
    assert get_only_reason(verdict) is ReasonCode.PROBE_INCOMPLETE
    assert verdict.reasons[0].message == "the probe of task hub v41 is not complete: it took longer than 20 s"
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize(("began", "is_ready"), [(-119.9999999, True), (-120, False), (-121, False)])
def test_a_probe_must_be_younger_than_the_freshness(began: float, *, is_ready: bool) -> None:
    assert assess_probe(build_probe_result(began=began)).ready is is_ready


def test_an_app_sets_its_own_freshness() -> None:
    assert assess_probe(build_probe_result(began=-300), policy=Policy(freshness_seconds=301)).ready
    assert not assess_probe(build_probe_result(began=-300), policy=Policy(freshness_seconds=300)).ready


def test_a_stale_probe_says_when_it_began_and_verifies_nothing() -> None:
    verdict = assess_probe(build_probe_result(began=-180))
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert verdict.reasons[0].message == (
        "the last complete probe of task hub v41 began at 2026-11-20T11:57:00.0000000Z; "
        "it must be younger than 120 s and have begun after the last event"
    )
    assert verdict.assurance is Assurance.EVENTS


@pytest.mark.parametrize("read_seconds", [0, 119])
def test_a_stale_probe_that_was_read_quickly_suggests_no_other_setting(read_seconds: int) -> None:
    verdict = assess_probe(build_probe_result(began=-360, read_seconds=read_seconds))
    assert verdict.reasons[0].message.endswith("and have begun after the last event")


@pytest.mark.parametrize("read_seconds", [120, 121, 360])
def test_a_probe_that_took_longer_than_the_freshness_says_what_to_change(read_seconds: int) -> None:
    verdict = assess_probe(build_probe_result(began=-360, read_seconds=read_seconds))
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert verdict.reasons[0].message.endswith(
        f"begun after the last event. Reading this task hub took {read_seconds} s: set freshnessSeconds well above "
        "that, or purge finished instances"
    )


@pytest.mark.parametrize(
    ("epoch_of_probe", "epoch_of_records", "is_ready"),
    [("", "", True), ("a", "a", True), ("", "a", False), ("a", "b", False)],
)
def test_a_probe_must_have_begun_after_the_last_look_up_that_closed_an_instance(
    epoch_of_probe: str, epoch_of_records: str, *, is_ready: bool
) -> None:
    """An instance whose end no event reported may have started another one. Closing it changes the correction epoch."""
    verdict = assess_probe(
        replace(build_probe_result(began=-9), correction_epoch=epoch_of_probe),
        InstanceActivity(correction_epoch=epoch_of_records),
    )
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert is_ready or verdict.reasons[0].message.endswith(
        "after the last event, and since then a look-up has closed instances whose end no event reported"
    )


@pytest.mark.parametrize(
    ("settle", "began", "is_ready"),
    [
        (30, -58, False),
        (30, -57.9999999, True),
        (2, -58, False),
        (1, -59, False),
        (1, -58.9999999, True),
        (0, -60.0000001, False),
        (0, -60, False),
        (0, -59.9999999, True),
    ],
)
def test_a_probe_must_have_begun_after_the_last_event_was_recorded(
    settle: int, began: float, *, is_ready: bool
) -> None:
    """Stamps and the time that the storage reports may differ by two seconds."""
    policy = Policy(settle_seconds=settle)
    verdict = assess_probe(
        build_probe_result(began=began), InstanceActivity(last_recorded_at=noon_plus(-60)), policy=policy
    )
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.PROBE_STALE


def test_a_verified_task_hub_still_has_to_settle() -> None:
    verdict = assess_probe(build_probe_result(began=-5), InstanceActivity(last_recorded_at=noon_plus(-10)))
    assert get_only_reason(verdict) is ReasonCode.SETTLING
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.retry_after_seconds == 20


RESULTS_THAT_REQUIRE_A_PROBE = pytest.mark.parametrize(
    "result",
    [None, build_probe_result(status=ProbeStatus.INCOMPLETE), build_probe_result(began=-500)],
    ids=["pending", "incomplete", "stale"],
)
"""Results after which a task hub must be read, or read again."""


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_settling_task_hub_reports_when_it_will_be_read(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(last_recorded_at=noon_plus(-10)))
    assert get_only_reason(verdict) is ReasonCode.SETTLING
    assert verdict.assurance is Assurance.EVENTS
    assert verdict.retry_after_seconds == 20


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_task_hub_with_active_instances_need_not_be_read(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(active=(build_active_instance(),)))
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


@RESULTS_THAT_REQUIRE_A_PROBE
def test_a_quiet_task_hub_that_was_not_read_is_not_ready(result: ProbeResult | None) -> None:
    verdict = assess_probe(result, InstanceActivity(last_recorded_at=noon_plus(-60)))
    assert get_only_reason(verdict) in {ReasonCode.PROBE_PENDING, ReasonCode.PROBE_INCOMPLETE, ReasonCode.PROBE_STALE}


@pytest.mark.parametrize(
    "activity", [InstanceActivity(active=(build_active_instance(),)), InstanceActivity(last_recorded_at=noon_plus(-10))]
)
@pytest.mark.parametrize(("status", "code"), REASON_BY_FAILURE.items())
def test_a_failed_read_is_reported_before_the_task_hub_is_quiet(
    status: ProbeStatus, code: ReasonCode, activity: InstanceActivity
) -> None:
    verdict = assess_probe(build_probe_result(status=status), activity)
    assert [reason.code for reason in verdict.reasons[1:]] == [code]
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


def test_a_missing_probe_is_reported_before_the_task_hub_is_quiet_if_the_policy_requires_one() -> None:
    evidence_with_active_instance = build_evidence(activity=InstanceActivity(active=(build_active_instance(),)))
    verdict = assess_readiness(evidence_with_active_instance, Policy(require_verification=True), noon_plus())
    assert [reason.code for reason in verdict.reasons] == [
        ReasonCode.INSTANCES_ACTIVE,
        ReasonCode.VERIFICATION_REQUIRED,
    ]


def test_a_result_of_a_probe_that_is_no_longer_configured_verifies_nothing() -> None:
    verdict = assess_readiness(replace(build_evidence(), probe=build_probe_result()), Policy(), noon_plus())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_a_probe_dated_in_the_future_is_not_valid() -> None:
    evidence = build_evidence_with_probe(replace(build_probe_result(), began_at=noon_plus(3600)))
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.PROBE_STALE]
