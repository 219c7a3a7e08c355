"""Decides what a swap does next, from the server's record and from what Azure shows. Pure: no I/O, no clock.

The server's record and the slots in Azure cannot change in one step. A swap therefore takes three:

1. The server records the swap as pending.
2. The command swaps the slots in Azure.
3. The record is confirmed (outcome Done) or reverted (outcome Failed).

Azure continues a swap that it has accepted, even if the command that requested it fails or is killed. Once the command
has started, only what Azure shows decides between Done and Failed. If Azure cannot be queried, the swap stays pending:

- Assuming that it failed would let the next version overwrite running orchestrations.
- Assuming that the command never ran, and running it again, would swap the old version back into production.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from safe_deploy.errors import ConflictError
from safe_deploy.slot_task_hubs import ObservedSlots, PendingSwap, RecordedSlots, is_same_task_hub
from safe_deploy.swap_messages import (
    describe_interrupted_swap,
    describe_production_mismatch,
    describe_unregistered_production,
)


class SwapStep(Enum):
    """What the executor does next."""

    BEGIN = auto()
    """Record the swap as pending, then run the command."""
    RESUME = auto()
    """This run's swap is pending and Azure shows no swap: watch Azure, then run the command."""
    CONFIRM = auto()
    """Azure has swapped: report the outcome Done."""
    REVERT = auto()
    """Azure has not swapped, and was watched long enough to rely on that: report the outcome Failed."""
    LEAVE_PENDING = auto()
    """It is unknown whether Azure swaps: report no outcome. The pending swap blocks all other deployments."""
    ALREADY_SWAPPED = auto()
    """Server and Azure both have the task hub in production: do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapAttempt:
    """How the swap command ended.

    `succeeded`: with exit code 0. `interrupted`: a signal asked it to stop. `is_observable`: Azure can be queried, and
    was watched for the stabilization window if the command failed.
    """

    succeeded: bool
    interrupted: bool
    is_observable: bool


def plan_swap(
    recorded: RecordedSlots, observed: ObservedSlots | None, *, task_hub: str, run_url: str | None
) -> SwapStep:
    """The first step of a swap that brings `task_hub` into production.

    `observed` is None if Azure cannot be queried. `run_url` is None for a run without a URL. Raises ConflictError if
    server and Azure disagree, or if a pending swap is not this run's to continue.
    """
    if recorded.pending_swap is not None:
        return _plan_pending_swap(recorded, recorded.pending_swap, observed, task_hub=task_hub, run_url=run_url)
    if is_same_task_hub(recorded.production, task_hub):
        if observed is not None and not is_same_task_hub(observed.production, task_hub):
            raise ConflictError(describe_production_mismatch(recorded, observed.production))
        return SwapStep.ALREADY_SWAPPED
    if observed is None or not is_same_task_hub(recorded.slot, task_hub):
        # If the task hub is not in the slot, the server refuses the swap and says what each slot holds.
        return SwapStep.BEGIN
    if observed.has_swapped(task_hub, recorded.production):
        return SwapStep.CONFIRM
    _require_unswapped(recorded, observed, task_hub=task_hub, production=recorded.production)
    return SwapStep.BEGIN


def _plan_pending_swap(
    recorded: RecordedSlots,
    pending_swap: PendingSwap,
    observed: ObservedSlots | None,
    *,
    task_hub: str,
    run_url: str | None,
) -> SwapStep:
    """The next step if the server already has a pending swap. Raises ConflictError."""
    if not pending_swap.brings(task_hub, recorded.slot_name) or observed is None:
        raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
    if observed.has_swapped(task_hub, pending_swap.swapped_out):
        return SwapStep.CONFIRM
    if not pending_swap.belongs_to_run(run_url):
        # The other run may still be swapping.
        raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
    _require_unswapped(recorded, observed, task_hub=task_hub, production=pending_swap.swapped_out)
    return SwapStep.RESUME


def plan_interrupted_swap(
    recorded: RecordedSlots, pending_swap: PendingSwap, observed: ObservedSlots | None, *, run_url: str | None
) -> SwapStep:
    """How to end a pending swap before something else starts: CONFIRM, REVERT or LEAVE_PENDING.

    Only the run that started the swap may revert it, because another run may still be swapping.
    """
    if observed is None or pending_swap.slot.lower() != recorded.slot_name.lower():
        return SwapStep.LEAVE_PENDING
    if observed.has_swapped(pending_swap.task_hub, pending_swap.swapped_out):
        return SwapStep.CONFIRM
    if pending_swap.belongs_to_run(run_url) and observed.is_unswapped(pending_swap.task_hub, pending_swap.swapped_out):
        return SwapStep.REVERT
    return SwapStep.LEAVE_PENDING


def plan_after_command(
    attempt: SwapAttempt, observed: ObservedSlots | None, *, task_hub: str, swapped_out: str | None
) -> SwapStep:
    """What to report after the swap command. `observed` is the last observation, None if Azure could not be queried."""
    if observed is None:
        # Trust an exit code 0, because a pipeline's login may expire during the swap. Do not trust the exit code of a
        # command that was asked to stop.
        return SwapStep.CONFIRM if attempt.succeeded and not attempt.interrupted else SwapStep.LEAVE_PENDING
    if observed.has_swapped(task_hub, swapped_out):
        return SwapStep.CONFIRM
    failed = attempt.is_observable and not attempt.succeeded and not attempt.interrupted
    return SwapStep.REVERT if failed and observed.is_unswapped(task_hub, swapped_out) else SwapStep.LEAVE_PENDING


def choose_rollback_task_hub(
    recorded: RecordedSlots, *, requested_task_hub: str | None, last_swap: Mapping[str, Any] | None
) -> str:
    """The task hub that a rollback brings into production: the one that was swapped out and is still in the slot.

    `last_swap` is the newest completed swap of this slot in the audit log. If it was a rollback that already brought
    its task hub into production, a repeated rollback chooses that task hub again, so it never rolls forward. Raises
    ConflictError if there is nothing to roll back to.
    """
    if recorded.pending_swap is not None:
        return requested_task_hub or recorded.pending_swap.task_hub
    details = (last_swap or {}).get("details", {})
    rolled_back = bool(details.get("rollback")) and is_same_task_hub(details.get("production"), recorded.production)
    if requested_task_hub is not None:
        if is_same_task_hub(requested_task_hub, recorded.production) and not rolled_back:
            raise ConflictError(
                f"task hub {requested_task_hub} is already in production of app {recorded.app}, so it is not a task "
                "hub to roll back to. To roll back to the version that was swapped out, omit --task-hub and unset "
                "SAFE_DEPLOY_TASK_HUB"
            )
        return requested_task_hub
    if rolled_back:
        return str(recorded.production)
    if recorded.slot is None:
        raise ConflictError(
            f"slot {recorded.slot_name} of app {recorded.app} holds no task hub: there is nothing to roll back to"
        )
    return recorded.slot


def find_staging_mismatch(recorded: RecordedSlots, observed: ObservedSlots, *, task_hub: str) -> str | None:
    """Why staging `task_hub` would be unsafe, or None if it is safe.

    The server's verdict is about the task hubs on record. If the slot in Azure has another task hub, the deployment
    would overwrite a version that the verdict does not cover.
    """
    if recorded.production is None and observed.production is not None:
        return describe_unregistered_production(recorded, observed.production)
    if recorded.production is not None and not is_same_task_hub(recorded.production, observed.production):
        return describe_production_mismatch(recorded, observed.production)
    if _may_slot_have(recorded, observed.slot, task_hub=task_hub):
        return None
    return _describe_slot_mismatch(recorded, observed.slot)


def _may_slot_have(recorded: RecordedSlots, observed_slot: str | None, *, task_hub: str) -> bool:
    """Whether the slot in Azure has a task hub that the server's verdict covers."""
    if observed_slot is None:
        # Nothing was ever deployed into the slot. What was staged there has not been deployed.
        return recorded.slot is None or not recorded.slot_was_in_production
    if any(is_same_task_hub(observed_slot, known) for known in (recorded.slot, task_hub, *recorded.prior_hubs)):
        return True
    # A new slot is created with production's settings, before its first deployment.
    return recorded.slot is None and is_same_task_hub(observed_slot, recorded.production)


