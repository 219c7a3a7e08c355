"""The verdict with waived instances: they do not block, and the verdict lists them with their waivers."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import ActiveInstance, Evidence, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions, Waiver
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import Verdict, WaivedInstance, assess_readiness
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_evidence_with_probe,
    build_probe_result,
    build_waiver,
    noon_plus,
)

STUCK_INSTANCE = build_active_instance("stuck", since=-86_400)


def assess_with_waivers(known: Evidence, *waivers: Waiver, policy: Policy | None = None) -> Verdict:
    """The verdict at noon with these waivers in force."""
    return assess_readiness(replace(known, waivers=waivers), policy or Policy(), noon_plus())


def build_evidence_by_events(*active: ActiveInstance, waived: tuple[ActiveInstance, ...] = ()) -> Evidence:
    """Evidence from events alone, with active and waived instances."""
    return build_evidence(activity=InstanceActivity(active=active, waived=waived))


def build_evidence_by_probe(
    *active: ActiveInstance, waived: ActiveInstance | None = None, activity: InstanceActivity | None = None
) -> Evidence:
    """Evidence with a probe that found these active instances, and one that is waived."""
    return build_evidence_with_probe(replace(build_probe_result(*active), waived=(waived,) if waived else ()), activity)


@pytest.mark.parametrize(
    "known",
    [
        build_evidence_by_events(STUCK_INSTANCE),
        build_evidence_by_events(waived=(STUCK_INSTANCE,)),
        build_evidence_by_probe(STUCK_INSTANCE),
        build_evidence_by_probe(waived=STUCK_INSTANCE),
        build_evidence_by_probe(STUCK_INSTANCE, activity=InstanceActivity(active=(STUCK_INSTANCE,))),
        build_evidence_by_probe(waived=STUCK_INSTANCE, activity=InstanceActivity(waived=(STUCK_INSTANCE,))),
    ],
    ids=["by events", "by events and left out", "by a probe", "by a probe and left out", "by both", "left out by both"],
)
def test_a_waived_instance_does_not_block_and_is_listed_with_its_waiver(known: Evidence) -> None:
    verdict = assess_with_waivers(known, build_waiver("stuck"))
    assert verdict.ready
    assert verdict.waived == (WaivedInstance(STUCK_INSTANCE, build_waiver("stuck")),)
    assert (verdict.active, verdict.active_count, verdict.ignored_count) == ((), 0, 0)
    assert not verdict.active_count_is_lower_bound
    assert not verdict.has_running


def test_a_task_hub_with_a_waived_instance_can_be_verified() -> None:
    assert (
        assess_with_waivers(build_evidence_by_probe(STUCK_INSTANCE), build_waiver("stuck")).assurance
        is Assurance.VERIFIED
    )


@pytest.mark.parametrize(
    "known",
    [
        build_evidence_by_events(STUCK_INSTANCE),
        build_evidence_by_events(waived=(STUCK_INSTANCE,)),
        build_evidence_by_probe(STUCK_INSTANCE),
        build_evidence_by_probe(waived=STUCK_INSTANCE),
    ],
    ids=["by events", "by events and left out", "by a probe", "by a probe and left out"],
)
def test_an_instance_blocks_without_a_waiver_of_its_own(known: Evidence) -> None:
    verdict = assess_with_waivers(known, build_waiver("another"))
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.INSTANCES_ACTIVE]
    assert verdict.active == (STUCK_INSTANCE,)
    assert verdict.waived == ()


def test_only_instances_that_are_not_waived_are_counted_and_listed() -> None:
    recorded = build_evidence_by_events(build_active_instance("younger", since=-5), waived=(STUCK_INSTANCE,))
    verdict = assess_with_waivers(
        replace(recorded, provider="azureStorage", probe=build_probe_result(build_active_instance("oldest", since=-9))),
        build_waiver("stuck"),
    )
    assert [instance.instance_id for instance in verdict.active] == ["oldest", "younger"]
    assert verdict.active_count == 2
    assert verdict.reasons[0].message.startswith("2 orchestration instances are active on task hub v41; the oldest, ")
    assert "ProcessOrder oldest, for 9 s" in verdict.reasons[0].message
    assert [waived.active for waived in verdict.waived] == [STUCK_INSTANCE]


def test_waived_instances_are_shown_oldest_first() -> None:
    verdict = assess_with_waivers(
        build_evidence_with_probe(
            build_probe_result(build_active_instance("younger", since=-9)),
            InstanceActivity(
                waived=(build_active_instance("youngest", since=-5), build_active_instance("oldest", since=-60))
            ),
        ),
        *(build_waiver(instance_id) for instance_id in ("oldest", "younger", "youngest")),
    )
    assert [waived.active.instance_id for waived in verdict.waived] == ["oldest", "younger", "youngest"]
    assert [waived.waiver.instance_id for waived in verdict.waived] == ["oldest", "younger", "youngest"]


def test_a_waiver_of_an_inactive_instance_is_not_listed() -> None:
    verdict = assess_with_waivers(build_evidence_by_events(), build_waiver("stuck"))
    assert verdict.ready
    assert verdict.waived == ()


def test_a_waived_instance_of_an_ignored_function_is_ignored() -> None:
    known = build_evidence_by_events(build_active_instance("stuck", "NightlySync"))
    verdict = assess_with_waivers(known, build_waiver("stuck"), policy=Policy(ignore_functions=("NightlySync",)))
    assert verdict.ready
    assert (verdict.waived, verdict.ignored_count) == ((), 1)


def test_a_waived_instance_is_shown_with_the_status_that_the_probe_knows() -> None:
    seen = replace(STUCK_INSTANCE, runtime_status=RuntimeStatus.PENDING, version="1.4.0", started_at=noon_plus(-60))
    verdict = assess_with_waivers(
        build_evidence_by_probe(seen, activity=InstanceActivity(waived=(STUCK_INSTANCE,))), build_waiver("stuck")
    )
    (waived_instance,) = verdict.waived
    assert waived_instance.active == replace(STUCK_INSTANCE, runtime_status=RuntimeStatus.PENDING, version="1.4.0")


def test_a_stale_probes_instances_are_not_listed_as_waived() -> None:
    verdict = assess_with_waivers(
        build_evidence_with_probe(build_probe_result(STUCK_INSTANCE, began=-500)), build_waiver("stuck")
    )
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.PROBE_STALE]
    assert verdict.waived == ()


def test_unread_instances_block_even_if_all_that_were_read_are_waived() -> None:
    known = build_evidence(activity=InstanceActivity(active=(STUCK_INSTANCE,), has_more=True))
    assert assess_with_waivers(known, build_waiver("stuck")).active_count == 1
    assert assess_with_waivers(known, build_waiver("stuck")).has_running


@pytest.mark.parametrize("status", ProbeStatus)
def test_instances_that_a_probe_does_not_list_block_even_when_every_one_listed_is_waived(status: ProbeStatus) -> None:
    result: ProbeResult = build_probe_result(STUCK_INSTANCE, status=status, unlisted_count=1)
    assert assess_with_waivers(build_evidence_with_probe(result), build_waiver("stuck")).has_running


@pytest.mark.parametrize(("expires", "is_ready"), [(60, True), (0.0000001, True), (0, False), (-60, False)])
def test_exemptions_do_not_include_expired_waivers(expires: float, *, is_ready: bool) -> None:
    in_force = Exemptions.for_task_hub((), [build_waiver("stuck", expires=expires)], "V41", noon_plus()).waivers
    assert assess_with_waivers(build_evidence_by_events(waived=(STUCK_INSTANCE,)), *in_force).ready is is_ready


@pytest.mark.parametrize(("expires", "is_ready"), [(0.0000001, True), (0, False)])
def test_a_waiver_that_expires_while_the_task_hub_is_read_does_not_count(expires: float, *, is_ready: bool) -> None:
    assert (
        assess_with_waivers(build_evidence_by_events(STUCK_INSTANCE), build_waiver("stuck", expires=expires)).ready
        is is_ready
    )
