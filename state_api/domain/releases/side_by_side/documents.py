"""The routing document: all that a router needs to know of an app, and when its revision grows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import Model, ReleaseState, ReleaseTokens, find_state

STICKY_COOKIE = "release"
OVERRIDE_COOKIE = "release-override"
OVERRIDE_HEADER = "X-Release-Override"


@dataclass(frozen=True, slots=True)
class RoutedRelease:
    """A release as a router sees it. Its state is never Drained, which needs a probe."""

    address: str
    task_hub: str
    state: ReleaseState
    tokens: ReleaseTokens = field(repr=False)
    sticky_until: Instant | None


@dataclass(frozen=True, slots=True)
class RoutingDocument:
    """How to route the requests of an app. `releases` are all that are not removed, by version."""

    app: str
    active: str | None
    split: Mapping[str, int] | None
    releases: Mapping[str, RoutedRelease]


def build_document(app: App) -> RoutingDocument:
    """The routing document of an app."""
    releases = {
        version: RoutedRelease(
            release.address,
            release.task_hub,
            find_state(release, app.routing),
            release.tokens,
            release.sticky_until,
        )
        for version, release in app.releases.items()
    }
    return RoutingDocument(app.name, app.routing.active, app.routing.split, releases)


def next_routing_revision(app: App) -> int:
    """The routing revision of a change that is decided on this app. It is the revision that the app will have, so it
    grows even if the app is deleted and created again."""
    return app.revision + 1


def publish_routing(before: App, after: App, now: Instant) -> App:
    """The app with a new routing revision if its document has changed. Call this on every transition."""
    if after.model is not Model.SIDE_BY_SIDE:
        return after
    if before.model is after.model and build_document(before) == build_document(after):
        return after
    return replace(after, routing=replace(after.routing, revision=next_routing_revision(before), updated_at=now))
