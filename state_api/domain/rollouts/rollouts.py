"""A gradual rollout: a candidate gets a growing share of the requests, step by step, and is compared with a baseline.
These values are a part of `App`."""

from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.rollouts.analysis import Analysis

MAX_STEPS = 50
MAX_STEP_MINUTES = 10_080
"""A week."""
PINNED_VISITOR_SECONDS = 3600
"""How long the platform sends a visitor back to the slot that answered first, by the cookie `x-ms-routing-name`. The
cookie also counts at a share of 0 % and after the swap."""
NEW_VISITOR_SECONDS = 30
"""How long the platform may send new visitors to a slot after its share was set to 0 %."""


class RolloutState(StrEnum):
    """Where a rollout is in its life.

    - `Running`: the candidate has the share of a step, and gets that of the next one when its minutes are over.
    - `Paused`: the candidate keeps its share until the rollout is resumed, finished or aborted.
    - `Aborting`: in slots only. The candidate must get 0 %, and that is not confirmed.
    - `Aborted`: the baseline has all traffic.
    - `Finishing`: in slots only. The candidate must get 0 %, and then be swapped into production.
    - `Finished`: the candidate has all traffic.
    """

    RUNNING = "Running"
    PAUSED = "Paused"
    ABORTING = "Aborting"
    ABORTED = "Aborted"
    FINISHING = "Finishing"
    FINISHED = "Finished"


LIVE_STATES = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ABORTING, RolloutState.FINISHING})
"""The states of a rollout that has not ended."""


class DecisionAction(StrEnum):
    """What changes a rollout."""

    NEXT_STEP = "NextStep"
    PAUSE = "Pause"
    RESUME = "Resume"
    ABORT = "Abort"
    FINISH = "Finish"


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a rollout changed. `code` is that of the health which decided, or `Requested` or `HealthUnknown`."""

    at: Instant
    action: DecisionAction
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a rollout: the candidate gets `weight` percent of the requests (1 to 99) for this many minutes."""

    weight: int
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The last rollout of an app. It stays until the next one begins.

    - `candidate`, `baseline`: versions, or the names of slots.
    - `step_index`: counts from 0.
    - `weight`: the percentage that the candidate shall have now.
    - `confirmed_at`: since when the candidate is known to have `weight`, or when the rollout was resumed after that.
      The minutes of the step count from it. None if the platform is not known to have it.
    - `share_changes`: when the share changed or began to change, in order of time.
    - `cleared_at`: in slots, when 0 % was confirmed.
    """

    candidate: str
    baseline: str
    candidate_hub: str
    baseline_hub: str
    candidate_version: str | None
    steps: tuple[Step, ...]
    analysis: Analysis
    state: RolloutState
    step_index: int
    weight: int
    confirmed_at: Instant | None
    started_at: Instant
    started_by: str
    run_url: str | None
    run_id: str
    share_changes: tuple[Instant, ...]
    cleared_at: Instant | None = None
    last_decision: Decision | None = None

    @property
    def is_live(self) -> bool:
        """Whether the rollout has not ended."""
        return self.state in LIVE_STATES

    @property
    def is_last_step(self) -> bool:
        return self.step_index == len(self.steps) - 1

    @property
    def step_ends_at(self) -> Instant | None:
        """When the minutes of the step are over; None unless the rollout runs and its weight is confirmed."""
        if self.state is not RolloutState.RUNNING or self.confirmed_at is None:
            return None
        return Instant(self.confirmed_at + seconds(60 * self.steps[self.step_index].minutes))

    @property
    def traffic_until(self) -> Instant | None:
        """When the last pinned visitor of the slot is gone; None while the share is not cleared, and side by side."""
        if self.cleared_at is None:
            return None
        return Instant(self.cleared_at + seconds(NEW_VISITOR_SECONDS + PINNED_VISITOR_SECONDS))

    def no_earlier(self, now: Instant) -> Instant:
        """The time of a change that is made now. It is never before the last change, although the clocks of two servers
        may differ. So times stay in order, and such a difference shortens a rollout once, and not every step."""
        return max(now, *self.share_changes, self.confirmed_at or now)

    def with_weight(self, weight: int, now: Instant, *, confirmed: bool) -> "Rollout":
        """The rollout whose candidate shall have this percentage. `confirmed`: it has it from now on, as a router
        reads the routing. Otherwise the share changes at an unknown time until it is confirmed."""
        at = self.no_earlier(now)
        return replace(
            self, weight=weight, confirmed_at=at if confirmed else None, share_changes=(*self.share_changes, at)
        )


def find_traffic_end(rollout: Rollout | None, name: str) -> Instant | None:
    """Until when the rollout may bring traffic to this slot or release: NO_END while it is live. None if it brings
    none.

    Side by side, the routing alone says what gets traffic once a rollout has ended."""
    if rollout is None or name != rollout.candidate:
        return None
    return NO_END if rollout.is_live else rollout.traffic_until
