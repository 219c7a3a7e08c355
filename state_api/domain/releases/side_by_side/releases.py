"""Releases side by side: a Function App of its own for every version, and the share of the requests that each gets from
a router. These values are a part of `App`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from state_api.domain.instants import Instant

MAX_RELEASES = 50
"""The most releases that an app can have at a time. All of them are in one row and in one document."""
MAX_REMOVED_RELEASES = 20
"""How many removed releases an app lists, the newest ones."""
STICKY_MAX_AGE_SECONDS = 3600
"""How long the cookie lasts that keeps a visitor with a release."""
FORGOTTEN_ROUTERS = "~"
"""The name of the acknowledgement that stands for all forgotten routers. No router can ask under it. It sorts after
their names, so a query that takes several pages shows a router that is forgotten meanwhile, or this acknowledgement."""


class Model(StrEnum):
    """How the versions of an app are deployed: into slots of one Function App, or as Function Apps side by side."""

    SLOTS = "slots"
    SIDE_BY_SIDE = "sideBySide"


class ReleaseState(StrEnum):
    """Where a release is in its life.

    - `Staged`: it never had traffic. A router sends it only requests with its override token.
    - `Serving`: it has traffic from a router, or it was adopted and the routing has not been set since.
    - `Draining`: it had traffic and has none now.
    - `Drained`: it is draining, and its verdict is Ready.
    - `Removing`: its Function App is being deleted.
    - `Removed`: its Function App is deleted.
    """

    STAGED = "Staged"
    SERVING = "Serving"
    DRAINING = "Draining"
    DRAINED = "Drained"
    REMOVING = "Removing"
    REMOVED = "Removed"


@dataclass(frozen=True, slots=True)
class ReleaseTokens:
    """Random texts, by which a router recognizes the visitors of a release. The two differ, so that a visitor can
    neither choose a release nor keep an aborted one."""

    sticky: str
    override: str


@dataclass(frozen=True, slots=True)
class RoutingChange:
    """The routing revision from which on a router sends nothing more to a release, and when it was written."""

    revision: int
    at: Instant


@dataclass(frozen=True, slots=True)
class PendingRemoval:
    """The removal of a release that has begun and whose outcome is unknown.

    `change`: the routing revision that shows the release as `Removing`, and when this run began.
    """

    change: RoutingChange
    started_by: str
    run_url: str | None
    run_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """One release.

    - `address`: the origin of its Function App.
    - `adopted`: PutApp has adopted it, so it may have had traffic before. It counts as having traffic until the routing
      is set next.
    - `first_traffic_at`: when the routing gave it traffic first; None if it never did.
    - `traffic_end`: the change that took its traffic away; None while it has traffic, and if it never had any.
    - `sticky_until`: until then its visitors stay with it although it has lost its traffic.
    - `removal`: None unless its removal is pending.
    - `drained_backend`: identifies where a probe showed the task hub drained when a removal began. None if none did, or
      if the release may have been started or got traffic since.
    """

    version: str
    task_hub: str
    address: str
    tokens: ReleaseTokens = field(repr=False)
    registered_at: Instant
    adopted: bool = False
    first_traffic_at: Instant | None = None
    traffic_end: RoutingChange | None = None
    sticky_until: Instant | None = None
    removal: PendingRemoval | None = None
    drained_backend: str | None = None

    @property
    def had_traffic(self) -> bool:
        """Whether the release has traffic or had some, as far as is known."""
        return self.adopted or self.first_traffic_at is not None

    @property
    def has_traffic(self) -> bool:
        """Whether the release has traffic, from a router or past it."""
        return self.had_traffic and self.traffic_end is None

    @property
    def has_unrouted_traffic(self) -> bool:
        """Whether the release was adopted, and no routing has given it requests or taken them away since. Its visitors
        may not come through a router."""
        return self.has_traffic and self.first_traffic_at is None

    def was_registered_after(self, other: "Release") -> bool:
        """Whether this release is known to be newer than the other one. The age of one that was adopted is unknown."""
        return not self.adopted and self.registered_at > other.registered_at

    def is_sticky(self, now: Instant) -> bool:
        """Whether visitors may stay with the release although it has lost its traffic."""
        return self.sticky_until is not None and now < self.sticky_until


@dataclass(frozen=True, slots=True)
class RemovedRelease:
    """A release whose Function App is deleted. `last_traffic_at` is None if it never had traffic."""

    version: str
    task_hub: str
    address: str
    registered_at: Instant
    first_traffic_at: Instant | None
    last_traffic_at: Instant | None
    removed_at: Instant


@dataclass(frozen=True, slots=True)
class Routing:
    """How routers divide the requests of an app.

    - `revision`: identifies the routing document. It only grows: it is the revision of the app that changed the
      document.
    - `active`: the version of the active release; None before the first promotion.
    - `split`: the percents of the active release and of the candidate, which sum to 100. None sends all to the active
      release.
    """

    revision: int = 0
    updated_at: Instant = Instant(0)
    active: str | None = None
    split: Mapping[str, int] | None = None

    def share_of(self, version: str) -> int:
        """The percentage of the requests that a release gets."""
        if self.split is not None:
            return self.split.get(version, 0)
        return 100 if version == self.active else 0

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions with traffic, the active one first."""
        if self.active is None:
            return ()
        return (self.active, *(version for version in self.split or {} if version != self.active))


@dataclass(frozen=True, slots=True)
class TrafficStop:
    """Since when a router sends nothing to the releases that lost their traffic in one routing change.

    - `revision`: that of the change. The router has acknowledged no older one since.
    - `visits_end`: when visitors who stayed with these releases must have left them; None if none stayed.
    """

    revision: int
    visits_end: Instant | None
    since: Instant


@dataclass(frozen=True, slots=True)
class RouterAcknowledgement:
    """The routing revision that a router routes by.

    - `since`: when it first said so.
    - `seen_at`: when it last asked, to some minutes.
    - `stops`: one for each change that took the traffic of a release which is not removed, as far as the router has
      acknowledged it.

    The one with the name `FORGOTTEN_ROUTERS` stands for all forgotten routers: `since` is when the last one was
    forgotten, and `stops` has every such change until then.
    """

    router: str
    revision: int
    since: Instant
    seen_at: Instant
    stops: tuple[TrafficStop, ...] = ()

    @property
    def is_forgotten(self) -> bool:
        """Whether it stands for the forgotten routers, which nothing waits for."""
        return self.router == FORGOTTEN_ROUTERS


@dataclass(frozen=True, slots=True)
class ForgottenRouter:
    """What ForgetRouter writes.

    - `last`: the acknowledgement of the router, which is removed if it is still the same.
    - `remembered`: the one that stands for all forgotten routers from now on.
    """

    last: RouterAcknowledgement
    remembered: RouterAcknowledgement


def find_state(release: Release, routing: Routing) -> ReleaseState:
    """The state of a release. Without a verdict it is never Drained."""
    if release.removal is not None:
        return ReleaseState.REMOVING
    if routing.share_of(release.version) or release.has_traffic:
        return ReleaseState.SERVING
    return ReleaseState.DRAINING if release.had_traffic else ReleaseState.STAGED
