"""What becomes of a rollout by itself: the state machine, decided anew from what is stored, so nothing depends on who
asks, how often, or after what interruption.

The first row that applies decides. The minutes of a step are over when they have passed since its share was confirmed.

| State | Health | Minutes of the step | Decision |
|---|---|---|---|
| Running or Paused | Unhealthy, onUnhealthy abort | any | Abort |
| Running | Unhealthy, onUnhealthy pause | any | Pause |
| Running | any | not over | none |
| Running | Healthy | over | NextStep, after the last step Finish |
| Running | Undecided, onUndecided continue | over | NextStep, after the last step Finish |
| Running | Undecided, onUndecided pause | over | Pause |
| Running | Undecided, onUndecided abort | over | Abort |
| Running | could not be read | over for 15 minutes | Pause |
| any | any | any | none |
"""

from state_api.domain.instants import Instant, format_duration, seconds
from state_api.domain.rollouts.analysis import OnUndecided, OnUnhealthy
from state_api.domain.rollouts.health import Health, HealthStatus
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState

HEALTH_UNKNOWN = "HealthUnknown"
"""The code of a pause because the health could not be read."""
HEALTH_TIMEOUT_SECONDS = 900
"""How long a rollout waits, after the minutes of a step, for a health that cannot be read. It never goes on without
one, and is not aborted for it. The pause shows people that it needs them."""

_UNDECIDED_ACTIONS = {OnUndecided.PAUSE: DecisionAction.PAUSE, OnUndecided.ABORT: DecisionAction.ABORT}


def decide(rollout: Rollout, health: Health | None, now: Instant) -> Decision | None:
    """What to do with the rollout now; None to leave it as it is. `health` is None if it could not be read.

    One decision takes at most one step, however much time has passed."""
    action = _find_action(rollout, health, now)
    if action is None:
        return None
    at = rollout.no_earlier(now)
    if health is None:
        duration = format_duration(seconds(HEALTH_TIMEOUT_SECONDS))
        step = _name_step(rollout, rollout.step_index)
        message = f"the health of {rollout.candidate} could not be read for {duration} after the end of {step}"
        return Decision(at, action, HEALTH_UNKNOWN, message)
    message = f"{_describe(rollout, action)}: {health.decided_by.message}"
    return Decision(at, action, health.decided_by.code.value, message)


def _find_action(rollout: Rollout, health: Health | None, now: Instant) -> DecisionAction | None:
    """The action of the table above."""
    if rollout.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        return None
    if health is not None and health.status is HealthStatus.UNHEALTHY:
        if rollout.analysis.on_unhealthy is OnUnhealthy.ABORT:
            return DecisionAction.ABORT
        return DecisionAction.PAUSE if rollout.state is RolloutState.RUNNING else None
    ends_at = rollout.step_ends_at
    if ends_at is None or now < ends_at:
        return None
    if health is None:
        return DecisionAction.PAUSE if now >= ends_at + seconds(HEALTH_TIMEOUT_SECONDS) else None
    go_on = DecisionAction.FINISH if rollout.is_last_step else DecisionAction.NEXT_STEP
    if health.status is HealthStatus.UNDECIDED:
        return _UNDECIDED_ACTIONS.get(rollout.analysis.on_undecided, go_on)
    return go_on


def _describe(rollout: Rollout, action: DecisionAction) -> str:
    """What the action does, for people."""
    candidate = rollout.candidate
    if action is DecisionAction.NEXT_STEP:
        step_index = rollout.step_index + 1
        return f"{candidate} gets {rollout.steps[step_index].weight} % in {_name_step(rollout, step_index)}"
    if action is DecisionAction.FINISH:
        return f"the last step of {candidate} is over, so it gets all requests"
    if action is DecisionAction.ABORT:
        return f"{candidate} gets no more requests"
    return f"{candidate} keeps {rollout.weight} %"


def _name_step(rollout: Rollout, step_index: int) -> str:
    return f"step {step_index + 1} of {len(rollout.steps)}"
