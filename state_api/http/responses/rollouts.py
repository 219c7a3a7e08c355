"""Responses with a rollout, and with the health of a candidate."""

from typing import Literal

from pydantic import Field

from state_api.domain.instants import Instant, format_instant
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.comparison import ComparedSide
from state_api.domain.rollouts.health import HealthCode, HealthStatus, SideHealth
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState
from state_api.domain.rollouts.waits import Wait, WaitCode, find_wait
from state_api.http.responses.base import ResponseModel, Timestamp, format_optional_instant
from state_api.services.rollout_health import HealthReport


class StepResponse(ResponseModel):
    weight: int
    minutes: float


class AnalysisResponse(ResponseModel):
    tolerated_ratio: float
    confidence: float
    minimum_finished: int
    maximum_active_age_minutes: int | None
    on_unhealthy: OnUnhealthy
    on_undecided: OnUndecided

    @classmethod
    def of(cls, analysis: Analysis) -> "AnalysisResponse":
        """By what the candidate is judged."""
        return cls(
            tolerated_ratio=analysis.tolerated_ratio,
            confidence=analysis.confidence,
            minimum_finished=analysis.minimum_finished,
            maximum_active_age_minutes=analysis.maximum_active_age_minutes,
            on_unhealthy=analysis.on_unhealthy,
            on_undecided=analysis.on_undecided,
        )


class WaitResponse(ResponseModel):
    code: WaitCode
    message: str
    until: Timestamp | None = Field(description="Null if time alone does not end the wait.")

    @classmethod
    def of(cls, wait: Wait | None) -> "WaitResponse | None":
        """What the rollout waits for; None once it has ended."""
        if wait is None:
            return None
        return cls(code=wait.code, message=wait.message, until=format_optional_instant(wait.until))


class DecisionResponse(ResponseModel):
    at: Timestamp
    action: DecisionAction
    code: str = Field(description="The code of the health that decided, or why nothing else did.")
    message: str

    @classmethod
    def of(cls, decision: Decision | None) -> "DecisionResponse | None":
        """What has changed the rollout last; None since its beginning."""
        if decision is None:
            return None
        return cls(at=format_instant(decision.at), action=decision.action, code=decision.code, message=decision.message)


class RolloutResponse(ResponseModel):
    app: str
    model: Model
    candidate: str = Field(description="A version, or the name of a slot.")
    baseline: str
    candidate_task_hub: str
    baseline_task_hub: str
    candidate_version: str | None
    state: RolloutState
    step: int = Field(description="Counts from 1.")
    steps: list[StepResponse]
    weight: int = Field(description="The percentage that the candidate shall have now.")
    confirmed: bool = Field(description="Whether it is known to have it.")
    step_ends_at: Timestamp | None = Field(description="When the minutes of the step are over; null if none count.")
    analysis: AnalysisResponse
    started_at: Timestamp
    started_by: str
    run_url: str | None
    traffic_until: Timestamp | None = Field(description="Slots: until when visitors may still come once 0 % is set.")
    waits_for: WaitResponse | None = Field(description="Null once the rollout has ended and no visitor may come.")
    last_decision: DecisionResponse | None
    revision: int = Field(description="The revision of the app, which is the ETag.")

    @classmethod
    def of(cls, app: App, rollout: Rollout, now: Instant) -> "RolloutResponse":
        """The last rollout of the app."""
        return cls(
            app=app.name,
            model=app.model,
            candidate=rollout.candidate,
            baseline=rollout.baseline,
            candidate_task_hub=rollout.candidate_hub,
            baseline_task_hub=rollout.baseline_hub,
            candidate_version=rollout.candidate_version,
            state=rollout.state,
            step=rollout.step_index + 1,
            steps=[StepResponse(weight=step.weight, minutes=step.minutes) for step in rollout.steps],
            weight=rollout.weight,
            confirmed=rollout.confirmed_at is not None,
            step_ends_at=format_optional_instant(rollout.step_ends_at),
            analysis=AnalysisResponse.of(rollout.analysis),
            started_at=format_instant(rollout.started_at),
            started_by=rollout.started_by,
            run_url=rollout.run_url,
            traffic_until=format_optional_instant(rollout.traffic_until),
            waits_for=WaitResponse.of(find_wait(rollout, now)),
            last_decision=DecisionResponse.of(rollout.last_decision),
            revision=app.revision,
        )

    @classmethod
    def of_app(cls, app: App, now: Instant) -> "RolloutResponse | None":
        """The last rollout of the app; None if it never had one."""
        return None if app.rollout is None else cls.of(app, app.rollout, now)


