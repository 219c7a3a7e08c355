"""An app: what its slots hold, its policy, and what is under way."""

from pydantic import Field

from state_api.domain.apps import App, Deployment, PendingSwap, Retired, Slot, TaskHubSource
from state_api.domain.exemptions import Waiver
from state_api.domain.instants import Instant, format_instant
from state_api.domain.readiness import Policy
from state_api.http.answers.shapes import Given, Time


class SlotAnswer(Given):
    task_hub: str
    version: str | None
    since: Time
    promoted: bool = Field(description="Whether the task hub has been in production.")
    beneath: list[str] = Field(
        description="Task hubs that were in the slot before, newest first, and are judged with it until this one has "
        "been in production: that a version was staged does not prove that it was deployed."
    )

    @classmethod
    def of(cls, slot: Slot | None) -> "SlotAnswer | None":
        if slot is None:
            return None
        return cls(
            task_hub=slot.task_hub,
            version=slot.version,
            since=format_instant(slot.since),
            promoted=slot.promoted,
            beneath=[one.task_hub for one in slot.beneath],
        )


class RetentionAnswer(Given):
    keep_last: int
    keep_for_hours: int


class PolicyAnswer(Given):
    settle_seconds: int
    freshness_seconds: int
    require_verification: bool
    deployment_timeout_minutes: int
    ignore_functions: list[str]
    retention: RetentionAnswer
    missing_task_hub_is_drained: bool
    message_visibility_seconds: int
    ignore_messages: bool

    @classmethod
    def of(cls, policy: Policy) -> "PolicyAnswer":
        return cls(
            settle_seconds=policy.settle_seconds,
            freshness_seconds=policy.freshness_seconds,
            require_verification=policy.require_verification,
            deployment_timeout_minutes=policy.deployment_timeout_minutes,
            ignore_functions=list(policy.ignore_functions),
            retention=RetentionAnswer(
                keep_last=policy.retention.keep_last, keep_for_hours=policy.retention.keep_for_hours
            ),
            missing_task_hub_is_drained=policy.missing_task_hub_is_drained,
            message_visibility_seconds=policy.message_visibility_seconds,
            ignore_messages=policy.ignore_messages,
        )


class DeploymentAnswer(Given):
    task_hub: str
    version: str | None
    slot: str
    started_at: Time
    by: str
    run_url: str | None

    @classmethod
    def of(cls, deployment: Deployment | None) -> "DeploymentAnswer | None":
        if deployment is None:
            return None
        return cls(
            task_hub=deployment.task_hub,
            version=deployment.version,
            slot=deployment.slot,
            started_at=format_instant(deployment.started_at),
            by=deployment.by,
            run_url=deployment.run_url,
        )


class PendingSwapAnswer(Given):
    task_hub: str = Field(description="On its way into production.")
    swapped_out: str | None
    slot: str
    started_at: Time
    by: str
    run_url: str | None
    rollback: bool

    @classmethod
    def of(cls, pending: PendingSwap | None) -> "PendingSwapAnswer | None":
        if pending is None:
            return None
        return cls(
            task_hub=pending.task_hub,
            swapped_out=pending.swapped_out,
            slot=pending.slot,
            started_at=format_instant(pending.started_at),
            by=pending.by,
            run_url=pending.run_url,
            rollback=pending.rollback,
        )


class RetiredAnswer(Given):
    task_hub: str
    version: str | None
    retired_at: Time

    @classmethod
    def of(cls, retired: Retired) -> "RetiredAnswer":
        return cls(task_hub=retired.task_hub, version=retired.version, retired_at=format_instant(retired.retired_at))


class TaskHubSourceAnswer(Given):
    provider: str
    connection: str
    tracking_connection: str | None
    tracking_prefix: str | None

    @classmethod
    def of(cls, source: TaskHubSource | None) -> "TaskHubSourceAnswer | None":
        if source is None:
            return None
        return cls(
            provider=source.provider,
            connection=source.connection,
            tracking_connection=source.tracking_connection,
            tracking_prefix=source.tracking_prefix,
        )


class WaiverAnswer(Given):
    task_hub: str
    instance_id: str | None
    unexplained_messages: int | None = Field(description="Set in place of instanceId where messages are waived.")
    reason: str
    by: str
    created_at: Time
    expires_at: Time

    @classmethod
    def of(cls, waiver: Waiver) -> "WaiverAnswer":
        return cls(
            task_hub=waiver.task_hub,
            instance_id=None if waiver.of_messages else waiver.instance_id,
            unexplained_messages=waiver.unexplained_messages or None,
            reason=waiver.reason,
            by=waiver.by,
            created_at=format_instant(waiver.created_at),
            expires_at=format_instant(waiver.expires_at),
        )


class AppAnswer(Given):
    app: str
    slots: dict[str, SlotAnswer | None]
    policy: PolicyAnswer
    task_hubs: TaskHubSourceAnswer | None
    deployment: DeploymentAnswer | None
    pending_swap: PendingSwapAnswer | None
    retired: list[RetiredAnswer]
    waivers: list[WaiverAnswer] = Field(description="Those in force.")
    updated_at: Time
    updated_by: str

    @classmethod
    def of(cls, app: App, now: Instant) -> "AppAnswer":
        return cls(
            app=app.name,
            slots={name: SlotAnswer.of(slot) for name, slot in app.slots.items()},
            policy=PolicyAnswer.of(app.policy),
            task_hubs=TaskHubSourceAnswer.of(app.task_hubs),
            deployment=DeploymentAnswer.of(app.open_deployment(now)),
            pending_swap=PendingSwapAnswer.of(app.pending_swap),
            retired=[RetiredAnswer.of(retired) for retired in app.retired],
            waivers=[WaiverAnswer.of(waiver) for waiver in app.waivers if now < waiver.expires_at],
            updated_at=format_instant(app.updated_at),
            updated_by=app.updated_by,
        )


class AppsAnswer(Given):
    apps: list[AppAnswer]
    continuation_token: str | None


class DeletedAppResponse(Given):
    app: str
    deleted_at: Time
    deleted_by: str

    @classmethod
    def of(cls, app: App) -> "DeletedAppResponse":
        return cls(app=app.name, deleted_at=format_instant(app.updated_at), deleted_by=app.updated_by)
