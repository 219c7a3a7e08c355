"""What a swap has to do next, decided from what the server has on record and what the platform shows. Pure.

Server and platform are two places that cannot be changed in one step. So the record is made first and pending, the
platform swaps, and then the record is confirmed or taken back. Azure goes on with a swap that it has accepted, whatever
becomes of the command that asked for it, so one rule holds: **a swap whose command was started is confirmed or taken
back by what Azure shows, and where nobody can tell, it stays pending.** To guess that it failed would let the next
version land on running work; to guess that it did not run, and swap once more, would bring the old version back.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from safe_deploy.errors import CommandError, ConflictError


def is_same_task_hub(one: str | None, other: str | None) -> bool:
    """Whether two task hub names mean one hub: storage ignores their case."""
    return one is not None and other is not None and one.lower() == other.lower()


@dataclass(frozen=True, slots=True)
class PendingSwap:
    """A swap on record of which nobody has said how it went."""

    task_hub: str
    swapped_out: str | None
    slot: str
    rollback: bool
    by: str
    started_at: str
    run_url: str | None

    def belongs_to_run(self, run_url: str | None) -> bool:
        """Whether the run with this address has begun it. Callers without one are not known to be the same."""
        return run_url is not None and run_url == self.run_url


@dataclass(frozen=True, slots=True)
class RecordedSlots:
    """What the server has on record: the hubs of production and the slot, and a pending swap. `prior_hubs` are
    hubs that
    the slot may carry still, and `promoted` says that its hub has been in production."""

    app: str
    slot_name: str
    production: str | None
    slot: str | None
    pending_swap: PendingSwap | None = None
    promoted: bool = False
    prior_hubs: tuple[str, ...] = ()
    server: str = ""

    @classmethod
    def from_app(cls, app: Mapping[str, Any], slot: str, server: str = "") -> "RecordedSlots":
        """From an app as the server at this address answers it. Raises CommandError if it is no such answer."""
        try:
            slots = {name.lower(): held or {} for name, held in app["slots"].items()}
            held = slots.get(slot.lower(), {})
            pending_swap = app.get("pendingSwap")
            return cls(
                app["app"],
                slot,
                slots.get("production", {}).get("taskHub"),
                held.get("taskHub"),
                PendingSwap(
                    pending_swap["taskHub"],
                    pending_swap["swappedOut"],
                    pending_swap["slot"],
                    pending_swap["rollback"],
                    pending_swap["by"],
                    pending_swap["startedAt"],
                    pending_swap["runUrl"],
                )
                if pending_swap
                else None,
                bool(held.get("promoted")),
                tuple(held.get("priorTaskHubs", ())),
                server,
            )
        except (AttributeError, KeyError, TypeError):
            raise CommandError("the server's answer is not that of a state server; check its address") from None

    def outcome_command(self, task_hub: str, outcome: str, slot: str | None = None) -> str:
        """What to type to say how a swap went."""
        words = ["safe-deploy", "swap", *self._server_option(), "--app", self.app, "--slot", slot or self.slot_name]
        return shlex.join([*words, "--task-hub", task_hub, "--outcome", outcome])

    def register_command(self, task_hub: str) -> str:
        """What to type to say what is in production."""
        return shlex.join(
            ["safe-deploy", "register", *self._server_option(), "--app", self.app, "--task-hub", task_hub]
        )

    def _server_option(self) -> list[str]:
        return ["--server", self.server] if self.server else []


@dataclass(frozen=True, slots=True)
class ObservedSlots:
    """The hubs that production and the slot carry on the platform; None where the setting is not there."""

    production: str | None
    slot: str | None

    def has_swapped(self, task_hub: str, swapped_out: str | None) -> bool:
        """Whether `task_hub` is in production, and what was swapped out for it in the slot, as far as that is known: a
        version that was deployed straight into production was not swapped."""
        went = (
            is_same_task_hub(self.slot, swapped_out)
            if swapped_out is not None
            else not is_same_task_hub(self.slot, task_hub)
        )
        return is_same_task_hub(self.production, task_hub) and went

    def is_unswapped(self, task_hub: str, production: str | None) -> bool:
        """Whether `task_hub` still waits in the slot. Where it is not known what production held, the slot tells."""
        return is_same_task_hub(self.slot, task_hub) and (
            production is None or is_same_task_hub(self.production, production)
        )

    def __str__(self) -> str:
        return f"production carries {self.production or 'no task hub'}, the slot {self.slot or 'none'}"


class SwapStep(Enum):
    """What to do next."""

    BEGIN = auto()
    """Make the record, pending; then run the platform's swap."""
    RESUME = auto()
    """The record is pending, of this run, and the platform shows no swap: run it, unless it comes meanwhile."""
    CONFIRM = auto()
    """The platform has swapped: say so to the server."""
    REVERT = auto()
    """The platform has not swapped, for as long as it takes to believe that: take the record back."""
    LEAVE_PENDING = auto()
    """Nobody can tell what the platform did: the record stays pending, which stops everything else."""
    ALREADY_SWAPPED = auto()
    """Both agree already."""


