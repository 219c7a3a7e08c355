"""What a rollout blocks while it is live, and while visitors whom the platform sends back to its slot may come."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from state_api.domain.errors import RolloutInProgress, StagingNotReady, TaskHubInUse
from state_api.domain.instants import format_instant
from state_api.domain.readiness.evidence import Evidence
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.reasons import ReasonCode
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases.apps import App, PriorHub, ProviderConfig
from state_api.domain.releases.commands import ReleaseAssignment
from state_api.domain.releases.rollout_checks import find_open_rollout
from state_api.domain.releases.side_by_side.verdicts import ReleaseUse, assess_release
from state_api.domain.rollouts.rollouts import RolloutState
from tests.domain.builders import (
    PROVIDER_CONFIG,
    build_active_instance,
    build_evidence,
    build_not_ready_verdict,
    build_ready_verdict,
    build_slot,
    noon_plus,
)
from tests.domain.release_transitions import (
    build_acknowledgement,
    build_shop_app,
    delete_release,
    post_release,
    put_app,
    put_routing,
)
from tests.domain.rollout_builders import (
    MINUTE,
    build_slots_app,
    confirm,
    finish_in_slots,
    post_rollout,
    put_rollout,
    require_rollout,
    require_slot,
    start_in_slots,
)
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    build_app_with_open_deployment,
    build_register_command,
    build_stage_command,
    confirm_swap,
    delete_registered_app,
    register,
    revert_swap,
    stage,
    stage_new_hub,
    swap_at_once,
)

READY = build_ready_verdict()
LAST_VISIT = 30 + 3600
"""Seconds from the confirmed clearing of a slot until its last visitor has left."""
SETTLE, FRESHNESS = Policy().settle_seconds, Policy().freshness_seconds

SIDE_BY_SIDE = put_rollout(build_shop_app()).app
IN_SLOTS = put_rollout(build_app_with_open_deployment()).app
"""Anna's run has staged v42 and rolls it out: its deployment is open."""
ABORTED = confirm(post_rollout(start_in_slots(), "abort").app, 0).app
FORCE_V43 = build_stage_command("v43", force=True, reason="hotfix")


def seconds_after_clearing(offset: float) -> float:
    """This many seconds after the slot was confirmed to be cleared, in seconds after noon."""
    return MINUTE + offset


# Refusals while a rollout is live


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: put_routing(SIDE_BY_SIDE, "1.5.0"),
        lambda: put_routing(SIDE_BY_SIDE, "1.3.0"),
        lambda: put_routing(SIDE_BY_SIDE, "1.4.0", {"1.4.0": 90, "1.5.0": 10}),
        lambda: delete_release(SIDE_BY_SIDE, "1.5.0"),
        lambda: delete_release(SIDE_BY_SIDE, "1.4.0"),
        lambda: delete_registered_app(SIDE_BY_SIDE, {}),
        lambda: stage_new_hub(IN_SLOTS, "v43"),
        lambda: stage(IN_SLOTS, build_stage_command("v42")),
        lambda: stage(IN_SLOTS, build_stage_command("v43", force=True, take_over=True, reason="hotfix")),
        lambda: abandon_staging(IN_SLOTS, "v42"),
        lambda: swap_at_once(IN_SLOTS, "v42"),
        lambda: begin_swap(IN_SLOTS, "v42"),
        lambda: confirm_swap(IN_SLOTS, "v42"),
        lambda: swap_at_once(post_rollout(IN_SLOTS, "finish").app, "v42"),
        lambda: register(IN_SLOTS, build_register_command({"staging": None}), verdicts={"staging": READY}),
        lambda: register(
            IN_SLOTS, build_register_command({"production": ("v50", None)}), verdicts={"production": READY}
        ),
        lambda: register(IN_SLOTS, build_register_command({"staging": ("v42", "1.5.1")})),
        lambda: delete_registered_app(IN_SLOTS, {"production": READY, "staging": READY}),
    ],
)
def test_a_live_rollout_refuses_what_changes_its_candidate_its_baseline_or_its_traffic(
    attempt: Callable[[], object],
) -> None:
    with pytest.raises(RolloutInProgress) as raised:
        attempt()
    assert raised.value.details["rollout"]["by"] == "anna"
    assert raised.value.details["retryAfterSeconds"] == 60


