"""What holds of every verdict: it fails closed, and it lets through what is quiet."""

from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import RuntimeStatus, Source
from state_api.domain.readiness import (
    ActiveInstance,
    Activity,
    Assurance,
    Evidence,
    OpenDeployment,
    Policy,
    ProbeResult,
    ProbeStatus,
    Reason,
    assess,
)
from tests.domain.builders import NOON, at

OFFSETS = st.integers(-4000, 4000).map(lambda tenths: at(tenths / 10))


def listed(number: int, started_at: Instant) -> ActiveInstance:
    """An active instance; an id always belongs to the same function, and every third to one that may stay active."""
    name = ("ProcessOrder", "ShipOrder", "NightlySync")[number % 3]
    return ActiveInstance(f"order-{number}", name, RuntimeStatus.RUNNING, started_at, started_at, Source.EVENT)


ACTIVE = st.lists(st.builds(listed, st.integers(0, 8), OFFSETS), max_size=5).map(tuple)
ACTIVITY = st.builds(
    Activity,
    active=ACTIVE,
    more=st.booleans(),
    ignored_count=st.integers(0, 3),
    last_event_at=st.none() | OFFSETS,
    last_recorded_at=st.none() | OFFSETS,
)
PROBES = st.builds(
    ProbeResult,
    status=st.sampled_from(ProbeStatus),
    provider=st.just("azureStorage"),
    began_at=OFFSETS,
    active=ACTIVE,
    scanned=st.integers(0, 5000),
)
DEPLOYMENTS = st.builds(
    OpenDeployment,
    task_hub=st.just("v42"),
    by=st.just("ben"),
    run_url=st.sampled_from([None, "https://ci.example/runs/8"]),
    started_at=OFFSETS,
)
POLICIES = st.builds(
    Policy,
    settle_seconds=st.integers(0, 300),
    freshness_seconds=st.integers(1, 300),
    require_verification=st.booleans(),
    ignore_functions=st.sampled_from([(), ("NightlySync",), ("Nightly*", "Ship*")]),
)
EVIDENCE = st.builds(
    Evidence,
    task_hub=st.just("v41"),
    activity=ACTIVITY,
    provider=st.sampled_from([None, "azureStorage"]),
    probe=st.none() | PROBES,
    deployment=st.none() | DEPLOYMENTS,
)


@given(EVIDENCE, POLICIES)
def test_a_hub_is_never_ready_while_an_instance_that_may_not_stay_is_active(evidence: Evidence, policy: Policy) -> None:
    found = evidence.activity.active + (evidence.probe.active if evidence.probe else ())
    blocking = {one.instance_id for one in found if not policy.ignores(one.function_name)}
    verdict = assess(evidence, policy, NOON)
    assert {one.instance_id for one in verdict.active} == blocking
    assert verdict.has_running is bool(blocking or evidence.activity.more)
    assert not (verdict.ready and verdict.has_running)


@given(st.none() | OFFSETS, st.none() | OFFSETS, st.integers(0, 5), POLICIES)
def test_a_hub_that_has_been_quiet_for_the_settle_window_is_ready(
    recorded: Instant | None, published: Instant | None, ignored: int, policy: Policy
) -> None:
    policy = Policy(policy.settle_seconds, policy.freshness_seconds, ignore_functions=policy.ignore_functions)
    now = Instant((NOON if recorded is None else recorded) + seconds(policy.settle_seconds))
    quiet = Evidence("v41", Activity((), False, ignored, published, recorded))
    assert assess(quiet, policy, now).ready


@given(EVIDENCE, POLICIES)
def test_a_verdict_is_ready_exactly_when_it_has_no_reason_and_then_tells_nobody_to_wait(
    evidence: Evidence, policy: Policy
) -> None:
    verdict = assess(evidence, policy, NOON)
    assert verdict.ready is (verdict.reasons == ())
    assert verdict.ready is (verdict.retry_after_seconds is None)
    assert verdict.ready or (verdict.retry_after_seconds or 0) >= 1


@given(EVIDENCE, POLICIES)
def test_each_reason_is_given_once_and_in_words(evidence: Evidence, policy: Policy) -> None:
    reasons = assess(evidence, policy, NOON).reasons
    assert len({reason.code for reason in reasons}) == len(reasons)
    assert all(reason.message for reason in reasons)


@given(EVIDENCE, POLICIES)
def test_a_wanted_probe_is_a_reason_against_readiness_unless_it_verifies(evidence: Evidence, policy: Policy) -> None:
    verdict = assess(evidence, policy, NOON)
    about_probe = {
        Reason.VERIFICATION_REQUIRED,
        Reason.PROBE_PENDING,
        Reason.PROBE_FAILED,
        Reason.PROBE_INCOMPLETE,
        Reason.PROBE_STALE,
    }
    doubted = any(reason.code in about_probe for reason in verdict.reasons)
    wanted = evidence.provider is not None or policy.require_verification
    assert doubted is (wanted and verdict.assurance is Assurance.EVENTS)


@given(EVIDENCE, POLICIES, st.integers(1, 4000))
def test_without_a_probe_waiting_never_turns_ready_into_not_ready(
    evidence: Evidence, policy: Policy, wait: int
) -> None:
    by_events = Evidence(evidence.task_hub, evidence.activity)
    later = Instant(NOON + seconds(wait))
    assert assess(by_events, policy, later).ready or not assess(by_events, policy, NOON).ready


@given(EVIDENCE, POLICIES)
def test_a_more_patient_policy_is_never_ready_where_a_hastier_one_is_not(evidence: Evidence, policy: Policy) -> None:
    patient = Policy(policy.settle_seconds + 30, policy.freshness_seconds, policy.require_verification)
    assert not assess(evidence, patient, NOON).ready or assess(evidence, policy, NOON).ready
