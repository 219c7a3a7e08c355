"""Rollouts and the transitions of them, with defaults for all that a test is not about.

Side by side, 1.5.0 is rolled out and 1.4.0 is its baseline. In slots, v42 is rolled out from staging and v41 is in
production."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App, Caller, Slot, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.side_by_side.routing import RoutingEvidence
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.commands import ChangeRolloutCommand, ConfirmWeightCommand, StartRolloutCommand
from state_api.domain.rollouts.health import (
    DecidedBy,
    Evidence,
    Health,
    HealthCode,
    HealthStatus,
    SideHealth,
)
from state_api.domain.rollouts.rollouts import Rollout, RolloutState, Step
from state_api.domain.rollouts.starts import start_rollout
from state_api.domain.rollouts.transitions import (
    abort_rollout,
    advance_rollout,
    confirm_weight,
    finish_rollout,
    pause_rollout,
    resume_rollout,
)
from tests.domain.builders import ANNA, NOON, build_app, build_production_slot, build_slot, noon_plus
from tests.domain.release_transitions import build_shop_app, publish_transition

MINUTE = 60
STEPS = (Step(10, 15), Step(50, 30))
"""10 % for 15 minutes, then 50 % for 30 minutes."""

_ARM = SideHealth(40, 38, 3, 0, 0, 2, 3 / 38, None, None)
_CODES = {
    HealthStatus.HEALTHY: HealthCode.FAILURE_RATE_NOT_HIGHER,
    HealthStatus.UNHEALTHY: HealthCode.FAILURE_RATE_HIGHER,
    HealthStatus.UNDECIDED: HealthCode.EVIDENCE_INCONCLUSIVE,
}


def build_health(status: HealthStatus) -> Health:
    """A health with this status, whose figures are those of any comparison."""
    decided_by = DecidedBy(_CODES[status], "3 of 38 failed")
    return Health(status, decided_by, _ARM, replace(_ARM, failed=1), Evidence(2.7, 0.1, 20), 10, 9.7)


HEALTHY = build_health(HealthStatus.HEALTHY)
UNHEALTHY = build_health(HealthStatus.UNHEALTHY)
UNDECIDED = build_health(HealthStatus.UNDECIDED)


def build_rollout(state: RolloutState = RolloutState.RUNNING, **changes: Any) -> Rollout:
    """A rollout of 1.5.0 that Anna's run began at noon, in its first step."""
    rollout = require_rollout(put_rollout(build_shop_app()).app)
    return replace(rollout, state=state, **changes)


def build_slots_app(**arguments: Any) -> App:
    """An app with v41 in production and v42 in staging."""
    return build_app(build_production_slot(), build_slot("v42", "1.5.0"), **arguments)


def require_rollout(app: App) -> Rollout:
    """The app's rollout. Fails if it has none."""
    assert app.rollout is not None
    return app.rollout


def require_slot(app: App, name: str = "staging") -> Slot:
    """The slot of this name. Fails if it is empty."""
    slot = app.slot(name)
    assert slot is not None
    return slot


def put_rollout(
    app: App,
    *,
    version: str | None = None,
    slot: str | None = None,
    steps: Sequence[Step] = STEPS,
    analysis: Analysis | None = None,
    caller: Caller = ANNA,
    started: dict[str, Any] | None = None,
    now: Instant = NOON,
) -> Transition:
    """PutRollout. Side by side, it names 1.5.0 unless another version or a slot is named."""
    if app.model is Model.SIDE_BY_SIDE and version is None and slot is None:
        version = "1.5.0"
    command = StartRolloutCommand(
        caller=caller, version=version, slot=slot, steps=tuple(steps), analysis=analysis or Analysis()
    )
    return publish_transition(app, start_rollout(app, command, RoutingEvidence(started or {}), now), now)


def start_in_slots(**arguments: Any) -> App:
    """An app with slots whose rollout has started at noon, and whose first share is not confirmed."""
    return put_rollout(build_slots_app(), **arguments).app


def advance(app: App, health: Health | None, minutes: float) -> Transition:
    """Let the state machine decide this many minutes after noon."""
    now = noon_plus(minutes * MINUTE)
    return publish_transition(app, advance_rollout(app, health, now), now)


_ACTIONS = {"pause": pause_rollout, "resume": resume_rollout, "abort": abort_rollout, "finish": finish_rollout}
ACTIONS = tuple(_ACTIONS)


def post_rollout(app: App, action: str, minutes: float = 1, *, reason: str | None = None) -> Transition:
    """PostRollout with an action of a person, this many minutes after noon."""
    now, command = noon_plus(minutes * MINUTE), ChangeRolloutCommand(caller=ANNA, reason=reason)
    return publish_transition(app, _ACTIONS[action](app, command, now), now)


def confirm(app: App, weight: int, minutes: float = 1) -> Transition:
    """PostRollout with confirm, this many minutes after noon."""
    now = noon_plus(minutes * MINUTE)
    result: Transition | Refusal = confirm_weight(app, ConfirmWeightCommand(caller=ANNA, weight=weight), now)
    return publish_transition(app, result, now)


def finish_in_slots(minutes: float = 1) -> App:
    """An app with slots whose rollout finishes: the slot is cleared, and must be swapped."""
    return confirm(post_rollout(start_in_slots(), "finish", minutes).app, 0, minutes).app
