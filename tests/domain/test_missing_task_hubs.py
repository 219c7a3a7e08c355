"""The verdict on a task hub that does not exist at its provider."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import InstanceActivity, ProbeStatus
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_evidence_with_probe,
    build_probe_result,
    noon_plus,
)
from tests.domain.probe_verdicts import REASON_BY_FAILURE, get_only_reason

# Task hubs that do not exist
DRAINED_IF_MISSING = Policy(missing_task_hub_is_drained=True)


def assess_missing_hub(
    *, seen_before: bool = False, policy: Policy = DRAINED_IF_MISSING, began: float = -10
) -> Verdict:
    """The verdict on a task hub that does not exist at its provider."""
    result = build_probe_result(status=ProbeStatus.MISSING, message="there is no table v41Instances", began=began)
    return assess_readiness(replace(build_evidence_with_probe(result), seen_before=seen_before), policy, noon_plus())


def test_a_task_hub_that_never_existed_is_drained_but_not_verified_if_the_policy_says_so() -> None:
    verdict = assess_missing_hub()
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_a_task_hub_that_does_not_exist_is_not_ready_unless_the_policy_says_so() -> None:
    verdict = assess_missing_hub(policy=Policy())
    assert get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING
    assert verdict.reasons[0].message == (
        "task hub v41 could not be read: there is no table v41Instances. If a version that was staged and never "
        "started may be overwritten, set missingTaskHubIsDrained in the app's policy"
    )


@pytest.mark.parametrize("policy", [Policy(), DRAINED_IF_MISSING])
def test_a_task_hub_that_was_seen_before_is_missing_regardless_of_the_policy(policy: Policy) -> None:
    verdict = assess_missing_hub(seen_before=True, policy=policy)
    assert get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING
    assert verdict.reasons[0].message == "task hub v41 could not be read: there is no table v41Instances"
    assert verdict.assurance is Assurance.EVENTS


def test_a_task_hub_counts_as_seen_before_by_default() -> None:
    assert build_evidence().seen_before


@pytest.mark.parametrize(("began", "is_ready"), [(-119.9999999, True), (-120, False), (0, True), (0.0000001, False)])
def test_a_probe_that_found_no_task_hub_must_be_recent(began: float, *, is_ready: bool) -> None:
    verdict = assess_missing_hub(began=began)
    assert verdict.ready is is_ready
    assert is_ready or get_only_reason(verdict) is ReasonCode.TASK_HUB_MISSING


def test_a_task_hub_that_does_not_exist_while_events_come_from_it_is_not_ready() -> None:
    result = build_probe_result(status=ProbeStatus.MISSING, began=-60)
    evidence_with_later_event = replace(
        build_evidence_with_probe(result, InstanceActivity(last_recorded_at=noon_plus(-60))), seen_before=False
    )
    assert (
        get_only_reason(assess_readiness(evidence_with_later_event, DRAINED_IF_MISSING, noon_plus()))
        is ReasonCode.TASK_HUB_MISSING
    )
    evidence_with_active_instance = replace(
        build_evidence_with_probe(
            build_probe_result(status=ProbeStatus.MISSING), InstanceActivity(active=(build_active_instance(),))
        ),
        seen_before=False,
    )
    assert (
        get_only_reason(assess_readiness(evidence_with_active_instance, DRAINED_IF_MISSING, noon_plus()))
        is ReasonCode.INSTANCES_ACTIVE
    )


@pytest.mark.parametrize("status", [ProbeStatus.FAILED, ProbeStatus.DENIED, ProbeStatus.THROTTLED])
def test_a_failed_read_does_not_count_as_a_missing_task_hub(status: ProbeStatus) -> None:
    verdict = assess_readiness(
        replace(build_evidence_with_probe(build_probe_result(status=status)), seen_before=False),
        DRAINED_IF_MISSING,
        noon_plus(),
    )
    assert get_only_reason(verdict) is REASON_BY_FAILURE[status]