def _describe_slot_mismatch(recorded: RecordedSlots, observed_slot: str | None) -> str:
    """A message that says how the slot in Azure differs from the server's record, and what to do next."""
    difference = (
        f"in Azure slot {recorded.slot_name} has {observed_slot or 'no task hub'}, but the server has "
        f"{recorded.slot or 'no task hub'} there"
    )
    if observed_slot is None:
        return f"{difference}. Check --task-hub-setting: host.json must read the task hub name from that app setting"
    if is_same_task_hub(observed_slot, recorded.production):
        return (
            f"{difference}, and has {observed_slot} in production. Overwriting the slot is safe only if the slot is "
            f"stopped. Set the slot's task hub to {recorded.slot or 'a new name'}, or stage with --force and --reason"
        )
    return (
        f"{difference}. The verdict would not cover {observed_slot}, which the deployment overwrites. If nothing runs "
        f"on {observed_slot}, stage with --force and --reason"
    )


def _require_unswapped(
    recorded: RecordedSlots, observed: ObservedSlots, *, task_hub: str, production: str | None
) -> None:
    """Azure must have `production` in production and `task_hub` in the slot. Raises ConflictError."""
    if production is None and observed.production is not None:
        raise ConflictError(describe_unregistered_production(recorded, observed.production))
    if production is not None and not is_same_task_hub(observed.production, production):
        raise ConflictError(
            f"before the swap, production must have task hub {production}, but in Azure {observed}. The command was "
            "not run. Run safe-deploy doctor to compare server and Azure, and correct the one that is wrong"
        )
    if not is_same_task_hub(observed.slot, task_hub):
        raise ConflictError(
            f"before the swap, slot {recorded.slot_name} must have task hub {task_hub}, but in Azure it has "
            f"{observed.slot or 'no task hub'}. The command was not run. Deploy the version with its new task hub name "
            "into the slot first"
        )