def plan_swap(recorded: RecordedSlots, task_hub: str, observed: ObservedSlots | None, run_url: str | None) -> SwapStep:
    """What a swap that brings `task_hub` into production begins with. `observed` is None where nobody can
    look, `run_url`
    where the run has no address.

    Raises ConflictError where server and platform disagree, or nobody can tell.
    """
    pending_swap = recorded.pending_swap
    if pending_swap is not None:
        if (
            not is_same_task_hub(pending_swap.task_hub, task_hub)
            or pending_swap.slot.lower() != recorded.slot_name.lower()
            or observed is None
        ):
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        if observed.has_swapped(task_hub, pending_swap.swapped_out):
            return SwapStep.CONFIRM
        if not pending_swap.belongs_to_run(run_url):
            raise ConflictError(describe_interrupted_swap(recorded, pending_swap))
        _require_unswapped(recorded, pending_swap.swapped_out, task_hub, observed)
        return SwapStep.RESUME
    if is_same_task_hub(recorded.production, task_hub):
        if observed is not None and not is_same_task_hub(observed.production, task_hub):
            raise ConflictError(
                f"the server has task hub {task_hub} in production, but in Azure production carries "
                f"{observed.production or 'no task hub'}: somebody swapped without telling "
                "it, or a swap failed unseen. Find out who is right before anything is deployed"
            )
        return SwapStep.ALREADY_SWAPPED
    if not is_same_task_hub(recorded.slot, task_hub):
        # The server's refusal says what is where.
        return SwapStep.BEGIN
    if observed is not None and observed.has_swapped(task_hub, recorded.production):
        return SwapStep.CONFIRM
    if observed is not None:
        _require_unswapped(recorded, recorded.production, task_hub, observed)
    return SwapStep.BEGIN


def plan_interrupted_swap(
    recorded: RecordedSlots, pending_swap: PendingSwap, observed: ObservedSlots | None, run_url: str | None
) -> SwapStep:
    """How a swap that was cut off ended, as the platform shows it. Only the run that began it knows that nobody is at
    it any more; it may take it back once the platform has shown no swap for long enough."""
    if observed is None or pending_swap.slot.lower() != recorded.slot_name.lower():
        return SwapStep.LEAVE_PENDING
    if observed.has_swapped(pending_swap.task_hub, pending_swap.swapped_out):
        return SwapStep.CONFIRM
    if pending_swap.belongs_to_run(run_url) and observed.is_unswapped(pending_swap.task_hub, pending_swap.swapped_out):
        return SwapStep.REVERT
    return SwapStep.LEAVE_PENDING


@dataclass(frozen=True, slots=True)
class SwapAttempt:
    """How the platform's swap went. `is_observable`: there is a way to look at the platform, and a command
    that failed was
    followed by looks for long enough to believe them."""

    succeeded: bool
    interrupted: bool
    is_observable: bool


def plan_after_command(
    attempt: SwapAttempt, observed: ObservedSlots | None, task_hub: str, swapped_out: str | None
) -> SwapStep:
    """What follows the platform's swap. `observed` is the last look, None if it could not be looked at."""
    if observed is None:
        # A look before the swap, and a command that says it has swapped, are enough: logins of pipelines run out. One
        # that was stopped may say so whatever it did.
        return SwapStep.CONFIRM if attempt.succeeded and not attempt.interrupted else SwapStep.LEAVE_PENDING
    if observed.has_swapped(task_hub, swapped_out):
        return SwapStep.CONFIRM
    failed = attempt.is_observable and not attempt.succeeded and not attempt.interrupted
    return SwapStep.REVERT if failed and observed.is_unswapped(task_hub, swapped_out) else SwapStep.LEAVE_PENDING


def choose_rollback_task_hub(
    recorded: RecordedSlots, requested_task_hub: str | None, last_swap: Mapping[str, Any] | None
) -> str:
    """The hub that a rollback brings back: the one that was swapped out and is still in the slot. `last_swap` is the
    newest swap of this slot in the audit log. Running a rollback twice must not roll forward again.

    Raises ConflictError where there is nothing to go back to.
    """
    if recorded.pending_swap is not None:
        return requested_task_hub or recorded.pending_swap.task_hub
    details = (last_swap or {}).get("details", {})
    done = bool(details.get("rollback")) and is_same_task_hub(details.get("production"), recorded.production)
    if requested_task_hub is not None and is_same_task_hub(requested_task_hub, recorded.production) and not done:
        raise ConflictError(
            f"task hub {requested_task_hub} is the one in production of app {recorded.app}; a rollback goes "
            f"back to another. Leave "
            "--task-hub (and SAFE_DEPLOY_TASK_HUB) out to go back to what was swapped out"
        )
    if requested_task_hub is not None:
        return requested_task_hub
    if done:
        return str(recorded.production)
    if recorded.slot is None:
        raise ConflictError(
            f"slot {recorded.slot_name} of app {recorded.app} holds no task hub: there is nothing to roll back to"
        )
    return recorded.slot


