"""PutRollout: what starts a rollout, and what refuses to."""

from dataclasses import replace

import pytest

from state_api.domain.errors import (
    DeploymentInProgress,
    InvalidRequest,
    ReleaseNotDeployed,
    ReleaseNotFound,
    ReleaseRemoved,
    RolloutInProgress,
    SlotNotFound,
    SwapPending,
)
from state_api.domain.releases.apps import App, Caller
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.commands import StartRolloutCommand
from state_api.domain.rollouts.rollouts import MAX_STEPS, RolloutState, Step
from state_api.domain.rollouts.starts import find_unproven_candidates
from tests.domain.builders import ANNA, BEN, CALLER_WITHOUT_RUN, build_app, build_production_slot, build_slot, noon_plus
from tests.domain.release_transitions import (
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    delete_release,
    post_release,
    put_routing,
)
from tests.domain.rollout_builders import (
    MINUTE,
    STEPS,
    build_slots_app,
    confirm,
    finish_in_slots,
    post_rollout,
    put_rollout,
    require_rollout,
    require_slot,
    start_in_slots,
)
from tests.domain.transitions import begin_swap, build_app_with_open_deployment, confirm_swap, stage_new_hub

# Side by side


def test_a_rollout_side_by_side_gives_the_candidate_the_share_of_its_first_step() -> None:
    transition = put_rollout(build_shop_app())
    routing, rollout = transition.app.routing, require_rollout(transition.app)
    assert (routing.active, routing.split) == ("1.4.0", {"1.4.0": 90, "1.5.0": 10})
    assert transition.app.releases["1.5.0"].first_traffic_at == noon_plus()
    assert (rollout.state, rollout.weight, rollout.confirmed_at) == (RolloutState.RUNNING, 10, noon_plus())
    assert (rollout.candidate_hub, rollout.baseline_hub) == ("v150", "v140")
    assert rollout.step_ends_at == noon_plus(15 * MINUTE)
    assert transition.details["candidate"] == "1.5.0"


def test_a_rollout_closes_the_deployment_of_its_release_at_its_first_traffic() -> None:
    registered = post_release(build_shop_app()).app
    assert registered.deployment is not None
    assert put_rollout(registered, version="1.6.0").app.deployment is None


def test_a_rollout_goes_on_from_a_split_of_the_same_release() -> None:
    split = put_routing(build_shop_app(), "1.4.0", {"1.4.0": 95, "1.5.0": 5}).app
    assert put_rollout(split).app.routing.split == {"1.4.0": 90, "1.5.0": 10}


def test_only_a_release_that_has_started_is_rolled_out() -> None:
    command = StartRolloutCommand(caller=ANNA, steps=STEPS, analysis=Analysis(), version="1.5.0")
    assert [release.version for release in find_unproven_candidates(build_shop_app(), command)] == ["1.5.0"]
    with pytest.raises(ReleaseNotDeployed):
        put_rollout(build_shop_app(), started={"1.5.0": False})


def test_nothing_need_be_asked_of_a_provider_for_a_rollout_that_is_invalid_or_in_slots() -> None:
    command = StartRolloutCommand(caller=ANNA, steps=STEPS, analysis=Analysis())
    assert find_unproven_candidates(build_slots_app(), command) == ()
    assert find_unproven_candidates(build_shop_app(), command) == ()
    assert find_unproven_candidates(build_shop_app(), replace(command, version="1.5.0", steps=())) == ()


def test_a_release_that_the_app_does_not_have_is_not_rolled_out() -> None:
    with pytest.raises(ReleaseNotFound):
        put_rollout(build_shop_app(), version="9.0.0")


def test_a_release_that_is_being_removed_is_not_rolled_out() -> None:
    with pytest.raises(ReleaseRemoved):
        put_rollout(delete_release(build_shop_app(), "1.5.0").app)


