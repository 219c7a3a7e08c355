"""An app and its audit records as stored JSON: the members of each object, and the conversions from and to the
domain."""

from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy, QuiesceOrder, RetentionPolicy
from state_api.domain.releases.apps import App, Deployment, PendingSwap, PriorHub, ProviderConfig, RetiredHub, Slot
from state_api.domain.releases.side_by_side.releases import Model
from state_api.services.ports import AuditRecord
from state_api.storage.stored_json import StoredModel
from state_api.storage.stored_releases import StoredRelease, StoredRemovedRelease, StoredRouting
from state_api.storage.stored_rollouts import StoredRollout


class StoredPriorHub(StoredModel):
    task_hub: str
    promoted: bool
    had_traffic: bool

    @classmethod
    def from_domain(cls, prior_hub: PriorHub) -> "StoredPriorHub":
        return cls(task_hub=prior_hub.task_hub, promoted=prior_hub.promoted, had_traffic=prior_hub.had_traffic)

    def to_domain(self) -> PriorHub:
        return PriorHub(task_hub=self.task_hub, promoted=self.promoted, had_traffic=self.had_traffic)


class StoredSlot(StoredModel):
    task_hub: str
    version: str | None
    since: str
    promoted: bool
    prior_hubs: tuple[StoredPriorHub, ...]
    had_traffic: bool
    may_have_pinned_visitors: bool

    @classmethod
    def from_domain(cls, slot: Slot) -> "StoredSlot":
        return cls(
            task_hub=slot.task_hub,
            version=slot.version,
            since=format_instant(slot.since),
            promoted=slot.promoted,
            prior_hubs=tuple(StoredPriorHub.from_domain(prior_hub) for prior_hub in slot.prior_hubs),
            had_traffic=slot.had_traffic,
            may_have_pinned_visitors=slot.may_have_pinned_visitors,
        )

    def to_domain(self) -> Slot:
        return Slot(
            task_hub=self.task_hub,
            version=self.version,
            since=parse_instant(self.since),
            promoted=self.promoted,
            prior_hubs=tuple(prior_hub.to_domain() for prior_hub in self.prior_hubs),
            had_traffic=self.had_traffic,
            may_have_pinned_visitors=self.may_have_pinned_visitors,
        )


class StoredPolicy(StoredModel):
    settle_seconds: int
    freshness_seconds: int
    require_verification: bool
    deployment_timeout_minutes: int
    ignore_functions: tuple[str, ...]
    keep_last: int
    keep_for_hours: int
    missing_task_hub_is_drained: bool
    message_visibility_seconds: int
    ignore_messages: bool
    max_releases: int | None
    address_pattern: str | None
    sticky_after_promotion: bool
    quiesce_functions: tuple[str, ...]
    quiesce_order: str

    @classmethod
    def from_domain(cls, policy: Policy) -> "StoredPolicy":
        return cls(
            settle_seconds=policy.settle_seconds,
            freshness_seconds=policy.freshness_seconds,
            require_verification=policy.require_verification,
            deployment_timeout_minutes=policy.deployment_timeout_minutes,
            ignore_functions=policy.ignore_functions,
            keep_last=policy.retention.keep_last,
            keep_for_hours=policy.retention.keep_for_hours,
            missing_task_hub_is_drained=policy.missing_task_hub_is_drained,
            message_visibility_seconds=policy.message_visibility_seconds,
            ignore_messages=policy.ignore_messages,
            max_releases=policy.max_releases,
            address_pattern=policy.address_pattern,
            sticky_after_promotion=policy.sticky_after_promotion,
            quiesce_functions=policy.quiesce_functions,
            quiesce_order=policy.quiesce_order.value,
        )

    def to_domain(self) -> Policy:
        return Policy(
            settle_seconds=self.settle_seconds,
            freshness_seconds=self.freshness_seconds,
            require_verification=self.require_verification,
            deployment_timeout_minutes=self.deployment_timeout_minutes,
            ignore_functions=self.ignore_functions,
            retention=RetentionPolicy(keep_last=self.keep_last, keep_for_hours=self.keep_for_hours),
            missing_task_hub_is_drained=self.missing_task_hub_is_drained,
            message_visibility_seconds=self.message_visibility_seconds,
            ignore_messages=self.ignore_messages,
            max_releases=self.max_releases,
            address_pattern=self.address_pattern,
            sticky_after_promotion=self.sticky_after_promotion,
            quiesce_functions=self.quiesce_functions,
            quiesce_order=QuiesceOrder(self.quiesce_order),
        )