def find_staging_mismatch(recorded: RecordedSlots, task_hub: str, observed: ObservedSlots) -> str | None:
    """Why the slot on the platform is not the one that the server judges, and None if it is: the verdict would be about
    another hub than the one that is overwritten."""
    carried, production = observed.slot, observed.production
    if recorded.production is None and production is not None:
        return describe_unregistered_production(recorded, production)
    if recorded.production is not None and not is_same_task_hub(recorded.production, production):
        return (
            f"in Azure production carries {production or 'no task hub'}, but the server has "
            f"{recorded.production} there: "
            "somebody swapped or deployed without telling it. Find out who is right: safe-deploy doctor compares both"
        )
    if carried is None and (recorded.slot is None or not recorded.promoted):
        # Nothing was ever deployed there, or only staged.
        return None
    if any(is_same_task_hub(carried, known) for known in (recorded.slot, task_hub, *recorded.prior_hubs)):
        return None
    if is_same_task_hub(carried, recorded.production) and recorded.slot is None:
        # A slot that was made with production's settings, before its first deployment.
        return None
    held = recorded.slot or "no task hub"
    said = f"in Azure slot {recorded.slot_name} carries {carried or 'no task hub'}, but the server has {held} there"
    if carried is None:
        return f"{said}. Check --task-hub-setting: it must be the app setting that host.json takes the hub's name from"
    if is_same_task_hub(carried, recorded.production):
        return (
            f"{said}, and {carried} in production, where Azure has it, too: to overwrite the slot is harmless only if "
            "it is stopped. Give it the hub that the server has there, or stage with --force and a reason"
        )
    return (
        f"{said}, so it would judge another task hub than the one that is overwritten. When nothing runs on {carried}, "
        "stage with --force and a reason"
    )


def describe_unregistered_production(recorded: RecordedSlots, carried: str) -> str:
    """What to do about a production that the server knows nothing of: after the swap it would take the slot, with the
    old version in it, for empty."""
    return (
        f"in Azure production carries task hub {carried}, of which the server knows nothing: after a swap it would "
        f"take slot {recorded.slot_name} for empty. Say what is in production: {recorded.register_command(carried)}"
    )


STICKY_SETTING_MESSAGE = (
    "in Azure the app setting with the task hub's name is slot-sticky: at a swap the hubs would stay with their slots "
    "and the code would change hubs, under running work. Set it anew with --settings, not --slot-settings"
)
"""Why nothing is staged or swapped where the hub's name does not travel with the code."""


def _require_unswapped(recorded: RecordedSlots, production: str | None, task_hub: str, observed: ObservedSlots) -> None:
    """The platform must be as it is before the swap. Raises ConflictError."""
    if production is None and observed.production is not None:
        raise ConflictError(describe_unregistered_production(recorded, observed.production))
    if production is not None and not is_same_task_hub(observed.production, production):
        raise ConflictError(
            f"the server has task hub {production} in production, but in Azure production carries "
            f"{observed.production or 'no task hub'}, and the slot {observed.slot or 'none'}. The swap was not run. "
            "Find out who is right: "
            "safe-deploy doctor compares both"
        )
    if not is_same_task_hub(observed.slot, task_hub):
        raise ConflictError(
            f"task hub {task_hub} is to be promoted, but in Azure slot {recorded.slot_name} carries "
            f"{observed.slot or 'no task hub'}. The swap was not run. Was the app deployed with the new task hub name?"
        )


def describe_interrupted_swap(recorded: RecordedSlots, pending_swap: PendingSwap) -> str:
    """What is known of a swap that nobody has ended, and what to type."""
    run = f" (run {pending_swap.run_url})" if pending_swap.run_url else ""
    other = f", not {pending_swap.swapped_out}" if pending_swap.swapped_out else ""
    return (
        f"{pending_swap.by}{run} began to swap task hub {pending_swap.task_hub} of app {recorded.app} into "
        f"production at "
        f"{pending_swap.started_at} and has not said how it went. If that run is still at it, wait for it. If "
        f"it is over, "
        f"run it again, which looks first; or look what production carries. If it is "
        f"{pending_swap.task_hub}{other}, type: "
        f"{recorded.outcome_command(pending_swap.task_hub, 'done', pending_swap.slot)}. If it is not, and "
        f"nobody swaps any more, the same "
        "with --outcome failed"
    )
