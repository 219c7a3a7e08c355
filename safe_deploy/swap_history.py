"""Finds swaps in the audit log of an app. Hides its pages and the members of its entries."""

from collections.abc import Mapping
from typing import Any

from safe_deploy.client import StateServerClient
from safe_deploy.slot_task_hubs import RecordedSlots, is_same_task_hub

_PAGE_SIZE = 100

HistoryEntry = Mapping[str, Any]


def find_last_swap(server: StateServerClient, slot: str) -> HistoryEntry | None:
    """The newest completed swap of a slot, None if there is none."""
    token: str | None = None
    while True:
        page = server.get_history(_PAGE_SIZE, token)
        for entry in page["history"]:
            if _is_completed_swap(entry, slot):
                last_swap: HistoryEntry = entry
                return last_swap
        token = page["continuationToken"]
        if token is None:
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