def test_a_swap_of_another_slot_is_refused_because_production_is_the_baseline() -> None:
    app = put_rollout(build_slots_app(more_slots={"canary": build_slot("v43")})).app
    with pytest.raises(RolloutInProgress):
        swap_at_once(app, "v43", slot="canary")


def test_a_rollout_that_finishes_is_swapped_with_its_own_task_hub_only() -> None:
    app = replace(finish_in_slots(), slots={**finish_in_slots().slots, "canary": build_slot("v43")})
    with pytest.raises(RolloutInProgress):
        swap_at_once(app, "v43", slot="canary")
    with pytest.raises(RolloutInProgress):
        swap_at_once(app, "v44")


def test_an_old_outcome_of_the_swap_before_changes_nothing() -> None:
    assert not confirm_swap(IN_SLOTS, "v41").changed
    assert not revert_swap(IN_SLOTS, "v42").changed


def test_what_does_not_touch_the_rollout_is_allowed() -> None:
    assert post_release(SIDE_BY_SIDE, "1.6.0").changed
    assert delete_release(SIDE_BY_SIDE, "1.3.0", acknowledgements=[], now=noon_plus(600)).changed
    app = put_rollout(build_slots_app(more_slots={"canary": None})).app
    assert stage_new_hub(app, "v43", slot="canary").changed
    assert not register(app, build_register_command({"staging": ("v42", None)})).changed
    assert register(app, build_register_command(update_policy=lambda policy: replace(policy, settle_seconds=5))).changed


# PutRouting back to the baseline


def test_giving_all_requests_back_to_the_baseline_aborts_the_rollout_in_the_same_write() -> None:
    for app in (SIDE_BY_SIDE, post_rollout(SIDE_BY_SIDE, "pause").app):
        aborted = put_routing(app, "1.4.0", now=noon_plus(60)).app
        rollout = require_rollout(aborted)
        assert (rollout.state, rollout.weight) == (RolloutState.ABORTED, 0)
        assert aborted.routing.split is None
        assert rollout.last_decision is not None
        assert rollout.last_decision.message == "anna gave all requests back to 1.4.0 with PutRouting"


def test_a_split_that_gives_all_to_the_baseline_aborts_too() -> None:
    assert require_rollout(put_routing(SIDE_BY_SIDE, "1.4.0", {"1.4.0": 100}).app).state is RolloutState.ABORTED


def test_the_routing_is_free_again_once_the_rollout_has_ended() -> None:
    aborted = put_routing(SIDE_BY_SIDE, "1.4.0").app
    assert put_routing(aborted, "1.5.0", now=noon_plus(60)).app.routing.active == "1.5.0"


# While visitors may come


@pytest.mark.parametrize(("offset", "blocked"), [(0, True), (LAST_VISIT, True), (LAST_VISIT + SETTLE, False)])
def test_a_slot_is_staged_again_when_the_last_visitor_has_left_and_is_known(offset: float, *, blocked: bool) -> None:
    now = noon_plus(seconds_after_clearing(offset))
    if not blocked:
        assert stage_new_hub(ABORTED, "v43", now=now).changed
        return
    with pytest.raises(RolloutInProgress, match="visitors whom the platform sends back to the slot may still start"):
        stage_new_hub(ABORTED, "v43", now=now)


def test_the_refusal_says_until_when() -> None:
    now = noon_plus(seconds_after_clearing(LAST_VISIT + SETTLE - 19.1))
    with pytest.raises(RolloutInProgress) as raised:
        stage_new_hub(ABORTED, "v43", now=now)
    assert raised.value.details["rollout"]["until"] == "2026-11-20T13:02:00.0000000Z"
    assert raised.value.details["retryAfterSeconds"] == 20


def test_force_overwrites_the_slot_of_an_aborted_rollout_on_record() -> None:
    transition = stage(ABORTED, FORCE_V43, verdict=build_not_ready_verdict("v42"), now=noon_plus(300))
    assert transition.details["forcedOver"]
    with pytest.raises(RolloutInProgress):
        stage(transition.app, build_stage_command("v43"), now=noon_plus(360))


