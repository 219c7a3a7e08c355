"""PostRollout: pause, resume, abort, finish and confirm, in both models."""

import pytest

from state_api.domain.errors import RolloutEnded, RolloutNotFound, SwapPending, WeightChanged, WrongModel
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App
from state_api.domain.rollouts.rollouts import NEW_VISITOR_SECONDS, PINNED_VISITOR_SECONDS, RolloutState
from tests.domain.builders import noon_plus
from tests.domain.release_transitions import (
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    put_routing,
)
from tests.domain.rollout_builders import (
    ACTIONS,
    HEALTHY,
    MINUTE,
    UNHEALTHY,
    advance,
    build_slots_app,
    confirm,
    finish_in_slots,
    post_rollout,
    put_rollout,
    require_rollout,
    start_in_slots,
)
from tests.domain.transitions import begin_swap, confirm_swap, revert_swap, swap_at_once

RUNNING, PAUSED = RolloutState.RUNNING, RolloutState.PAUSED
ABORTING, ABORTED = RolloutState.ABORTING, RolloutState.ABORTED
FINISHING, FINISHED = RolloutState.FINISHING, RolloutState.FINISHED
ENDED = "RolloutEnded"

_SIDE_BY_SIDE = put_rollout(build_shop_app()).app
_IN_SLOTS = start_in_slots()

APPS = {
    "running": _SIDE_BY_SIDE,
    "paused": post_rollout(_SIDE_BY_SIDE, "pause").app,
    "aborted": post_rollout(_SIDE_BY_SIDE, "abort").app,
    "finished": post_rollout(_SIDE_BY_SIDE, "finish").app,
    "running in slots": _IN_SLOTS,
    "paused in slots": post_rollout(_IN_SLOTS, "pause").app,
    "aborting": post_rollout(_IN_SLOTS, "abort").app,
    "aborted in slots": confirm(post_rollout(_IN_SLOTS, "abort").app, 0).app,
    "finishing": post_rollout(_IN_SLOTS, "finish").app,
    "cleared to finish": finish_in_slots(),
    "finished in slots": swap_at_once(finish_in_slots(), "v42").app,
}


@pytest.mark.parametrize(
    ("state", "pause", "resume", "abort", "finish"),
    [
        ("running", PAUSED, RUNNING, ABORTED, FINISHED),
        ("paused", PAUSED, RUNNING, ABORTED, FINISHED),
        ("aborted", ENDED, ENDED, ABORTED, ENDED),
        ("finished", ENDED, ENDED, ENDED, FINISHED),
        ("running in slots", PAUSED, RUNNING, ABORTING, FINISHING),
        ("paused in slots", PAUSED, RUNNING, ABORTING, FINISHING),
        ("aborting", ENDED, ENDED, ABORTING, ENDED),
        ("aborted in slots", ENDED, ENDED, ABORTED, ENDED),
        ("finishing", ENDED, ENDED, ABORTING, FINISHING),
        ("cleared to finish", ENDED, ENDED, ABORTED, FINISHING),
        ("finished in slots", ENDED, ENDED, ENDED, FINISHED),
    ],
)
def test_each_action_leads_from_each_state_to_the_one_in_the_table(
    state: str, pause: object, resume: object, abort: object, finish: object
) -> None:
    for action, expected in zip(ACTIONS, (pause, resume, abort, finish), strict=True):
        app = APPS[state]
        if expected == ENDED:
            with pytest.raises(RolloutEnded, match=f"too late to {action} it"):
                post_rollout(app, action)
            continue
        transition = post_rollout(app, action)
        assert require_rollout(transition.app).state == expected
        assert transition.changed == (require_rollout(app).state != expected), "an action is idempotent"


@pytest.mark.parametrize("action", ACTIONS)
def test_an_app_that_never_had_a_rollout_has_none_to_change(action: str) -> None:
    with pytest.raises(RolloutNotFound):
        post_rollout(build_shop_app(), action)
    with pytest.raises(RolloutNotFound):
        advance(build_shop_app(), HEALTHY, 0)
    with pytest.raises(RolloutNotFound):
        confirm(build_slots_app(), 10)


def test_who_acted_and_why_is_on_record() -> None:
    transition = post_rollout(_SIDE_BY_SIDE, "abort", 2, reason="customers complain")
    decision = require_rollout(transition.app).last_decision
    assert decision is not None
    assert (decision.action, decision.code, decision.at) == ("Abort", "Requested", noon_plus(2 * MINUTE))
    assert decision.message == "anna aborted the rollout: customers complain"
    assert transition.operation == "PostRollout"
    assert transition.details["message"] == decision.message


# Side by side


def test_an_abort_gives_all_traffic_back_in_the_same_write() -> None:
    aborted = advance(_SIDE_BY_SIDE, UNHEALTHY, 1).app
    assert (aborted.routing.active, aborted.routing.split) == ("1.4.0", None)
    assert require_rollout(aborted).weight == 0
    closing = aborted.releases["1.5.0"].traffic_end
    assert closing is not None
    assert closing.revision == aborted.routing.revision


def test_a_rollout_side_by_side_takes_its_steps_and_finishes() -> None:
    second = advance(_SIDE_BY_SIDE, HEALTHY, 15).app
    assert second.routing.split == {"1.4.0": 50, "1.5.0": 50}
    finished = advance(second, HEALTHY, 45).app
    assert (finished.routing.active, finished.routing.split) == ("1.5.0", None)
    assert (require_rollout(finished).state, require_rollout(finished).weight) == (FINISHED, 100)


