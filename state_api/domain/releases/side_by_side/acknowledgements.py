"""What a router has acknowledged, and since when it sends nothing to each release that has lost its traffic.

A later revision does not restart that time. Otherwise a release that has drained would wait again whenever another one
is registered or promoted."""

from collections.abc import Sequence

from state_api.domain.instants import Instant, seconds
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import (
    FORGOTTEN_ROUTERS,
    Release,
    RouterAcknowledgement,
    RoutingChange,
    TrafficStop,
)

ROUTER_DELAY_SECONDS = 60
"""How long a router that asks under no name may send requests by an older document. Those in front of API Management
read it every 15 s."""


def find_closing_change(release: Release) -> RoutingChange | None:
    """The routing change since which routers send nothing to the release. None for a staged release, which can be
    reached by its override token until its removal begins."""
    if release.traffic_end is not None:
        return release.traffic_end
    return release.removal.change if release.removal is not None else None


def find_delay_end(release: Release, change: RoutingChange) -> Instant:
    """When routers that ask under no name send nothing to the release any more."""
    return Instant(max(change.at, release.sticky_until or change.at) + seconds(ROUTER_DELAY_SECONDS))


def acknowledge_revision(
    app: App, earlier: RouterAcknowledgement | None, router: str, revision: int, now: Instant
) -> RouterAcknowledgement:
    """What a router has acknowledged after it has said at `now` that it routes by this revision.

    The last request counts, also with an older revision than before: the router may be restored from an older copy.
    Then the time begins anew for each release that may have got requests by it."""
    known = {(stop.revision, stop.visits_end): stop for stop in earlier.stops} if earlier is not None else {}
    stops = set[TrafficStop]()
    for release in app.releases.values():
        change = find_closing_change(release)
        if change is None or change.revision > revision:
            continue
        visits_end = _find_visits_end(release, change)
        if visits_end is None or visits_end <= now:
            stops.add(known.get((change.revision, visits_end)) or TrafficStop(change.revision, visits_end, since=now))
    is_same_revision = earlier is not None and earlier.revision == revision
    since = earlier.since if earlier is not None and is_same_revision else now
    return RouterAcknowledgement(router, revision, since, now, tuple(sorted(stops, key=_sort_key)))


def merge_forgotten_router(
    app: App, router: RouterAcknowledgement, acknowledgements: Sequence[RouterAcknowledgement], now: Instant
) -> RouterAcknowledgement:
    """The acknowledgement that stands for all forgotten routers, once this router is forgotten at `now`, too.

    For each release without traffic, it has the latest time at which a forgotten router may have sent a request. For a
    router that had not stopped, that is `now`."""
    stops = set[TrafficStop]()
    for release in app.releases.values():
        change = find_closing_change(release)
        if change is None:
            continue
        since = find_stopped_since(router, release, change)
        earlier = [find_stopped_since(other, release, change) for other in acknowledgements if other.is_forgotten]
        times = [now if since is None else since, *(time for time in earlier if time is not None)]
        stops.add(TrafficStop(change.revision, _find_visits_end(release, change), since=max(times)))
    return RouterAcknowledgement(FORGOTTEN_ROUTERS, 0, now, now, tuple(sorted(stops, key=_sort_key)))


def find_stopped_since(router: RouterAcknowledgement, release: Release, change: RoutingChange) -> Instant | None:
    """Since when the router sends nothing to the release; None if it may still do so. For the forgotten routers, None
    if all were forgotten before the change.

    A router ends the visits of those who stayed with the release without a new revision. So it must ask again after
    that: one whose follower has stopped sends visitors back for as long as it runs."""
    visits_end = _find_visits_end(release, change)
    for stop in router.stops:
        if (stop.revision, stop.visits_end) == (change.revision, visits_end):
            return stop.since
    is_stopped = router.revision >= change.revision and (visits_end is None or router.since >= visits_end)
    return router.since if is_stopped else None


def _find_visits_end(release: Release, change: RoutingChange) -> Instant | None:
    """When the visitors who stayed with the release must have left it; None if none stayed."""
    return find_delay_end(release, change) if release.sticky_until is not None else None


def _sort_key(stop: TrafficStop) -> tuple[int, Instant]:
    """Stops in the order of their revisions."""
    return stop.revision, stop.visits_end or Instant(0)
