"""The JSON that the server answers: the one place where the domain becomes JSON over HTTP."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from state_api.domain.apps import App, Deployment, PendingSwap, Retired, Slot, TaskHubSource
from state_api.domain.evidence import ActiveInstance, ProbeResult, ProbeStatus
from state_api.domain.exemptions import Waiver
from state_api.domain.instants import Instant, format_instant
from state_api.domain.lifecycle import Instance, RuntimeStatus, Source
from state_api.domain.readiness import Assurance, Policy, Reason, Waived
from state_api.services.cleanup import CleanedUp, Outcome
from state_api.services.inspection import TaskHubStatus
from state_api.services.ports import AuditRecord, Quarantined
from state_api.services.readiness import SlotStatus
from state_api.services.recording import Recorded

LISTED_ACTIVE = 20
"""Active instances that a verdict lists, the oldest first; ListInstances lists all."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339 in UTC.")]


class _Given(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


def _time(instant: Instant) -> str:
    return format_instant(instant)


def _time_or_none(instant: Instant | None) -> str | None:
    return None if instant is None else format_instant(instant)


class SlotAnswer(_Given):
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
            since=_time(slot.since),
            promoted=slot.promoted,
            beneath=[one.task_hub for one in slot.beneath],
        )


class RetentionAnswer(_Given):
    keep_last: int
    keep_for_hours: int


class PolicyAnswer(_Given):
    settle_seconds: int
    freshness_seconds: int
    require_verification: bool
    deployment_timeout_minutes: int
    ignore_functions: list[str]
    retention: RetentionAnswer
    missing_task_hub_is_drained: bool

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
        )


class DeploymentAnswer(_Given):
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
            started_at=_time(deployment.started_at),
            by=deployment.by,
            run_url=deployment.run_url,
        )


class PendingSwapAnswer(_Given):
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
            started_at=_time(pending.started_at),
            by=pending.by,
            run_url=pending.run_url,
            rollback=pending.rollback,
        )


class RetiredAnswer(_Given):
    task_hub: str
    version: str | None
    retired_at: Time

    @classmethod
    def of(cls, retired: Retired) -> "RetiredAnswer":
        return cls(task_hub=retired.task_hub, version=retired.version, retired_at=_time(retired.retired_at))


class TaskHubSourceAnswer(_Given):
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


class WaiverAnswer(_Given):
    task_hub: str
    instance_id: str
    reason: str
    by: str
    created_at: Time
    expires_at: Time

    @classmethod
    def of(cls, waiver: Waiver) -> "WaiverAnswer":
        return cls(
            task_hub=waiver.task_hub,
            instance_id=waiver.instance_id,
            reason=waiver.reason,
            by=waiver.by,
            created_at=_time(waiver.created_at),
            expires_at=_time(waiver.expires_at),
        )


class AppAnswer(_Given):
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
            updated_at=_time(app.updated_at),
            updated_by=app.updated_by,
        )


class AppsAnswer(_Given):
    apps: list[AppAnswer]
    continuation_token: str | None


class ReasonAnswer(_Given):
    code: Reason
    message: str


class ActiveAnswer(_Given):
    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    started_at: Time
    last_event_at: Time
    source: Source
    version: str | None = Field(description="The orchestration version, where a probe has seen it.")

    @classmethod
    def of(cls, active: ActiveInstance) -> "ActiveAnswer":
        return cls(
            instance_id=active.instance_id,
            function_name=active.function_name,
            runtime_status=active.runtime_status,
            started_at=_time(active.started_at),
            last_event_at=_time(active.last_event_at),
            source=active.source,
            version=active.version,
        )


class WaivedAnswer(ActiveAnswer):
    reason: str
    by: str
    expires_at: Time

    @classmethod
    def of_waived(cls, waived: Waived) -> "WaivedAnswer":
        waiver = waived.waiver
        return cls(
            **ActiveAnswer.of(waived.active).model_dump(),
            reason=waiver.reason,
            by=waiver.by,
            expires_at=_time(waiver.expires_at),
        )