def test_the_app_rolls_back_after_a_rollout_has_finished() -> None:
    rolled_back = put_routing(APPS["finished"], "1.4.0", now=noon_plus(300)).app
    assert rolled_back.routing.active == "1.4.0"
    assert require_rollout(rolled_back).state is FINISHED


def _sticky_app() -> App:
    """An app whose visitors stay with the release that loses its traffic to a newer one."""
    app = build_side_by_side_app(
        build_serving_release(),
        build_staged_release(),
        active="1.4.0",
        policy=Policy(sticky_after_promotion=True),
    )
    return put_rollout(app).app


def test_visitors_stay_with_the_baseline_for_a_while_when_the_rollout_finishes() -> None:
    finished = post_rollout(_sticky_app(), "finish").app
    assert finished.releases["1.4.0"].is_sticky(noon_plus(2 * MINUTE))


def test_visitors_of_a_candidate_leave_at_once_when_the_rollout_is_aborted() -> None:
    aborted = post_rollout(_sticky_app(), "abort").app
    assert not aborted.releases["1.5.0"].is_sticky(noon_plus(2 * MINUTE))


def test_a_share_side_by_side_is_not_confirmed_by_a_pipeline() -> None:
    with pytest.raises(WrongModel):
        confirm(_SIDE_BY_SIDE, 10)


# In slots


def test_a_confirmed_share_is_confirmed_once() -> None:
    app = confirm(_IN_SLOTS, 10, 1).app
    assert not confirm(app, 10, 9).changed


@pytest.mark.parametrize("weight", [0, 50])
def test_only_the_share_that_the_rollout_needs_is_confirmed(weight: int) -> None:
    with pytest.raises(WeightChanged) as raised:
        confirm(_IN_SLOTS, weight)
    assert raised.value.details["weight"] == 10


def test_each_step_in_slots_waits_for_its_own_confirmation() -> None:
    second = advance(confirm(_IN_SLOTS, 10, 1).app, HEALTHY, 16).app
    assert (require_rollout(second).weight, require_rollout(second).confirmed_at) == (50, None)
    assert not advance(second, HEALTHY, 999).changed
    assert advance(confirm(second, 50, 20).app, HEALTHY, 50).changed


def test_a_rollout_that_is_resumed_before_its_share_is_confirmed_still_waits_for_that() -> None:
    resumed = post_rollout(APPS["paused in slots"], "resume", 5).app
    assert require_rollout(resumed).confirmed_at is None
    paused = post_rollout(confirm(APPS["paused in slots"], 10, 5).app, "resume", 7).app
    assert require_rollout(paused).step_ends_at == noon_plus(22 * MINUTE)


def test_an_abort_in_slots_ends_when_the_slot_is_cleared() -> None:
    aborting = advance(confirm(_IN_SLOTS, 10).app, UNHEALTHY, 3).app
    assert (require_rollout(aborting).state, require_rollout(aborting).weight) == (ABORTING, 0)
    aborted = require_rollout(confirm(aborting, 0, 4).app)
    assert (aborted.state, aborted.cleared_at) == (ABORTED, noon_plus(4 * MINUTE))


@pytest.mark.parametrize(
    "cleared", [APPS["aborted in slots"], finish_in_slots(), swap_at_once(finish_in_slots(), "v42").app]
)
def test_a_slot_that_had_a_share_once_more_is_left_an_hour_after_it_was_cleared_again(cleared: App) -> None:
    """A change of the share that was on its way has arrived after 0 % was confirmed."""
    before, after = require_rollout(cleared), require_rollout(confirm(cleared, 0, 9).app)
    assert after.traffic_until == noon_plus(9 * MINUTE + NEW_VISITOR_SECONDS + PINNED_VISITOR_SECONDS)
    assert (after.state, after.share_changes) == (before.state, before.share_changes)


def test_a_rollout_in_slots_finishes_with_the_swap() -> None:
    pending = begin_swap(finish_in_slots(), "v42").app
    assert require_rollout(pending).state is FINISHING
    finished = confirm_swap(pending, "v42").app
    assert require_rollout(finished).state is FINISHED
    assert finished.task_hubs_by_slot() == {"production": "v42", "staging": "v41"}


def test_a_swap_that_fails_leaves_the_rollout_to_be_swapped_again_or_aborted() -> None:
    failed = revert_swap(begin_swap(finish_in_slots(), "v42").app, "v42").app
    assert require_rollout(failed).state is FINISHING
    assert require_rollout(swap_at_once(failed, "v42").app).state is FINISHED
    aborted = require_rollout(post_rollout(failed, "abort", 5).app)
    assert (aborted.state, aborted.cleared_at) == (ABORTED, noon_plus(MINUTE))


def test_a_rollout_is_not_aborted_while_the_platform_may_be_swapping() -> None:
    with pytest.raises(SwapPending):
        post_rollout(begin_swap(finish_in_slots(), "v42").app, "abort")


def test_the_app_rolls_back_after_a_rollout_in_slots_has_finished() -> None:
    rolled_back = swap_at_once(APPS["finished in slots"], "v41", noon_plus(300), rollback=True).app
    assert rolled_back.task_hubs_by_slot()["production"] == "v41"
