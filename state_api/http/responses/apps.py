"""Responses with an app: its slots or releases, policy, open deployment, pending swap, retired task hubs, waivers."""

from pydantic import Field

from state_api.domain.instants import Instant, format_instant
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy, QuiesceOrder
from state_api.domain.releases.apps import App, Deployment, PendingSwap, ProviderConfig, RetiredHub, Slot
from state_api.domain.releases.side_by_side.releases import Model, find_state
from state_api.http.responses.base import ResponseModel, Timestamp
from state_api.http.responses.releases import ReleaseResponse, RemovedReleaseResponse, RoutingResponse
from state_api.http.responses.rollouts import RolloutResponse


class SlotResponse(ResponseModel):
    task_hub: str
    version: str | None
    since: Timestamp
    promoted: bool = Field(description="Whether the task hub has been in production.")
    prior_task_hubs: list[str] = Field(
        description="Earlier task hubs of the slot, newest first. The verdict includes them until `taskHub` has been "
        "in production, because a staged version may never have been deployed."
    )

    @classmethod
    def of(cls, slot: Slot | None) -> "SlotResponse | None":
        """What a slot holds; None if it is empty."""
        if slot is None:
            return None
        return cls(
            task_hub=slot.task_hub,
            version=slot.version,
            since=format_instant(slot.since),
            promoted=slot.promoted,
            prior_task_hubs=[hub.task_hub for hub in slot.prior_hubs],
        )


class RetentionResponse(ResponseModel):
    keep_last: int
    keep_for_hours: int


class PolicyResponse(ResponseModel):
    settle_seconds: int
    freshness_seconds: int
    require_verification: bool
    deployment_timeout_minutes: int
    ignore_functions: list[str]
    retention: RetentionResponse
    missing_task_hub_is_drained: bool
    message_visibility_seconds: int
    ignore_messages: bool
    max_releases: int | None
    address_pattern: str | None
    sticky_after_promotion: bool
    quiesce_functions: list[str]
    quiesce_order: QuiesceOrder

    @classmethod
    def of(cls, policy: Policy) -> "PolicyResponse":
        """All members of the policy, also those with their defaults."""
        return cls(
            settle_seconds=policy.settle_seconds,
            freshness_seconds=policy.freshness_seconds,
            require_verification=policy.require_verification,
            deployment_timeout_minutes=policy.deployment_timeout_minutes,
            ignore_functions=list(policy.ignore_functions),
            retention=RetentionResponse(
                keep_last=policy.retention.keep_last, keep_for_hours=policy.retention.keep_for_hours
            ),
            missing_task_hub_is_drained=policy.missing_task_hub_is_drained,
            message_visibility_seconds=policy.message_visibility_seconds,
            ignore_messages=policy.ignore_messages,
            max_releases=policy.max_releases,
            address_pattern=policy.address_pattern,
            sticky_after_promotion=policy.sticky_after_promotion,
            quiesce_functions=list(policy.quiesce_functions),
            quiesce_order=policy.quiesce_order,
        )


class DeploymentResponse(ResponseModel):
    task_hub: str
    version: str | None
    slot: str | None = Field(description="Null for a release side by side.")
    started_at: Timestamp
    by: str
    run_url: str | None

    @classmethod
    def of(cls, deployment: Deployment | None) -> "DeploymentResponse | None":
        """The open deployment of the app; None if there is none."""
        if deployment is None:
            return None
        return cls(
            task_hub=deployment.task_hub,
            version=deployment.version,
            slot=deployment.slot,
            started_at=format_instant(deployment.started_at),
            by=deployment.started_by,
            run_url=deployment.run_url,
        )


class PendingSwapResponse(ResponseModel):
    task_hub: str = Field(description="The task hub that the swap moves into production.")
    swapped_out: str | None
    slot: str
    started_at: Timestamp
    by: str
    run_url: str | None
    rollback: bool

    @classmethod
    def of(cls, pending: PendingSwap | None) -> "PendingSwapResponse | None":
        """The swap whose outcome was not reported yet; None if there is none."""
        if pending is None:
            return None
        return cls(
            task_hub=pending.task_hub,
            swapped_out=pending.swapped_out,
            slot=pending.slot,
            started_at=format_instant(pending.started_at),
            by=pending.started_by,
            run_url=pending.run_url,
            rollback=pending.rollback,
        )


