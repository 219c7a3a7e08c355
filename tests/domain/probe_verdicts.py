"""Verdicts on a task hub with a provider, by the result of its probe."""

from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from tests.domain.builders import build_evidence_with_probe, noon_plus


def assess_probe(
    result: ProbeResult | None, activity: InstanceActivity | None = None, policy: Policy | None = None
) -> Verdict:
    """The verdict at noon on a task hub with a provider."""
    return assess_readiness(build_evidence_with_probe(result, activity), policy or Policy(), noon_plus())


def get_only_reason(verdict: Verdict) -> ReasonCode:
    """The code of the reason, of which there must be exactly one."""
    (reason,) = verdict.reasons
    return reason.code


REASON_BY_FAILURE = {
    ProbeStatus.FAILED: ReasonCode.PROBE_FAILED,
    ProbeStatus.DENIED: ReasonCode.PROBE_DENIED,
    ProbeStatus.THROTTLED: ReasonCode.PROBE_THROTTLED,
    ProbeStatus.MISSING: ReasonCode.TASK_HUB_MISSING,
}
