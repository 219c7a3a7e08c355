"""Finds routing changes in the audit log of an app. Hides its pages."""

from collections.abc import Iterator

from safe_deploy.client import StateServerClient
from safe_deploy.history import list_history
from safe_deploy.side_by_side.rollback_planner import RoutingChange


def list_routing_changes(server: StateServerClient) -> Iterator[RoutingChange]:
    """The changes by PutRouting, the newest first. Pages are read as they are needed."""
    for entry in list_history(server):
        if entry["operation"] == "PutRouting":
            yield RoutingChange.from_history(entry)


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
