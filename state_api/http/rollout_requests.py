"""The JSON bodies of requests on gradual rollouts."""

from typing import Annotated, Literal

from pydantic import Field

from state_api.domain.errors import InvalidRequest
from state_api.domain.releases.apps import Caller
from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.commands import ChangeRolloutCommand, ConfirmWeightCommand, StartRolloutCommand
from state_api.domain.rollouts.rollouts import MAX_STEP_MINUTES, MAX_STEPS, Step
from state_api.domain.task_hubs.timeline import TIMELINE_MINUTES
from state_api.http.requests import ReasonText, ReleaseVersion, RequestModel, SlotName

RolloutActionName = Literal["pause", "resume", "abort", "finish", "advance", "confirm"]


_DEFAULT = Analysis()

_MAX_ACTIVE_AGE_MINUTES = TIMELINE_MINUTES - 60
"""A comparison reaches no further back than the timeline, so an instance must be too old some time before that."""


class StepRequest(RequestModel):
    weight: Annotated[int, Field(ge=1, le=99)] = Field(description="The percentage of the requests. It grows.")
    minutes: Annotated[float, Field(gt=0, le=MAX_STEP_MINUTES)] = Field(
        description="How long the candidate has this share before it may get more."
    )


class AnalysisRequest(RequestModel):
    """By what a candidate is judged. Omitted members have their defaults."""

    tolerated_ratio: Annotated[float, Field(ge=1, le=10)] = Field(
        default=_DEFAULT.tolerated_ratio,
        description="How many times the failure rate of the baseline is healthy. At 1, any increase is not.",
    )
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = Field(
        default=_DEFAULT.confidence, description="One minus the tolerated probability of a false alarm."
    )
    minimum_finished: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=_DEFAULT.minimum_finished, description="Instances that a healthy candidate has finished at least."
    )
    maximum_active_age_minutes: Annotated[int, Field(ge=1, le=_MAX_ACTIVE_AGE_MINUTES)] | None = Field(
        default=None, description="A candidate with an instance that is active for longer is unhealthy."
    )
    on_unhealthy: Literal["abort", "pause"] = _DEFAULT.on_unhealthy.value
    on_undecided: Literal["continue", "pause", "abort"] = Field(
        default=_DEFAULT.on_undecided.value, description="What happens at the end of a step without enough evidence."
    )

    def to_analysis(self) -> Analysis:
        """The analysis of the request."""
        return Analysis(
            tolerated_ratio=self.tolerated_ratio,
            confidence=self.confidence,
            minimum_finished=self.minimum_finished,
            maximum_active_age_minutes=self.maximum_active_age_minutes,
            on_unhealthy=OnUnhealthy(self.on_unhealthy),
            on_undecided=OnUndecided(self.on_undecided),
        )


class RolloutRequest(RequestModel):
    version: ReleaseVersion | None = Field(default=None, description="The candidate, for releases side by side.")
    slot: SlotName | None = Field(
        default=None, description="The slot with the candidate, for an app with slots; staging by default."
    )
    steps: Annotated[list[StepRequest], Field(min_length=1, max_length=MAX_STEPS)]
    analysis: AnalysisRequest = Field(default_factory=AnalysisRequest)
    reason: ReasonText | None = None

    def to_command(self, caller: Caller) -> StartRolloutCommand:
        """The command of PutRollout, for this caller."""
        return StartRolloutCommand(
            caller=caller,
            reason=self.reason,
            version=self.version,
            slot=self.slot,
            steps=tuple(Step(step.weight, step.minutes) for step in self.steps),
            analysis=self.analysis.to_analysis(),
        )


class RolloutActionRequest(RequestModel):
    reason: ReasonText | None = None
    weight: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description="For confirm: the percentage that the slot has in Azure, as it was read there."
    )

    def to_command(self, caller: Caller) -> ChangeRolloutCommand:
        """The command of every action but confirm. Raises InvalidRequest for a weight, which would be ignored."""
        if self.weight is not None:
            raise InvalidRequest("weight is only for the action confirm: leave it out")
        return ChangeRolloutCommand(caller=caller, reason=self.reason)

    def to_confirmation(self, caller: Caller) -> ConfirmWeightCommand:
        """The command of the action confirm. Raises InvalidRequest without a weight."""
        if self.weight is None:
            raise InvalidRequest(
                "confirm needs weight: the percentage that the slot has in Azure, as it was read there"
            )
        return ConfirmWeightCommand(caller=caller, reason=self.reason, weight=self.weight)
