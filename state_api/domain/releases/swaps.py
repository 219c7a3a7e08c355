"""PostSwap: production and a slot change places on record, at once or in two steps.

In two steps a pipeline says what it is about to do, has the platform swap, and says how that went. In between nobody
knows which hub is where: a pipeline that was killed may or may not have swapped. A new version in the slot could then
land on running work, so nothing is staged until somebody has looked. That is why a pending swap does not expire.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from state_api.domain.errors import InvalidRequest, SwapMismatch
from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, STAGING, same_hub
from state_api.domain.releases.apps import App, Caller, PendingSwap, PriorHub, RetiredHub, Slot, Transition
from state_api.domain.releases.refusals import swap_mismatch, swap_pending


class SwapOutcome(StrEnum):
    """How the platform's swap went, as the caller knows it."""

    PENDING = "Pending"
    DONE = "Done"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class SwapCommand:
    """What PostSwap asks for; without an `outcome`, to exchange the two at once. `rollback` demands that the hub has
    been in production before."""

    task_hub: str
    slot: str = STAGING
    outcome: SwapOutcome | None = None
    rollback: bool = False


def swap_slots(app: App, slot: str, task_hub: str, now: Instant, rollback: bool = False) -> Transition:
    """Exchange production and the slot, provided the slot holds the hub that the caller believes it promotes; where
    that is pending, the platform has done it. With `rollback` the hub must have been in production before; and it may
    be one that the platform's slot still carried, because what was staged over it was never deployed.

    Raises SwapMismatch, SwapPending, SlotNotFound, InvalidRequest.
    """
    pending = _find_pending_swap(app, slot, rollback)
    if pending is not None and same_hub(pending.task_hub, task_hub):
        return Transition(
            replace(app, pending_swap=None), "PostSwap", {"outcome": "Done", **_pending_swap_details(pending)}
        )
    if pending is not None:
        raise swap_pending(app, pending)
    if _slot_holds(app, PRODUCTION, task_hub):
        return Transition(app, "PostSwap", changed=False)
    held, production = app.slot(slot), app.slot(PRODUCTION)
    if (
        rollback
        and held is not None
        and production is not None
        and (prior_hub := _find_promoted_prior_hub(held, task_hub)) is not None
    ):
        return _roll_back_to_prior_hub(app, app.registered_slot_name(slot), held, production, prior_hub, now)
    held, production = _check_swappable(app, slot, task_hub, rollback)
    details = _swap_details(app.registered_slot_name(slot), held, production, rollback)
    return Transition(_exchange_slots(app, slot, held, production, now), "PostSwap", details)


def _find_promoted_prior_hub(held: Slot, task_hub: str) -> PriorHub | None:
    """The hub of that name beneath what the slot holds, if it was in production."""
    return next((one for one in held.prior_hubs if one.promoted and same_hub(one.task_hub, task_hub)), None)


def _roll_back_to_prior_hub(
    app: App, slot: str, held: Slot, production: Slot, prior_hub: PriorHub, now: Instant
) -> Transition:
    """Production goes back to a hub over which others were staged. They were not deployed by then, but whoever staged
    them may still be at it: they are retired, and may be beneath the one that comes into the slot."""
    came_back = next((hub for hub in app.retired if same_hub(hub.task_hub, prior_hub.task_hub)), None)
    retired = (*(hub for hub in app.retired if hub is not came_back), RetiredHub(held.task_hub, held.version, now))
    back = Slot(prior_hub.task_hub, came_back.version if came_back else None, now, promoted=True)
    changed = _exchange_slots(replace(app, retired=retired), slot, back, production, now)
    carried = held.possible_hubs()
    left = replace(production, since=now, promoted=True, prior_hubs=carried[: carried.index(prior_hub)])
    details = _swap_details(slot, back, production, rollback=True) | {"retired": held.task_hub}
    return Transition(replace(changed, slots={**changed.slots, slot: left}), "PostSwap", details)


def confirm_swap(app: App, slot: str, task_hub: str, now: Instant, rollback: bool = False) -> Transition:
    """Say that the platform has swapped. The same as `swap_slots`, but where no swap is pending nothing is promoted that was
    in production before, unless it is said to be a rollback: what is said of a swap that has been swapped back since
    may come late, or again from an old pipeline, and the record would not be what the platform holds any more.

    Raises SwapMismatch, SwapPending, SlotNotFound, InvalidRequest.
    """
    if _find_pending_swap(app, slot, rollback) is None and not rollback:
        held = app.slot(slot)
        if held is not None and held.promoted and same_hub(held.task_hub, task_hub):
            raise SwapMismatch(
                f"task hub {held.task_hub} in slot {app.registered_slot_name(slot)} of app {app.name} was swapped out of "
                "production, and no swap of it is pending: this is about a swap of before. If production holds it "
                "again, send PostSwap for it without an outcome",
                taskHub=held.task_hub,
                slots=app.task_hubs_by_slot(),
            )
    return swap_slots(app, slot, task_hub, now, rollback)