class ProbeAnswer(_Given):
    status: ProbeStatus
    provider: str
    checked_at: Time = Field(description="When it began: a complete one says what was active then.")
    ended_at: Time | None
    active: int = Field(description="Everything active, also what the policy leaves out.")
    scanned: int = Field(description="Instances that the provider handed over to be judged.")
    message: str | None = Field(description="What stands in the way, or how far it came.")

    @classmethod
    def of(cls, probe: ProbeResult | None) -> "ProbeAnswer | None":
        if probe is None:
            return None
        return cls(
            status=probe.status,
            provider=probe.provider,
            checked_at=_time(probe.began_at),
            ended_at=_time_or_none(probe.ended_at),
            active=probe.active_count,
            scanned=probe.scanned,
            message=probe.message or None,
        )


class EvidenceAnswer(_Given):
    last_event_at: Time | None
    last_recorded_at: Time | None
    probe: ProbeAnswer | None


class VerdictAnswer(_Given):
    app: str
    slot: str
    status: Literal["Ready", "NotReady"]
    ready: bool
    has_running: bool
    task_hub: str | None
    version: str | None
    assurance: Assurance
    reasons: list[ReasonAnswer]
    active_count: int
    active_count_is_lower_bound: bool
    active: list[ActiveAnswer] = Field(description=f"The oldest {LISTED_ACTIVE}.")
    ignored_count: int = Field(description="Active instances that the policy's ignoreFunctions leaves out.")
    waived: list[WaivedAnswer] = Field(description="Active instances that would block, were they not waived.")
    evidence: EvidenceAnswer
    checked_at: Time
    retry_after_seconds: int | None

    @classmethod
    def of(cls, status: SlotStatus) -> "VerdictAnswer":
        verdict, evidence = status.verdict, status.verdict.evidence
        return cls(
            app=status.app.name,
            slot=status.slot,
            status="Ready" if verdict.ready else "NotReady",
            ready=verdict.ready,
            has_running=verdict.has_running,
            task_hub=status.content.task_hub if status.content else None,
            version=status.content.version if status.content else None,
            assurance=verdict.assurance,
            reasons=[ReasonAnswer(code=reason.code, message=reason.message) for reason in verdict.reasons],
            active_count=verdict.active_count,
            active_count_is_lower_bound=verdict.active_count_is_lower_bound,
            active=[ActiveAnswer.of(active) for active in verdict.active[:LISTED_ACTIVE]],
            ignored_count=verdict.ignored_count,
            waived=[WaivedAnswer.of_waived(waived) for waived in verdict.waived],
            evidence=EvidenceAnswer(
                last_event_at=_time_or_none(evidence.activity.last_event_at),
                last_recorded_at=_time_or_none(evidence.activity.last_recorded_at),
                probe=ProbeAnswer.of(evidence.probe),
            ),
            checked_at=_time(verdict.checked_at),
            retry_after_seconds=verdict.retry_after_seconds,
        )


class CleanedUpAnswer(_Given):
    task_hub: str
    version: str | None
    retired_at: Time
    outcome: Outcome
    reasons: list[ReasonAnswer]
    artifacts: list[str] = Field(description="What was, or with dryRun would be, deleted at the provider.")
    shared: list[str] = Field(description="What stays at the provider because other task hubs use it.")
    message: str | None

    @classmethod
    def of(cls, done: CleanedUp) -> "CleanedUpAnswer":
        return cls(
            task_hub=done.hub.task_hub,
            version=done.hub.version,
            retired_at=_time(done.hub.retired_at),
            outcome=done.outcome,
            reasons=[ReasonAnswer(code=reason.code, message=reason.message) for reason in done.reasons],
            artifacts=list(done.artifacts),
            shared=list(done.shared),
            message=done.message,
        )


class CleanupAnswer(_Given):
    app: AppAnswer
    dry_run: bool
    task_hubs: list[CleanedUpAnswer]


class AuditAnswer(_Given):
    revision: int
    at: Time
    operation: str
    by: str
    run_url: str | None
    key_name: str | None
    reason: str | None
    details: dict[str, Any]

    @classmethod
    def of(cls, audit: AuditRecord) -> "AuditAnswer":
        return cls(
            revision=audit.revision,
            at=_time(audit.at),
            operation=audit.operation,
            by=audit.by,
            run_url=audit.run_url,
            key_name=audit.key_name,
            reason=audit.reason,
            details=dict(audit.details),
        )


