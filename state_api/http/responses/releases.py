"""Responses with releases side by side and their routing."""

from typing import TypedDict

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.documents import (
    OVERRIDE_COOKIE,
    OVERRIDE_HEADER,
    STICKY_COOKIE,
    RoutedRelease,
    build_document,
)
from state_api.domain.releases.side_by_side.releases import (
    STICKY_MAX_AGE_SECONDS,
    PendingRemoval,
    Release,
    ReleaseState,
    RemovedRelease,
    RouterAcknowledgement,
    Routing,
)
from state_api.domain.releases.side_by_side.retention import RollbackWindow
from state_api.http.responses.base import ResponseModel, Timestamp, format_optional_instant
from state_api.services.release_status import ReleaseList, ReleaseStatus


class PendingRemovalResponse(ResponseModel):
    started_at: Timestamp
    by: str
    run_url: str | None

    @classmethod
    def of(cls, removal: PendingRemoval | None) -> "PendingRemovalResponse | None":
        """Who began to remove the release, and when; None if no run did."""
        if removal is None:
            return None
        return cls(started_at=format_instant(removal.change.at), by=removal.started_by, run_url=removal.run_url)


class ReleaseResponse(ResponseModel):
    task_hub: str
    address: str
    state: ReleaseState
    traffic: int = Field(description="The percents of the requests that the release gets.")
    registered_at: Timestamp
    adopted: bool = Field(description="Whether PutApp has adopted it, so that it may have had traffic before.")
    first_traffic_at: Timestamp | None = Field(description="When the routing gave it traffic first.")
    last_traffic_at: Timestamp | None = Field(description="When it lost its traffic; null while it has some.")
    sticky_until: Timestamp | None = Field(description="Until then its visitors stay with it without traffic.")
    removal: PendingRemovalResponse | None

    @classmethod
    def of(cls, release: Release, routing: Routing, state: ReleaseState) -> "ReleaseResponse":
        """A release with its share of the traffic. Its state is passed in, because `Drained` is known only by a
        verdict."""
        return cls(
            task_hub=release.task_hub,
            address=release.address,
            state=state,
            traffic=routing.share_of(release.version),
            registered_at=format_instant(release.registered_at),
            adopted=release.adopted,
            first_traffic_at=format_optional_instant(release.first_traffic_at),
            last_traffic_at=format_instant(release.traffic_end.at) if release.traffic_end is not None else None,
            sticky_until=format_optional_instant(release.sticky_until),
            removal=PendingRemovalResponse.of(release.removal),
        )


class RollbackWindowMembers(TypedDict):
    kept: bool
    kept_until: str | None


def format_rollback_window(window: RollbackWindow | None) -> RollbackWindowMembers:
    """The members that say whether and until when the policy's retention keeps a release."""
    until = window.until if window is not None else None
    return RollbackWindowMembers(kept=window is not None, kept_until=format_optional_instant(until))


class ListedReleaseResponse(ReleaseResponse):
    version: str
    kept: bool = Field(description="Whether the policy's retention keeps it without traffic, for a rollback.")
    kept_until: Timestamp | None = Field(description="Until when; null if it is not kept, or if keepLast keeps it.")

    @classmethod
    def of_status(cls, status: ReleaseStatus) -> "ListedReleaseResponse":
        """A release with its version, as ListReleases shows it."""
        release = ReleaseResponse.of(status.release, status.app.routing, status.state)
        return cls(**dict(release), version=status.release.version, **format_rollback_window(status.window))


class RemovedReleaseResponse(ResponseModel):
    version: str
    task_hub: str
    address: str
    state: ReleaseState
    registered_at: Timestamp
    first_traffic_at: Timestamp | None
    last_traffic_at: Timestamp | None
    removed_at: Timestamp

    @classmethod
    def of(cls, removed: RemovedRelease) -> "RemovedReleaseResponse":
        """A release that was removed, with the times between which it had traffic."""
        return cls(
            version=removed.version,
            task_hub=removed.task_hub,
            address=removed.address,
            state=ReleaseState.REMOVED,
            registered_at=format_instant(removed.registered_at),
            first_traffic_at=format_optional_instant(removed.first_traffic_at),
            last_traffic_at=format_optional_instant(removed.last_traffic_at),
            removed_at=format_instant(removed.removed_at),
        )


