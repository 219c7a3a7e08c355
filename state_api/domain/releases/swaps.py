"""PostSwap: production and a slot exchange their task hubs on record, at once or in two steps.

In two steps, a pipeline announces the swap (outcome Pending), lets the platform swap, and reports the outcome (Done or
Failed). In between it is unknown which task hub is where, because a killed pipeline may or may not have swapped. A new
version in the slot could then overwrite running work, so nothing can be staged until the outcome is reported. A
pending swap therefore never expires.
"""

from dataclasses import dataclass, replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, same_hub
from state_api.domain.releases import other_run_refusals, slot_refusals
from state_api.domain.releases.apps import App, PendingSwap, PriorHub, RetiredHub, Slot, Transition
from state_api.domain.releases.commands import SwapCommand, SwapOutcome
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_swap_allowed, is_finishing_swap
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.transition_checks import check_model, check_slot_exists
from state_api.domain.rollouts.rollouts import RolloutState


def swap_slots(app: App, command: SwapCommand, now: Instant) -> Transition | Refusal:
    """Exchange production and the slot, or report on a swap that the platform carries out.

    Refusals: WrongModel, InvalidRequest, SlotNotFound, SwapPending, SwapMismatch, RolloutInProgress.
    """
    if refusal := check_model(app, Model.SLOTS) or _check_not_production(command) or _check_pending_swap(app, command):
        return refusal
    promotes_slot = command.outcome is SwapOutcome.DONE and not command.rollback
    if promotes_slot and (refusal := check_slot_exists(app, command.slot)):
        return refusal
    if command.outcome is not SwapOutcome.FAILED and app.pending_swap is None and _is_in_production(app, command):
        return Transition(app, "PostSwap", changed=False)
    if refusal := check_slot_exists(app, command.slot):
        return refusal
    if command.outcome is SwapOutcome.FAILED:
        return _revert_swap(app, command)
    if refusal := check_swap_allowed(app, command):
        return refusal
    if command.outcome is SwapOutcome.PENDING:
        return _begin_swap(app, command, now)
    confirmed = command.outcome is SwapOutcome.DONE
    result = _confirm_swap(app, command, now) if confirmed else _swap_at_once(app, command, now)
    return _finish_rollout(app, command, result)


def _finish_rollout(app: App, command: SwapCommand, result: Transition | Refusal) -> Transition | Refusal:
    """The result of the swap with which a rollout finishes. Any other result is unchanged."""
    rollout = app.rollout
    if isinstance(result, Refusal) or rollout is None or not is_finishing_swap(app, command):
        return result
    finished = replace(rollout, state=RolloutState.FINISHED)
    return replace(result, app=replace(result.app, rollout=finished))


def _check_not_production(command: SwapCommand) -> Refusal | None:
    return slot_refusals.production_not_swappable() if command.slot.lower() == PRODUCTION else None


def _check_pending_swap(app: App, command: SwapCommand) -> Refusal | None:
    """Refuse a command that is about another swap than the pending one.

    An outcome may be sent again because its response was lost, while another run has begun the next swap of the same
    task hub. So an outcome of another run must name the revision of the app.
    """
    pending = app.pending_swap
    if pending is None:
        return None
    is_own_run = command.caller.run_url == pending.run_url
    if command.outcome is not SwapOutcome.PENDING and not command.is_conditional and not is_own_run:
        return other_run_refusals.swap_pending(app, pending)
    other_slot = pending.slot != app.registered_slot_name(command.slot)
    # The outcome of a rollback says nothing about a pending swap into the other direction.
    other_direction = command.rollback and not pending.rollback
    if other_slot or other_direction or not same_hub(pending.task_hub, command.task_hub):
        return other_run_refusals.swap_pending(app, pending)
    return None


