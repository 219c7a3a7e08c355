"""Responses with a verdict and its evidence."""

from typing import Literal

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.domain.readiness.evidence import ActiveInstance, ProbeResult, ProbeStatus
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.reasons import ReasonCode, WarningCode
from state_api.domain.readiness.verdict import Verdict, WaivedInstance
from state_api.domain.releases.side_by_side.releases import ReleaseState
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus
from state_api.http.responses.base import ResponseModel, Timestamp, format_optional_instant
from state_api.http.responses.releases import format_rollback_window
from state_api.services.release_status import AssessedRelease
from state_api.services.slot_status import SlotStatus

MAX_LISTED_INSTANCES = 20
"""Active instances that a verdict lists, the oldest first; ListInstances lists all."""


class ReasonResponse(ResponseModel):
    code: ReasonCode
    message: str


class WarningResponse(ResponseModel):
    code: WarningCode
    message: str


class ActiveInstanceResponse(ResponseModel):
    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    started_at: Timestamp
    last_event_at: Timestamp
    source: EvidenceSource
    version: str | None = Field(description="The orchestration version, if a probe has read it.")

    @classmethod
    def of(cls, active: ActiveInstance) -> "ActiveInstanceResponse":
        """An instance that has started and not ended."""
        return cls(
            instance_id=active.instance_id,
            function_name=active.function_name,
            runtime_status=active.runtime_status,
            started_at=format_instant(active.started_at),
            last_event_at=format_instant(active.last_event_at),
            source=active.source,
            version=active.version,
        )


class WaivedInstanceResponse(ActiveInstanceResponse):
    reason: str
    by: str
    expires_at: Timestamp

    @classmethod
    def of_waived(cls, waived: WaivedInstance) -> "WaivedInstanceResponse":
        """An active instance that does not block, with the waiver that says so."""
        waiver = waived.waiver
        return cls(
            **ActiveInstanceResponse.of(waived.active).model_dump(),
            reason=waiver.reason,
            by=waiver.by,
            expires_at=format_instant(waiver.expires_at),
        )


class PendingStartResponse(ResponseModel):
    instance_id: str = Field(description="Empty if the message cannot be read.")
    function_name: str = Field(description="Empty if the message does not contain it.")


class MessagesResponse(ResponseModel):
    visible: int
    invisible: int
    explained: int = Field(description="Invisible messages that start no work, such as timers of ended instances.")
    starts: list[PendingStartResponse] = Field(description="Visible messages that start work and block, at most 20.")
    checked_at: Timestamp

    @classmethod
    def of(cls, messages: MessageEvidence | None) -> "MessagesResponse | None":
        """What a probe saw in the control queues; None if it did not look."""
        if messages is None:
            return None
        return cls(
            visible=messages.visible,
            invisible=messages.invisible,
            explained=messages.explained,
            starts=[
                PendingStartResponse(instance_id=start.instance_id, function_name=start.function_name)
                for start in messages.starts
            ],
            checked_at=format_instant(messages.checked_at),
        )


class ProbeResponse(ResponseModel):
    status: ProbeStatus
    provider: str
    began_at: Timestamp = Field(
        description="When the probe began. A complete probe shows what was active at this time."
    )
    ended_at: Timestamp | None
    active_count: int = Field(description="All active instances, including those that are ignored or waived.")
    scanned: int = Field(description="Instances that the provider returned.")
    message: str | None = Field(description="Why the probe is not complete, or how far it is.")
    messages: MessagesResponse | None = Field(
        description="The messages in the control queues; null if the probe did not read them."
    )

    @classmethod
    def of(cls, probe: ProbeResult | None) -> "ProbeResponse | None":
        """The read of the task hub that the verdict rests on; None if there was none."""
        if probe is None:
            return None
        return cls(
            status=probe.status,
            provider=probe.provider,
            began_at=format_instant(probe.began_at),
            ended_at=format_optional_instant(probe.ended_at),
            active_count=probe.active_count,
            scanned=probe.scanned,
            message=probe.message or None,
            messages=MessagesResponse.of(probe.messages),
        )


