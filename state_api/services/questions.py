"""What verification is asked, what it answers, and when a result of before will do."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.apps import TaskHubSource
from state_api.domain.evidence import ActiveInstance, Activity, ProbeResult, ProbeStatus
from state_api.domain.exemptions import Exemptions
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import hub_key
from state_api.domain.readiness import Policy, is_overtaken

CLOCKS = seconds(1)
"""How far two servers may differ in what they take for the storage's time."""
LONG_SECONDS = 30.0
"""From how many seconds of reading a hub is too large to be read anew for every question."""


class Verify(StrEnum):
    """How a question is to be verified. `fresh`: by what is read from now on. `cached`: a result that is young enough
    will do, else the hub is read. `none`: by what is known already; the hub is not touched."""

    FRESH = "fresh"
    CACHED = "cached"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be verified. `place` is where the source leads now; empty if a setting is wrong. `asked_at` is by the
    storage's clock; `deadline` by that of the event loop."""

    task_hub: str
    source: TaskHubSource
    place: str
    policy: Policy
    exemptions: Exemptions
    verify: Verify
    asked_at: Instant
    deadline: float

    @property
    def key(self) -> str:
        """What a result must have been read under to answer this question."""
        messages = "ignored" if self.policy.ignore_messages else str(self.policy.message_visibility_seconds)
        return f"{hub_key(self.task_hub)}|{self.place}|{self.exemptions.key}|{messages}"


@dataclass(frozen=True, slots=True)
class Records:
    """What is on record of a hub; nothing, if nothing ever was or it was cleaned up. `known`: something was seen of it,
    in events or by a probe."""

    activity: Activity
    known: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """What verification came to, for the question of that key. `confirmed`: the hub has just shown one of the active
    instances. `looked_up` is how it has shown those that were looked up. `records` are given where a verdict may rest
    on them: they were read after the result, and the hub was not read since; or what was looked up since still stands
    in them, so that they say NotReady."""

    key: str
    result: ProbeResult | None
    confirmed: bool = False
    looked_up: tuple[ActiveInstance, ...] = ()
    records: Records | None = None


def is_fresh_enough(result: ProbeResult, question: Question) -> bool:
    """Whether a result is as fresh as the question wants it."""
    if question.verify is not Verify.FRESH or result.began_at >= question.asked_at + CLOCKS:
        return True
    # A hub that is too large to be read in one call: what was finished in this call is as fresh as it gets.
    large = result.carried_on and result.took_seconds >= LONG_SECONDS
    return large and result.ended_at is not None and result.ended_at >= question.asked_at


def answers(
    result: ProbeResult | None, question: Question, activity: Activity, now: Instant, *, for_verdict: bool
) -> bool:
    """Whether a result answers the question without another read. A verdict needs more of it: one that found
    something active, or about to start, never turns Ready, nor does one that was overtaken."""
    if result is None or result.status is not ProbeStatus.COMPLETE or result.exemptions != question.key:
        return False
    if for_verdict and result.found_blocking:
        return False
    if not 0 <= now - result.began_at < seconds(question.policy.freshness_seconds):
        return False
    if for_verdict and is_overtaken(result.began_at, result.closings, activity, question.policy):
        return False
    return is_fresh_enough(result, question)
