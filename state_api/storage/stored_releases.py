"""Releases side by side and their routing as stored JSON. They are members of a stored app."""

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.releases.side_by_side.releases import (
    PendingRemoval,
    Release,
    ReleaseTokens,
    RemovedRelease,
    Routing,
    RoutingChange,
)
from state_api.storage.stored_json import StoredModel, format_optional_instant, parse_optional_instant


class StoredRoutingChange(StoredModel):
    revision: int
    at: str

    @classmethod
    def from_domain(cls, change: RoutingChange) -> "StoredRoutingChange":
        return cls(revision=change.revision, at=format_instant(change.at))

    def to_domain(self) -> RoutingChange:
        return RoutingChange(self.revision, parse_instant(self.at))


class StoredPendingRemoval(StoredModel):
    change: StoredRoutingChange
    started_by: str
    run_url: str | None
    run_id: str

    @classmethod
    def from_domain(cls, removal: PendingRemoval) -> "StoredPendingRemoval":
        return cls(
            change=StoredRoutingChange.from_domain(removal.change),
            started_by=removal.started_by,
            run_url=removal.run_url,
            run_id=removal.run_id,
        )

    def to_domain(self) -> PendingRemoval:
        return PendingRemoval(
            change=self.change.to_domain(), started_by=self.started_by, run_url=self.run_url, run_id=self.run_id
        )


class StoredRelease(StoredModel):
    version: str
    task_hub: str
    address: str
    sticky_token: str
    override_token: str
    registered_at: str
    adopted: bool
    first_traffic_at: str | None
    traffic_end: StoredRoutingChange | None
    sticky_until: str | None
    removal: StoredPendingRemoval | None
    drained_backend: str | None

    @classmethod
    def from_domain(cls, release: Release) -> "StoredRelease":
        return cls(
            version=release.version,
            task_hub=release.task_hub,
            address=release.address,
            sticky_token=release.tokens.sticky,
            override_token=release.tokens.override,
            registered_at=format_instant(release.registered_at),
            adopted=release.adopted,
            first_traffic_at=format_optional_instant(release.first_traffic_at),
            traffic_end=StoredRoutingChange.from_domain(release.traffic_end) if release.traffic_end else None,
            sticky_until=format_optional_instant(release.sticky_until),
            removal=StoredPendingRemoval.from_domain(release.removal) if release.removal else None,
            drained_backend=release.drained_backend,
        )

    def to_domain(self) -> Release:
        return Release(
            version=self.version,
            task_hub=self.task_hub,
            address=self.address,
            tokens=ReleaseTokens(self.sticky_token, self.override_token),
            registered_at=parse_instant(self.registered_at),
            adopted=self.adopted,
            first_traffic_at=parse_optional_instant(self.first_traffic_at),
            traffic_end=self.traffic_end.to_domain() if self.traffic_end else None,
            sticky_until=parse_optional_instant(self.sticky_until),
            removal=self.removal.to_domain() if self.removal else None,
            drained_backend=self.drained_backend,
        )


class StoredRemovedRelease(StoredModel):
    version: str
    task_hub: str
    address: str
    registered_at: str
    first_traffic_at: str | None
    last_traffic_at: str | None
    removed_at: str

    @classmethod
    def from_domain(cls, removed: RemovedRelease) -> "StoredRemovedRelease":
        return cls(
            version=removed.version,
            task_hub=removed.task_hub,
            address=removed.address,
            registered_at=format_instant(removed.registered_at),
            first_traffic_at=format_optional_instant(removed.first_traffic_at),
            last_traffic_at=format_optional_instant(removed.last_traffic_at),
            removed_at=format_instant(removed.removed_at),
        )

    def to_domain(self) -> RemovedRelease:
        return RemovedRelease(
            version=self.version,
            task_hub=self.task_hub,
            address=self.address,
            registered_at=parse_instant(self.registered_at),
            first_traffic_at=parse_optional_instant(self.first_traffic_at),
            last_traffic_at=parse_optional_instant(self.last_traffic_at),
            removed_at=parse_instant(self.removed_at),
        )


class StoredRouting(StoredModel):
    revision: int
    updated_at: str
    active: str | None
    split: dict[str, int] | None

    @classmethod
    def from_domain(cls, routing: Routing) -> "StoredRouting":
        return cls(
            revision=routing.revision,
            updated_at=format_instant(routing.updated_at),
            active=routing.active,
            split=dict(routing.split) if routing.split is not None else None,
        )

    def to_domain(self) -> Routing:
        return Routing(
            revision=self.revision,
            updated_at=parse_instant(self.updated_at),
            active=self.active,
            split=self.split,
        )
