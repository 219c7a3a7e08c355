"""PutRollout: start to give a candidate a share of the requests that its baseline gets.

Side by side, the same transition changes the routing. With slots, the pipeline sets the share in Azure and confirms it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, STAGING, same_hub
from state_api.domain.releases import other_run_refusals
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_live_rollout, check_no_rollout_traffic
from state_api.domain.releases.side_by_side.commands import RouteCommand
from state_api.domain.releases.side_by_side.releases import Model, Release, Routing
from state_api.domain.releases.side_by_side.routing import RoutingEvidence, apply_routing, find_unproven_releases
from state_api.domain.releases.transition_checks import (
    check_no_pending_swap,
    check_slot_exists,
    find_blocking_deployment,
)
from state_api.domain.rollouts import refusals
from state_api.domain.rollouts.commands import StartRolloutCommand
from state_api.domain.rollouts.rollouts import MAX_STEP_MINUTES, MAX_STEPS, Rollout, RolloutState, Step


@dataclass(frozen=True, slots=True)
class _Target:
    """What a command rolls out, and what it compares it with. The names are versions or slots."""

    candidate: str
    baseline: str


@dataclass(frozen=True, slots=True)
class _Side:
    """A version or a slot, as the rollout begins."""

    name: str
    task_hub: str
    version: str | None


def find_unproven_candidates(app: App, command: StartRolloutCommand) -> tuple[Release, ...]:
    """The releases of which `RoutingEvidence` must say whether they have started, as for PutRouting. None in slots."""
    target = _find_target(app, command)
    if isinstance(target, Refusal) or app.model is Model.SLOTS or not command.steps:
        return ()
    split = _split(target.candidate, target.baseline, command.steps[0].weight)
    return find_unproven_releases(app, RouteCommand(caller=command.caller, active=target.baseline, split=split))


def start_rollout(
    app: App, command: StartRolloutCommand, evidence: RoutingEvidence, now: Instant
) -> Transition | Refusal:
    """Start a rollout. If the same run repeats its request, nothing changes.

    Refusals: InvalidRequest, SlotNotFound, RolloutInProgress, SwapPending, DeploymentInProgress, ReleaseNotFound,
    ReleaseRemoved, ReleaseInUse, AddressNotAllowed, ReleaseNotDeployed, TaskHubUnavailable.
    """
    target = _find_target(app, command)
    if isinstance(target, Refusal):
        return target
    if refusal := _check_steps(command.steps):
        return refusal
    if _is_repeated(app, command, target):
        return Transition(app, "PutRollout", changed=False)
    if refusal := check_no_live_rollout(app):
        return refusal
    if app.model is Model.SLOTS:
        return _start_in_slots(app, command, target, now)
    return _start_side_by_side(app, command, target, evidence, now)


def split_between(rollout: Rollout, weight: int, routing: Routing) -> Routing:
    """The routing with this percentage for the candidate, and the rest for the baseline."""
    return replace(routing, active=rollout.baseline, split=_split(rollout.candidate, rollout.baseline, weight))


def _split(candidate: str, baseline: str, weight: int) -> dict[str, int]:
    return {baseline: 100 - weight, candidate: weight}


def _find_target(app: App, command: StartRolloutCommand) -> _Target | Refusal:
    """What the command rolls out, if an app of this model can have such a rollout."""
    if app.model is Model.SIDE_BY_SIDE:
        if command.version is None or command.slot is not None:
            return refusals.version_required(app)
        if app.routing.active is None:
            return refusals.no_baseline(app)
        return _Target(command.version, app.routing.active)
    if command.version is not None:
        return refusals.version_in_slots(app)
    slot = STAGING if command.slot is None else command.slot
    if slot.lower() == PRODUCTION:
        return refusals.production_is_baseline()
    if refusal := check_slot_exists(app, slot):
        return refusal
    return _Target(app.registered_slot_name(slot), PRODUCTION)


def _check_steps(steps: Sequence[Step]) -> Refusal | None:
    """Refuse steps that a rollout cannot take."""
    if not 1 <= len(steps) <= MAX_STEPS:
        return refusals.steps_count_invalid(len(steps))
    for step in steps:
        if not 1 <= step.weight <= 99:
            return refusals.step_weight_invalid(step.weight)
        if not 0 < step.minutes <= MAX_STEP_MINUTES:
            return refusals.step_minutes_invalid(step.minutes)
    for before, after in pairwise(steps):
        if after.weight <= before.weight:
            return refusals.weights_not_rising(before.weight, after.weight)
    return None


def _is_repeated(app: App, command: StartRolloutCommand, target: _Target) -> bool:
    """Whether this run has started this very rollout already.

    A pipeline that is killed and run again must not start a rollout again that was aborted in the meantime. A caller
    without a run URL cannot prove to be the same run, so its rollout is the same only while it is live."""
    rollout = app.rollout
    if rollout is None or rollout.candidate != target.candidate:
        return False
    if rollout.run_id != command.caller.run_id(rollout.candidate_hub):
        return False
    if (rollout.steps, rollout.analysis) != (tuple(command.steps), command.analysis):
        return False
    if rollout.is_live:
        return True
    return command.caller.run_url is not None and _holds_same_hubs(app, rollout)


def _holds_same_hubs(app: App, rollout: Rollout) -> bool:
    """Whether the candidate's slot has no newer task hub than the rollout knows. A release keeps its task hub."""
    slot = app.slots.get(rollout.candidate)
    return slot is None or any(
        same_hub(slot.task_hub, task_hub) for task_hub in (rollout.candidate_hub, rollout.baseline_hub)
    )