@pytest.mark.parametrize(
    ("offset", "assessed"),
    [(LAST_VISIT + SETTLE - 1, ["v43", "v42"]), (LAST_VISIT + SETTLE, ["v42"])],
)
def test_a_repeated_deployment_is_assessed_too_if_it_was_staged_while_visitors_came(
    offset: float, assessed: list[str]
) -> None:
    staged = stage(ABORTED, FORCE_V43, now=noon_plus(seconds_after_clearing(offset))).app
    assert [hub.task_hub for hub in require_slot(staged).hubs_to_drain_before_redeployment()] == assessed
    later = noon_plus(seconds_after_clearing(offset + SETTLE + 1))
    with pytest.raises(StagingNotReady):
        stage(staged, build_stage_command("v43"), verdict=build_not_ready_verdict("v43"), now=later)
    assert not stage(staged, build_stage_command("v43"), now=later).changed


def test_a_slot_remembers_its_visitors_when_its_task_hub_is_staged_again() -> None:
    """The first deployment is abandoned and the second one has the same task hub, in the hour of the visitors or
    after."""
    staged = stage(ABORTED, FORCE_V43, now=noon_plus(300)).app
    abandoned = abandon_staging(staged, "v43", now=noon_plus(360)).app
    for command, offset in ((FORCE_V43, 420), (build_stage_command("v43"), 7200)):
        again = stage(abandoned, command, now=noon_plus(offset)).app
        assert require_slot(again).may_have_pinned_visitors


def test_a_task_hub_that_had_traffic_is_known_as_such_below_the_next_one() -> None:
    staged = stage(ABORTED, FORCE_V43, now=noon_plus(300)).app
    assert require_slot(staged).prior_hubs == (PriorHub("v42", promoted=False, had_traffic=True),)


def test_the_task_hub_of_an_aborted_rollout_is_never_staged_again() -> None:
    """It may hold customers' work, on which a second deployment of the same name would put other code."""
    later = noon_plus(7200)
    with pytest.raises(TaskHubInUse):
        stage(ABORTED, build_stage_command("v42"), now=later)
    aborted = confirm(post_rollout(IN_SLOTS, "abort").app, 0).app
    with pytest.raises(TaskHubInUse):
        stage(replace(aborted, policy=Policy(deployment_timeout_minutes=1000)), build_stage_command("v42"), now=later)


def test_a_slot_to_which_visitors_come_does_not_become_a_release() -> None:
    releases = {"1.5.0": ReleaseAssignment("v42", "https://shop-150.example")}

    def move(app: App, offset: float) -> App:
        return put_app(
            app, releases, slots={"production": None}, verdicts={"production": READY}, now=noon_plus(offset)
        ).app

    with pytest.raises(RolloutInProgress):
        move(ABORTED, 300)
    moved = move(ABORTED, 7200)
    assert moved.releases["1.5.0"].has_traffic, "it had traffic in its slot, so it is not a staged release"


def test_a_slot_of_a_live_rollout_does_not_become_a_release() -> None:
    releases = {"1.5.0": ReleaseAssignment("v42", "https://shop-150.example")}
    with pytest.raises(RolloutInProgress):
        put_app(start_in_slots(), releases)


def test_a_promoted_slot_is_swapped_back_while_visitors_may_come() -> None:
    finished = swap_at_once(finish_in_slots(), "v42").app
    assert swap_at_once(finished, "v41", noon_plus(120), rollback=True).changed


# Verdicts


def assess_slot(app: App, name: str, offset: float) -> Verdict:
    """The verdict on a slot whose task hub has drained, at this many seconds after noon."""
    now = noon_plus(offset)
    return assess_readiness(replace(build_evidence(), rollout=find_open_rollout(app, name, now)), app.policy, now)


