"""Decides which release a rollback gives the traffic to. Pure: reads the app and its routing changes, no clock.

A change goes back if it takes the traffic from a release and gives it to one that had its first traffic earlier. A
rollback that is repeated after such a change has no further effect. Otherwise an interrupted rollback that runs again
would go back another release, or forward again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.errors import ConflictError
from safe_deploy.side_by_side.app_state import ReleaseState, SideBySideApp


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingChange:
    """A change of the routing on record. `versions_before` had traffic before it, the active release included."""

    active_before: str | None
    versions_before: frozenset[str]
    active_after: str | None
    versions_after: frozenset[str]

    @property
    def moves_requests(self) -> bool:
        """Whether other releases get requests after it, or another one is active. A change that only ends the use of an
        adopted release moves none."""
        return (self.active_before, self.versions_before) != (self.active_after, self.versions_after)

    @classmethod
    def from_history(cls, entry: Mapping[str, Any]) -> "RoutingChange":
        """The change in an entry of GetHistory whose operation is PutRouting."""
        before, after = entry["details"]["from"], entry["details"]["to"]
        return cls(
            active_before=before["active"],
            versions_before=_list_versions(before),
            active_after=after["active"],
            versions_after=_list_versions(after),
        )


def _list_versions(routing: Mapping[str, Any]) -> frozenset[str]:
    """The versions that get requests by this routing."""
    return frozenset(filter(None, (routing["active"], *(routing.get("split") or {}))))


def choose_rollback_version(app: SideBySideApp, requested: str | None, changes: Iterable[RoutingChange]) -> str:
    """The version that a rollback makes the active one; the active one itself if it is rolled back already, or if the
    rollback ends a split.

    `changes` are those of the routing, the newest first. Only as many as needed are taken. Raises ConflictError if
    there is no release to roll back to.
    """
    if requested is not None:
        return _check_requested(app, requested)
    active = app.routing.active
    if active is None:
        raise ConflictError(f"no release of app {app.name} is active: there is nothing to roll back to")
    if app.routing.split is not None:
        return active
    for number, change in enumerate(change for change in changes if change.moves_requests):
        if number == 0 and _goes_back(app, change):
            return active
        if change.active_before != active:
            return _check_routable(app, active, change.active_before)
    return _check_routable(app, active, None)


def _check_requested(app: SideBySideApp, requested: str) -> str:
    """Refuse a release that never had traffic. The server refuses one that does not exist any more."""
    release = app.releases.get(requested)
    if release is not None and not release.had_traffic:
        raise ConflictError(
            f"release {requested} of app {app.name} never had traffic, so it is not one to roll back to. To give it "
            f"traffic, run safe-deploy promote --version {requested}"
        )
    return requested


def _goes_back(app: SideBySideApp, change: RoutingChange) -> bool:
    """Whether the change took the traffic from a release that is newer than the active one, or was adopted with it."""
    active_since = app.first_traffic.get(change.active_after or "", "")
    lost = change.versions_before - change.versions_after
    return any(app.first_traffic.get(version, "") >= active_since for version in lost if version in app.first_traffic)


def _check_routable(app: SideBySideApp, active: str, previous: str | None) -> str:
    """The release before the active one. Raises ConflictError if there is none, or if it is removed."""
    others = ", ".join(app.rollback_candidates)
    if previous is None:
        # An adopted release had its traffic without a routing, so the audit log does not name it.
        hint = f". To give the traffic to an adopted release, name it with --version: {others}" if others else ""
        raise ConflictError(
            f"release {active} is the first active release of app {app.name}: there is nothing to roll back to{hint}"
        )
    release = app.releases.get(previous)
    if release is not None and release.state != ReleaseState.REMOVING:
        return previous
    fate = "is removed" if release is None else "is being removed"
    next_step = f"Name another one with --version: {others}" if others else "No other release had traffic and is left"
    if release is not None:
        # A retirement that was killed would otherwise keep the release from a rollback until its removal expires.
        next_step += (
            ". If the run that removes it has ended and its Function App still runs, send DeleteRelease with the "
            "outcome Failed, and run the same command again"
        )
    raise ConflictError(
        f"release {previous}, which was active before release {active} of app {app.name}, {fate}. {next_step}"
    )
