"""What holds of every verdict: it fails closed, and it lets through what is quiet."""

from dataclasses import replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from state_api.domain.evidence import ActiveInstance, Activity, Evidence, OpenDeployment, ProbeResult, ProbeStatus
from state_api.domain.exemptions import Exemptions, Waiver
from state_api.domain.instants import Instant, seconds
from state_api.domain.lifecycle import RuntimeStatus, Source
from state_api.domain.readiness import Assurance, Policy, Reason, assess
from tests.domain.builders import NOON, at, waiver

OFFSETS = st.integers(-4000, 4000).map(lambda tenths: at(tenths / 10))
LATELY = st.sampled_from([-301, -300, -120, -60, -60.0000001, -30, -1, 0, 1]).map(at)
"""Often the very times that policies ask for."""
FUNCTIONS = ("ProcessOrder", "ShipOrder", "NightlySync")

Value = TypeVar("Value")


def seldom(rare: st.SearchStrategy[Value], usual: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    """One time out of four the first, so that what keeps hubs from being Ready is not always there."""
    return st.sampled_from([False, False, False, True]).flatmap(lambda is_rare: rare if is_rare else usual)


def listed(number: int, function_name: str, started_at: Instant) -> ActiveInstance:
    return ActiveInstance(f"order-{number}", function_name, RuntimeStatus.RUNNING, started_at, started_at, Source.EVENT)


ACTIVE = st.lists(
    st.builds(listed, st.integers(0, 5), st.sampled_from(FUNCTIONS), OFFSETS),
    max_size=3,
    unique_by=lambda one: one.instance_id,
).map(tuple)
FEW = ACTIVE | st.just(())


CLOSINGS = seldom(st.just("another"), st.just(""))


@st.composite
def activities(draw: st.DrawFn) -> Activity:
    """What events show; a part of it was taken for waived when it was read."""
    found = draw(FEW)
    waived = draw(st.integers(0, len(found)))
    return Activity(
        active=found[waived:],
        more=draw(seldom(st.booleans(), st.just(False))),
        ignored_count=draw(st.integers(0, 3)),
        last_event_at=draw(st.none() | OFFSETS),
        last_recorded_at=draw(st.none() | LATELY),
        waived=found[:waived],
        closings=draw(CLOSINGS),
    )


@st.composite
def probes(draw: st.DrawFn) -> ProbeResult:
    """What a probe saw; a part of it was waived when it began."""
    found = draw(FEW)
    waived = draw(st.integers(0, len(found)))
    return replace(draw(RESULTS), active=found[waived:], waived=found[:waived])


RESULTS = st.builds(
    ProbeResult,
    status=st.sampled_from([ProbeStatus.COMPLETE, ProbeStatus.COMPLETE, ProbeStatus.MISSING, *ProbeStatus]),
    provider=st.just("azureStorage"),
    began_at=LATELY,
    scanned=st.integers(0, 5000),
    took_seconds=st.integers(0, 400),
    unlisted=seldom(st.sampled_from([1, 300]), st.just(0)),
    ignored_count=st.integers(0, 3),
    retry_after=st.none() | st.integers(0, 1000),
    closings=CLOSINGS,
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
    lambda number, expires: waiver(f"order-{number}", expires=expires),
    st.integers(0, 5),
    st.sampled_from([-60, 0, 0.0000001, 60, 3600, 86_400]),
)
EVIDENCE = st.builds(
    Evidence,
    task_hub=st.just("v41"),
    activity=activities(),
    provider=seldom(st.none(), st.just("azureStorage")),
    probe=seldom(st.none(), probes()),
    deployment=seldom(DEPLOYMENTS, st.none()),
    waivers=st.lists(WAIVERS, max_size=6, unique_by=lambda one: one.instance_id).map(tuple),
    known=seldom(st.just(True), st.just(False)),
)

TO_BE_READ = {Reason.PROBE_PENDING, Reason.PROBE_INCOMPLETE, Reason.PROBE_STALE}
ABOUT_PROBE = TO_BE_READ | {
    Reason.VERIFICATION_REQUIRED,
    Reason.PROBE_FAILED,
    Reason.PROBE_DENIED,
    Reason.PROBE_THROTTLED,
    Reason.TASK_HUB_MISSING,
}


def is_in_time(probe: ProbeResult, evidence: Evidence, policy: Policy) -> bool:
    """Whether what the probe saw at its beginning says something about noon."""
    recorded = evidence.activity.last_recorded_at
    young = 0 <= NOON - probe.began_at < seconds(policy.freshness_seconds)
    after = recorded is None or probe.began_at > recorded + seconds(min(2, policy.settle_seconds))
    return young and after and probe.closings == evidence.activity.closings


def is_missing_and_drained(evidence: Evidence, policy: Policy) -> bool:
    """Whether the hub has just been looked for, does not exist, and never did."""
    probe = evidence.probe
    if evidence.provider is None or probe is None or probe.status is not ProbeStatus.MISSING:
        return False
    return policy.missing_task_hub_is_drained and not evidence.known and is_in_time(probe, evidence, policy)


def counted_probe(evidence: Evidence, policy: Policy) -> ProbeResult:
    """The probe; an empty one in place of none and of one that is out of date."""
    probe = evidence.probe
    if probe is None or (
        evidence.provider is not None
        and probe.status is ProbeStatus.COMPLETE
        and not is_in_time(probe, evidence, policy)
    ):
        return ProbeResult(ProbeStatus.INCOMPLETE, "", NOON)
    return probe


def found(evidence: Evidence, policy: Policy) -> list[ActiveInstance]:
    """All active instances of which anything tells; one may be there twice."""
    probe = counted_probe(evidence, policy)
    return [*evidence.activity.active, *evidence.activity.waived, *probe.active, *probe.waived]


def in_force(evidence: Evidence) -> tuple[Waiver, ...]:
    return tuple(one for one in evidence.waivers if one.expires_at > NOON)


def not_ignored(evidence: Evidence, policy: Policy) -> set[str]:
    return {one.instance_id for one in found(evidence, policy) if not policy.ignores(one.function_name)}


@settings(max_examples=400)
@given(EVIDENCE, POLICIES)
def test_a_hub_is_never_ready_while_an_instance_that_may_not_stay_is_active(evidence: Evidence, policy: Policy) -> None:
    blocking = not_ignored(evidence, policy) - {one.instance_id for one in in_force(evidence)}
    probe = counted_probe(evidence, policy)
    exempt = Exemptions(policy.ignore_functions, in_force(evidence))
    counted = probe.unlisted + sum(not exempt.exempts(one.function_name, one.instance_id) for one in probe.active)
    more = evidence.activity.more or counted > len(blocking)
    verdict = assess(evidence, policy, NOON)
    assert {one.instance_id for one in verdict.active} == blocking
    assert verdict.active_count == max(len(blocking), more)
    assert verdict.active_count_is_lower_bound is more
    assert verdict.has_running is bool(blocking or more)
    assert not (verdict.ready and verdict.has_running)


@given(EVIDENCE, POLICIES)
def test_exactly_the_active_instances_that_a_waiver_keeps_from_blocking_are_shown_as_waived(
    evidence: Evidence, policy: Policy
) -> None:
    verdict = assess(evidence, policy, NOON)
    waived = {one.instance_id for one in in_force(evidence)} & not_ignored(evidence, policy)
    assert {one.active.instance_id for one in verdict.waived} == waived
    assert len(verdict.waived) == len(waived)
    assert all(one.waiver in evidence.waivers for one in verdict.waived)
    assert all(one.waiver.instance_id == one.active.instance_id for one in verdict.waived)


@given(EVIDENCE, POLICIES)
def test_a_waiver_never_makes_another_instance_ready(evidence: Evidence, policy: Policy) -> None:
    with_waivers, without = assess(evidence, policy, NOON), assess(replace(evidence, waivers=()), policy, NOON)
    assert with_waivers.ready or not without.ready
    waived = {one.active.instance_id for one in with_waivers.waived}
    assert {one.instance_id for one in without.active} == {one.instance_id for one in with_waivers.active} | waived


@settings(max_examples=400)
@given(EVIDENCE, POLICIES)
def test_where_a_probe_is_configured_ready_means_that_one_has_just_seen_the_hub_drained(
    evidence: Evidence, policy: Policy
) -> None:
    evidence = replace(evidence, provider="azureStorage")
    verdict = assess(evidence, policy, NOON)
    if verdict.ready:
        probe = evidence.probe
        assert probe is not None
        assert is_in_time(probe, evidence, policy)
        assert probe.status is ProbeStatus.COMPLETE or is_missing_and_drained(evidence, policy)
        assert (verdict.assurance is Assurance.VERIFIED) is (probe.status is ProbeStatus.COMPLETE)


@given(EVIDENCE, POLICIES)
def test_where_no_probe_is_configured_ready_means_that_none_is_required(evidence: Evidence, policy: Policy) -> None:
    verdict = assess(replace(evidence, provider=None), policy, NOON)
    assert verdict.assurance is Assurance.EVENTS
    assert not (verdict.ready and policy.require_verification)


@given(EVIDENCE, POLICIES)
def test_ready_means_that_the_settle_window_is_over_and_nobody_else_deploys(evidence: Evidence, policy: Policy) -> None:
    if assess(evidence, policy, NOON).ready:
        recorded = evidence.activity.last_recorded_at
        assert not policy.settle_seconds or recorded is None or NOON - recorded >= seconds(policy.settle_seconds)
        assert evidence.deployment is None


@given(EVIDENCE, POLICIES)
def test_an_instance_that_the_task_hub_has_just_confirmed_changes_nothing_but_the_assurance(
    evidence: Evidence, policy: Policy
) -> None:
    confirmed = assess(replace(evidence, confirmed=True), policy, NOON)
    verdict = assess(evidence, policy, NOON)
    assert confirmed.assurance is Assurance.VERIFIED or not confirmed.has_running
    assert replace(confirmed, assurance=verdict.assurance, evidence=evidence) == verdict


@given(st.none() | OFFSETS, st.none() | OFFSETS, st.integers(0, 5), POLICIES)
def test_a_hub_that_has_been_quiet_for_the_settle_window_is_ready(
    recorded: Instant | None, published: Instant | None, ignored: int, policy: Policy
) -> None:
    policy = replace(policy, require_verification=False)
    now = Instant((NOON if recorded is None else recorded) + seconds(policy.settle_seconds))
    quiet = Evidence("v41", Activity((), False, ignored, published, recorded))
    assert assess(quiet, policy, now).ready


@given(st.none() | OFFSETS, POLICIES)
def test_a_quiet_hub_that_a_probe_has_just_seen_drained_is_ready(recorded: Instant | None, policy: Policy) -> None:
    began = Instant((NOON if recorded is None else recorded) + seconds(policy.settle_seconds) + 1)
    drained = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", began)
    quiet = Evidence("v41", Activity(last_recorded_at=recorded), "azureStorage", drained)
    for age in (0, seconds(policy.freshness_seconds) - 1):
        assert assess(quiet, policy, Instant(began + age)).ready


@given(EVIDENCE, POLICIES)
def test_a_verdict_is_ready_exactly_when_it_has_no_reason_and_then_tells_nobody_to_wait(
    evidence: Evidence, policy: Policy
) -> None:
    verdict = assess(evidence, policy, NOON)
    assert verdict.ready is (verdict.reasons == ())
    assert verdict.ready is (verdict.retry_after_seconds is None)
    assert verdict.ready or 1 <= (verdict.retry_after_seconds or 0) <= 300


@given(EVIDENCE, POLICIES)
def test_each_reason_is_given_once_and_in_words(evidence: Evidence, policy: Policy) -> None:
    reasons = assess(evidence, policy, NOON).reasons
    assert len({reason.code for reason in reasons}) == len(reasons)
    assert all(reason.message for reason in reasons)


@given(EVIDENCE, POLICIES)
def test_a_wanted_probe_is_a_reason_against_readiness_unless_it_verifies_or_is_yet_to_come(
    evidence: Evidence, policy: Policy
) -> None:
    verdict = assess(evidence, policy, NOON)
    codes = {reason.code for reason in verdict.reasons}
    wanted = evidence.provider is not None or policy.require_verification
    drained = is_missing_and_drained(evidence, policy)
    doubted = wanted and verdict.assurance is Assurance.EVENTS and not drained
    if codes & {Reason.INSTANCES_ACTIVE, Reason.SETTLING}:
        assert not codes & TO_BE_READ
        assert doubted or not codes & ABOUT_PROBE
    else:
        assert bool(codes & ABOUT_PROBE) is doubted


@given(EVIDENCE, POLICIES, st.integers(1, 4000))
def test_without_a_probe_waiting_never_turns_ready_into_not_ready_unless_a_waiver_expires(
    evidence: Evidence, policy: Policy, wait: int
) -> None:
    lasting = tuple(replace(one, expires_at=at(wait + 1)) for one in evidence.waivers)
    by_events = Evidence(evidence.task_hub, evidence.activity, waivers=lasting)
    later = Instant(NOON + seconds(wait))
    assert assess(by_events, policy, later).ready or not assess(by_events, policy, NOON).ready


@given(EVIDENCE, POLICIES)
def test_a_more_patient_policy_is_never_ready_where_a_hastier_one_is_not(evidence: Evidence, policy: Policy) -> None:
    patient = Policy(policy.settle_seconds + 30, policy.freshness_seconds, policy.require_verification)
    assert not assess(evidence, patient, NOON).ready or assess(evidence, policy, NOON).ready