class StoredProviderConfig(StoredModel):
    provider: str
    connection: str
    tracking_connection: str | None
    tracking_prefix: str | None

    @classmethod
    def from_domain(cls, config: ProviderConfig) -> "StoredProviderConfig":
        return cls(
            provider=config.provider,
            connection=config.connection,
            tracking_connection=config.tracking_connection,
            tracking_prefix=config.tracking_prefix,
        )

    def to_domain(self) -> ProviderConfig:
        return ProviderConfig(
            provider=self.provider,
            connection=self.connection,
            tracking_connection=self.tracking_connection,
            tracking_prefix=self.tracking_prefix,
        )


class StoredDeployment(StoredModel):
    task_hub: str
    version: str | None
    slot: str | None
    started_at: str
    started_by: str
    run_url: str | None
    run_id: str

    @classmethod
    def from_domain(cls, deployment: Deployment) -> "StoredDeployment":
        return cls(
            task_hub=deployment.task_hub,
            version=deployment.version,
            slot=deployment.slot,
            started_at=format_instant(deployment.started_at),
            started_by=deployment.started_by,
            run_url=deployment.run_url,
            run_id=deployment.run_id,
        )

    def to_domain(self) -> Deployment:
        return Deployment(
            task_hub=self.task_hub,
            version=self.version,
            slot=self.slot,
            started_at=parse_instant(self.started_at),
            started_by=self.started_by,
            run_url=self.run_url,
            run_id=self.run_id,
        )


class StoredPendingSwap(StoredModel):
    task_hub: str
    swapped_out: str | None
    slot: str
    started_at: str
    started_by: str
    run_url: str | None
    run_id: str
    rollback: bool
    slots_before: dict[str, StoredSlot | None]
    deployment: StoredDeployment | None

    @classmethod
    def from_domain(cls, swap: PendingSwap) -> "StoredPendingSwap":
        return cls(
            task_hub=swap.task_hub,
            swapped_out=swap.swapped_out,
            slot=swap.slot,
            started_at=format_instant(swap.started_at),
            started_by=swap.started_by,
            run_url=swap.run_url,
            run_id=swap.run_id,
            rollback=swap.rollback,
            slots_before=_stored_slots(swap.slots_before),
            deployment=StoredDeployment.from_domain(swap.deployment) if swap.deployment else None,
        )

    def to_domain(self) -> PendingSwap:
        return PendingSwap(
            task_hub=self.task_hub,
            swapped_out=self.swapped_out,
            slot=self.slot,
            started_at=parse_instant(self.started_at),
            started_by=self.started_by,
            run_url=self.run_url,
            run_id=self.run_id,
            rollback=self.rollback,
            slots_before=_domain_slots(self.slots_before),
            deployment=self.deployment.to_domain() if self.deployment else None,
        )


class StoredRetiredHub(StoredModel):
    task_hub: str
    version: str | None
    retired_at: str

    @classmethod
    def from_domain(cls, retired: RetiredHub) -> "StoredRetiredHub":
        return cls(task_hub=retired.task_hub, version=retired.version, retired_at=format_instant(retired.retired_at))

    def to_domain(self) -> RetiredHub:
        return RetiredHub(task_hub=self.task_hub, version=self.version, retired_at=parse_instant(self.retired_at))


class StoredWaiver(StoredModel):
    task_hub: str
    instance_id: str
    reason: str
    waived_by: str
    created_at: str
    expires_at: str
    unexplained_messages: int

    @classmethod
    def from_domain(cls, waiver: Waiver) -> "StoredWaiver":
        return cls(
            task_hub=waiver.task_hub,
            instance_id=waiver.instance_id,
            reason=waiver.reason,
            waived_by=waiver.by,
            created_at=format_instant(waiver.created_at),
            expires_at=format_instant(waiver.expires_at),
            unexplained_messages=waiver.unexplained_messages,
        )

    def to_domain(self) -> Waiver:
        return Waiver(
            task_hub=self.task_hub,
            instance_id=self.instance_id,
            reason=self.reason,
            by=self.waived_by,
            created_at=parse_instant(self.created_at),
            expires_at=parse_instant(self.expires_at),
            unexplained_messages=self.unexplained_messages,
        )


