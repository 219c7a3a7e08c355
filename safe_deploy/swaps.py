"""What a swap has to do next, decided from what the server has on record and what the platform shows. Pure.

Server and platform are two places that cannot be changed in one step. So the record is made first and pending, the
platform swaps, and then the record is confirmed or taken back. A run that was killed in between finds a pending record
and cannot know how far the platform came: it has to look, and where it cannot look it must not guess. To guess and run
the platform's swap once more would bring the old version back into production.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from safe_deploy.errors import ConflictError


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


@dataclass(frozen=True, slots=True)
class Record:
    """What the server has on record: the hubs of production and the slot, and a pending swap."""

    app: str
    slot_name: str
    production: str | None
    slot: str | None
    pending: Pending | None = None

    @classmethod
    def of(cls, app: Mapping[str, Any], slot: str) -> "Record":
        """From an app as the server answers it."""
        slots = {name.lower(): held for name, held in app["slots"].items()}
        held = {name: (slots.get(name) or {}).get("taskHub") for name in ("production", slot.lower())}
        pending = app.get("pendingSwap")
        return cls(
            app["app"],
            slot,
            held["production"],
            held[slot.lower()],
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
        )


@dataclass(frozen=True, slots=True)
class Platform:
    """The hubs that production and the slot carry on the platform; None where the setting is not there."""

    production: str | None
    slot: str | None


class Step(Enum):
    """What to do next."""

    BEGIN = auto()
    """Make the record, pending; then run the platform's swap."""
    RUN = auto()
    """The record is pending and the platform has not swapped: run its swap."""
    CONFIRM = auto()
    """The platform has swapped: say so to the server."""
    TAKE_BACK = auto()
    """The platform has not swapped: take the record back."""
    LEAVE = auto()
    """Nobody can tell what the platform did: the record stays pending, which stops everything else."""
    DONE = auto()
    """Both agree already."""


def before(record: Record, target: str, platform: Platform | None) -> Step:
    """What a swap that brings `target` into production begins with. `platform` is None where nobody can look.

    Raises ConflictError where server and platform disagree, or nobody can tell.
    """
    pending = record.pending
    if pending is not None:
        if not same(pending.task_hub, target) or pending.slot.lower() != record.slot_name.lower():
            raise ConflictError(cut_off(record, pending))
        if platform is None:
            raise ConflictError(cut_off(record, pending))
        if same(platform.production, target):
            return Step.CONFIRM
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
    if platform is not None and same(platform.production, target):
        return Step.CONFIRM
    if platform is not None:
        _require_before(record, record.production, target, platform)
    return Step.BEGIN


def settled(pending: Pending, platform: Platform | None) -> Step:
    """How a swap that was cut off ended, as the platform shows it."""
    if platform is not None and same(platform.production, pending.task_hub):
        return Step.CONFIRM
    if platform is not None and same(platform.production, pending.swapped_out):
        return Step.TAKE_BACK
    return Step.LEAVE


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the platform's swap went. `resumed`: an earlier run was cut off and may have begun it, too. `looks`: there
    is a way to look at the platform."""

    went_well: bool
    interrupted: bool
    resumed: bool
    looks: bool


def after(attempt: Attempt, platform: Platform | None, target: str, swapped_out: str | None) -> Step:
    """What follows the platform's swap. `platform` is None if it could not be looked at."""
    if platform is None:
        if attempt.went_well:
            return Step.CONFIRM
        # A command can fail after the platform has swapped. Who could have looked, and cannot now, does not guess.
        return Step.LEAVE if attempt.looks else Step.TAKE_BACK
    if same(platform.production, target):
        return Step.CONFIRM
    if swapped_out is not None and not same(platform.production, swapped_out):
        return Step.LEAVE
    if not attempt.went_well and (attempt.interrupted or attempt.resumed):
        # Azure goes on with a swap that it has accepted, whatever becomes of the command that asked for it.
        return Step.LEAVE
    return Step.TAKE_BACK


def rollback_target(record: Record, asked: str | None, last_swap: Mapping[str, Any] | None) -> str:
    """The hub that a rollback brings back: the one that was swapped out and is still in the slot. `last_swap` is the
    newest swap in the audit log. Running a rollback twice must not roll forward again.

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


def _require_before(record: Record, production: str | None, target: str, platform: Platform) -> None:
    """The platform must be as it is before the swap. Raises ConflictError."""
    if production is not None and not same(platform.production, production):
        raise ConflictError(
            f"the server has task hub {production} in production, but in Azure production carries "
            f"{platform.production or 'no task hub'}. The swap was not run. Find out who is right: "
            "safe-deploy doctor compares both"
        )
    if not same(platform.slot, target):
        raise ConflictError(
            f"task hub {target} is to be promoted, but in Azure slot {record.slot_name} carries "
            f"{platform.slot or 'no task hub'}. The swap was not run. Was the app deployed with the new task hub name?"
        )


def cut_off(record: Record, pending: Pending) -> str:
    """What is known of a swap that was cut off, and what to type."""
    run = f" (run {pending.run_url})" if pending.run_url else ""
    other = f" or {pending.swapped_out}" if pending.swapped_out else ""
    return (
        f"{pending.by}{run} began to swap task hub {pending.task_hub} of app {record.app} into production at "
        f"{pending.started_at} and was cut off. Look what production carries now: {pending.task_hub}{other}. If it is "
        f"{pending.task_hub}, type: safe-deploy swap --app {record.app} --slot {pending.slot} --task-hub "
        f"{pending.task_hub} --outcome done. If not, the same with --outcome failed"
    )
