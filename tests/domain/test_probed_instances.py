"""The verdict with a provider: how the instances of a probe and those of events are combined."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import ACTIVE_LIMIT, ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus
from tests.domain.builders import (
    build_active_instance,
    build_evidence_with_probe,
    build_probe_result,
    noon_plus,
)
from tests.domain.probe_verdicts import REASON_BY_FAILURE, assess_probe, get_only_reason


@pytest.mark.parametrize("status", ProbeStatus)
def test_an_instance_that_a_probe_finds_blocks_regardless_of_the_probe_status(status: ProbeStatus) -> None:
    verdict = assess_probe(build_probe_result(build_active_instance("lost"), status=status))
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert verdict.has_running
    assert [instance.instance_id for instance in verdict.active] == ["lost"]


def test_a_valid_probe_that_finds_active_instances_verifies_that_the_task_hub_is_not_ready() -> None:
    verdict = assess_probe(build_probe_result(build_active_instance("lost")))
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.assurance is Assurance.VERIFIED


def test_a_probe_that_finds_nothing_does_not_overrule_an_event_that_shows_an_instance_running() -> None:
    verdict = assess_probe(
        build_probe_result(), InstanceActivity(active=(build_active_instance(),), last_recorded_at=noon_plus(-600))
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE


@pytest.mark.parametrize(
    ("result", "activity"),
    [
        (
            build_probe_result(build_active_instance("lost"), unlisted_count=3, began=-500),
            InstanceActivity(last_recorded_at=noon_plus(-600)),
        ),
        (
            build_probe_result(build_active_instance("lost"), unlisted_count=3, began=-60),
            InstanceActivity(last_recorded_at=noon_plus(-60)),
        ),
        (build_probe_result(build_active_instance("lost"), unlisted_count=3, began=1), InstanceActivity()),
    ],
    ids=["too old", "overtaken by an event", "ahead of the clock"],
)
def test_a_stale_probes_instances_do_not_count(result: ProbeResult, activity: InstanceActivity) -> None:
    verdict = assess_probe(replace(result, ignored_count=2), activity)
    assert get_only_reason(verdict) is ReasonCode.PROBE_STALE
    assert (verdict.active, verdict.active_count, verdict.ignored_count) == ((), 0, 0)
    assert not verdict.active_count_is_lower_bound
    assert not verdict.has_running


@pytest.mark.parametrize("status", [ProbeStatus.INCOMPLETE, *REASON_BY_FAILURE])
def test_an_incomplete_or_failed_probes_instances_count_regardless_of_age(status: ProbeStatus) -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("lost"), status=status, began=-86_400),
        InstanceActivity(last_recorded_at=noon_plus(-60)),
    )
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert verdict.has_running


def test_an_instance_that_events_and_probe_both_show_counts_once() -> None:
    activity = InstanceActivity(
        active=(build_active_instance("both", since=-40), build_active_instance("by-event", since=-30))
    )
    verdict = assess_probe(
        build_probe_result(build_active_instance("both", since=-50), build_active_instance("by-probe", since=-60)),
        activity,
    )
    assert verdict.active_count == 3
    assert [instance.instance_id for instance in verdict.active] == ["by-probe", "both", "by-event"]


def test_an_instance_that_events_and_a_probe_show_has_the_status_and_the_version_of_the_probe() -> None:
    by_probe = replace(
        build_active_instance("both", since=-50),
        runtime_status=RuntimeStatus.SUSPENDED,
        last_event_at=noon_plus(-20),
        source=EvidenceSource.PROBE,
        version="1.4.0",
    )
    by_event = build_active_instance("both", since=-40)
    verdict = assess_probe(build_probe_result(by_probe), InstanceActivity(active=(by_event,)))
    assert verdict.active == (replace(by_event, runtime_status=RuntimeStatus.SUSPENDED, version="1.4.0"),)


@pytest.mark.parametrize("result", [None, build_probe_result(began=-500)], ids=["no probe", "a stale one"])
def test_an_instance_in_events_alone_has_the_status_of_the_events(result: ProbeResult | None) -> None:
    by_event = replace(build_active_instance(), runtime_status=RuntimeStatus.PENDING)
    assert assess_probe(result, InstanceActivity(active=(by_event,))).active == (by_event,)


def test_an_instance_with_another_name_in_the_probe_is_listed_as_in_the_probe() -> None:
    by_probe = replace(build_active_instance("both", "ShipOrder", since=-50), source=EvidenceSource.PROBE)
    verdict = assess_probe(
        build_probe_result(by_probe), InstanceActivity(active=(build_active_instance("both", "ProcessOrder"),))
    )
    assert verdict.active == (by_probe,)


def test_ignored_functions_may_be_active_in_a_probe_too() -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("sync", "NightlySync")), policy=Policy(ignore_functions=("Nightly*",))
    )
    assert verdict.ready
    assert verdict.assurance is Assurance.VERIFIED
    assert verdict.ignored_count == 1


@pytest.mark.parametrize(
    ("by_probe", "by_event"), [("ProcessOrder", "NightlySync"), ("NightlySync", "ProcessOrder"), ("", "NightlySync")]
)
def test_an_instance_blocks_if_events_or_the_probe_name_a_function_that_is_not_ignored(
    by_probe: str, by_event: str
) -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    verdict = assess_probe(
        build_probe_result(build_active_instance("order-1", by_probe)),
        InstanceActivity(active=(build_active_instance("order-1", by_event),)),
        policy,
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert [instance.function_name for instance in verdict.active] == [({by_probe, by_event} - {"NightlySync"}).pop()]


def test_an_ignored_instance_that_events_and_probe_show_is_counted_once() -> None:
    policy = Policy(ignore_functions=("NightlySync",))
    verdict = assess_readiness(
        build_evidence_with_probe(
            build_probe_result(build_active_instance("order-1", "NightlySync")), InstanceActivity(ignored_count=1)
        ),
        policy,
        noon_plus(),
    )
    assert (verdict.ready, verdict.ignored_count) == (True, 1)


def test_a_probe_with_more_instances_than_the_limit_gives_a_lower_bound_too() -> None:
    evidence = build_evidence_with_probe(
        build_probe_result(
            *(build_active_instance(f"order-{number}", "ProcessOrder") for number in range(ACTIVE_LIMIT + 1))
        )
    )
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (ACTIVE_LIMIT, True)


def test_the_count_is_exact_if_events_show_as_many_instances_as_the_probe_counted() -> None:
    three_instances = tuple(build_active_instance(instance_id) for instance_id in ("order-1", "order-2", "order-3"))
    verdict = assess_probe(
        build_probe_result(build_active_instance("order-1"), unlisted_count=2), InstanceActivity(active=three_instances)
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (3, False)
    verdict = assess_probe(
        build_probe_result(build_active_instance("order-1"), unlisted_count=3), InstanceActivity(active=three_instances)
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (3, True)


def test_exempt_instances_do_not_count_as_listed_by_the_probe() -> None:
    result = build_probe_result(
        build_active_instance("sync", "NightlySync"), build_active_instance("order"), unlisted_count=1
    )
    verdict = assess_probe(
        result, InstanceActivity(active=(build_active_instance("order-1"),)), Policy(ignore_functions=("NightlySync",))
    )
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (2, False)


def test_a_probe_that_lists_only_some_blocking_instances_gives_a_lower_bound() -> None:
    verdict = assess_probe(
        build_probe_result(build_active_instance("order-1"), build_active_instance("order-2"), unlisted_count=300)
    )
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert (verdict.active_count, verdict.active_count_is_lower_bound) == (2, True)
    assert verdict.reasons[0].message.startswith("at least 2 orchestration instances are active")


@pytest.mark.parametrize("status", ProbeStatus)
def test_instances_that_a_probe_only_counted_block_too(status: ProbeStatus) -> None:
    verdict = assess_probe(build_probe_result(status=status, unlisted_count=1))
    assert verdict.reasons[0].code is ReasonCode.INSTANCES_ACTIVE
    assert (verdict.active, verdict.active_count, verdict.active_count_is_lower_bound) == ((), 1, True)


def test_instances_that_the_probe_counts_as_ignored_are_reported_with_those_that_it_lists() -> None:
    result = replace(build_probe_result(build_active_instance("sync", "NightlySync")), ignored_count=2)
    verdict = assess_probe(result, InstanceActivity(ignored_count=1), Policy(ignore_functions=("NightlySync",)))
    assert (verdict.ready, verdict.ignored_count) == (True, 3)


# Instances that the task hub has just confirmed


@pytest.mark.parametrize("result", [None, build_probe_result(began=-500)], ids=["no result", "a stale one"])
def test_an_active_instance_that_the_task_hub_has_just_shown_verifies_not_ready(result: ProbeResult | None) -> None:
    evidence = replace(
        build_evidence_with_probe(result, InstanceActivity(active=(build_active_instance(),))),
        active_instance_seen=True,
    )
    verdict = assess_readiness(evidence, Policy(), noon_plus())
    assert get_only_reason(verdict) is ReasonCode.INSTANCES_ACTIVE
    assert verdict.assurance is Assurance.VERIFIED


def test_an_active_instance_that_only_events_show_is_not_verified() -> None:
    assert assess_probe(None, InstanceActivity(active=(build_active_instance(),))).assurance is Assurance.EVENTS


def assess_after_lookup(
    *seen: ActiveInstance, activity: InstanceActivity, result: ProbeResult | None = None
) -> Verdict:
    """The verdict at noon on a task hub whose look-up has just shown the instances `seen`."""
    evidence = replace(build_evidence_with_probe(result, activity), looked_up_instances=seen, active_instance_seen=True)
    return assess_readiness(evidence, Policy(ignore_functions=("NightlySync",)), noon_plus())


def test_an_instance_that_was_looked_up_has_the_status_and_version_that_the_task_hub_shows_now() -> None:
    by_event = build_active_instance("order-1", since=-40)
    by_probe = replace(by_event, runtime_status=RuntimeStatus.PENDING, version="1.4.0")
    seen = replace(
        build_active_instance("order-1", since=-50),
        runtime_status=RuntimeStatus.SUSPENDED,
        version="2.0",
        source=EvidenceSource.PROBE,
    )
    verdict = assess_after_lookup(
        seen, activity=InstanceActivity(active=(by_event,)), result=build_probe_result(by_probe)
    )
    assert verdict.active == (replace(by_event, runtime_status=RuntimeStatus.SUSPENDED, version="2.0"),)


def test_instances_that_were_not_looked_up_are_listed_as_recorded() -> None:
    recorded = build_active_instance("order-1", since=-40), build_active_instance("order-2", since=-30)
    verdict = assess_after_lookup(replace(recorded[0], version="2.0"), activity=InstanceActivity(active=recorded))
    assert verdict.active == (replace(recorded[0], version="2.0"), recorded[1])


def test_an_instance_with_an_ignored_name_in_the_look_up_blocks_under_its_recorded_name() -> None:
    verdict = assess_after_lookup(
        build_active_instance("order-1", "NightlySync"),
        activity=InstanceActivity(active=(build_active_instance("order-1", "ProcessOrder"),)),
    )
    assert [instance.function_name for instance in verdict.active] == ["ProcessOrder"]


@pytest.mark.parametrize("recorded_name", ["ProcessOrder", ""])
@pytest.mark.parametrize("result", [None, build_probe_result()], ids=["no result", "a result without it"])
def test_an_instance_with_another_name_in_the_look_up_blocks_under_that_name(
    recorded_name: str, result: ProbeResult | None
) -> None:
    """Either the id was used again and the events of that start were lost, or the event named no function."""
    seen = replace(build_active_instance("order-1", "ShipOrder"), source=EvidenceSource.PROBE)
    verdict = assess_after_lookup(
        seen, activity=InstanceActivity(active=(build_active_instance("order-1", recorded_name),)), result=result
    )
    assert (verdict.ready, verdict.has_running, verdict.active) == (False, True, (seen,))


def test_an_instance_that_was_looked_up_and_has_ended_since_is_not_shown() -> None:
    assert (
        assess_after_lookup(
            build_active_instance("order-1"), activity=InstanceActivity(), result=build_probe_result()
        ).active
        == ()
    )