@pytest.mark.parametrize(
    ("app", "wait"),
    [
        (start_in_slots(), "the share of slot staging must be set to 10 % in Azure, and confirmed with PostRollout"),
        (
            post_rollout(start_in_slots(), "pause").app,
            "staging keeps 10 % until the rollout is resumed, finished or aborted",
        ),
        (
            post_rollout(start_in_slots(), "abort").app,
            "the share of slot staging must be set to 0 % in Azure, and confirmed with PostRollout",
        ),
        (
            post_rollout(start_in_slots(), "finish").app,
            "the share of slot staging must be set to 0 % in Azure, and confirmed with PostRollout",
        ),
        (finish_in_slots(), "slot staging must be swapped into production, as announced with PostSwap"),
    ],
)
def test_the_slot_of_a_live_rollout_is_never_ready(app: App, wait: str) -> None:
    verdict = assess_slot(app, "staging", 10**9)
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.ROLLOUT_IN_PROGRESS]
    assert verdict.reasons[0].message == (
        f"anna, run https://ci.example/runs/7, rolls out staging, and the rollout is "
        f"{require_rollout(app).state.value}, so requests may start work there: {wait}. Wait until it has ended, or "
        "abort it with PostRollout"
    )
    assert not verdict.has_running, "no instance is active"
    assert find_open_rollout(app, "production", noon_plus()) is None


@pytest.mark.parametrize(("provider_config", "known_after"), [(None, SETTLE), (PROVIDER_CONFIG, FRESHNESS)])
def test_a_slot_is_ready_when_a_probe_or_its_events_can_know_what_the_last_visitor_did(
    provider_config: ProviderConfig | None, known_after: int
) -> None:
    for ended in (ABORTED, swap_at_once(finish_in_slots(), "v42").app):
        app = replace(ended, provider_config=provider_config)
        end = seconds_after_clearing(LAST_VISIT + known_after)
        before = assess_slot(app, "staging", end - 1)
        assert [reason.code for reason in before.reasons] == [ReasonCode.ROLLOUT_IN_PROGRESS]
        assert "may still start work until" in before.reasons[0].message
        assert assess_slot(app, "staging", end).ready


def test_the_verdict_on_a_running_rollout_says_the_step_and_when_it_ends() -> None:
    app = confirm(start_in_slots(), 10).app
    rollout = require_rollout(app)
    assert rollout.step_ends_at is not None
    message = assess_slot(app, "staging", 0).reasons[0].message
    assert f"in step 1 of {len(rollout.steps)} until {format_instant(rollout.step_ends_at)}. Wait until" in message


def test_an_empty_slot_is_blocked_like_any_other() -> None:
    rollout = find_open_rollout(start_in_slots(), "staging", noon_plus())
    verdict = assess_readiness(Evidence(None, rollout=rollout), Policy(), noon_plus())
    assert [reason.code for reason in verdict.reasons] == [ReasonCode.ROLLOUT_IN_PROGRESS]


def test_a_release_that_is_rolled_out_has_the_reason_until_the_rollout_has_ended() -> None:
    def assess(app: App) -> list[ReasonCode]:
        use = ReleaseUse([build_acknowledgement(revision=99)], None, noon_plus(7200))
        return [reason.code for reason in assess_release(app, app.releases["1.5.0"], use, READY).reasons]

    assert assess(SIDE_BY_SIDE) == [ReasonCode.ROLLOUT_IN_PROGRESS, ReasonCode.RELEASE_IN_USE]
    assert assess(post_rollout(SIDE_BY_SIDE, "abort").app) == []


def test_an_active_instance_is_a_reason_besides_the_rollout() -> None:
    verdict = build_not_ready_verdict("v42")
    assert verdict.active == (build_active_instance(since=-720),)
    app = SIDE_BY_SIDE
    use = ReleaseUse([], None, noon_plus())
    codes = [reason.code for reason in assess_release(app, app.releases["1.5.0"], use, verdict).reasons]
    assert codes[-1] is ReasonCode.INSTANCES_ACTIVE


def test_staging_over_an_aborted_candidate_still_needs_a_drained_task_hub() -> None:
    with pytest.raises(StagingNotReady):
        stage(ABORTED, build_stage_command("v43"), verdict=build_not_ready_verdict("v42"), now=noon_plus(7200))