def begin_swap(app: App, slot: str, task_hub: str, rollback: bool, caller: Caller, now: Instant) -> Transition:
    """Say that the platform's swap is about to come: exchanged on record, and pending until `swap_slots` or `revert`.
    The run that has begun it may say so again; callers without a run URL are not known to be the same one.

    Raises SwapMismatch, SwapPending, SlotNotFound, InvalidRequest."""
    pending = _find_pending_swap(app, slot, rollback)
    if pending is not None:
        if same_hub(pending.task_hub, task_hub) and caller.run_url and pending.run_id == caller.run_id(task_hub):
            return Transition(app, "PostSwap", changed=False)
        # Two runs that both have the platform swap would end where they began.
        raise swap_pending(app, pending)
    if _slot_holds(app, PRODUCTION, task_hub):
        return Transition(app, "PostSwap", changed=False)
    held, production = _check_swappable(app, slot, task_hub, rollback)
    name = app.registered_slot_name(slot)
    deployment = app.get_open_deployment(now)
    begun = PendingSwap(
        task_hub=held.task_hub,
        swapped_out=production.task_hub if production else None,
        slot=name,
        started_at=now,
        started_by=caller.name,
        run_url=caller.run_url,
        run_id=caller.run_id(task_hub),
        rollback=rollback,
        slots_before={PRODUCTION: production, name: held},
        deployment=deployment if deployment is not None and deployment.slot == name else None,
    )
    changed = replace(_exchange_slots(app, slot, held, production, now), pending_swap=begun)
    return Transition(changed, "PostSwap", {"outcome": "Pending", **_pending_swap_details(begun)})


def revert(app: App, slot: str, task_hub: str, rollback: bool = False) -> Transition:
    """Say that the platform's swap has failed: slots and deployment are as they were before it was begun. Raises
    SwapMismatch if that swap was confirmed or never begun, SwapPending, SlotNotFound, InvalidRequest."""
    pending = _find_pending_swap(app, slot, rollback)
    if pending is None and _slot_holds(app, slot, task_hub):
        return Transition(app, "PostSwap", changed=False)
    if pending is None:
        raise swap_mismatch(app, slot, task_hub)
    if not same_hub(pending.task_hub, task_hub):
        raise swap_pending(app, pending)
    changed = replace(
        app,
        slots={**app.slots, **pending.slots_before},
        deployment=pending.deployment or app.deployment,
        pending_swap=None,
    )
    return Transition(changed, "PostSwap", {"outcome": "Failed", **_pending_swap_details(pending)})


def _find_pending_swap(app: App, slot: str, rollback: bool) -> PendingSwap | None:
    """The pending swap with this slot. Raises SwapPending if it is with another one: production is in doubt for all;
    or if it is no rollback and the caller speaks of one: what went well then is the opposite of what is pending."""
    if slot.lower() == PRODUCTION:
        raise InvalidRequest("production is swapped with another slot, not with itself")
    pending = app.pending_swap
    if pending is not None and (pending.slot != app.registered_slot_name(slot) or (rollback and not pending.rollback)):
        raise swap_pending(app, pending)
    return pending


def _slot_holds(app: App, slot: str, task_hub: str) -> bool:
    held = app.slot(slot)
    return held is not None and same_hub(held.task_hub, task_hub)


def _check_swappable(app: App, slot: str, task_hub: str, rollback: bool) -> tuple[Slot, Slot | None]:
    held = app.slot(slot)
    if rollback and held is not None and _find_promoted_prior_hub(held, task_hub) is not None:
        raise SwapMismatch(
            f"slot {app.registered_slot_name(slot)} of app {app.name} may still carry task hub {task_hub}, but {held.task_hub} "
            "was staged over it. If the platform's slot carries it, swap there; once production carries it, say that "
            "the rollback is done",
            taskHub=task_hub,
            slots=app.task_hubs_by_slot(),
        )
    if held is None or not same_hub(held.task_hub, task_hub):
        raise swap_mismatch(app, slot, task_hub)
    if rollback and not held.promoted:
        prior_hub = next((one.task_hub for one in held.prior_hubs if one.promoted), None)
        way = (
            f"The slot may still carry {prior_hub}, which was" if prior_hub else "To promote it, swap without rollback"
        )
        raise SwapMismatch(
            f"task hub {held.task_hub} in slot {app.registered_slot_name(slot)} of app {app.name} was never in production: there "
            f"is no way back to it. {way}",
            taskHub=held.task_hub,
            slots=app.task_hubs_by_slot(),
        )
    return held, app.slot(PRODUCTION)


def _exchange_slots(app: App, slot: str, held: Slot, production: Slot | None, now: Instant) -> App:
    name = app.registered_slot_name(slot)
    slots = {
        **app.slots,
        PRODUCTION: replace(held, since=now, promoted=True, prior_hubs=()),
        name: None if production is None else replace(production, since=now, promoted=True),
    }
    # A deployment into another slot goes on.
    deployment = app.get_open_deployment(now)
    closed = deployment is None or deployment.slot == name
    return replace(app, slots=slots, deployment=None if closed else deployment)


def _pending_swap_details(pending: PendingSwap) -> dict[str, Any]:
    production = pending.slots_before[PRODUCTION]
    held = pending.slots_before[pending.slot]
    assert held is not None, "a swap is begun with what the slot holds"
    return _swap_details(pending.slot, held, production, pending.rollback)


def _swap_details(slot: str, held: Slot, production: Slot | None, rollback: bool) -> dict[str, Any]:
    details: dict[str, Any] = {
        "slot": slot,
        "production": held.task_hub,
        "swappedOut": production.task_hub if production else None,
    }
    return details | {"rollback": True} if rollback else details
