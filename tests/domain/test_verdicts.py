"""The verdict by events alone: active instances, the settle window, open deployments, and retry-after."""

from dataclasses import replace

import pytest

from state_api.domain.readiness.evidence import (
    ACTIVE_LIMIT,
    ActiveInstance,
    Evidence,
    InstanceActivity,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import REASON_DESCRIPTIONS, ReasonCode
from state_api.domain.readiness.verdict import DEFAULT_RETRY_AFTER_SECONDS, Verdict, assess_readiness
from state_api.domain.task_hubs.lifecycle import Instance, RuntimeStatus, apply_event
from tests.domain.builders import (
    build_active_instance,
    build_evidence,
    build_evidence_with_probe,
    build_lifecycle_event,
    build_not_ready_verdict,
    build_open_deployment,
    build_open_swap,
    build_probe_result,
    noon_plus,
)


def assess_events(activity: InstanceActivity, policy: Policy | None = None) -> Verdict:
    """The verdict at noon on a task hub without a provider."""
    return assess_readiness(build_evidence(activity=activity), policy or Policy(), noon_plus())


def list_reason_codes(verdict: Verdict) -> list[ReasonCode]:
    return [reason.code for reason in verdict.reasons]


def list_reason_messages(verdict: Verdict) -> list[str]:
    return [reason.message for reason in verdict.reasons]


# The table of reasons


def test_every_reason_code_is_explained() -> None:
    assert set(REASON_DESCRIPTIONS) == set(ReasonCode)
    assert all(meaning.endswith(".") for meaning in REASON_DESCRIPTIONS.values())


def test_reason_codes_do_not_change() -> None:
    assert [reason.value for reason in ReasonCode] == [
        "InstancesActive",
        "StartsPending",
        "Settling",
        "DeploymentInProgress",
        "SwapPending",
        "RolloutInProgress",
        "ReleaseInUse",
        "RoutersBehind",
        "VerificationRequired",
        "ProbePending",
        "ProbeFailed",
        "ProbeDenied",
        "ProbeThrottled",
        "TaskHubMissing",
        "ProbeIncomplete",
        "ProbeStale",
    ]


# Active instances


def test_a_task_hub_without_recorded_events_is_ready_by_events() -> None:
    verdict = assess_events(InstanceActivity())
    assert verdict.ready
    assert verdict.reasons == ()
    assert verdict.assurance is Assurance.EVENTS
    assert not verdict.has_running
    assert verdict.retry_after_seconds is None


def test_one_active_instance_makes_a_task_hub_not_ready() -> None:
    verdict = assess_events(InstanceActivity(active=(build_active_instance("5f2c", since=-720),)))
    assert not verdict.ready
    assert list_reason_codes(verdict) == [ReasonCode.INSTANCES_ACTIVE]
    assert list_reason_messages(verdict) == [
        "1 orchestration instance is active on task hub v41; the oldest, ProcessOrder 5f2c, for 12 min"
    ]
    assert verdict.has_running
    assert verdict.active_count == 1


def test_the_message_names_the_oldest_of_several_active_instances() -> None:
    verdict = assess_events(
        InstanceActivity(
            active=(build_active_instance("young", since=-5), build_active_instance("old", since=-3 * 86_400))
        )
    )
    assert list_reason_messages(verdict) == [
        "2 orchestration instances are active on task hub v41; the oldest, ProcessOrder old, for 3 d"
    ]
    assert [instance.instance_id for instance in verdict.active] == ["old", "young"]


def test_instances_of_the_same_age_are_listed_by_id() -> None:
    verdict = assess_events(
        InstanceActivity(active=(build_active_instance("b"), build_active_instance("c"), build_active_instance("a")))
    )
    assert [instance.instance_id for instance in verdict.active] == ["a", "b", "c"]


def test_an_instance_without_a_function_name_is_named_by_its_id() -> None:
    verdict = assess_events(InstanceActivity(active=(build_active_instance("5f2c", function_name="", since=-1),)))
    assert list_reason_messages(verdict) == [
        "1 orchestration instance is active on task hub v41; the oldest, 5f2c, for 1 s"
    ]


def test_an_instance_that_starts_ahead_of_the_servers_clock_is_active_for_zero_seconds() -> None:
    assert (
        "for 0 s" in list_reason_messages(assess_events(InstanceActivity(active=(build_active_instance(since=2),))))[0]
    )


def test_the_count_is_exact_up_to_a_thousand() -> None:
    thousand = tuple(build_active_instance(f"order-{number}") for number in range(ACTIVE_LIMIT))
    verdict = assess_events(InstanceActivity(active=thousand))
    assert verdict.active_count == 1000
    assert not verdict.active_count_is_lower_bound
    assert list_reason_messages(verdict)[0].startswith("1000 orchestration instances are active")


def test_the_count_is_a_lower_bound_when_there_are_more_than_a_thousand() -> None:
    thousand = tuple(build_active_instance(f"order-{number}") for number in range(ACTIVE_LIMIT))
    verdict = assess_events(InstanceActivity(active=thousand, has_more=True))
    assert verdict.active_count == 1000
    assert verdict.active_count_is_lower_bound
    assert list_reason_messages(verdict)[0].startswith("at least 1000 orchestration instances are active")


def test_unread_instances_block_even_if_all_that_were_read_are_ignored() -> None:
    activity = InstanceActivity(active=(build_active_instance(function_name="NightlySync"),), has_more=True)
    verdict = assess_events(activity, Policy(ignore_functions=("NightlySync",)))
    assert list_reason_codes(verdict) == [ReasonCode.INSTANCES_ACTIVE]
    assert verdict.has_running
    assert verdict.active_count == 1
    assert verdict.active_count_is_lower_bound
    assert list_reason_messages(verdict)[0].endswith("active on task hub v41")


# Instances that may stay active


@pytest.mark.parametrize("pattern", ["NightlySync", "Nightly*", "*Sync", "NightlySyn?", "[MN]ightlySync", "*"])
def test_an_orchestrator_that_the_policy_ignores_does_not_block(pattern: str) -> None:
    verdict = assess_events(
        InstanceActivity(active=(build_active_instance(function_name="NightlySync"),)),
        Policy(ignore_functions=(pattern,)),
    )
    assert verdict.ready
    assert not verdict.has_running
    assert verdict.active == ()
    assert verdict.ignored_count == 1


@pytest.mark.parametrize("pattern", ["nightlysync", "Nightly", "Sync*", "NightlySync?", "[!N]ightlySync", ""])
def test_an_orchestrator_that_no_pattern_matches_blocks(pattern: str) -> None:
    verdict = assess_events(
        InstanceActivity(active=(build_active_instance(function_name="NightlySync"),)),
        Policy(ignore_functions=(pattern,)),
    )
    assert not verdict.ready
    assert verdict.ignored_count == 0


def test_only_the_blocking_instances_are_counted_and_listed() -> None:
    activity = InstanceActivity(
        active=(build_active_instance("sync", "NightlySync", -9), build_active_instance("order"))
    )
    verdict = assess_events(activity, Policy(ignore_functions=("Heartbeat", "NightlySync")))
    assert [instance.instance_id for instance in verdict.active] == ["order"]
    assert verdict.active_count == 1
    assert verdict.ignored_count == 1


def test_instances_that_the_records_count_as_ignored_are_reported_as_ignored() -> None:
    verdict = assess_events(InstanceActivity(ignored_count=7))
    assert verdict.ready
    assert verdict.ignored_count == 7


# The settle window


@pytest.mark.parametrize(("recorded", "is_ready"), [(-29.9999999, False), (-30, True), (-30.0000001, True)])
def test_a_task_hub_is_drained_when_the_settle_window_ends(recorded: float, *, is_ready: bool) -> None:
    assert assess_events(InstanceActivity(last_recorded_at=noon_plus(recorded))).ready is is_ready


def test_a_settling_task_hub_reports_the_rest_of_its_settle_window() -> None:
    verdict = assess_events(InstanceActivity(last_recorded_at=noon_plus(-18)))
    assert list_reason_codes(verdict) == [ReasonCode.SETTLING]
    (message,) = list_reason_messages(verdict)
    assert message == (
        "the last event of task hub v41 was recorded less than 30 s ago; the task hub counts as drained after 12 s "
        "more without an event"
    )
    assert verdict.retry_after_seconds == 12
    assert not verdict.has_running


def test_the_rest_of_the_settle_window_is_rounded_up_to_a_whole_second() -> None:
    assert assess_events(InstanceActivity(last_recorded_at=noon_plus(-29.9999999))).retry_after_seconds == 1
    assert assess_events(InstanceActivity(last_recorded_at=noon_plus(-17.5))).retry_after_seconds == 13


def test_an_app_sets_its_own_settle_window() -> None:
    activity = InstanceActivity(last_recorded_at=noon_plus(-100))
    assert assess_events(activity, Policy(settle_seconds=120)).retry_after_seconds == 20
    assert assess_events(activity, Policy(settle_seconds=100)).ready


def test_without_a_settle_window_a_task_hub_is_drained_at_once() -> None:
    assert assess_events(InstanceActivity(last_recorded_at=noon_plus(0)), Policy(settle_seconds=0)).ready
    assert assess_events(InstanceActivity(last_recorded_at=noon_plus(1)), Policy(settle_seconds=0)).ready


@pytest.mark.parametrize("ahead", [0, 1, 3600])
def test_an_event_recorded_ahead_of_the_clock_settles_for_at_most_the_window(ahead: float) -> None:
    verdict = assess_events(InstanceActivity(last_recorded_at=noon_plus(ahead)))
    assert list_reason_codes(verdict) == [ReasonCode.SETTLING]
    assert verdict.retry_after_seconds == 30


def test_the_settle_window_counts_from_the_recording_and_not_from_the_publishers_clock() -> None:
    late = InstanceActivity(last_event_at=noon_plus(-3600), last_recorded_at=noon_plus(-1))
    assert list_reason_codes(assess_events(late)) == [ReasonCode.SETTLING]
    hasty = InstanceActivity(last_event_at=noon_plus(5), last_recorded_at=noon_plus(-31))
    assert assess_events(hasty).ready


def test_a_task_hub_with_active_instances_is_not_reported_as_settling() -> None:
    assert list_reason_codes(
        assess_events(InstanceActivity(active=(build_active_instance(),), last_recorded_at=noon_plus()))
    ) == [ReasonCode.INSTANCES_ACTIVE]


# An empty slot, and other runs


def test_an_empty_slot_is_ready() -> None:
    verdict = assess_readiness(Evidence(None), Policy(require_verification=True), noon_plus())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS
    assert not verdict.has_running
    assert verdict.retry_after_seconds is None


@pytest.mark.parametrize("result", [None, build_probe_result()], ids=["none yet", "left from another hub"])
def test_an_empty_slot_needs_no_probe_and_none_verifies_it(result: ProbeResult | None) -> None:
    verdict = assess_readiness(Evidence(None, provider="azureStorage", probe=result), Policy(), noon_plus())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_an_empty_slot_into_which_another_run_deploys_is_not_ready() -> None:
    verdict = assess_readiness(Evidence(None, deployment=build_open_deployment()), Policy(), noon_plus())
    assert not verdict.ready
    assert list_reason_codes(verdict) == [ReasonCode.DEPLOYMENT_IN_PROGRESS]
    assert not verdict.has_running
    assert verdict.active_count == 0
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


def test_another_runs_deployment_is_reported_with_its_caller_run_and_duration() -> None:
    verdict = assess_readiness(
        replace(build_evidence(), deployment=build_open_deployment("https://ci.example/runs/8")), Policy(), noon_plus()
    )
    assert list_reason_messages(verdict) == [
        "ben, run https://ci.example/runs/8 has been deploying task hub v42 for 2 min",
    ]


def test_a_deployment_of_a_caller_without_a_run_is_reported_by_name() -> None:
    verdict = assess_readiness(
        replace(build_evidence(), deployment=build_open_deployment(run_url=None)), Policy(), noon_plus()
    )
    assert list_reason_messages(verdict) == ["ben has been deploying task hub v42 for 2 min"]


# Pending swaps


@pytest.mark.parametrize("known", [build_evidence(), Evidence(None)], ids=["a quiet hub", "an empty slot"])
def test_a_slot_is_not_ready_while_a_swap_is_pending(known: Evidence) -> None:
    verdict = assess_readiness(replace(known, pending_swap=build_open_swap()), Policy(), noon_plus())
    assert not verdict.ready
    assert list_reason_codes(verdict) == [ReasonCode.SWAP_PENDING]
    assert not verdict.has_running
    assert verdict.active_count == 0
    assert verdict.retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    ("run_url", "who"), [("https://ci.example/runs/7", "anna, run https://ci.example/runs/7,"), (None, "anna")]
)
def test_a_pending_swap_is_reported_with_its_caller_run_and_duration(run_url: str | None, who: str) -> None:
    verdict = assess_readiness(replace(build_evidence(), pending_swap=build_open_swap(run_url)), Policy(), noon_plus())
    (message,) = list_reason_messages(verdict)
    assert message == (
        f"{who} began to swap task hub v42 into production 3 min ago and has not reported the outcome, so the task hub "
        "in the slot is unknown"
    )