class RetiredTaskHubResponse(ResponseModel):
    task_hub: str
    version: str | None
    retired_at: Timestamp

    @classmethod
    def of(cls, retired: RetiredHub) -> "RetiredTaskHubResponse":
        """A task hub that no slot or release has any more."""
        return cls(task_hub=retired.task_hub, version=retired.version, retired_at=format_instant(retired.retired_at))


class ProviderConfigResponse(ResponseModel):
    provider: str
    connection: str
    tracking_connection: str | None
    tracking_prefix: str | None

    @classmethod
    def of(cls, config: ProviderConfig | None) -> "ProviderConfigResponse | None":
        """Where the app's task hubs live; None if the app does not say."""
        if config is None:
            return None
        return cls(
            provider=config.provider,
            connection=config.connection,
            tracking_connection=config.tracking_connection,
            tracking_prefix=config.tracking_prefix,
        )


class WaiverResponse(ResponseModel):
    task_hub: str
    instance_id: str | None
    unexplained_messages: int | None = Field(description="Set instead of instanceId if the waiver is for messages.")
    reason: str
    by: str
    created_at: Timestamp
    expires_at: Timestamp

    @classmethod
    def of(cls, waiver: Waiver) -> "WaiverResponse":
        """A waiver, which is either for one instance or for a number of messages."""
        return cls(
            task_hub=waiver.task_hub,
            instance_id=None if waiver.is_for_messages else waiver.instance_id,
            unexplained_messages=waiver.unexplained_messages or None,
            reason=waiver.reason,
            by=waiver.by,
            created_at=format_instant(waiver.created_at),
            expires_at=format_instant(waiver.expires_at),
        )


class AppResponse(ResponseModel):
    app: str
    model: Model
    slots: dict[str, SlotResponse | None]
    policy: PolicyResponse
    task_hubs: ProviderConfigResponse | None
    deployment: DeploymentResponse | None
    pending_swap: PendingSwapResponse | None
    releases: dict[str, ReleaseResponse] = Field(description="The releases that are not removed, by version.")
    removed_releases: list[RemovedReleaseResponse] = Field(description="The last 20 removed releases, newest first.")
    routing: RoutingResponse | None = Field(description="Null for an app with slots.")
    rollout: RolloutResponse | None = Field(description="The last rollout; null if there was none.")
    retired: list[RetiredTaskHubResponse]
    waivers: list[WaiverResponse] = Field(description="The waivers that have not expired.")
    updated_at: Timestamp
    updated_by: str

    @classmethod
    def of(cls, app: App, now: Instant) -> "AppResponse":
        """The app as GetApp shows it, without waivers and deployments that have expired."""
        has_slots = app.model is Model.SLOTS
        return cls(
            app=app.name,
            model=app.model,
            slots={name: SlotResponse.of(slot) for name, slot in app.slots.items()} if has_slots else {},
            policy=PolicyResponse.of(app.policy),
            task_hubs=ProviderConfigResponse.of(app.provider_config),
            deployment=DeploymentResponse.of(app.get_open_deployment(now)),
            pending_swap=PendingSwapResponse.of(app.pending_swap),
            releases={
                version: ReleaseResponse.of(release, app.routing, find_state(release, app.routing))
                for version, release in app.releases.items()
            },
            removed_releases=[RemovedReleaseResponse.of(removed) for removed in app.removed_releases],
            routing=None if has_slots else RoutingResponse.of(app.routing),
            rollout=RolloutResponse.of_app(app, now),
            retired=[RetiredTaskHubResponse.of(retired) for retired in app.retired],
            waivers=[WaiverResponse.of(waiver) for waiver in app.waivers if now < waiver.expires_at],
            updated_at=format_instant(app.updated_at),
            updated_by=app.updated_by,
        )


class AppsResponse(ResponseModel):
    apps: list[AppResponse]
    continuation_token: str | None


class DeletedAppResponse(ResponseModel):
    app: str
    deleted_at: Timestamp
    deleted_by: str

    @classmethod
    def of(cls, app: App) -> "DeletedAppResponse":
        """Who deleted the app, and when: deletion is its last change."""
        return cls(app=app.name, deleted_at=format_instant(app.updated_at), deleted_by=app.updated_by)
