"""An app with releases side by side, as GetApp shows it. Knows the members of that response."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from safe_deploy.errors import CommandError, ConflictError

SIDE_BY_SIDE = "sideBySide"


class ReleaseState(StrEnum):
    """The states that GetApp shows. `Drained` is not one of them, because it needs a verdict."""

    STAGED = "Staged"
    SERVING = "Serving"
    DRAINING = "Draining"
    REMOVING = "Removing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRemoval:
    """A removal that is on record without an outcome. No two removals of a release are equal."""

    started_at: str
    by: str
    run_url: str | None

    @property
    def owner(self) -> str:
        """Who removes the release, for messages."""
        return f"{self.by} (run {self.run_url})" if self.run_url else self.by


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release that is not removed. Times sort as text.

    - `first_traffic_at`: when the routing gave it traffic first; None if it never did.
    - `last_traffic_at`: when it lost its traffic; None while it has some, and if it never had any.
    - `removal`: None unless one has begun.
    """

    version: str
    task_hub: str
    address: str
    state: str
    registered_at: str
    first_traffic_at: str | None
    last_traffic_at: str | None
    removal: PendingRemoval | None = None

    @property
    def had_traffic(self) -> bool:
        """Whether the release has traffic or had some. One that was adopted had it without a routing."""
        return self.first_traffic_at is not None or self.state in (ReleaseState.SERVING, ReleaseState.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How routers divide the requests. `active` is None before the first promotion, `split` None if the active release
    gets all requests."""

    revision: int
    active: str | None
    split: Mapping[str, int] | None

    @property
    def etag(self) -> str:
        """The ETag of the routing document, for If-Match."""
        return f'"{self.revision}"'

    def divides_as(self, other: "Routing") -> bool:
        """Whether both give each release the same requests. Their documents can differ in other things."""
        return (self.active, self.split) == (other.active, other.split)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySideApp:
    """All that a pipeline needs to know of the app.

    - `releases`: those that are not removed, by version.
    - `removed`: the versions of the last removed releases.
    - `first_traffic`: the times of all releases that had traffic, by version, also of removed ones.
    - `has_provider`: the server can read the app's task hubs.
    """

    name: str
    releases: Mapping[str, Release]
    removed: frozenset[str]
    first_traffic: Mapping[str, str]
    routing: Routing
    quiesce_functions: Sequence[str]
    quiesce_order: str
    has_provider: bool

    @classmethod
    def from_json(cls, app: Mapping[str, Any]) -> "SideBySideApp":
        """Raises ConflictError for an app with slots."""
        if not is_side_by_side(app):
            raise ConflictError(
                f"app {app['app']} has slots, and this command is for releases side by side. Use safe-deploy stage, "
                "swap and rollback"
            )
        releases = {version: _parse_release(version, release) for version, release in app["releases"].items()}
        listed = [*app["releases"].items(), *((removed["version"], removed) for removed in app["removedReleases"])]
        return cls(
            name=app["app"],
            releases=releases,
            removed=frozenset(removed["version"] for removed in app["removedReleases"]),
            first_traffic={
                version: release["firstTrafficAt"] for version, release in listed if release["firstTrafficAt"]
            },
            routing=parse_routing(app["routing"]),
            quiesce_functions=app["policy"]["quiesceFunctions"],
            quiesce_order=app["policy"]["quiesceOrder"],
            has_provider=app["taskHubs"] is not None,
        )

    def get_release(self, version: str) -> Release:
        """The release of this version. Raises CommandError for one that does not exist or is removed."""
        release = self.releases.get(version)
        if release is None:
            known = ", ".join(self.releases) or "none"
            raise CommandError(f"app {self.name} has no release {version}. Its releases: {known}")
        return release

    @property
    def releases_with_unrouted_traffic(self) -> frozenset[str]:
        """The versions of adopted releases whose visitors may not come through a router: Serving, without a share in
        the routing."""
        routed = (self.routing.active, *(self.routing.split or {}))
        return frozenset(
            release.version
            for release in self.releases.values()
            if release.state == ReleaseState.SERVING and release.version not in routed
        )

    def has_kept_traffic_since(self, earlier: "SideBySideApp") -> bool:
        """Whether the routing has divided the requests in the same way since the app was read earlier. A change that
        was taken back shows in the times of a release that got traffic meanwhile."""
        return self.routing.divides_as(earlier.routing) and all(
            earlier.traffic_times_of(version) == self.traffic_times_of(version) for version in self.releases
        )

    def traffic_times_of(self, version: str) -> tuple[str | None, str | None]:
        """When the release got traffic first, and when it lost it."""
        release = self.releases.get(version)
        return (None, None) if release is None else (release.first_traffic_at, release.last_traffic_at)

    @property
    def rollback_candidates(self) -> list[str]:
        """The versions that can be routed to again, the newest first."""
        candidates = [
            release
            for release in self.releases.values()
            if release.had_traffic and release.state != ReleaseState.REMOVING and release.version != self.routing.active
        ]
        return [release.version for release in sorted(candidates, key=_first_traffic_of, reverse=True)]


def is_side_by_side(app: Mapping[str, Any]) -> bool:
    """Whether GetApp shows an app with releases side by side."""
    return bool(app["model"] == SIDE_BY_SIDE)


def explain_unknown_app(error: CommandError) -> CommandError:
    """The error with its next step, if the server does not know the app: releases need an app of their model."""
    if error.problem_code != "AppNotFound":
        return error
    # The server's message goes on with the operation that creates an app with slots.
    unknown = error.message.partition(". ")[0]
    return CommandError(
        f"{unknown}. Correct --app. If the app is new, an administrator creates it: safe-deploy register "
        '--create --model sideBySide, as docs/side-by-side.md shows in "Set up the app"'
    )


def parse_routing(routing: Mapping[str, Any]) -> Routing:
    """The routing in a response of GetApp, ListReleases or PutRouting."""
    return Routing(revision=routing["revision"], active=routing["active"], split=routing["split"])


def _parse_release(version: str, release: Mapping[str, Any]) -> Release:
    """A release in the response of GetApp."""
    return Release(
        version=version,
        task_hub=release["taskHub"],
        address=release["address"],
        state=release["state"],
        registered_at=release["registeredAt"],
        first_traffic_at=release["firstTrafficAt"],
        last_traffic_at=release["lastTrafficAt"],
        removal=_parse_removal(release["removal"]),
    )


def _parse_removal(removal: Mapping[str, Any] | None) -> PendingRemoval | None:
    """The removal of a release in the response of GetApp."""
    if removal is None:
        return None
    return PendingRemoval(started_at=removal["startedAt"], by=removal["by"], run_url=removal["runUrl"])


def _first_traffic_of(release: Release) -> str:
    """When the release first had traffic, for sorting; empty if never."""
    return release.first_traffic_at or ""