class EvidenceResponse(ResponseModel):
    last_event_at: Timestamp | None
    last_recorded_at: Timestamp | None
    probe: ProbeResponse | None


class _SlotResponse(ResponseModel):
    """The subject of a verdict on a slot. Its members come first in the JSON."""

    app: str
    slot: str
    task_hub: str | None
    version: str | None


class _ReleaseResponse(ResponseModel):
    """The subject of a verdict on a release. Its members come first in the JSON."""

    app: str
    version: str
    task_hub: str
    state: ReleaseState
    traffic: int = Field(description="The percents of the requests that the release gets.")
    kept: bool = Field(description="Whether the policy's retention keeps it without traffic, for a rollback.")
    kept_until: Timestamp | None = Field(description="Until when; null if it is not kept, or if keepLast keeps it.")


class _AssessmentResponse(ResponseModel):
    """What every verdict says, about a slot or a release."""

    status: Literal["Ready", "NotReady"]
    ready: bool
    has_running: bool
    assurance: Assurance
    reasons: list[ReasonResponse]
    warnings: list[WarningResponse] = Field(description="Limits of the evidence. A warning does not block.")
    active_count: int
    active_count_is_lower_bound: bool
    active: list[ActiveInstanceResponse] = Field(description=f"The oldest {MAX_LISTED_INSTANCES} active instances.")
    ignored_count: int = Field(description="Active instances that the policy ignores (ignoreFunctions).")
    waived: list[WaivedInstanceResponse] = Field(description="Active instances that would block without their waivers.")
    evidence: EvidenceResponse
    checked_at: Timestamp
    retry_after_seconds: int | None

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> "_AssessmentResponse":
        """The members that the verdicts on slots and on releases have in common."""
        evidence = verdict.evidence
        return _AssessmentResponse(
            status="Ready" if verdict.ready else "NotReady",
            ready=verdict.ready,
            has_running=verdict.has_running,
            assurance=verdict.assurance,
            reasons=[ReasonResponse(code=reason.code, message=reason.message) for reason in verdict.reasons],
            warnings=[WarningResponse(code=warning.code, message=warning.message) for warning in verdict.warnings],
            active_count=verdict.active_count,
            active_count_is_lower_bound=verdict.active_count_is_lower_bound,
            active=[ActiveInstanceResponse.of(active) for active in verdict.active[:MAX_LISTED_INSTANCES]],
            ignored_count=verdict.ignored_count,
            waived=[WaivedInstanceResponse.of_waived(waived) for waived in verdict.waived],
            evidence=EvidenceResponse(
                last_event_at=format_optional_instant(evidence.activity.last_event_at),
                last_recorded_at=format_optional_instant(evidence.activity.last_recorded_at),
                probe=ProbeResponse.of(evidence.probe),
            ),
            checked_at=format_instant(verdict.checked_at),
            retry_after_seconds=verdict.retry_after_seconds,
        )


class VerdictResponse(_AssessmentResponse, _SlotResponse):
    """The verdict on a slot."""

    @classmethod
    def of(cls, status: SlotStatus) -> "VerdictResponse":
        """The verdict on a slot: may it be overwritten?"""
        return cls(
            **dict(_AssessmentResponse.of_verdict(status.verdict)),
            app=status.app.name,
            slot=status.slot_name,
            task_hub=status.slot.task_hub if status.slot else None,
            version=status.slot.version if status.slot else None,
        )


class ReleaseVerdictResponse(_AssessmentResponse, _ReleaseResponse):
    """The verdict on a release."""

    @classmethod
    def of(cls, status: AssessedRelease) -> "ReleaseVerdictResponse":
        """The verdict on a release: may it be removed?"""
        return cls(
            **dict(_AssessmentResponse.of_verdict(status.verdict)),
            app=status.app.name,
            version=status.release.version,
            task_hub=status.release.task_hub,
            state=status.state,
            traffic=status.app.routing.share_of(status.release.version),
            **format_rollback_window(status.window),
        )