class RouterResponse(ResponseModel):
    router: str
    revision: int = Field(description="The routing revision that it has acknowledged; 0 for none.")
    since: Timestamp = Field(
        description="When it acknowledged this revision first, or again after visitors had left a release."
    )
    seen_at: Timestamp = Field(description="When it asked last, to five minutes.")

    @classmethod
    def of(cls, acknowledgement: RouterAcknowledgement) -> "RouterResponse":
        """The routing revision that a router has put into effect."""
        return cls(
            router=acknowledgement.router,
            revision=acknowledgement.revision,
            since=format_instant(acknowledgement.since),
            seen_at=format_instant(acknowledgement.seen_at),
        )


class RoutingResponse(ResponseModel):
    revision: int
    updated_at: Timestamp
    active: str | None = Field(description="Null before the first promotion.")
    split: dict[str, int] | None = Field(description="Null if the active release gets all requests.")

    @classmethod
    def of(cls, routing: Routing) -> "RoutingResponse":
        """The active release, and the split of the traffic if there is one."""
        return cls(
            revision=routing.revision,
            updated_at=format_instant(routing.updated_at),
            active=routing.active,
            split=dict(routing.split) if routing.split is not None else None,
        )


class ReleasesResponse(ResponseModel):
    app: str
    routing: RoutingResponse
    releases: list[ListedReleaseResponse]
    removed: list[RemovedReleaseResponse] = Field(description="The last 20 removed releases, newest first.")
    routers: list[RouterResponse] = Field(description="The routers that ask under a name.")

    @classmethod
    def of(cls, listed: ReleaseList) -> "ReleasesResponse":
        """The releases of the app, and how far its routers are with their routing."""
        return cls(
            app=listed.app.name,
            routing=RoutingResponse.of(listed.app.routing),
            releases=[ListedReleaseResponse.of_status(status) for status in listed.releases],
            removed=[RemovedReleaseResponse.of(removed) for removed in listed.app.removed_releases],
            routers=[RouterResponse.of(acknowledgement) for acknowledgement in listed.acknowledgements],
        )


class StickyResponse(ResponseModel):
    cookie: str
    max_age_seconds: int


class OverrideResponse(ResponseModel):
    cookie: str
    header: str


class RoutedReleaseResponse(ResponseModel):
    address: str
    task_hub: str
    state: ReleaseState = Field(description="Never Drained, which needs a probe.")
    sticky_token: str
    override_token: str
    sticky_until: Timestamp | None

    @classmethod
    def of(cls, release: RoutedRelease) -> "RoutedReleaseResponse":
        """What a router needs of a release: its address, and the tokens that send a visitor to it."""
        return cls(
            address=release.address,
            task_hub=release.task_hub,
            state=release.state,
            sticky_token=release.tokens.sticky,
            override_token=release.tokens.override,
            sticky_until=format_optional_instant(release.sticky_until),
        )


class RoutingDocumentResponse(RoutingResponse):
    app: str
    sticky: StickyResponse = Field(description="The cookie that keeps a visitor with a release.")
    override: OverrideResponse = Field(description="The cookie and the header that choose a release by its token.")
    releases: dict[str, RoutedReleaseResponse] = Field(description="The releases that are not removed, by version.")

    @classmethod
    def of_app(cls, app: App) -> "RoutingDocumentResponse":
        """The whole routing document of the app, which a router puts into effect."""
        document = build_document(app)
        return cls(
            **dict(RoutingResponse.of(app.routing)),
            app=app.name,
            sticky=StickyResponse(cookie=STICKY_COOKIE, max_age_seconds=STICKY_MAX_AGE_SECONDS),
            override=OverrideResponse(cookie=OVERRIDE_COOKIE, header=OVERRIDE_HEADER),
            releases={version: RoutedReleaseResponse.of(release) for version, release in document.releases.items()},
        )
