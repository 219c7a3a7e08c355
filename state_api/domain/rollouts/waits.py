"""What a rollout waits for, and until when."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant, format_instant
from state_api.domain.rollouts.rollouts import Rollout, RolloutState


class WaitCode(StrEnum):
    """What a rollout waits for.

    - `StepTime`: the minutes of the step are not over.
    - `Resume`: a person resumes, finishes or aborts it.
    - `Confirmation`: the pipeline sets the share in Azure and reports it.
    - `Swap`: the pipeline swaps the slot into production.
    - `PinnedVisitors`: the rollout has ended, and visitors whom the platform sends back to the slot may still come.
    """

    STEP_TIME = "StepTime"
    RESUME = "Resume"
    CONFIRMATION = "Confirmation"
    SWAP = "Swap"
    PINNED_VISITORS = "PinnedVisitors"


@dataclass(frozen=True, slots=True)
class Wait:
    """What a rollout waits for. `until` is None if time alone does not end the wait."""

    code: WaitCode
    message: str
    until: Instant | None = None

    def describe(self) -> str:
        """The message with the time, for people."""
        return self.message if self.until is None else f"{self.message} until {format_instant(self.until)}"


def find_wait(rollout: Rollout, now: Instant) -> Wait | None:
    """What the rollout waits for; None once it has ended and no visitor may come any more."""
    candidate, weight = rollout.candidate, rollout.weight
    if not rollout.is_live:
        until = rollout.traffic_until
        if until is None or until <= now:
            return None
        message = f"visitors whom the platform sends back to slot {candidate} may still start work there"
        return Wait(WaitCode.PINNED_VISITORS, message, until)
    if rollout.state is RolloutState.PAUSED:
        return Wait(WaitCode.RESUME, f"{candidate} keeps {weight} % until the rollout is resumed, finished or aborted")
    if rollout.confirmed_at is None:
        message = f"the share of slot {candidate} must be set to {weight} % in Azure, and confirmed with PostRollout"
        return Wait(WaitCode.CONFIRMATION, message)
    if rollout.state is RolloutState.FINISHING:
        return Wait(WaitCode.SWAP, f"slot {candidate} must be swapped into production, as announced with PostSwap")
    step = f"step {rollout.step_index + 1} of {len(rollout.steps)}"
    return Wait(WaitCode.STEP_TIME, f"{candidate} gets {weight} % in {step}", rollout.step_ends_at)
