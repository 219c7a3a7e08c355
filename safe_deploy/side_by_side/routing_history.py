"""Finds routing changes in the audit log of an app. Hides its pages."""

from collections.abc import Iterable, Iterator

from safe_deploy.client import StateServerClient
from safe_deploy.history import HistoryEntry, list_history
from safe_deploy.side_by_side.rollback_planner import RoutingChange

_ROLLOUT_STEPS = frozenset({"PostRollout", "AdvanceRollout"})
"""The operations that change a rollout after PutRollout."""


def list_routing_changes(server: StateServerClient) -> Iterator[RoutingChange]:
    """The changes by PutRouting and by rollouts, the newest first. Pages are read as they are needed."""
    return find_routing_changes(list_history(server))


def find_routing_changes(entries: Iterable[HistoryEntry]) -> Iterator[RoutingChange]:
    """The changes of the routing in these entries of the audit log, which begin with the newest.

    The end of a rollout is recorded without its releases. Those are in the entry of its begin, which is older.
    """
    final_state: str | None = None
    for entry in entries:
        operation, details = entry["operation"], entry["details"]
        if operation == "PutRouting":
            yield RoutingChange.from_history(entry)
        elif operation in _ROLLOUT_STEPS and details["state"] in ("Finished", "Aborted"):
            final_state = details["state"]
        elif operation == "PutRollout":
            baseline, candidate = details["baseline"], details["candidate"]
            if final_state is not None:
                winner = candidate if final_state == "Finished" else baseline
                yield RoutingChange(
                    active_before=baseline,
                    versions_before=frozenset({baseline, candidate}),
                    active_after=winner,
                    versions_after=frozenset({winner}),
                )
            yield RoutingChange(
                active_before=baseline,
                versions_before=frozenset({baseline}),
                active_after=baseline,
                versions_after=frozenset({baseline, candidate}),
            )
            final_state = None


def is_registered_by_this_run(server: StateServerClient, version: str) -> bool:
    """Whether a PostRelease of this run has registered the release of this version last."""
    run_url = server.caller.run_url
    if run_url is None:
        return False
    registrations = (
        entry
        for entry in list_history(server)
        if entry["operation"] == "PostRelease" and entry["details"].get("version") == version
    )
    last = next(registrations, None)
    return last is not None and last["runUrl"] == run_url