# All reasons together


def test_a_verdict_gives_every_reason_that_applies() -> None:
    busy = build_evidence_with_probe(
        build_probe_result(status=ProbeStatus.DENIED), InstanceActivity(active=(build_active_instance(),))
    )
    verdict = assess_readiness(
        replace(busy, deployment=build_open_deployment(), pending_swap=build_open_swap()), Policy(), noon_plus()
    )
    assert list_reason_codes(verdict) == [
        ReasonCode.DEPLOYMENT_IN_PROGRESS,
        ReasonCode.SWAP_PENDING,
        ReasonCode.INSTANCES_ACTIVE,
        ReasonCode.PROBE_DENIED,
    ]


def test_another_runs_deployment_does_not_hide_that_a_task_hub_must_be_read() -> None:
    verdict = assess_readiness(
        replace(build_evidence_with_probe(None), deployment=build_open_deployment()), Policy(), noon_plus()
    )
    assert list_reason_codes(verdict) == [ReasonCode.DEPLOYMENT_IN_PROGRESS, ReasonCode.PROBE_PENDING]


def test_retry_after_is_the_default_if_settling_is_not_the_only_reason() -> None:
    settling = build_evidence(activity=InstanceActivity(last_recorded_at=noon_plus(-1)))
    assert assess_readiness(settling, Policy(), noon_plus()).retry_after_seconds == 29
    both = replace(settling, deployment=build_open_deployment())
    assert assess_readiness(both, Policy(), noon_plus()).retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS
    assert build_not_ready_verdict().retry_after_seconds == DEFAULT_RETRY_AFTER_SECONDS