def _begin_swap(app: App, command: SwapCommand, now: Instant) -> Transition | Refusal:
    """Record the swap as if it had happened, and as pending until a request reports its outcome.

    The app's state exchanges the task hubs of production and the slot. If a swap is already pending, only the run that
    began it may send the request again."""
    if app.pending_swap is not None:
        return _repeat_begin(app, app.pending_swap, command)
    slot = _find_swappable_slot(app, command)
    if isinstance(slot, Refusal):
        return slot
    pending = _build_pending_swap(app, command, slot, now)
    updated_app = replace(_exchange_slots(app, pending.slot, slot, now), pending_swap=pending)
    return Transition(updated_app, "PostSwap", _pending_swap_details(pending, SwapOutcome.PENDING))


def _repeat_begin(app: App, pending: PendingSwap, command: SwapCommand) -> Transition | Refusal:
    """Allow only the run that began the swap to begin it again.

    A caller without a run URL cannot prove to be that run."""
    if command.caller.run_url and pending.run_id == command.caller.run_id(command.task_hub):
        return Transition(app, "PostSwap", changed=False)
    # If two runs both let the platform swap, the second swap would undo the first.
    return other_run_refusals.swap_pending(app, pending)


def _build_pending_swap(app: App, command: SwapCommand, slot: Slot, now: Instant) -> PendingSwap:
    """The swap that begins now, with what a failed swap needs in order to restore the slots."""
    name = app.registered_slot_name(command.slot)
    production = app.slot(PRODUCTION)
    deployment = app.get_open_deployment(now)
    return PendingSwap(
        task_hub=slot.task_hub,
        swapped_out=production.task_hub if production else None,
        slot=name,
        started_at=now,
        started_by=command.caller.name,
        run_url=command.caller.run_url,
        run_id=command.caller.run_id(command.task_hub),
        rollback=command.rollback,
        slots_before={PRODUCTION: production, name: slot},
        deployment=deployment if deployment is not None and deployment.slot == name else None,
    )


def _confirm_swap(app: App, command: SwapCommand, now: Instant) -> Transition | Refusal:
    """Record that the platform has swapped.

    Without a pending swap, only a rollback promotes a task hub that was in production before. A report may arrive late,
    or again from an old pipeline, after the platform has swapped back.
    """
    slot = app.slot(command.slot)
    is_outdated = (
        app.pending_swap is None
        and not command.rollback
        and slot is not None
        and slot.promoted
        and same_hub(slot.task_hub, command.task_hub)
    )
    if slot is not None and is_outdated:
        return slot_refusals.swap_outdated(app, app.registered_slot_name(command.slot), slot)
    return _swap_at_once(app, command, now)


def _revert_swap(app: App, command: SwapCommand) -> Transition | Refusal:
    """Record that the platform has not swapped: restore the slots and the deployment from before the swap."""
    pending = app.pending_swap
    if pending is None:
        slot = app.slot(command.slot)
        if slot is not None and same_hub(slot.task_hub, command.task_hub):
            return Transition(app, "PostSwap", changed=False)
        return slot_refusals.swap_mismatch(app, command.slot, command.task_hub)
    reverted = replace(
        app,
        slots={**app.slots, **pending.slots_before},
        deployment=pending.deployment or app.deployment,
        pending_swap=None,
    )
    return Transition(reverted, "PostSwap", _pending_swap_details(pending, SwapOutcome.FAILED))


def _swap_at_once(app: App, command: SwapCommand, now: Instant) -> Transition | Refusal:
    """Exchange production and the slot. If this swap is pending, the record has exchanged them already."""
    pending = app.pending_swap
    if pending is not None:
        details = _pending_swap_details(pending, SwapOutcome.DONE)
        return Transition(replace(app, pending_swap=None), "PostSwap", details)
    name = app.registered_slot_name(command.slot)
    present, production = app.slot(name), app.slot(PRODUCTION)
    prior_hub = present.find_promoted_prior_hub(command.task_hub) if present and command.rollback else None
    if present is not None and production is not None and prior_hub is not None:
        return _roll_back_to_prior_hub(app, name, _PriorHubRollback(present, production, prior_hub), now)
    slot = _find_swappable_slot(app, command)
    if isinstance(slot, Refusal):
        return slot
    details = _swap_details(name, slot, production, rollback=command.rollback)
    return Transition(_exchange_slots(app, name, slot, now), "PostSwap", details)