class StoredApp(StoredModel):
    """All state of an app, as one JSON text."""

    name: str
    model: str
    slots: dict[str, StoredSlot | None]
    policy: StoredPolicy
    provider_config: StoredProviderConfig | None
    deployment: StoredDeployment | None
    pending_swap: StoredPendingSwap | None
    releases: dict[str, StoredRelease]
    removed_releases: tuple[StoredRemovedRelease, ...]
    routing: StoredRouting
    rollout: StoredRollout | None
    retired: tuple[StoredRetiredHub, ...]
    waivers: tuple[StoredWaiver, ...]
    revision: int
    updated_at: str
    updated_by: str
    deleted: bool

    @classmethod
    def from_domain(cls, app: App) -> "StoredApp":
        return cls(
            name=app.name,
            model=app.model.value,
            slots=_stored_slots(app.slots),
            policy=StoredPolicy.from_domain(app.policy),
            provider_config=StoredProviderConfig.from_domain(app.provider_config) if app.provider_config else None,
            deployment=StoredDeployment.from_domain(app.deployment) if app.deployment else None,
            pending_swap=StoredPendingSwap.from_domain(app.pending_swap) if app.pending_swap else None,
            releases={version: StoredRelease.from_domain(release) for version, release in app.releases.items()},
            removed_releases=tuple(StoredRemovedRelease.from_domain(removed) for removed in app.removed_releases),
            routing=StoredRouting.from_domain(app.routing),
            rollout=StoredRollout.from_domain(app.rollout) if app.rollout else None,
            retired=tuple(StoredRetiredHub.from_domain(retired) for retired in app.retired),
            waivers=tuple(StoredWaiver.from_domain(waiver) for waiver in app.waivers),
            revision=app.revision,
            updated_at=format_instant(app.updated_at),
            updated_by=app.updated_by,
            deleted=app.deleted,
        )

    def to_domain(self) -> App:
        return App(
            name=self.name,
            model=Model(self.model),
            slots=_domain_slots(self.slots),
            policy=self.policy.to_domain(),
            provider_config=self.provider_config.to_domain() if self.provider_config else None,
            deployment=self.deployment.to_domain() if self.deployment else None,
            pending_swap=self.pending_swap.to_domain() if self.pending_swap else None,
            releases={version: release.to_domain() for version, release in self.releases.items()},
            removed_releases=tuple(removed.to_domain() for removed in self.removed_releases),
            routing=self.routing.to_domain(),
            rollout=self.rollout.to_domain() if self.rollout else None,
            retired=tuple(retired.to_domain() for retired in self.retired),
            waivers=tuple(waiver.to_domain() for waiver in self.waivers),
            revision=self.revision,
            updated_at=parse_instant(self.updated_at),
            updated_by=self.updated_by,
            deleted=self.deleted,
        )


class StoredAuditRecord(StoredModel):
    """One entry of the audit log. `details` holds JSON values, which the API shows as they are."""

    revision: int
    at: str
    operation: str
    by: str
    run_url: str | None
    key_name: str | None
    reason: str | None
    details: dict[str, Any]

    @classmethod
    def from_domain(cls, record: AuditRecord) -> "StoredAuditRecord":
        return cls(
            revision=record.revision,
            at=format_instant(record.at),
            operation=record.operation,
            by=record.by,
            run_url=record.run_url,
            key_name=record.key_name,
            reason=record.reason,
            details=dict(record.details),
        )

    def to_domain(self) -> AuditRecord:
        return AuditRecord(
            revision=self.revision,
            at=parse_instant(self.at),
            operation=self.operation,
            by=self.by,
            run_url=self.run_url,
            key_name=self.key_name,
            reason=self.reason,
            details=self.details,
        )


def _stored_slots(slots: Mapping[str, Slot | None]) -> dict[str, StoredSlot | None]:
    return {name: StoredSlot.from_domain(slot) if slot else None for name, slot in slots.items()}


def _domain_slots(slots: Mapping[str, StoredSlot | None]) -> dict[str, Slot | None]:
    return {name: slot.to_domain() if slot else None for name, slot in slots.items()}
