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


def same(one: str | None, other: str | None) -> bool:
    """Whether two task hub names mean one hub: storage ignores their case."""
    return one is not None and other is not None and one.lower() == other.lower()


@dataclass(frozen=True, slots=True)
class Pending:
    """A swap on record of which nobody has said how it went."""

    task_hub: str
    swapped_out: str | None
    slot: str
    rollback: bool
    by: str
    started_at: str
    run_url: str | None

    def is_of(self, run_url: str | None) -> bool:
        """Whether the run with this address has begun it. Callers without one are not known to be the same."""
        return run_url is not None and run_url == self.run_url


@dataclass(frozen=True, slots=True)
class Record:
    """What the server has on record: the hubs of production and the slot, and a pending swap. `beneath` are hubs that
    the slot may carry still, and `promoted` says that its hub has been in production."""

    app: str
    slot_name: str
    production: str | None
    slot: str | None
    pending: Pending | None = None
    promoted: bool = False
    beneath: tuple[str, ...] = ()
    server: str = ""

    @classmethod
    def of(cls, app: Mapping[str, Any], slot: str, server: str = "") -> "Record":
        """From an app as the server at this address answers it. Raises CommandError if it is no such answer."""
        try:
            slots = {name.lower(): held or {} for name, held in app["slots"].items()}
            held = slots.get(slot.lower(), {})
            pending = app.get("pendingSwap")
            return cls(
                app["app"],
                slot,
                slots.get("production", {}).get("taskHub"),
                held.get("taskHub"),
                Pending(
                    pending["taskHub"],
                    pending["swappedOut"],
                    pending["slot"],
                    pending["rollback"],
                    pending["by"],
                    pending["startedAt"],
                    pending["runUrl"],
                )
                if pending
                else None,
                bool(held.get("promoted")),
                tuple(held.get("beneath", ())),
                server,
            )
        except (AttributeError, KeyError, TypeError):
            raise CommandError("the server's answer is not that of a state server; check its address") from None

    def typed(self, task_hub: str, outcome: str, slot: str | None = None) -> str:
        """What to type to say how a swap went."""
        words = ["safe-deploy", "swap", *self._server(), "--app", self.app, "--slot", slot or self.slot_name]
        return shlex.join([*words, "--task-hub", task_hub, "--outcome", outcome])

    def registering(self, task_hub: str) -> str:
        """What to type to say what is in production."""
        return shlex.join(["safe-deploy", "register", *self._server(), "--app", self.app, "--task-hub", task_hub])

    def _server(self) -> list[str]:
        return ["--server", self.server] if self.server else []


@dataclass(frozen=True, slots=True)
class Platform:
    """The hubs that production and the slot carry on the platform; None where the setting is not there."""

    production: str | None
    slot: str | None

    def has_swapped(self, target: str, swapped_out: str | None) -> bool:
        """Whether `target` is in production, and what was swapped out for it in the slot, as far as that is known: a
        version that was deployed straight into production was not swapped."""
        went = same(self.slot, swapped_out) if swapped_out is not None else not same(self.slot, target)
        return same(self.production, target) and went

    def is_as_before(self, target: str, production: str | None) -> bool:
        """Whether `target` still waits in the slot. Where it is not known what production held, the slot tells."""
        return same(self.slot, target) and (production is None or same(self.production, production))

    def __str__(self) -> str:
        return f"production carries {self.production or 'no task hub'}, the slot {self.slot or 'none'}"


class Step(Enum):
    """What to do next."""

    BEGIN = auto()
    """Make the record, pending; then run the platform's swap."""
    RUN = auto()
    """The record is pending, of this run, and the platform shows no swap: run it, unless it comes meanwhile."""
    CONFIRM = auto()
    """The platform has swapped: say so to the server."""
    TAKE_BACK = auto()
    """The platform has not swapped, for as long as it takes to believe that: take the record back."""
    LEAVE = auto()
    """Nobody can tell what the platform did: the record stays pending, which stops everything else."""
    DONE = auto()
    """Both agree already."""


