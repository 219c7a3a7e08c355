"""A request to verify one task hub."""

from dataclasses import dataclass

from state_api.domain.instants import Instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import ReadRequirements, VerificationMode
from state_api.domain.releases.apps import ProviderConfig


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What to verify, and until when.

    - `backend_id`: the backend that the provider's settings lead to now. Empty if a setting is missing or wrong.
    - `requested_at`: a time after the request, by the state storage's clock.
    - `deadline`: a time by the clock of the event loop, in seconds.
    - `must_begin_after`: a time by the state storage's clock. A probe that began earlier does not count.
    """

    task_hub: str
    provider_config: ProviderConfig
    backend_id: str
    policy: Policy
    exemptions: Exemptions
    mode: VerificationMode
    requested_at: Instant
    deadline: float
    must_begin_after: Instant = Instant(0)

    @property
    def key(self) -> str:
        """Identifies the settings, policy and exemptions that a result must be read under."""
        messages = "ignored" if self.policy.ignore_messages else str(self.policy.message_visibility_seconds)
        return f"{hub_key(self.task_hub)}|{self.backend_id}|{self.exemptions.key}|{messages}"

    def requirements(self, *, for_verdict: bool) -> ReadRequirements:
        """What a probe must satisfy to answer this request."""
        return ReadRequirements(
            request_key=self.key,
            provider=self.provider_config.provider,
            backend_id=self.backend_id,
            policy=self.policy,
            exemptions=self.exemptions,
            mode=self.mode,
            requested_at=self.requested_at,
            for_verdict=for_verdict,
            must_begin_after=self.must_begin_after,
        )
