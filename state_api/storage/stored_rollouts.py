"""The rollout of an app as stored JSON. It is a member of a stored app."""

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState, Step
from state_api.storage.stored_json import StoredModel, format_optional_instant, parse_optional_instant


class StoredStep(StoredModel):
    weight: int
    minutes: float


class StoredAnalysis(StoredModel):
    tolerated_ratio: float
    confidence: float
    minimum_finished: int
    maximum_active_age_minutes: int | None
    on_unhealthy: str
    on_undecided: str

    @classmethod
    def from_domain(cls, analysis: Analysis) -> "StoredAnalysis":
        return cls(
            tolerated_ratio=analysis.tolerated_ratio,
            confidence=analysis.confidence,
            minimum_finished=analysis.minimum_finished,
            maximum_active_age_minutes=analysis.maximum_active_age_minutes,
            on_unhealthy=analysis.on_unhealthy.value,
            on_undecided=analysis.on_undecided.value,
        )

    def to_domain(self) -> Analysis:
        return Analysis(
            tolerated_ratio=self.tolerated_ratio,
            confidence=self.confidence,
            minimum_finished=self.minimum_finished,
            maximum_active_age_minutes=self.maximum_active_age_minutes,
            on_unhealthy=OnUnhealthy(self.on_unhealthy),
            on_undecided=OnUndecided(self.on_undecided),
        )


class StoredDecision(StoredModel):
    at: str
    action: str
    code: str
    message: str

    @classmethod
    def from_domain(cls, decision: Decision) -> "StoredDecision":
        return cls(
            at=format_instant(decision.at),
            action=decision.action.value,
            code=decision.code,
            message=decision.message,
        )

    def to_domain(self) -> Decision:
        return Decision(parse_instant(self.at), DecisionAction(self.action), self.code, self.message)


class StoredRollout(StoredModel):
    candidate: str
    baseline: str
    candidate_hub: str
    baseline_hub: str
    candidate_version: str | None
    steps: tuple[StoredStep, ...]
    analysis: StoredAnalysis
    state: str
    step_index: int
    weight: int
    confirmed_at: str | None
    started_at: str
    started_by: str
    run_url: str | None
    run_id: str
    share_changes: tuple[str, ...]
    cleared_at: str | None
    last_decision: StoredDecision | None

    @classmethod
    def from_domain(cls, rollout: Rollout) -> "StoredRollout":
        return cls(
            candidate=rollout.candidate,
            baseline=rollout.baseline,
            candidate_hub=rollout.candidate_hub,
            baseline_hub=rollout.baseline_hub,
            candidate_version=rollout.candidate_version,
            steps=tuple(StoredStep(weight=step.weight, minutes=step.minutes) for step in rollout.steps),
            analysis=StoredAnalysis.from_domain(rollout.analysis),
            state=rollout.state.value,
            step_index=rollout.step_index,
            weight=rollout.weight,
            confirmed_at=format_optional_instant(rollout.confirmed_at),
            started_at=format_instant(rollout.started_at),
            started_by=rollout.started_by,
            run_url=rollout.run_url,
            run_id=rollout.run_id,
            share_changes=tuple(map(format_instant, rollout.share_changes)),
            cleared_at=format_optional_instant(rollout.cleared_at),
            last_decision=StoredDecision.from_domain(rollout.last_decision) if rollout.last_decision else None,
        )

    def to_domain(self) -> Rollout:
        return Rollout(
            candidate=self.candidate,
            baseline=self.baseline,
            candidate_hub=self.candidate_hub,
            baseline_hub=self.baseline_hub,
            candidate_version=self.candidate_version,
            steps=tuple(Step(step.weight, step.minutes) for step in self.steps),
            analysis=self.analysis.to_domain(),
            state=RolloutState(self.state),
            step_index=self.step_index,
            weight=self.weight,
            confirmed_at=parse_optional_instant(self.confirmed_at),
            started_at=parse_instant(self.started_at),
            started_by=self.started_by,
            run_url=self.run_url,
            run_id=self.run_id,
            share_changes=tuple(map(parse_instant, self.share_changes)),
            cleared_at=parse_optional_instant(self.cleared_at),
            last_decision=self.last_decision.to_domain() if self.last_decision else None,
        )