class DecidedByResponse(ResponseModel):
    code: HealthCode
    message: str


class IntervalResponse(ResponseModel):
    low: float
    high: float


class DurationsResponse(ResponseModel):
    median_seconds: float
    p95_seconds: float


class SideResponse(ResponseModel):
    name: str
    task_hub: str
    started: int
    finished: int
    failed: int
    terminated: int
    canceled: int
    active: int
    rate: float | None = Field(description="Failed of finished instances; null while none has finished.")
    interval: IntervalResponse | None = Field(description="The Wilson score interval of the rate.")
    durations: DurationsResponse | None = Field(description="Of the instances that have finished.")

    @classmethod
    def of(cls, side: ComparedSide, health: SideHealth) -> "SideResponse":
        """What became of the instances of one version that started since the comparison began."""
        interval, durations = health.interval, health.durations
        return cls(
            name=side.name,
            task_hub=side.task_hub,
            started=health.started,
            finished=health.finished,
            failed=health.failed,
            terminated=health.terminated,
            canceled=health.canceled,
            active=health.active,
            rate=health.rate,
            interval=None if interval is None else IntervalResponse(low=interval.low, high=interval.high),
            durations=None
            if durations is None
            else DurationsResponse(median_seconds=durations.median_seconds, p95_seconds=durations.p95_seconds),
        )


class SharesResponse(ResponseModel):
    configured: int | None = Field(description="The percentage that the candidate shall have; null if unknown.")
    observed: float | None = Field(description="Its percentage of the starts since the share last changed.")


class HealthEvidenceResponse(ResponseModel):
    unhealthy: float = Field(description="The evidence that the candidate fails more often than tolerated.")
    healthy: float = Field(description="The evidence against that.")
    threshold: float = Field(description="The evidence that decides.")
    tolerated_ratio: float
    confidence: float


class OldestActiveResponse(ResponseModel):
    instance_id: str
    function_name: str
    started_at: Timestamp

    @classmethod
    def of(cls, instance: ActiveInstance | None) -> "OldestActiveResponse | None":
        """The candidate's oldest active instance; None without one."""
        if instance is None:
            return None
        return cls(
            instance_id=instance.instance_id,
            function_name=instance.function_name,
            started_at=format_instant(instance.started_at),
        )


class HealthWarningResponse(ResponseModel):
    code: Literal["TaskHubUnread", "EventsOnly"]
    message: str


class RolloutHealthResponse(ResponseModel):
    app: str
    status: HealthStatus
    decided_by: DecidedByResponse
    since: Timestamp = Field(description="When the comparison begins: only instances that started later count.")
    assessed_at: Timestamp
    candidate: SideResponse
    baseline: SideResponse
    shares: SharesResponse
    evidence: HealthEvidenceResponse
    oldest_active: OldestActiveResponse | None
    warnings: list[HealthWarningResponse] = Field(description="Why ends may be missing.")

    @classmethod
    def of(cls, report: HealthReport) -> "RolloutHealthResponse":
        """Whether the candidate fails more often than the baseline."""
        health, comparison = report.health, report.comparison
        warnings = [HealthWarningResponse(code="TaskHubUnread", message=message) for message in report.read_failures]
        if report.app.provider_config is None:
            warnings.append(
                HealthWarningResponse(
                    code="EventsOnly",
                    message=f"app {report.app.name} does not say where its task hubs live, so ends that events have "
                    "lost are missing: set taskHubs with PutApp",
                )
            )
        return cls(
            app=report.app.name,
            status=health.status,
            decided_by=DecidedByResponse(code=health.decided_by.code, message=health.decided_by.message),
            since=format_instant(comparison.since),
            assessed_at=format_instant(report.assessed_at),
            candidate=SideResponse.of(comparison.candidate, health.candidate),
            baseline=SideResponse.of(comparison.baseline, health.baseline),
            shares=SharesResponse(configured=health.configured_share, observed=health.observed_share),
            evidence=HealthEvidenceResponse(
                unhealthy=health.evidence.unhealthy,
                healthy=health.evidence.healthy,
                threshold=health.evidence.threshold,
                tolerated_ratio=comparison.analysis.tolerated_ratio,
                confidence=comparison.analysis.confidence,
            ),
            oldest_active=OldestActiveResponse.of(report.oldest_active),
            warnings=warnings,
        )