def before(record: Record, target: str, platform: Platform | None, run_url: str | None) -> Step:
    """What a swap that brings `target` into production begins with. `platform` is None where nobody can look, `run_url`
    where the run has no address.

    Raises ConflictError where server and platform disagree, or nobody can tell.
    """
    pending = record.pending
    if pending is not None:
        if not same(pending.task_hub, target) or pending.slot.lower() != record.slot_name.lower() or platform is None:
            raise ConflictError(cut_off(record, pending))
        if platform.has_swapped(target, pending.swapped_out):
            return Step.CONFIRM
        if not pending.is_of(run_url):
            raise ConflictError(cut_off(record, pending))
        _require_before(record, pending.swapped_out, target, platform)
        return Step.RUN
    if same(record.production, target):
        if platform is not None and not same(platform.production, target):
            raise ConflictError(
                f"the server has task hub {target} in production, but in Azure production carries "
                f"{platform.production or 'no task hub'}: somebody swapped without telling "
                "it, or a swap failed unseen. Find out who is right before anything is deployed"
            )
        return Step.DONE
    if not same(record.slot, target):
        # The server's refusal says what is where.
        return Step.BEGIN
    if platform is not None and platform.has_swapped(target, record.production):
        return Step.CONFIRM
    if platform is not None:
        _require_before(record, record.production, target, platform)
    return Step.BEGIN


def settled(record: Record, pending: Pending, platform: Platform | None, run_url: str | None) -> Step:
    """How a swap that was cut off ended, as the platform shows it. Only the run that began it knows that nobody is at
    it any more; it may take it back once the platform has shown no swap for long enough."""
    if platform is None or pending.slot.lower() != record.slot_name.lower():
        return Step.LEAVE
    if platform.has_swapped(pending.task_hub, pending.swapped_out):
        return Step.CONFIRM
    if pending.is_of(run_url) and platform.is_as_before(pending.task_hub, pending.swapped_out):
        return Step.TAKE_BACK
    return Step.LEAVE


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the platform's swap went. `looks`: there is a way to look at the platform, and a command that failed was
    followed by looks for long enough to believe them."""

    went_well: bool
    interrupted: bool
    looks: bool


def after(attempt: Attempt, platform: Platform | None, target: str, swapped_out: str | None) -> Step:
    """What follows the platform's swap. `platform` is the last look, None if it could not be looked at."""
    if platform is None:
        # A look before the swap, and a command that says it has swapped, are enough: logins of pipelines run out. One
        # that was stopped may say so whatever it did.
        return Step.CONFIRM if attempt.went_well and not attempt.interrupted else Step.LEAVE
    if platform.has_swapped(target, swapped_out):
        return Step.CONFIRM
    failed = attempt.looks and not attempt.went_well and not attempt.interrupted
    return Step.TAKE_BACK if failed and platform.is_as_before(target, swapped_out) else Step.LEAVE


def rollback_target(record: Record, asked: str | None, last_swap: Mapping[str, Any] | None) -> str:
    """The hub that a rollback brings back: the one that was swapped out and is still in the slot. `last_swap` is the
    newest swap of this slot in the audit log. Running a rollback twice must not roll forward again.

    Raises ConflictError where there is nothing to go back to.
    """
    if record.pending is not None:
        return asked or record.pending.task_hub
    details = (last_swap or {}).get("details", {})
    done = bool(details.get("rollback")) and same(details.get("production"), record.production)
    if asked is not None and same(asked, record.production) and not done:
        raise ConflictError(
            f"task hub {asked} is the one in production of app {record.app}; a rollback goes back to another. Leave "
            "--task-hub (and SAFE_DEPLOY_TASK_HUB) out to go back to what was swapped out"
        )
    if asked is not None:
        return asked
    if done:
        return str(record.production)
    if record.slot is None:
        raise ConflictError(
            f"slot {record.slot_name} of app {record.app} holds no task hub: there is nothing to roll back to"
        )
    return record.slot


