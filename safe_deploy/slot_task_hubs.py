"""The task hubs of production and of one slot: as the server has recorded them, and as Azure shows them. Pure.

Hides the JSON of an app, and that task hub names ignore case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.errors import CommandError, UsageError


def is_same_task_hub(first: str | None, second: str | None) -> bool:
    """Whether two names mean the same task hub. Azure Storage ignores case. None equals nothing, not even None."""
    return first is not None and second is not None and first.lower() == second.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSwap:
    """A swap that the server has on record without an outcome."""

    task_hub: str
    swapped_out: str | None
    slot: str
    rollback: bool
    by: str
    started_at: str
    run_url: str | None

    @classmethod
    def from_json(cls, pending_swap: Mapping[str, Any]) -> "PendingSwap":
        """The pending swap in a response or in the problem document SwapPending."""
        return cls(
            task_hub=pending_swap["taskHub"],
            swapped_out=pending_swap["swappedOut"],
            slot=pending_swap["slot"],
            rollback=pending_swap["rollback"],
            by=pending_swap["by"],
            started_at=pending_swap["startedAt"],
            run_url=pending_swap["runUrl"],
        )

    def brings(self, task_hub: str, slot: str) -> bool:
        """Whether the swap brings this task hub from this slot into production."""
        return is_same_task_hub(self.task_hub, task_hub) and self.slot.lower() == slot.lower()

    def belongs_to_run(self, run_url: str | None) -> bool:
        """Whether the run with this URL started the swap. A run without a URL cannot prove that it did."""
        return run_url is not None and run_url == self.run_url


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSlots:
    """What the server has on record for production and one slot of an app.

    `production` and `slot` are task hub names, None for an empty slot.
    """

    app: str
    slot_name: str
    production: str | None
    slot: str | None
    pending_swap: PendingSwap | None = None
    slot_was_in_production: bool = False
    """Whether the slot's task hub has been in production before."""
    prior_hubs: tuple[str, ...] = ()
    """Task hubs that the slot in Azure may still have, because a version that was staged is not deployed yet."""
    server_url: str = ""
    """For the commands in messages."""
    etag: str = ""
    """Of the app that this was read from, for a change that must not happen if the app has changed."""

    @classmethod
    def from_app(
        cls, app: Mapping[str, Any], slot_name: str, server_url: str = "", *, etag: str = ""
    ) -> "RecordedSlots":
        """Read an app as GetApp returns it. Raises CommandError if it is not the JSON of an app."""
        try:
            slots = {name.lower(): slot_json or {} for name, slot_json in app["slots"].items()}
            slot = slots.get(slot_name.lower(), {})
            pending_swap = app.get("pendingSwap")
            return cls(
                app=app["app"],
                slot_name=slot_name,
                production=slots.get("production", {}).get("taskHub"),
                slot=slot.get("taskHub"),
                pending_swap=PendingSwap.from_json(pending_swap) if pending_swap else None,
                slot_was_in_production=bool(slot.get("promoted")),
                prior_hubs=tuple(slot.get("priorTaskHubs", ())),
                server_url=server_url,
                etag=etag,
            )
        except (AttributeError, KeyError, TypeError):
            raise CommandError("the response does not come from a state server. Check --server") from None


@dataclass(frozen=True, slots=True)
class ObservedSlots:
    """The task hubs that production and the slot have in Azure. None: the app setting does not exist."""

    production: str | None
    slot: str | None

    def has_swapped(self, task_hub: str, swapped_out: str | None) -> bool:
        """Whether `task_hub` is in production and `swapped_out` in the slot.

        Production alone proves no swap: the version may have been deployed straight into production. If `swapped_out`
        is None, the slot must not have `task_hub` any more.
        """
        if not is_same_task_hub(self.production, task_hub):
            return False
        if swapped_out is None:
            return not is_same_task_hub(self.slot, task_hub)
        return is_same_task_hub(self.slot, swapped_out)

    def is_unswapped(self, task_hub: str, production: str | None) -> bool:
        """Whether `task_hub` is still in the slot and `production` in production. If `production` is None, the slot
        decides alone."""
        return is_same_task_hub(self.slot, task_hub) and (
            production is None or is_same_task_hub(self.production, production)
        )

    def __str__(self) -> str:
        return f"production has {self.production or 'no task hub'}, and the slot has {self.slot or 'none'}"


def find_task_hub_of_slot(app: Mapping[str, Any], slot: str) -> str:
    """The name of the task hub that the slot holds on record. Raises UsageError if the slot is empty."""
    slots = {name.lower(): slot_json for name, slot_json in app["slots"].items()}
    slot_json = slots.get(slot.lower())
    if slot_json is None:
        raise UsageError(f"slot {slot} of app {app['app']} holds no task hub. Name a task hub with --task-hub")
    task_hub: str = slot_json["taskHub"]
    return task_hub
