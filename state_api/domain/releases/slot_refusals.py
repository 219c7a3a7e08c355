"""Refusals because of a slot: it does not exist, or holds another task hub than the request expects."""

from state_api.domain.errors import InvalidRequest, SlotNotFound, SwapMismatch
from state_api.domain.releases.apps import App, Slot
from state_api.domain.releases.refusals import Refusal


def production_not_stageable() -> Refusal:
    return Refusal(
        InvalidRequest,
        "a task hub cannot be staged into production. Stage it into another slot, and swap that slot with PostSwap",
    )


def production_not_swappable() -> Refusal:
    return Refusal(InvalidRequest, "production cannot be swapped with itself: name the slot that it is swapped with")


def slot_not_found(app: App, slot: str) -> Refusal:
    return Refusal(
        SlotNotFound,
        f"app {app.name} has no slot {slot}; it has {', '.join(app.slots)}. Correct the name, or register the slot "
        "with PutApp",
        {"app": app.name, "slot": slot},
    )


def task_hub_in_two_slots(task_hub: str) -> Refusal:
    return Refusal(InvalidRequest, f"task hub {task_hub} cannot be in two slots: name it for one slot only")


def _build_mismatch(app: App, task_hub: str, message: str) -> Refusal:
    return Refusal(SwapMismatch, message, {"taskHub": task_hub, "slots": app.task_hubs_by_slot()})


def swap_mismatch(app: App, slot_name: str, task_hub: str) -> Refusal:
    """For a slot that is empty or holds another task hub than the request names."""
    name = app.registered_slot_name(slot_name)
    slot = app.slots.get(name)
    mismatch = (
        f"does not hold task hub {task_hub} but {slot.task_hub}"
        if slot
        else f"is empty, and does not hold task hub {task_hub}"
    )
    return _build_mismatch(
        app,
        task_hub,
        f"slot {name} of app {app.name} {mismatch}. Do not swap; read GetHistory for what changed the slot",
    )


def swap_outdated(app: App, slot_name: str, slot: Slot) -> Refusal:
    """For the outcome Done of a swap that has been swapped back since."""
    return _build_mismatch(
        app,
        slot.task_hub,
        f"task hub {slot.task_hub} in slot {slot_name} of app {app.name} was swapped out of production, and no swap of "
        "it is pending: this outcome belongs to an earlier swap. If production holds the task hub again, send PostSwap "
        "for it without an outcome",
    )


def rollback_to_prior_hub_not_begun(app: App, slot_name: str, slot: Slot, task_hub: str) -> Refusal:
    """For a rollback in two steps to a task hub that another one replaced on record."""
    return _build_mismatch(
        app,
        task_hub,
        f"slot {slot_name} of app {app.name} may still carry task hub {task_hub}, but {slot.task_hub} was staged over "
        "it. If the platform's slot carries it, swap there. Once production carries it, send PostSwap with rollback "
        "and the outcome Done",
    )


def never_promoted(app: App, slot_name: str, slot: Slot) -> Refusal:
    """For a rollback to a task hub that was only staged."""
    promoted_prior_hub = next((prior.task_hub for prior in slot.prior_hubs if prior.promoted), None)
    next_step = (
        f"The slot may still carry {promoted_prior_hub}, which was"
        if promoted_prior_hub
        else "To promote it, send PostSwap without rollback"
    )
    return _build_mismatch(
        app,
        slot.task_hub,
        f"task hub {slot.task_hub} in slot {slot_name} of app {app.name} was never in production, so a rollback to it "
        f"is not possible. {next_step}",
    )
