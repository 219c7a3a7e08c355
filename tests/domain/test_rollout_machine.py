"""What becomes of a rollout by itself, as the table of the state machine says."""

import pytest

from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.health import Health
from state_api.domain.rollouts.machine import decide
from state_api.domain.rollouts.rollouts import DecisionAction, Rollout, RolloutState
from state_api.domain.rollouts.waits import WaitCode, find_wait
from tests.domain.builders import noon_plus
from tests.domain.release_transitions import build_shop_app
from tests.domain.rollout_builders import (
    HEALTHY,
    MINUTE,
    UNDECIDED,
    UNHEALTHY,
    advance,
    build_rollout,
    confirm,
    post_rollout,
    put_rollout,
    require_rollout,
    start_in_slots,
)

NEXT_STEP, PAUSE = DecisionAction.NEXT_STEP, DecisionAction.PAUSE
ABORT, FINISH = DecisionAction.ABORT, DecisionAction.FINISH
ON_UNHEALTHY_PAUSE = Analysis(on_unhealthy=OnUnhealthy.PAUSE)
ON_UNDECIDED_PAUSE = Analysis(on_undecided=OnUndecided.PAUSE)
ON_UNDECIDED_ABORT = Analysis(on_undecided=OnUndecided.ABORT)
UNREADABLE = None

FIRST_STEP = build_rollout()
LAST_STEP = build_rollout(step_index=1)
UNCONFIRMED = build_rollout(confirmed_at=None)
PAUSED = build_rollout(RolloutState.PAUSED)


def analysed(rollout: Rollout, analysis: Analysis) -> Rollout:
    return build_rollout(rollout.state, analysis=analysis, step_index=rollout.step_index)


@pytest.mark.parametrize(
    ("rollout", "health", "minutes", "action"),
    [
        # An unhealthy candidate, at any time of the step.
        (FIRST_STEP, UNHEALTHY, 0, ABORT),
        (FIRST_STEP, UNHEALTHY, 15, ABORT),
        (UNCONFIRMED, UNHEALTHY, 0, ABORT),
        (PAUSED, UNHEALTHY, 99, ABORT),
        (analysed(FIRST_STEP, ON_UNHEALTHY_PAUSE), UNHEALTHY, 0, PAUSE),
        (analysed(PAUSED, ON_UNHEALTHY_PAUSE), UNHEALTHY, 99, None),
        # Before the minutes of the step are over, and while its share is not confirmed.
        (FIRST_STEP, HEALTHY, 14.9, None),
        (FIRST_STEP, UNDECIDED, 14.9, None),
        (UNCONFIRMED, HEALTHY, 999, None),
        # When they are over.
        (FIRST_STEP, HEALTHY, 15, NEXT_STEP),
        (FIRST_STEP, UNDECIDED, 15, NEXT_STEP),
        (LAST_STEP, HEALTHY, 29.9, None),
        (LAST_STEP, HEALTHY, 30, FINISH),
        (LAST_STEP, UNDECIDED, 30, FINISH),
        (analysed(FIRST_STEP, ON_UNDECIDED_PAUSE), UNDECIDED, 15, PAUSE),
        (analysed(LAST_STEP, ON_UNDECIDED_PAUSE), UNDECIDED, 30, PAUSE),
        (analysed(FIRST_STEP, ON_UNDECIDED_PAUSE), HEALTHY, 15, NEXT_STEP),
        (analysed(FIRST_STEP, ON_UNDECIDED_ABORT), UNDECIDED, 15, ABORT),
        # While the health cannot be read.
        (FIRST_STEP, UNREADABLE, 15, None),
        (FIRST_STEP, UNREADABLE, 29.9, None),
        (FIRST_STEP, UNREADABLE, 30, PAUSE),
        (PAUSED, UNREADABLE, 999, None),
        # Nothing else happens by itself.
        (PAUSED, HEALTHY, 999, None),
        (build_rollout(RolloutState.ABORTING), UNHEALTHY, 99, None),
        (build_rollout(RolloutState.ABORTED), UNHEALTHY, 99, None),
        (build_rollout(RolloutState.FINISHING), UNHEALTHY, 99, None),
        (build_rollout(RolloutState.FINISHED), UNHEALTHY, 99, None),
    ],
)
def test_the_machine_decides_by_the_first_row_that_applies(
    rollout: Rollout, health: Health | None, minutes: float, action: DecisionAction | None
) -> None:
    decision = decide(rollout, health, noon_plus(minutes * MINUTE))
    assert (decision.action if decision else None) == action


@pytest.mark.parametrize(
    ("rollout", "health", "code", "message"),
    [
        (FIRST_STEP, HEALTHY, "FailureRateNotHigher", "1.5.0 gets 50 % in step 2 of 2: 3 of 38 failed"),
        (LAST_STEP, UNDECIDED, "EvidenceInconclusive", "the last step of 1.5.0 is over, so it gets all requests"),
        (FIRST_STEP, UNHEALTHY, "FailureRateHigher", "1.5.0 gets no more requests: 3 of 38 failed"),
        (analysed(FIRST_STEP, ON_UNHEALTHY_PAUSE), UNHEALTHY, "FailureRateHigher", "1.5.0 keeps 10 %: 3 of 38 failed"),
        (FIRST_STEP, UNREADABLE, "HealthUnknown", "the health of 1.5.0 could not be read for 15 min after the end of"),
    ],
)
def test_a_decision_names_what_decided(rollout: Rollout, health: Health | None, code: str, message: str) -> None:
    decision = decide(rollout, health, noon_plus(60 * MINUTE))
    assert decision is not None
    assert decision.code == code
    assert message in decision.message


