"""How a rollout goes on: by its analysis, or as a person or a pipeline asks with PostRollout.

Side by side, the transition that changes the share also changes the routing. With slots, the pipeline sets the share in
Azure and confirms it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.releases import Model, Routing
from state_api.domain.releases.side_by_side.routing import RoutingEvidence, apply_routing
from state_api.domain.releases.transition_checks import check_model, check_no_pending_swap
from state_api.domain.rollouts import refusals
from state_api.domain.rollouts.commands import ChangeRolloutCommand, ConfirmWeightCommand
from state_api.domain.rollouts.health import Health, SideHealth
from state_api.domain.rollouts.machine import decide
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState
from state_api.domain.rollouts.starts import split_between

REQUESTED = "Requested"
"""The code of a decision that a person or a pipeline made with PostRollout."""


@dataclass(frozen=True, slots=True)
class _Action:
    """One action of PostRollout: from which states it changes the rollout, and in which nothing is left to do."""

    name: str
    action: DecisionAction
    allowed: frozenset[RolloutState]
    done: frozenset[RolloutState]
    past_tense: str


_RUNNING, _PAUSED = RolloutState.RUNNING, RolloutState.PAUSED
_ABORTING, _ABORTED = RolloutState.ABORTING, RolloutState.ABORTED
_FINISHING, _FINISHED = RolloutState.FINISHING, RolloutState.FINISHED

_PAUSE = _Action("pause", DecisionAction.PAUSE, frozenset({_RUNNING}), frozenset({_PAUSED}), "paused")
_RESUME = _Action("resume", DecisionAction.RESUME, frozenset({_PAUSED}), frozenset({_RUNNING}), "resumed")
_ABORT = _Action(
    "abort",
    DecisionAction.ABORT,
    frozenset({_RUNNING, _PAUSED, _FINISHING}),
    frozenset({_ABORTING, _ABORTED}),
    "aborted",
)
_FINISH = _Action(
    "finish",
    DecisionAction.FINISH,
    frozenset({_RUNNING, _PAUSED}),
    frozenset({_FINISHING, _FINISHED}),
    "finished",
)


def advance_rollout(app: App, health: Health | None, now: Instant) -> Transition | Refusal:
    """Do what the state machine decides, at most one step. `health` is None if it could not be read.

    Refusals: RolloutNotFound."""
    rollout = app.rollout
    if rollout is None:
        return refusals.rollout_not_found(app)
    decision = decide(rollout, health, now)
    if decision is None:
        return Transition(app, "AdvanceRollout", changed=False)
    figures = {} if health is None else {"health": _health_details(health)}
    return _apply_decision(app, rollout, decision, "AdvanceRollout", figures)


def _health_details(health: Health) -> dict[str, Any]:
    """The numbers that decided, for the audit log."""
    return {
        "status": health.status.value,
        "candidate": _side_details(health.candidate),
        "baseline": _side_details(health.baseline),
        "evidence": {
            "unhealthy": health.evidence.unhealthy,
            "healthy": health.evidence.healthy,
            "threshold": health.evidence.threshold,
        },
        "shares": {"configured": health.configured_share, "observed": health.observed_share},
    }


def _side_details(side: SideHealth) -> dict[str, int]:
    return {"started": side.started, "finished": side.finished, "failed": side.failed}


def pause_rollout(app: App, command: ChangeRolloutCommand, now: Instant) -> Transition | Refusal:
    """Let the candidate keep its share. An unhealthy one is aborted all the same, unless the analysis says pause.

    Refusals: RolloutNotFound, RolloutEnded."""
    return _change(app, command, _PAUSE, now)


def resume_rollout(app: App, command: ChangeRolloutCommand, now: Instant) -> Transition | Refusal:
    """Let a paused rollout go on. The minutes of its step begin again. Refusals: RolloutNotFound, RolloutEnded."""
    return _change(app, command, _RESUME, now)


def abort_rollout(app: App, command: ChangeRolloutCommand, now: Instant) -> Transition | Refusal:
    """Give all requests back to the baseline. Refusals: RolloutNotFound, RolloutEnded, SwapPending."""
    return _change(app, command, _ABORT, now)


def finish_rollout(app: App, command: ChangeRolloutCommand, now: Instant) -> Transition | Refusal:
    """Give all requests to the candidate now, also if it is unhealthy. Refusals: RolloutNotFound, RolloutEnded."""
    return _change(app, command, _FINISH, now)


def confirm_weight(app: App, command: ConfirmWeightCommand, now: Instant) -> Transition | Refusal:
    """Record that Azure has the share which the rollout needs. The minutes of the step begin.

    A confirmed share is confirmed once. But 0 % is confirmed again when the slot had a share once more, such as by a
    change that arrived late: visitors stay pinned from the last removal on.

    Refusals: WrongModel, RolloutNotFound, WeightChanged."""
    if refusal := check_model(app, Model.SLOTS):
        return refusal
    rollout = app.rollout
    if rollout is None:
        return refusals.rollout_not_found(app)
    if command.weight != rollout.weight:
        return refusals.weight_changed(app, rollout, command.weight)
    if rollout.cleared_at is not None:
        confirmed = replace(rollout, confirmed_at=rollout.no_earlier(now))
    elif rollout.confirmed_at is not None:
        return Transition(app, "PostRollout", changed=False)
    else:
        confirmed = rollout.with_weight(rollout.weight, now, confirmed=True)
    if confirmed.weight == 0:
        state = _ABORTED if rollout.state is _ABORTING else rollout.state
        confirmed = replace(confirmed, state=state, cleared_at=confirmed.confirmed_at)
    details = {"action": "confirm", "weight": rollout.weight, "state": confirmed.state.value}
    return Transition(replace(app, rollout=confirmed), "PostRollout", details)


def _change(app: App, command: ChangeRolloutCommand, action: _Action, now: Instant) -> Transition | Refusal:
    """Make an action of PostRollout, once. It is idempotent."""
    rollout = app.rollout
    if rollout is None:
        return refusals.rollout_not_found(app)
    if rollout.state in action.done:
        return Transition(app, "PostRollout", changed=False)
    if rollout.state not in action.allowed:
        return refusals.rollout_ended(app, rollout, action.name)
    if refusal := check_no_pending_swap(app):
        # Only a rollout that finishes has a pending swap, and the platform may have swapped already.
        return refusal
    message = f"{command.caller.name} {action.past_tense} the rollout"
    if command.reason:
        message += f": {command.reason}"
    decision = Decision(rollout.no_earlier(now), action.action, REQUESTED, message)
    return _apply_decision(app, rollout, decision, "PostRollout", {})


def _apply_decision(
    app: App, rollout: Rollout, decision: Decision, operation: str, figures: Mapping[str, Any]
) -> Transition:
    """Change the rollout, and side by side the routing, as the decision says. `figures`: the numbers that decided, for
    the audit log."""
    after = replace(_DECISIONS[decision.action](app, rollout, decision.at), last_decision=decision)
    details = {
        "action": decision.action.value,
        "code": decision.code,
        "message": decision.message,
        "state": after.state.value,
        "step": after.step_index + 1,
        "weight": after.weight,
        **figures,
    }
    if app.model is Model.SIDE_BY_SIDE:
        app = _route(app, after, decision.at)
    return Transition(replace(app, rollout=after), operation, details)


def _route(app: App, rollout: Rollout, now: Instant) -> App:
    """The app with the routing that the rollout needs. Both releases have traffic already, so it is never refused."""
    transition = apply_routing(app, _find_routing(app.routing, rollout), RoutingEvidence(), now, by_rollout=True)
    assert isinstance(transition, Transition), "the releases of a live rollout are routable"
    return transition.app


def _find_routing(routing: Routing, rollout: Rollout) -> Routing:
    if rollout.state is _ABORTED:
        return replace(routing, active=rollout.baseline, split=None)
    if rollout.state is _FINISHED:
        return replace(routing, active=rollout.candidate, split=None)
    return split_between(rollout, rollout.weight, routing)


def _take_next_step(app: App, rollout: Rollout, now: Instant) -> Rollout:
    """The candidate gets the share of the next step."""
    step_index = rollout.step_index + 1
    routed = app.model is Model.SIDE_BY_SIDE
    stepped = rollout.with_weight(rollout.steps[step_index].weight, now, confirmed=routed)
    return replace(stepped, step_index=step_index)


def _pause(app: App, rollout: Rollout, now: Instant) -> Rollout:
    return replace(rollout, state=_PAUSED)


def _resume(app: App, rollout: Rollout, now: Instant) -> Rollout:
    """The minutes of the step begin again, if they have begun."""
    return replace(rollout, state=_RUNNING, confirmed_at=None if rollout.confirmed_at is None else now)


def _abort(app: App, rollout: Rollout, now: Instant) -> Rollout:
    """The candidate gets nothing. A slot must be cleared, unless it was to finish and is cleared already."""
    if app.model is Model.SIDE_BY_SIDE:
        return replace(rollout.with_weight(0, now, confirmed=True), state=_ABORTED)
    if rollout.cleared_at is not None:
        return replace(rollout, state=_ABORTED)
    return replace(_clear(rollout, now), state=_ABORTING)


def _finish(app: App, rollout: Rollout, now: Instant) -> Rollout:
    """The candidate gets everything. A slot must be cleared before it is swapped."""
    if app.model is Model.SIDE_BY_SIDE:
        return replace(rollout.with_weight(100, now, confirmed=True), state=_FINISHED)
    return replace(_clear(rollout, now), state=_FINISHING)


def _clear(rollout: Rollout, now: Instant) -> Rollout:
    """The slot must get 0 %, which is not confirmed."""
    return rollout if rollout.weight == 0 else rollout.with_weight(0, now, confirmed=False)


_DECISIONS = {
    DecisionAction.NEXT_STEP: _take_next_step,
    DecisionAction.PAUSE: _pause,
    DecisionAction.RESUME: _resume,
    DecisionAction.ABORT: _abort,
    DecisionAction.FINISH: _finish,
}
