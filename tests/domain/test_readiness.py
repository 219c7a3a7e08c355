"""The verdict on what events show: active instances, the settle window, open deployments, and what a caller is told."""

from dataclasses import replace

import pytest

from state_api.domain.evidence import ACTIVE_LIMIT, ActiveInstance, Activity, Evidence, ProbeResult, ProbeStatus
from state_api.domain.lifecycle import Instance, RuntimeStatus, apply
from state_api.domain.readiness import POLL_SECONDS, REASONS, Assurance, Policy, Reason, Verdict, assess
from tests.domain.builders import active, at, event, evidence, not_ready, open_deployment, open_swap, probe, probed


def judged(activity: Activity, policy: Policy | None = None) -> Verdict:
    """The verdict at noon on a hub of which only events are known."""
    return assess(evidence(activity=activity), policy or Policy(), at())


def codes(verdict: Verdict) -> list[Reason]:
    return [reason.code for reason in verdict.reasons]


def messages(verdict: Verdict) -> list[str]:
    return [reason.message for reason in verdict.reasons]


# The table of reasons


def test_every_reason_code_is_explained() -> None:
    assert set(REASONS) == set(Reason)
    assert all(meaning.endswith(".") for meaning in REASONS.values())


def test_reason_codes_are_what_pipelines_rely_on() -> None:
    assert [reason.value for reason in Reason] == [
        "InstancesActive",
        "StartsPending",
        "Settling",
        "DeploymentInProgress",
        "SwapPending",
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


def test_a_hub_of_which_nothing_was_recorded_is_ready_by_events() -> None:
    verdict = judged(Activity())
    assert verdict.ready
    assert verdict.reasons == ()
    assert verdict.assurance is Assurance.EVENTS
    assert not verdict.has_running
    assert verdict.retry_after_seconds is None


def test_one_active_instance_makes_a_hub_not_ready() -> None:
    verdict = judged(Activity(active=(active("5f2c", since=-720),)))
    assert not verdict.ready
    assert codes(verdict) == [Reason.INSTANCES_ACTIVE]
    assert messages(verdict) == [
        "1 orchestration instance is active on task hub v41; the oldest, ProcessOrder 5f2c, for 12 min"
    ]
    assert verdict.has_running
    assert verdict.active_count == 1


def test_the_message_names_the_oldest_of_several_active_instances() -> None:
    verdict = judged(Activity(active=(active("young", since=-5), active("old", since=-3 * 86_400))))
    assert messages(verdict) == [
        "2 orchestration instances are active on task hub v41; the oldest, ProcessOrder old, for 3 d"
    ]
    assert [one.instance_id for one in verdict.active] == ["old", "young"]


def test_instances_of_the_same_age_are_listed_by_id() -> None:
    verdict = judged(Activity(active=(active("b"), active("c"), active("a"))))
    assert [one.instance_id for one in verdict.active] == ["a", "b", "c"]


def test_an_instance_without_a_function_name_is_named_by_its_id() -> None:
    verdict = judged(Activity(active=(active("5f2c", function_name="", since=-1),)))
    assert messages(verdict) == ["1 orchestration instance is active on task hub v41; the oldest, 5f2c, for 1 s"]


def test_an_instance_that_starts_ahead_of_the_servers_clock_is_active_for_no_time() -> None:
    assert "for 0 s" in messages(judged(Activity(active=(active(since=2),))))[0]


def test_the_count_is_exact_up_to_a_thousand() -> None:
    thousand = tuple(active(f"order-{number}") for number in range(ACTIVE_LIMIT))
    verdict = judged(Activity(active=thousand))
    assert verdict.active_count == 1000
    assert not verdict.active_count_is_lower_bound
    assert messages(verdict)[0].startswith("1000 orchestration instances are active")


def test_the_count_is_a_lower_bound_when_there_are_more_than_a_thousand() -> None:
    thousand = tuple(active(f"order-{number}") for number in range(ACTIVE_LIMIT))
    verdict = judged(Activity(active=thousand, more=True))
    assert verdict.active_count == 1000
    assert verdict.active_count_is_lower_bound
    assert messages(verdict)[0].startswith("at least 1000 orchestration instances are active")


def test_more_instances_than_were_read_block_even_when_every_one_read_may_stay_active() -> None:
    activity = Activity(active=(active(function_name="NightlySync"),), more=True)
    verdict = judged(activity, Policy(ignore_functions=("NightlySync",)))
    assert codes(verdict) == [Reason.INSTANCES_ACTIVE]
    assert verdict.has_running
    assert verdict.active_count == 1
    assert verdict.active_count_is_lower_bound
    assert messages(verdict)[0].endswith("active on task hub v41")


# Instances that may stay active


@pytest.mark.parametrize("pattern", ["NightlySync", "Nightly*", "*Sync", "NightlySyn?", "[MN]ightlySync", "*"])
def test_an_orchestrator_that_the_policy_ignores_does_not_block(pattern: str) -> None:
    verdict = judged(Activity(active=(active(function_name="NightlySync"),)), Policy(ignore_functions=(pattern,)))
    assert verdict.ready
    assert not verdict.has_running
    assert verdict.active == ()
    assert verdict.ignored_count == 1


@pytest.mark.parametrize("pattern", ["nightlysync", "Nightly", "Sync*", "NightlySync?", "[!N]ightlySync", ""])
def test_an_orchestrator_that_no_pattern_fits_blocks(pattern: str) -> None:
    verdict = judged(Activity(active=(active(function_name="NightlySync"),)), Policy(ignore_functions=(pattern,)))
    assert not verdict.ready
    assert verdict.ignored_count == 0


def test_only_the_blocking_instances_are_counted_and_listed() -> None:
    activity = Activity(active=(active("sync", "NightlySync", -9), active("order")))
    verdict = judged(activity, Policy(ignore_functions=("Heartbeat", "NightlySync")))
    assert [one.instance_id for one in verdict.active] == ["order"]
    assert verdict.active_count == 1
    assert verdict.ignored_count == 1


def test_instances_that_the_reader_left_out_already_are_reported_as_ignored() -> None:
    verdict = judged(Activity(ignored_count=7))
    assert verdict.ready
    assert verdict.ignored_count == 7


# The settle window


@pytest.mark.parametrize(("recorded", "is_ready"), [(-29.9999999, False), (-30, True), (-30.0000001, True)])
def test_a_hub_is_drained_once_the_settle_window_is_over(recorded: float, is_ready: bool) -> None:
    assert judged(Activity(last_recorded_at=at(recorded))).ready is is_ready


def test_a_hub_within_its_settle_window_says_how_long_it_will_take() -> None:
    verdict = judged(Activity(last_recorded_at=at(-18)))
    assert codes(verdict) == [Reason.SETTLING]
    assert messages(verdict) == [
        "the last event of task hub v41 was recorded less than 30 s ago; quiet for 12 s more, it counts as drained"
    ]
    assert verdict.retry_after_seconds == 12
    assert not verdict.has_running


def test_the_rest_of_the_settle_window_is_rounded_up_to_a_whole_second() -> None:
    assert judged(Activity(last_recorded_at=at(-29.9999999))).retry_after_seconds == 1
    assert judged(Activity(last_recorded_at=at(-17.5))).retry_after_seconds == 13


def test_an_app_sets_its_own_settle_window() -> None:
    activity = Activity(last_recorded_at=at(-100))
    assert judged(activity, Policy(settle_seconds=120)).retry_after_seconds == 20
    assert judged(activity, Policy(settle_seconds=100)).ready


def test_without_a_settle_window_a_hub_is_drained_at_once() -> None:
    assert judged(Activity(last_recorded_at=at(0)), Policy(settle_seconds=0)).ready
    assert judged(Activity(last_recorded_at=at(1)), Policy(settle_seconds=0)).ready


@pytest.mark.parametrize("ahead", [0, 1, 3600])
def test_an_event_recorded_ahead_of_the_clock_settles_for_no_longer_than_the_window(ahead: float) -> None:
    verdict = judged(Activity(last_recorded_at=at(ahead)))
    assert codes(verdict) == [Reason.SETTLING]
    assert verdict.retry_after_seconds == 30


def test_the_settle_window_counts_from_the_recording_and_not_from_the_publishers_clock() -> None:
    late = Activity(last_event_at=at(-3600), last_recorded_at=at(-1))
    assert codes(judged(late)) == [Reason.SETTLING]
    hasty = Activity(last_event_at=at(5), last_recorded_at=at(-31))
    assert judged(hasty).ready


def test_a_hub_with_active_instances_is_not_said_to_settle() -> None:
    assert codes(judged(Activity(active=(active(),), last_recorded_at=at()))) == [Reason.INSTANCES_ACTIVE]


# An empty slot, and other runs


def test_an_empty_slot_is_ready() -> None:
    verdict = assess(Evidence(None), Policy(require_verification=True), at())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS
    assert not verdict.has_running
    assert verdict.retry_after_seconds is None


@pytest.mark.parametrize("result", [None, probe()], ids=["none yet", "left from another hub"])
def test_an_empty_slot_needs_no_probe_and_none_verifies_it(result: ProbeResult | None) -> None:
    verdict = assess(Evidence(None, provider="azureStorage", probe=result), Policy(), at())
    assert verdict.ready
    assert verdict.assurance is Assurance.EVENTS


def test_an_empty_slot_into_which_another_run_deploys_is_not_ready_though_nothing_runs() -> None:
    verdict = assess(Evidence(None, deployment=open_deployment()), Policy(), at())
    assert not verdict.ready
    assert codes(verdict) == [Reason.DEPLOYMENT_IN_PROGRESS]
    assert not verdict.has_running
    assert verdict.active_count == 0
    assert verdict.retry_after_seconds == POLL_SECONDS


def test_another_runs_deployment_is_shown_with_who_and_which_run_and_for_how_long() -> None:
    verdict = assess(replace(evidence(), deployment=open_deployment("https://ci.example/runs/8")), Policy(), at())
    assert messages(verdict) == [
        "ben, run https://ci.example/runs/8 has been deploying task hub v42 for 2 min",
    ]


def test_a_deployment_of_a_caller_without_a_run_is_shown_by_name() -> None:
    verdict = assess(replace(evidence(), deployment=open_deployment(run_url=None)), Policy(), at())
    assert messages(verdict) == ["ben has been deploying task hub v42 for 2 min"]


# Pending swaps


@pytest.mark.parametrize("known", [evidence(), Evidence(None)], ids=["a quiet hub", "an empty slot"])
def test_a_slot_is_not_ready_while_a_swap_is_pending(known: Evidence) -> None:
    verdict = assess(replace(known, pending_swap=open_swap()), Policy(), at())
    assert not verdict.ready
    assert codes(verdict) == [Reason.SWAP_PENDING]
    assert not verdict.has_running
    assert verdict.active_count == 0
    assert verdict.retry_after_seconds == POLL_SECONDS


@pytest.mark.parametrize(
    ("run_url", "who"), [("https://ci.example/runs/7", "anna, run https://ci.example/runs/7,"), (None, "anna")]
)
def test_a_pending_swap_is_shown_with_who_and_which_run_and_for_how_long(run_url: str | None, who: str) -> None:
    verdict = assess(replace(evidence(), pending_swap=open_swap(run_url)), Policy(), at())
    (message,) = messages(verdict)
    assert message == (
        f"{who} began to swap task hub v42 into production 3 min ago and has not said how it went, so what is in the "
        "slot is not known"
    )


# All reasons together


def test_a_verdict_gives_every_reason_that_applies() -> None:
    busy = probed(probe(status=ProbeStatus.DENIED), Activity(active=(active(),)))
    verdict = assess(replace(busy, deployment=open_deployment(), pending_swap=open_swap()), Policy(), at())
    assert codes(verdict) == [
        Reason.DEPLOYMENT_IN_PROGRESS,
        Reason.SWAP_PENDING,
        Reason.INSTANCES_ACTIVE,
        Reason.PROBE_DENIED,
    ]


def test_another_runs_deployment_does_not_hide_that_a_hub_has_yet_to_be_read() -> None:
    verdict = assess(replace(probed(None), deployment=open_deployment()), Policy(), at())
    assert codes(verdict) == [Reason.DEPLOYMENT_IN_PROGRESS, Reason.PROBE_PENDING]


def test_a_caller_is_told_to_poll_where_settling_is_not_the_only_reason() -> None:
    settling = evidence(activity=Activity(last_recorded_at=at(-1)))
    assert assess(settling, Policy(), at()).retry_after_seconds == 29
    both = replace(settling, deployment=open_deployment())
    assert assess(both, Policy(), at()).retry_after_seconds == POLL_SECONDS
    assert not_ready().retry_after_seconds == POLL_SECONDS


def test_a_verdict_carries_what_it_rests_on() -> None:
    known = evidence(activity=Activity(last_event_at=at(-90), last_recorded_at=at(-60)))
    verdict = assess(known, Policy(), at())
    assert verdict.evidence is known
    assert verdict.checked_at == at()


# From an instance to what a verdict lists


def test_an_active_instance_is_listed_with_what_is_known_of_it() -> None:
    instance = apply(apply(None, event(RuntimeStatus.COMPLETED, at(-9))), event(RuntimeStatus.RUNNING, at(-8)))
    assert ActiveInstance.of(instance) == active("order-1", "ProcessOrder", -8)


@pytest.mark.parametrize(
    "instance",
    [
        apply(None, event(RuntimeStatus.COMPLETED)),
        apply(apply(None, event(RuntimeStatus.RUNNING, at(0))), event(RuntimeStatus.FAILED, at(1))),
        apply(None, event(RuntimeStatus.RUNNING, instance_id="@counter@order-1")),
    ],
    ids=["never started", "ended", "an entity"],
)
def test_what_is_not_active_is_not_listed(instance: Instance) -> None:
    with pytest.raises(ValueError, match="is not active"):
        ActiveInstance.of(instance)