class HistoryAnswer(_Given):
    app: str
    history: list[AuditAnswer]
    continuation_token: str | None


class TaskHubAnswer(_Given):
    task_hub: str
    app: str | None = Field(description="The app that has claimed the hub.")
    slot: str | None = Field(description="The slot that holds it now.")
    closed: bool = Field(description="Cleaned up: its records are gone and no more are made.")
    active_count: int
    active_count_is_lower_bound: bool
    last_event_at: Time | None
    last_recorded_at: Time | None
    active: list[ActiveAnswer] = Field(description=f"The oldest {LISTED_ACTIVE}; ListInstances lists all.")

    @classmethod
    def of(cls, status: TaskHubStatus) -> "TaskHubAnswer":
        activity = status.activity
        return cls(
            task_hub=status.hub.name,
            app=status.hub.app,
            slot=status.slot,
            closed=status.hub.closed,
            active_count=len(activity.active),
            active_count_is_lower_bound=activity.more,
            last_event_at=_time_or_none(activity.last_event_at),
            last_recorded_at=_time_or_none(activity.last_recorded_at),
            active=[ActiveAnswer.of(active) for active in activity.active[:LISTED_ACTIVE]],
        )


class VersionAnswer(_Given):
    version: str | None = Field(description="The orchestration version; null for instances without one.")
    active_count: int
    oldest_started_at: Time


class VersionsAnswer(_Given):
    task_hub: str
    complete: bool = Field(description="Whether the whole task hub was read; if not, there may be more.")
    versions: list[VersionAnswer]
    probe: ProbeAnswer

    @classmethod
    def of(cls, hub: str, probe: ProbeResult) -> "VersionsAnswer":
        shown = ProbeAnswer.of(probe)
        assert shown is not None, "there is a probe"
        return cls(
            task_hub=hub,
            complete=probe.status is ProbeStatus.COMPLETE,
            versions=[
                VersionAnswer(
                    version=one.version, active_count=one.active, oldest_started_at=_time(one.oldest_started_at)
                )
                for one in probe.versions
            ],
            probe=shown,
        )


class InstanceAnswer(_Given):
    instance_id: str
    function_name: str
    active: bool
    runtime_status: RuntimeStatus
    started_at: Time | None
    finished_at: Time | None
    outcome: RuntimeStatus | None
    reason: str | None
    last_event_at: Time
    source: Source

    @classmethod
    def of(cls, instance: Instance) -> "InstanceAnswer":
        started, finished = instance.started, instance.finished
        return cls(
            instance_id=instance.instance_id,
            function_name=instance.function_name,
            active=instance.active,
            runtime_status=instance.runtime_status,
            started_at=_time_or_none(started.at if started else None),
            finished_at=_time_or_none(finished.at if finished else None),
            outcome=finished.outcome if finished else None,
            reason=finished.reason if finished else None,
            last_event_at=_time(instance.last_event_at),
            source=instance.source,
        )


class InstancesAnswer(_Given):
    task_hub: str
    instances: list[InstanceAnswer]
    continuation_token: str | None


class RecordedAnswer(_Given):
    recorded: int = Field(description="Events that changed something.")
    unchanged: int = Field(description="Events that added nothing: duplicates and older ones.")
    quarantined: int = Field(description="Events that could not be understood; ListQuarantine shows them.")

    @classmethod
    def of(cls, recorded: Recorded) -> "RecordedAnswer":
        return cls(recorded=recorded.recorded, unchanged=recorded.unchanged, quarantined=recorded.quarantined)


class QuarantinedAnswer(_Given):
    received_at: Time
    code: str
    message: str
    source: Literal["webhook", "trigger"]
    event: str = Field(description="What came in, as JSON text.")
    truncated: bool

    @classmethod
    def of(cls, quarantined: Quarantined) -> "QuarantinedAnswer":
        return cls(
            received_at=_time(quarantined.received_at),
            code=quarantined.code,
            message=quarantined.message,
            source="trigger" if quarantined.source == "trigger" else "webhook",
            event=quarantined.event,
            truncated=quarantined.truncated,
        )


class QuarantineAnswer(_Given):
    events: list[QuarantinedAnswer]
    continuation_token: str | None


class HealthAnswer(_Given):
    status: Literal["Healthy", "Ready"]
