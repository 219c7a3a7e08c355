"""Finds swaps in the audit log of an app. Hides the members of its entries."""

from safe_deploy.client import StateServerClient
from safe_deploy.history import HistoryEntry, list_history
from safe_deploy.slot_task_hubs import PendingSwap, RecordedSlots, is_same_task_hub


def find_last_swap(server: StateServerClient, slot: str) -> HistoryEntry | None:
    """The newest completed swap of a slot, None if there is none."""
    return next((entry for entry in list_history(server) if _is_completed_swap(entry, slot)), None)


def find_outcome(server: StateServerClient, swap: PendingSwap) -> HistoryEntry | None:
    """The entry that ended this swap, None if the audit log has none.

    While a swap is pending, the server records no other swap of the app. So the first one after its beginning is its
    outcome.
    """
    next_swap: HistoryEntry | None = None
    for entry in list_history(server):
        if entry["operation"] != "PostSwap":
            continue
        if entry["at"] == swap.started_at and entry["details"].get("outcome") == "Pending":
            return next_swap
        next_swap = entry
    return None


def find_hub_swapped_by_this_run(server: StateServerClient, recorded: RecordedSlots) -> str | None:
    """The task hub that this run has brought into production, if it is still there.

    A run that is started again may compute a new task hub name, but it deploys the same release.
    """
    run_url = server.caller.run_url
    if run_url is None or recorded.pending_swap is not None:
        return None
    last_swap = find_last_swap(server, recorded.slot_name)
    if last_swap is None or last_swap["runUrl"] != run_url:
        return None
    details = last_swap["details"]
    is_in_production = is_same_task_hub(details.get("production"), recorded.production)
    return recorded.production if is_in_production and not details.get("rollback") else None


def _is_completed_swap(entry: HistoryEntry, slot: str) -> bool:
    """Whether an entry is a completed swap of this slot. A swap that was recorded in one step has no outcome."""
    details = entry["details"]
    return (
        entry["operation"] == "PostSwap"
        and details.get("outcome", "Done") == "Done"
        and str(details.get("slot", slot)).lower() == slot.lower()
    )