def test_one_decision_takes_one_step_however_much_time_has_passed() -> None:
    app = advance(put_rollout(build_shop_app()).app, HEALTHY, 600).app
    assert require_rollout(app).step_index == 1
    assert not advance(app, HEALTHY, 600).changed, "the minutes of the second step begin with it"


def test_a_clock_that_goes_back_takes_no_step_and_keeps_the_changes_in_order() -> None:
    stepped = advance(put_rollout(build_shop_app()).app, HEALTHY, 20).app
    assert not advance(stepped, HEALTHY, 15).changed
    aborted = require_rollout(advance(stepped, UNHEALTHY, 15).app)
    assert aborted.share_changes == (noon_plus(0), noon_plus(20 * MINUTE), noon_plus(20 * MINUTE))
    assert aborted.last_decision is not None
    assert aborted.last_decision.at == noon_plus(20 * MINUTE)


def test_two_clocks_shorten_a_rollout_by_their_difference_once() -> None:
    """A server whose clock is 5 minutes ahead takes the first step early. The other one waits by the time of that."""
    app = advance(put_rollout(build_shop_app()).app, HEALTHY, 10 + 5).app
    assert not advance(app, HEALTHY, 10 + 29).changed
    assert not advance(app, HEALTHY, 10 + 5 + 29).changed
    assert advance(app, HEALTHY, 15 + 30).changed


def test_a_resumed_step_takes_all_of_its_minutes_again() -> None:
    undecided = put_rollout(build_shop_app(), analysis=ON_UNDECIDED_PAUSE).app
    paused = advance(undecided, UNDECIDED, 15).app
    assert require_rollout(paused).state is RolloutState.PAUSED
    resumed = post_rollout(paused, "resume", 40).app
    assert not advance(resumed, UNDECIDED, 54).changed
    assert require_rollout(advance(resumed, UNDECIDED, 55).app).state is RolloutState.PAUSED


def test_the_audit_record_of_a_decision_has_the_numbers_that_made_it() -> None:
    transition = advance(put_rollout(build_shop_app()).app, UNHEALTHY, 3)
    assert transition.operation == "AdvanceRollout"
    assert transition.details == {
        "action": "Abort",
        "code": "FailureRateHigher",
        "message": "1.5.0 gets no more requests: 3 of 38 failed",
        "state": "Aborted",
        "step": 1,
        "weight": 0,
        "health": {
            "status": "Unhealthy",
            "candidate": {"started": 40, "finished": 38, "failed": 3},
            "baseline": {"started": 40, "finished": 38, "failed": 1},
            "evidence": {"unhealthy": 2.7, "healthy": 0.1, "threshold": 20},
            "shares": {"configured": 10, "observed": 9.7},
        },
    }


def test_a_rollout_that_pauses_without_a_health_has_no_numbers_on_record() -> None:
    transition = advance(put_rollout(build_shop_app()).app, UNREADABLE, 40)
    assert require_rollout(transition.app).state is RolloutState.PAUSED
    assert "health" not in transition.details


# What a rollout waits for


def test_a_rollout_waits_for_the_end_of_its_step() -> None:
    wait = find_wait(FIRST_STEP, noon_plus())
    assert wait is not None
    assert (wait.code, wait.message, wait.until) == (
        WaitCode.STEP_TIME,
        "1.5.0 gets 10 % in step 1 of 2",
        noon_plus(15 * MINUTE),
    )


def test_a_rollout_in_slots_waits_for_its_pipeline() -> None:
    started = start_in_slots()
    finishing = post_rollout(started, "finish").app
    waits = [
        find_wait(require_rollout(app), noon_plus())
        for app in (started, confirm(started, 10).app, finishing, confirm(finishing, 0).app)
    ]
    assert [wait.code if wait else None for wait in waits] == [
        WaitCode.CONFIRMATION,
        WaitCode.STEP_TIME,
        WaitCode.CONFIRMATION,
        WaitCode.SWAP,
    ]


def test_a_paused_rollout_waits_for_a_person() -> None:
    wait = find_wait(PAUSED, noon_plus())
    assert wait is not None
    assert (wait.code, wait.until) == (WaitCode.RESUME, None)


def test_an_aborted_rollout_in_slots_waits_until_the_pinned_visitors_have_left() -> None:
    aborted = confirm(post_rollout(start_in_slots(), "abort").app, 0, 2).app
    wait = find_wait(require_rollout(aborted), noon_plus(2 * MINUTE))
    assert wait is not None
    assert (wait.code, wait.until) == (WaitCode.PINNED_VISITORS, noon_plus(2 * MINUTE + 30 + 3600))
    assert find_wait(require_rollout(aborted), noon_plus(2 * MINUTE + 30 + 3600)) is None


def test_an_ended_rollout_side_by_side_waits_for_nothing() -> None:
    aborted = post_rollout(put_rollout(build_shop_app()).app, "abort").app
    assert find_wait(require_rollout(aborted), noon_plus()) is None
