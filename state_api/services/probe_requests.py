"""What verification is asked, what it answers, and when a result of before will do."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.names import hub_key
from state_api.domain.readiness.evidence import ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.validity import is_superseded
from state_api.domain.releases.apps import ProviderConfig

CLOCK_TOLERANCE = seconds(1)
"""How far two servers may differ in what they take for the storage's time."""
LARGE_HUB_READ_SECONDS = 30.0
"""From how many seconds of reading a hub is too large to be read anew for every question."""


class VerificationMode(StrEnum):
    """How a question is to be verified. `fresh`: by what is read from now on. `cached`: a result that is young enough
    will do, else the hub is read. `none`: by what is known already; the hub is not touched."""

    FRESH = "fresh"
    CACHED = "cached"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What is to be verified. `backend_id` is where the source leads now; empty if a setting is wrong. `requested_at`
    is by the storage's clock; `deadline` by that of the event loop."""

    task_hub: str
    provider_config: ProviderConfig
    backend_id: str
    policy: Policy
    exemptions: Exemptions
    verify: VerificationMode
    requested_at: Instant
    deadline: float

    @property
    def key(self) -> str:
        """What a result must have been read under to answer this question."""
        messages = "ignored" if self.policy.ignore_messages else str(self.policy.message_visibility_seconds)
        return f"{hub_key(self.task_hub)}|{self.backend_id}|{self.exemptions.key}|{messages}"


@dataclass(frozen=True, slots=True)
class RecordedState:
    """What is on record of a hub; nothing, if nothing ever was or it was cleaned up. `seen_before`: something was seen
    of it, in events or by a probe."""

    activity: InstanceActivity
    seen_before: bool


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What verification came to, for the question of that key. `active_instance_seen`: the hub has just shown one of
    the active instances. `looked_up_instances` is how it has shown those that were looked up. `recorded_state` are
    given where a verdict may rest on them: they were read after the result, and the hub was not read since; or what was
    looked up since still stands in them, so that they say NotReady."""

    request_key: str
    result: ProbeResult | None
    active_instance_seen: bool = False
    looked_up_instances: tuple[ActiveInstance, ...] = ()
    recorded_state: RecordedState | None = None


def is_fresh_enough(result: ProbeResult, question: ProbeRequest) -> bool:
    """Whether a result is as fresh as the question wants it."""
    if question.verify is not VerificationMode.FRESH or result.began_at >= question.requested_at + CLOCK_TOLERANCE:
        return True
    # A hub that is too large to be read in one call: what was finished in this call is as fresh as it gets.
    large = result.resumed and result.read_seconds >= LARGE_HUB_READ_SECONDS
    return large and result.ended_at is not None and result.ended_at >= question.requested_at


def satisfies_request(
    result: ProbeResult | None, question: ProbeRequest, activity: InstanceActivity, now: Instant, *, for_verdict: bool
) -> bool:
    """Whether a result answers the question without another read. A verdict needs more of it: one that found
    something active, or about to start, never turns Ready, nor does one that was overtaken."""
    if result is None or result.status is not ProbeStatus.COMPLETE or result.request_key != question.key:
        return False
    if for_verdict and result.found_blocking:
        return False
    if not 0 <= now - result.began_at < seconds(question.policy.freshness_seconds):
        return False
    if for_verdict and is_superseded(result.began_at, result.correction_epoch, activity, question.policy):
        return False
    return is_fresh_enough(result, question)