def test_a_verdict_contains_its_evidence() -> None:
    known = build_evidence(activity=InstanceActivity(last_event_at=noon_plus(-90), last_recorded_at=noon_plus(-60)))
    verdict = assess_readiness(known, Policy(), noon_plus())
    assert verdict.evidence is known
    assert verdict.checked_at == noon_plus()


# From an instance to what a verdict lists


def test_an_active_instance_is_listed_with_its_recorded_details() -> None:
    instance = apply_event(
        apply_event(None, build_lifecycle_event(RuntimeStatus.COMPLETED, noon_plus(-9))),
        build_lifecycle_event(RuntimeStatus.RUNNING, noon_plus(-8)),
    )
    assert ActiveInstance.from_instance(instance) == build_active_instance("order-1", "ProcessOrder", -8)


@pytest.mark.parametrize(
    "instance",
    [
        apply_event(None, build_lifecycle_event(RuntimeStatus.COMPLETED)),
        apply_event(
            apply_event(None, build_lifecycle_event(RuntimeStatus.RUNNING, noon_plus(0))),
            build_lifecycle_event(RuntimeStatus.FAILED, noon_plus(1)),
        ),
        apply_event(None, build_lifecycle_event(RuntimeStatus.RUNNING, instance_id="@counter@order-1")),
    ],
    ids=["never started", "ended", "an entity"],
)
def test_an_inactive_instance_is_not_listed(instance: Instance) -> None:
    with pytest.raises(ValueError, match="is not active"):
        ActiveInstance.from_instance(instance)