@pytest.mark.parametrize(
    ("app", "version", "slot", "message"),
    [
        (build_shop_app(), "1.4.0", None, "is the active release"),
        (build_shop_app(), None, "staging", "name the release to roll out in version"),
        (build_shop_app(), "1.5.0", "staging", "and no slot"),
        (build_side_by_side_app(build_staged_release()), "1.5.0", None, "has no active release"),
        (build_slots_app(), "1.5.0", None, "name the slot to roll out in slot"),
        (build_slots_app(), None, "Production", "production is what a rollout compares with"),
        (build_app(build_production_slot()), None, None, "slot staging of app shop holds no task hub"),
        (build_app(staging=build_slot("v42")), None, None, "slot production of app shop holds no task hub"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_invalid(
    app: App, version: str | None, slot: str | None, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        put_rollout(app, version=version, slot=slot)


# Steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "steps has 0"),
        ([Step(1 + index, 1) for index in range(MAX_STEPS + 1)], "steps has 51"),
        ([Step(0, 15)], "the weight 0"),
        ([Step(100, 15)], "the weight 100"),
        ([Step(10, 0)], "not 0"),
        ([Step(10, 10_080.5)], "not 10080.5"),
        ([Step(10, 15), Step(10, 15)], "10 follows 10"),
        ([Step(50, 15), Step(10, 15)], "10 follows 50"),
    ],
)
def test_steps_that_a_rollout_cannot_take_are_invalid(steps: list[Step], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        put_rollout(build_shop_app(), steps=steps)


def test_a_rollout_has_up_to_50_steps_which_need_not_end_at_100_percent() -> None:
    steps = [Step(1 + index, 0.5) for index in range(MAX_STEPS)]
    assert len(require_rollout(put_rollout(build_shop_app(), steps=steps).app).steps) == MAX_STEPS


# In slots


def test_a_rollout_in_slots_waits_until_the_share_is_confirmed() -> None:
    app = start_in_slots()
    rollout = require_rollout(app)
    assert (rollout.candidate, rollout.baseline) == ("staging", "production")
    assert (rollout.candidate_hub, rollout.baseline_hub, rollout.candidate_version) == ("v42", "v41", "1.5.0")
    assert (rollout.weight, rollout.confirmed_at, rollout.step_ends_at) == (10, None, None)
    confirmed = require_rollout(confirm(app, 10, 2).app)
    assert confirmed.step_ends_at == noon_plus(17 * MINUTE)
    assert confirmed.share_changes == (noon_plus(), noon_plus(2 * MINUTE))


def test_a_rollout_of_a_slot_that_the_app_does_not_have_is_refused() -> None:
    with pytest.raises(SlotNotFound):
        put_rollout(build_slots_app(), slot="canary")


def test_the_run_that_staged_the_task_hub_starts_its_rollout_and_keeps_its_deployment() -> None:
    deployed = build_app_with_open_deployment()
    started = put_rollout(deployed, slot="Staging").app
    assert require_rollout(started).candidate == "staging"
    assert started.deployment == deployed.deployment


def test_another_run_does_not_start_the_rollout_of_a_task_hub_that_is_being_deployed() -> None:
    with pytest.raises(DeploymentInProgress):
        put_rollout(build_app_with_open_deployment(), caller=BEN)


def test_a_deployment_into_another_slot_does_not_matter() -> None:
    app = stage_new_hub(build_slots_app(more_slots={"canary": None}), "v43", BEN, slot="canary").app
    assert require_rollout(put_rollout(app).app).candidate == "staging"


def test_no_rollout_starts_while_a_swap_is_pending() -> None:
    with pytest.raises(SwapPending):
        put_rollout(begin_swap(build_slots_app(), "v42").app)


def test_a_rollout_marks_the_task_hub_of_its_slot_as_one_that_had_traffic() -> None:
    slot = require_slot(start_in_slots())
    assert slot.had_traffic
    assert not slot.promoted, "a rollback must not bring it into production"


# Again


@pytest.mark.parametrize("caller", [ANNA, CALLER_WITHOUT_RUN])
def test_the_same_run_may_repeat_its_request(caller: Caller) -> None:
    for app in (build_shop_app(), build_slots_app()):
        started = put_rollout(app, caller=caller).app
        assert not put_rollout(started, caller=caller, now=noon_plus(60)).changed


def test_a_second_rollout_is_refused_while_one_is_live() -> None:
    app = put_rollout(build_shop_app()).app
    with pytest.raises(RolloutInProgress, match="give all requests back to 1\\.4\\.0 with PutRouting or abort it"):
        put_rollout(app, caller=BEN)
    with pytest.raises(RolloutInProgress):
        put_rollout(app, steps=STEPS[:1])
    with pytest.raises(RolloutInProgress):
        put_rollout(app, analysis=Analysis(confidence=0.99))
    with pytest.raises(RolloutInProgress):
        put_rollout(app, version="1.3.0")


def test_a_pipeline_that_is_run_again_does_not_start_again_what_was_aborted() -> None:
    for app in (put_rollout(build_shop_app()).app, start_in_slots()):
        aborted = post_rollout(app, "abort").app
        assert not put_rollout(aborted).changed


def test_a_pipeline_that_is_run_again_does_not_start_again_what_has_finished() -> None:
    side_by_side = post_rollout(put_rollout(build_shop_app()).app, "finish").app
    in_slots = confirm_swap(begin_swap(finish_in_slots(), "v42").app, "v42").app
    for finished in (side_by_side, in_slots):
        assert require_rollout(finished).state is RolloutState.FINISHED
        assert not put_rollout(finished).changed


def test_another_run_starts_again_what_was_aborted() -> None:
    aborted = confirm(post_rollout(start_in_slots(), "abort").app, 0).app
    assert require_rollout(put_rollout(aborted, caller=BEN).app).is_live
    side_by_side = post_rollout(put_rollout(build_shop_app()).app, "abort").app
    assert require_rollout(put_rollout(side_by_side, caller=BEN).app).is_live


def test_a_caller_without_a_run_starts_again_what_was_aborted() -> None:
    aborted = post_rollout(put_rollout(build_shop_app(), caller=CALLER_WITHOUT_RUN).app, "abort").app
    assert put_rollout(aborted, caller=CALLER_WITHOUT_RUN).changed


def test_the_same_run_starts_the_rollout_of_a_task_hub_that_it_has_staged_since() -> None:
    aborted = confirm(post_rollout(start_in_slots(), "abort").app, 0).app
    restaged = stage_new_hub(aborted, "v43", now=noon_plus(3 * 3600)).app
    assert require_rollout(put_rollout(restaged, now=noon_plus(3 * 3600)).app).candidate_hub == "v43"


def test_no_rollout_of_another_slot_starts_while_visitors_may_come_to_the_last_one() -> None:
    app = build_slots_app(more_slots={"canary": build_slot("v43")})
    aborted = confirm(post_rollout(put_rollout(app).app, "abort").app, 0, 1).app
    with pytest.raises(RolloutInProgress, match="visitors whom the platform sends back"):
        put_rollout(aborted, slot="canary", now=noon_plus(30 * MINUTE))
    later = put_rollout(aborted, slot="canary", now=noon_plus(90 * MINUTE)).app
    assert require_rollout(later).candidate == "canary"


def test_a_rollout_of_another_slot_starts_at_once_if_the_last_one_was_side_by_side() -> None:
    app = replace(
        build_slots_app(), rollout=require_rollout(post_rollout(put_rollout(build_shop_app()).app, "abort").app)
    )
    assert require_rollout(put_rollout(app).app).candidate == "staging"


def test_an_app_with_one_adopted_release_has_no_candidate() -> None:
    app = build_side_by_side_app(build_serving_release(), active="1.4.0")
    assert app.model is Model.SIDE_BY_SIDE
    with pytest.raises(ReleaseNotFound):
        put_rollout(app)