def _start_side_by_side(
    app: App, command: StartRolloutCommand, target: _Target, evidence: RoutingEvidence, now: Instant
) -> Transition | Refusal:
    """Give the candidate the share of the first step, as PutRouting would."""
    if target.candidate == target.baseline:
        return refusals.candidate_is_active(app, target.candidate)
    known = app.releases.get(target.candidate)
    if known is not None and known.has_unrouted_traffic:
        return refusals.candidate_has_unrouted_traffic(app, known)
    split = _split(target.candidate, target.baseline, command.steps[0].weight)
    routed = apply_routing(app, replace(app.routing, split=split), evidence, now, by_rollout=True)
    if isinstance(routed, Refusal):
        return routed
    release, active = app.releases[target.candidate], app.releases[target.baseline]
    candidate = _Side(release.version, release.task_hub, release.version)
    baseline = _Side(active.version, active.task_hub, active.version)
    return _start(routed.app, command, candidate, baseline, now)


def _start_in_slots(app: App, command: StartRolloutCommand, target: _Target, now: Instant) -> Transition | Refusal:
    """Demand the share of the first step for the slot. Its task hub may hold customers' work from now on."""
    slot, production = app.slot(target.candidate), app.slot(PRODUCTION)
    if slot is None or production is None:
        return refusals.slot_empty(app, target.candidate if slot is None else PRODUCTION)
    deployment = find_blocking_deployment(app, command.caller.run_id(slot.task_hub), now)
    if deployment is not None and deployment.slot == target.candidate:
        return other_run_refusals.deployment_in_progress(app, deployment, now)
    if refusal := check_no_pending_swap(app) or _check_no_previous_rollout_traffic(app, target, now):
        return refusal
    slots = {**app.slots, target.candidate: replace(slot, had_traffic=True)}
    candidate = _Side(target.candidate, slot.task_hub, slot.version)
    baseline = _Side(PRODUCTION, production.task_hub, production.version)
    return _start(replace(app, slots=slots), command, candidate, baseline, now)


def _check_no_previous_rollout_traffic(app: App, target: _Target, now: Instant) -> Refusal | None:
    """Refuse a rollout while visitors may come to the slot of the last one, which the new one would forget."""
    if app.rollout is None or app.rollout.candidate == target.candidate:
        return None
    return check_no_rollout_traffic(app, app.rollout.candidate, now)


def _start(app: App, command: StartRolloutCommand, candidate: _Side, baseline: _Side, now: Instant) -> Transition:
    """The transition that every check allows. `app` has the routing of the first step."""
    weight = command.steps[0].weight
    rollout = Rollout(
        candidate=candidate.name,
        baseline=baseline.name,
        candidate_hub=candidate.task_hub,
        baseline_hub=baseline.task_hub,
        candidate_version=candidate.version,
        steps=tuple(command.steps),
        analysis=command.analysis,
        state=RolloutState.RUNNING,
        step_index=0,
        weight=weight,
        confirmed_at=now if app.model is Model.SIDE_BY_SIDE else None,
        started_at=now,
        started_by=command.caller.name,
        run_url=command.caller.run_url,
        run_id=command.caller.run_id(candidate.task_hub),
        share_changes=(now,),
    )
    details = {
        "candidate": candidate.name,
        "baseline": baseline.name,
        "candidateTaskHub": candidate.task_hub,
        "baselineTaskHub": baseline.task_hub,
        "weight": weight,
        "steps": [{"weight": step.weight, "minutes": step.minutes} for step in command.steps],
    }
    return Transition(replace(app, rollout=rollout), "PutRollout", details)
