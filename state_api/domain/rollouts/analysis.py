"""The rules by which a rollout judges its candidate, as its pipeline sets them."""

from dataclasses import dataclass
from enum import StrEnum


class OnUnhealthy(StrEnum):
    """What a rollout does with an unhealthy candidate."""

    ABORT = "abort"
    PAUSE = "pause"


class OnUndecided(StrEnum):
    """What a rollout does at the end of a step if the evidence decides nothing."""

    CONTINUE = "continue"
    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Analysis:
    """When a candidate is healthy or unhealthy, and what follows (docs/rollout-health.md).

    - `tolerated_ratio`: how many times the baseline's failure rate the candidate's may be. With 1.0, any increase is
      unhealthy.
    - `confidence`: 1 less the largest probability of calling a candidate unhealthy whose rate is tolerated.
    - `minimum_finished`: instances of the candidate that must have ended before it can be healthy.
    - `maximum_active_age_minutes`: the longest time that an instance of the candidate may be active; None for no limit.
    """

    tolerated_ratio: float = 1.0
    confidence: float = 0.95
    minimum_finished: int = 10
    maximum_active_age_minutes: int | None = None
    on_unhealthy: OnUnhealthy = OnUnhealthy.ABORT
    on_undecided: OnUndecided = OnUndecided.CONTINUE

    @property
    def threshold(self) -> float:
        """The evidence that decides. It is rounded, so that a confidence of 0.95 demands 20."""
        return round(1 / (1 - self.confidence), 6)