def against_staging(record: Record, target: str, platform: Platform) -> str | None:
    """Why the slot on the platform is not the one that the server judges, and None if it is: the verdict would be about
    another hub than the one that is overwritten."""
    carried, production = platform.slot, platform.production
    if record.production is None and production is not None:
        return unregistered(record, production)
    if record.production is not None and not same(record.production, production):
        return (
            f"in Azure production carries {production or 'no task hub'}, but the server has {record.production} there: "
            "somebody swapped or deployed without telling it. Find out who is right: safe-deploy doctor compares both"
        )
    if carried is None and (record.slot is None or not record.promoted):
        # Nothing was ever deployed there, or only staged.
        return None
    if any(same(carried, known) for known in (record.slot, target, *record.beneath)):
        return None
    if same(carried, record.production) and record.slot is None:
        # A slot that was made with production's settings, before its first deployment.
        return None
    held = record.slot or "no task hub"
    said = f"in Azure slot {record.slot_name} carries {carried or 'no task hub'}, but the server has {held} there"
    if carried is None:
        return f"{said}. Check --hub-setting: it must be the app setting that host.json takes the hub's name from"
    if same(carried, record.production):
        return (
            f"{said}, and {carried} in production, where Azure has it, too: to overwrite the slot is harmless only if "
            "it is stopped. Give it the hub that the server has there, or stage with --force and a reason"
        )
    return (
        f"{said}, so it would judge another task hub than the one that is overwritten. When nothing runs on {carried}, "
        "stage with --force and a reason"
    )


def unregistered(record: Record, carried: str) -> str:
    """What to do about a production that the server knows nothing of: after the swap it would take the slot, with the
    old version in it, for empty."""
    return (
        f"in Azure production carries task hub {carried}, of which the server knows nothing: after a swap it would "
        f"take slot {record.slot_name} for empty. Say what is in production: {record.registering(carried)}"
    )


STICKY = (
    "in Azure the app setting with the task hub's name is slot-sticky: at a swap the hubs would stay with their slots "
    "and the code would change hubs, under running work. Set it anew with --settings, not --slot-settings"
)
"""Why nothing is staged or swapped where the hub's name does not travel with the code."""


def _require_before(record: Record, production: str | None, target: str, platform: Platform) -> None:
    """The platform must be as it is before the swap. Raises ConflictError."""
    if production is None and platform.production is not None:
        raise ConflictError(unregistered(record, platform.production))
    if production is not None and not same(platform.production, production):
        raise ConflictError(
            f"the server has task hub {production} in production, but in Azure production carries "
            f"{platform.production or 'no task hub'}, and the slot {platform.slot or 'none'}. The swap was not run. "
            "Find out who is right: "
            "safe-deploy doctor compares both"
        )
    if not same(platform.slot, target):
        raise ConflictError(
            f"task hub {target} is to be promoted, but in Azure slot {record.slot_name} carries "
            f"{platform.slot or 'no task hub'}. The swap was not run. Was the app deployed with the new task hub name?"
        )


def cut_off(record: Record, pending: Pending) -> str:
    """What is known of a swap that nobody has ended, and what to type."""
    run = f" (run {pending.run_url})" if pending.run_url else ""
    other = f", not {pending.swapped_out}" if pending.swapped_out else ""
    return (
        f"{pending.by}{run} began to swap task hub {pending.task_hub} of app {record.app} into production at "
        f"{pending.started_at} and has not said how it went. If that run is still at it, wait for it. If it is over, "
        f"run it again, which looks first; or look what production carries. If it is {pending.task_hub}{other}, type: "
        f"{record.typed(pending.task_hub, 'done', pending.slot)}. If it is not, and nobody swaps any more, the same "
        "with --outcome failed"
    )
