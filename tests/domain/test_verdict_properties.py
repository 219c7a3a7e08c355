"""Properties of every verdict: it fails closed, and a quiet and drained task hub is Ready."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import (
    ActiveInstance,
    Evidence,
    InstanceActivity,
    OpenDeployment,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.readiness.exemptions import Exemptions, Waiver
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import assess_readiness
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus
from tests.domain.builders import NOON, build_waiver, noon_plus

OFFSETS = st.integers(-4000, 4000).map(lambda tenths: noon_plus(tenths / 10))
RECENT_TIMES = st.sampled_from([-301, -300, -120, -60, -60.0000001, -30, -1, 0, 1]).map(noon_plus)
"""Times that often equal the limits of the policies."""
FUNCTIONS = ("ProcessOrder", "ShipOrder", "NightlySync")

ALWAYS, NEVER = st.just(value=True), st.just(value=False)

Value = TypeVar("Value")


def mix_rarely(rare: st.SearchStrategy[Value], usual: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """`rare` in one of four examples, and `usual` in the others.

    Otherwise some condition would prevent Ready in almost every example."""
    return st.sampled_from([False, False, False, True]).flatmap(lambda is_rare: rare if is_rare else usual)


def build_active_instance(number: int, function_name: str, started_at: Instant) -> ActiveInstance:
    return ActiveInstance(
        f"order-{number}", function_name, RuntimeStatus.RUNNING, started_at, started_at, EvidenceSource.EVENT
    )


ACTIVE = st.lists(
    st.builds(build_active_instance, st.integers(0, 5), st.sampled_from(FUNCTIONS), OFFSETS),
    max_size=3,
    unique_by=lambda instance: instance.instance_id,
).map(tuple)
FEW_ACTIVE = ACTIVE | st.just(())


CORRECTION_EPOCHS = mix_rarely(st.just("another"), st.just(""))


@st.composite
def draw_activity(draw: st.DrawFn) -> InstanceActivity:
    """Draw recorded activity. Some of its instances were waived when it was read."""
    instances = draw(FEW_ACTIVE)
    waived = draw(st.integers(0, len(instances)))
    return InstanceActivity(
        active=instances[waived:],
        has_more=draw(mix_rarely(st.booleans(), NEVER)),
        ignored_count=draw(st.integers(0, 3)),
        last_event_at=draw(st.none() | OFFSETS),
        last_recorded_at=draw(st.none() | RECENT_TIMES),
        waived=instances[:waived],
        correction_epoch=draw(CORRECTION_EPOCHS),
    )


@st.composite
def draw_probe_result(draw: st.DrawFn) -> ProbeResult:
    """Draw the result of a probe. Some of its instances were waived when it began."""
    instances = draw(FEW_ACTIVE)
    waived = draw(st.integers(0, len(instances)))
    return replace(draw(RESULTS), active=instances[waived:], waived=instances[:waived])


RESULTS = st.builds(
    ProbeResult,
    status=st.sampled_from([ProbeStatus.COMPLETE, ProbeStatus.COMPLETE, ProbeStatus.MISSING, *ProbeStatus]),
    provider=st.just("azureStorage"),
    began_at=RECENT_TIMES,
    scanned=st.integers(0, 5000),
    read_seconds=st.integers(0, 400),
    unlisted_count=mix_rarely(st.sampled_from([1, 300]), st.just(0)),
    ignored_count=st.integers(0, 3),
    retry_after_seconds=st.none() | st.integers(0, 1000),
    correction_epoch=CORRECTION_EPOCHS,
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
    settle_seconds=st.sampled_from([0, 30, 60]) | st.integers(0, 300),
    freshness_seconds=st.sampled_from([60, 120, 300]) | st.integers(1, 400),
    require_verification=st.booleans(),
    ignore_functions=st.sampled_from([(), ("NightlySync",), ("Nightly*", "Ship*")]),
    missing_task_hub_is_drained=st.booleans(),
)
WAIVERS = st.builds(
    lambda number, expires: build_waiver(f"order-{number}", expires=expires),
    st.integers(0, 5),
    st.sampled_from([-60, 0, 0.0000001, 60, 3600, 86_400]),
)
EVIDENCE = st.builds(
    Evidence,
    task_hub=st.just("v41"),
    activity=draw_activity(),
    provider=mix_rarely(st.none(), st.just("azureStorage")),
    probe=mix_rarely(st.none(), draw_probe_result()),
    deployment=mix_rarely(DEPLOYMENTS, st.none()),
    waivers=st.lists(WAIVERS, max_size=6, unique_by=lambda waiver: waiver.instance_id).map(tuple),
    seen_before=mix_rarely(ALWAYS, NEVER),
)

REASONS_TO_PROBE_AGAIN = {ReasonCode.PROBE_PENDING, ReasonCode.PROBE_INCOMPLETE, ReasonCode.PROBE_STALE}
PROBE_REASONS = REASONS_TO_PROBE_AGAIN | {
    ReasonCode.VERIFICATION_REQUIRED,
    ReasonCode.PROBE_FAILED,
    ReasonCode.PROBE_DENIED,
    ReasonCode.PROBE_THROTTLED,
    ReasonCode.TASK_HUB_MISSING,
}


def is_probe_current(probe: ProbeResult, evidence: Evidence, policy: Policy) -> bool:
    """Whether the probe is still valid at noon."""
    recorded = evidence.activity.last_recorded_at
    is_young = 0 <= NOON - probe.began_at < seconds(policy.freshness_seconds)
    began_after_events = recorded is None or probe.began_at > recorded + seconds(min(2, policy.settle_seconds))
    return is_young and began_after_events and probe.correction_epoch == evidence.activity.correction_epoch


def is_missing_and_drained(evidence: Evidence, policy: Policy) -> bool:
    """Whether a recent probe found no task hub and it was never seen."""
    probe = evidence.probe
    if evidence.provider is None or probe is None or probe.status is not ProbeStatus.MISSING:
        return False
    return policy.missing_task_hub_is_drained and not evidence.seen_before and is_probe_current(probe, evidence, policy)


def get_current_probe(evidence: Evidence, policy: Policy) -> ProbeResult:
    """The probe of the evidence, or an empty one if there is none or it is stale."""
    probe = evidence.probe
    if probe is None or (
        evidence.provider is not None
        and probe.status is ProbeStatus.COMPLETE
        and not is_probe_current(probe, evidence, policy)
    ):
        return ProbeResult(ProbeStatus.INCOMPLETE, "", NOON)
    return probe


def list_active_instances(evidence: Evidence, policy: Policy) -> list[ActiveInstance]:
    """The active instances of events and probe, waived ones included. An instance can occur twice."""
    probe = get_current_probe(evidence, policy)
    return [*evidence.activity.active, *evidence.activity.waived, *probe.active, *probe.waived]


def find_waivers_in_force(evidence: Evidence) -> tuple[Waiver, ...]:
    return tuple(waiver for waiver in evidence.waivers if waiver.expires_at > NOON)


def find_active_ids_not_ignored(evidence: Evidence, policy: Policy) -> set[str]:
    """The ids of active instances under a function name that the policy does not ignore."""
    return {
        instance.instance_id
        for instance in list_active_instances(evidence, policy)
        if not policy.ignores(instance.function_name)
    }


@settings(max_examples=400)
@given(EVIDENCE, POLICIES)
def test_a_task_hub_is_never_ready_while_an_instance_that_is_not_exempt_is_active(
    evidence: Evidence, policy: Policy
) -> None:
    blocking = find_active_ids_not_ignored(evidence, policy) - {
        waiver.instance_id for waiver in find_waivers_in_force(evidence)
    }
    probe = get_current_probe(evidence, policy)
    exempt = Exemptions(policy.ignore_functions, find_waivers_in_force(evidence))
    counted = probe.unlisted_count + sum(
        not exempt.exempts(instance.function_name, instance.instance_id) for instance in probe.active
    )
    more = evidence.activity.has_more or counted > len(blocking)
    verdict = assess_readiness(evidence, policy, NOON)
    assert {instance.instance_id for instance in verdict.active} == blocking
    assert verdict.active_count == max(len(blocking), more)
    assert verdict.active_count_is_lower_bound is more
    assert verdict.has_running is bool(blocking or more)
    assert not (verdict.ready and verdict.has_running)


@given(EVIDENCE, POLICIES)
def test_exactly_the_active_instances_that_a_waiver_exempts_are_listed_as_waived(
    evidence: Evidence, policy: Policy
) -> None:
    verdict = assess_readiness(evidence, policy, NOON)
    expected_ids = {waiver.instance_id for waiver in find_waivers_in_force(evidence)} & find_active_ids_not_ignored(
        evidence, policy
    )
    assert {waived.active.instance_id for waived in verdict.waived} == expected_ids
    assert len(verdict.waived) == len(expected_ids)
    assert all(waived.waiver in evidence.waivers for waived in verdict.waived)
    assert all(waived.waiver.instance_id == waived.active.instance_id for waived in verdict.waived)


@given(EVIDENCE, POLICIES)
def test_a_waiver_never_exempts_another_instance(evidence: Evidence, policy: Policy) -> None:
    with_waivers, without = (
        assess_readiness(evidence, policy, NOON),
        assess_readiness(replace(evidence, waivers=()), policy, NOON),
    )
    assert with_waivers.ready or not without.ready
    waived = {waived.active.instance_id for waived in with_waivers.waived}
    assert {instance.instance_id for instance in without.active} == {
        instance.instance_id for instance in with_waivers.active
    } | waived


@settings(max_examples=400)
@given(EVIDENCE, POLICIES)
def test_with_a_provider_ready_means_that_a_recent_probe_found_the_task_hub_drained(
    evidence: Evidence, policy: Policy
) -> None:
    evidence = replace(evidence, provider="azureStorage")
    verdict = assess_readiness(evidence, policy, NOON)
    if verdict.ready:
        probe = evidence.probe
        assert probe is not None
        assert is_probe_current(probe, evidence, policy)
        assert probe.status is ProbeStatus.COMPLETE or is_missing_and_drained(evidence, policy)
        assert (verdict.assurance is Assurance.VERIFIED) is (probe.status is ProbeStatus.COMPLETE)


@given(EVIDENCE, POLICIES)
def test_without_a_provider_ready_means_that_the_policy_requires_no_probe(evidence: Evidence, policy: Policy) -> None:
    verdict = assess_readiness(replace(evidence, provider=None), policy, NOON)
    assert verdict.assurance is Assurance.EVENTS
    assert not (verdict.ready and policy.require_verification)


@given(EVIDENCE, POLICIES)
def test_ready_means_that_the_settle_window_has_ended_and_no_other_run_deploys(
    evidence: Evidence, policy: Policy
) -> None:
    if assess_readiness(evidence, policy, NOON).ready:
        recorded = evidence.activity.last_recorded_at
        assert not policy.settle_seconds or recorded is None or NOON - recorded >= seconds(policy.settle_seconds)
        assert evidence.deployment is None


@given(EVIDENCE, POLICIES)
def test_an_instance_that_the_task_hub_has_just_confirmed_changes_nothing_but_the_assurance(
    evidence: Evidence, policy: Policy
) -> None:
    confirmed = assess_readiness(replace(evidence, active_instance_seen=True), policy, NOON)
    verdict = assess_readiness(evidence, policy, NOON)
    assert confirmed.assurance is Assurance.VERIFIED or not confirmed.has_running
    assert replace(confirmed, assurance=verdict.assurance, evidence=evidence) == verdict


@given(st.none() | OFFSETS, st.none() | OFFSETS, st.integers(0, 5), POLICIES)
def test_a_task_hub_that_was_quiet_for_the_settle_window_is_ready(
    recorded: Instant | None, published: Instant | None, ignored: int, policy: Policy
) -> None:
    policy = replace(policy, require_verification=False)
    now = Instant((NOON if recorded is None else recorded) + seconds(policy.settle_seconds))
    quiet = Evidence("v41", InstanceActivity(ignored_count=ignored, last_event_at=published, last_recorded_at=recorded))
    assert assess_readiness(quiet, policy, now).ready


@given(st.none() | OFFSETS, POLICIES)
def test_a_quiet_task_hub_that_a_recent_probe_found_drained_is_ready(recorded: Instant | None, policy: Policy) -> None:
    began = Instant((NOON if recorded is None else recorded) + seconds(policy.settle_seconds) + 1)
    drained = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", began)
    quiet = Evidence("v41", InstanceActivity(last_recorded_at=recorded), "azureStorage", drained)
    for age in (0, seconds(policy.freshness_seconds) - 1):
        assert assess_readiness(quiet, policy, Instant(began + age)).ready


@given(EVIDENCE, POLICIES)
def test_a_verdict_without_reasons_is_ready_and_has_no_retry_after(evidence: Evidence, policy: Policy) -> None:
    verdict = assess_readiness(evidence, policy, NOON)
    assert verdict.ready is (verdict.reasons == ())
    assert verdict.ready is (verdict.retry_after_seconds is None)
    assert verdict.ready or 1 <= (verdict.retry_after_seconds or 0) <= 300


@given(EVIDENCE, POLICIES)
def test_each_reason_occurs_once_and_has_a_message(evidence: Evidence, policy: Policy) -> None:
    reasons = assess_readiness(evidence, policy, NOON).reasons
    assert len({reason.code for reason in reasons}) == len(reasons)
    assert all(reason.message for reason in reasons)


@given(EVIDENCE, POLICIES)
def test_a_required_probe_is_a_reason_unless_it_verifies_or_is_not_due_yet(evidence: Evidence, policy: Policy) -> None:
    verdict = assess_readiness(evidence, policy, NOON)
    codes = {reason.code for reason in verdict.reasons}
    is_probe_required = evidence.provider is not None or policy.require_verification
    drained = is_missing_and_drained(evidence, policy)
    is_unverified = is_probe_required and verdict.assurance is Assurance.EVENTS and not drained
    if codes & {ReasonCode.INSTANCES_ACTIVE, ReasonCode.SETTLING}:
        assert not codes & REASONS_TO_PROBE_AGAIN
        assert is_unverified or not codes & PROBE_REASONS
    else:
        assert bool(codes & PROBE_REASONS) is is_unverified


@given(EVIDENCE, POLICIES, st.integers(1, 4000))
def test_without_a_probe_waiting_never_turns_ready_into_not_ready_unless_a_waiver_expires(
    evidence: Evidence, policy: Policy, wait: int
) -> None:
    extended_waivers = tuple(replace(waiver, expires_at=noon_plus(wait + 1)) for waiver in evidence.waivers)
    by_events = Evidence(evidence.task_hub, evidence.activity, waivers=extended_waivers)
    later = Instant(NOON + seconds(wait))
    assert assess_readiness(by_events, policy, later).ready or not assess_readiness(by_events, policy, NOON).ready


@given(EVIDENCE, POLICIES)
def test_a_stricter_policy_is_never_ready_where_a_looser_one_is_not(evidence: Evidence, policy: Policy) -> None:
    stricter_policy = Policy(policy.settle_seconds + 30, policy.freshness_seconds, policy.require_verification)
    assert not assess_readiness(evidence, stricter_policy, NOON).ready or assess_readiness(evidence, policy, NOON).ready