def _is_in_production(app: App, command: SwapCommand) -> bool:
    """Whether the task hub that the command promotes is in production already."""
    production = app.slot(PRODUCTION)
    return production is not None and same_hub(production.task_hub, command.task_hub)


def _find_swappable_slot(app: App, command: SwapCommand) -> Slot | Refusal:
    """The slot, if it holds the task hub that the caller names, and a rollback brings back a promoted one."""
    name = app.registered_slot_name(command.slot)
    slot = app.slot(name)
    if command.rollback and slot is not None and slot.find_promoted_prior_hub(command.task_hub) is not None:
        return slot_refusals.rollback_to_prior_hub_not_begun(app, name, slot, command.task_hub)
    if slot is None or not same_hub(slot.task_hub, command.task_hub):
        return slot_refusals.swap_mismatch(app, name, command.task_hub)
    if command.rollback and not slot.promoted:
        return slot_refusals.never_promoted(app, name, slot)
    return slot


@dataclass(frozen=True, slots=True)
class _PriorHubRollback:
    """A rollback to `prior_hub`: `slot` holds what was staged over it, and `production` goes into the slot."""

    slot: Slot
    production: Slot
    prior_hub: PriorHub


def _roll_back_to_prior_hub(app: App, name: str, rollback: _PriorHubRollback, now: Instant) -> Transition:
    """Put a task hub back into production that newer ones replaced on record.

    The newer ones were never deployed, but their pipelines may still deploy them. So the newest is retired like the
    others, and the slot may still carry all of them."""
    slot, production, prior_hub = rollback.slot, rollback.production, rollback.prior_hub
    returning = next((retired for retired in app.retired if same_hub(retired.task_hub, prior_hub.task_hub)), None)
    retired = (*(hub for hub in app.retired if hub is not returning), RetiredHub(slot.task_hub, slot.version, now))
    restored = Slot(prior_hub.task_hub, returning.version if returning else None, now, promoted=True)
    updated_app = _exchange_slots(replace(app, retired=retired), name, restored, now)
    possible_hubs = slot.possible_hubs()
    newer_hubs = possible_hubs[: possible_hubs.index(prior_hub)]
    swapped_out = replace(production, since=now, promoted=True, prior_hubs=newer_hubs)
    details = _swap_details(name, restored, production, rollback=True) | {"retired": slot.task_hub}
    return Transition(replace(updated_app, slots={**updated_app.slots, name: swapped_out}), "PostSwap", details)


def _exchange_slots(app: App, slot_name: str, promoted: Slot, now: Instant) -> App:
    """The app with `promoted` in production, and what production held in the slot. An open deployment into that slot
    is closed; one into another slot stays open."""
    name = app.registered_slot_name(slot_name)
    production = app.slot(PRODUCTION)
    slots = {
        **app.slots,
        PRODUCTION: replace(promoted, since=now, promoted=True, prior_hubs=()),
        name: None if production is None else replace(production, since=now, promoted=True),
    }
    deployment = app.get_open_deployment(now)
    is_closed = deployment is None or deployment.slot == name
    return replace(app, slots=slots, deployment=None if is_closed else deployment)


def _pending_swap_details(pending: PendingSwap, outcome: SwapOutcome) -> dict[str, Any]:
    """What the audit log says of the outcome of a swap that was begun: the slots as they were when it began."""
    promoted = pending.slots_before[pending.slot]
    assert promoted is not None, "a swap is begun with the task hub that the slot holds"
    details = _swap_details(pending.slot, promoted, pending.slots_before[PRODUCTION], rollback=pending.rollback)
    return {"outcome": outcome.value, **details}


def _swap_details(slot_name: str, promoted: Slot, production: Slot | None, *, rollback: bool) -> dict[str, Any]:
    """The details of a swap for the audit log."""
    details: dict[str, Any] = {
        "slot": slot_name,
        "production": promoted.task_hub,
        "swappedOut": production.task_hub if production else None,
    }
    return details | {"rollback": True} if rollback else details
