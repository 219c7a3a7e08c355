"""A verdict, and the evidence behind it."""

from typing import Literal

from pydantic import Field

from state_api.domain.evidence import ActiveInstance, ProbeResult, ProbeStatus
from state_api.domain.instants import format_instant
from state_api.domain.lifecycle import RuntimeStatus, Source
from state_api.domain.messages import MessageEvidence
from state_api.domain.readiness import Assurance, Reason, VerdictWarning, Waived
from state_api.http.answers.shapes import Given, Time, time_or_none
from state_api.services.readiness import SlotStatus

LISTED_ACTIVE = 20
"""Active instances that a verdict lists, the oldest first; ListInstances lists all."""


class ReasonAnswer(Given):
    code: Reason
    message: str


class WarningResponse(Given):
    code: VerdictWarning
    message: str


class ActiveAnswer(Given):
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
            started_at=format_instant(active.started_at),
            last_event_at=format_instant(active.last_event_at),
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
            expires_at=format_instant(waiver.expires_at),
        )


class StartResponse(Given):
    instance_id: str = Field(description="Empty where the message cannot be read.")
    function_name: str = Field(description="Empty where the message does not say it.")


class MessagesResponse(Given):
    visible: int
    invisible: int
    explained: int = Field(description="Invisible messages that start nothing, such as timers of ended instances.")
    starts: list[StartResponse] = Field(description="Messages that start work and block, at most 20.")
    checked_at: Time

    @classmethod
    def of(cls, messages: MessageEvidence | None) -> "MessagesResponse | None":
        if messages is None:
            return None
        return cls(
            visible=messages.visible,
            invisible=messages.invisible,
            explained=messages.explained,
            starts=[
                StartResponse(instance_id=start.instance_id, function_name=start.function_name)
                for start in messages.starts
            ],
            checked_at=format_instant(messages.checked_at),
        )


class ProbeAnswer(Given):
    status: ProbeStatus
    provider: str
    checked_at: Time = Field(description="When it began: a complete one says what was active then.")
    ended_at: Time | None
    active: int = Field(description="Everything active, also what the policy leaves out.")
    scanned: int = Field(description="Instances that the provider handed over to be judged.")
    message: str | None = Field(description="What stands in the way, or how far it came.")
    messages: MessagesResponse | None = Field(description="The control queues; null where nobody looked at them.")

    @classmethod
    def of(cls, probe: ProbeResult | None) -> "ProbeAnswer | None":
        if probe is None:
            return None
        return cls(
            status=probe.status,
            provider=probe.provider,
            checked_at=format_instant(probe.began_at),
            ended_at=time_or_none(probe.ended_at),
            active=probe.active_count,
            scanned=probe.scanned,
            message=probe.message or None,
            messages=MessagesResponse.of(probe.messages),
        )


class EvidenceAnswer(Given):
    last_event_at: Time | None
    last_recorded_at: Time | None
    probe: ProbeAnswer | None


class VerdictAnswer(Given):
    app: str
    slot: str
    status: Literal["Ready", "NotReady"]
    ready: bool
    has_running: bool
    task_hub: str | None
    version: str | None
    assurance: Assurance
    reasons: list[ReasonAnswer]
    warnings: list[WarningResponse] = Field(description="What the verdict cannot know. A warning does not block.")
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
            warnings=[WarningResponse(code=warning.code, message=warning.message) for warning in verdict.warnings],
            active_count=verdict.active_count,
            active_count_is_lower_bound=verdict.active_count_is_lower_bound,
            active=[ActiveAnswer.of(active) for active in verdict.active[:LISTED_ACTIVE]],
            ignored_count=verdict.ignored_count,
            waived=[WaivedAnswer.of_waived(waived) for waived in verdict.waived],
            evidence=EvidenceAnswer(
                last_event_at=time_or_none(evidence.activity.last_event_at),
                last_recorded_at=time_or_none(evidence.activity.last_recorded_at),
                probe=ProbeAnswer.of(evidence.probe),
            ),
            checked_at=format_instant(verdict.checked_at),
            retry_after_seconds=verdict.retry_after_seconds,
        )
