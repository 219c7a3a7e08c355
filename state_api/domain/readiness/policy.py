"""What an app requires of a verdict: the policy that PutApp sets, with its documented defaults."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.readiness.exemptions import Exemptions


class Assurance(StrEnum):
    """What a verdict rests on: lifecycle events alone, or a read of the task hub's own storage as well."""

    EVENTS = "events"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which retired task hubs Cleanup keeps: the `keep_last` most recent ones, and those retired less than
    `keep_for_hours` hours ago."""

    keep_last: int = 0
    keep_for_hours: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one app.

    - `settle_seconds`: how long no event may have been recorded before the task hub counts as drained.
    - `freshness_seconds`: how old a probe may be.
    - `require_verification`: the verdict is never Ready without a probe.
    - `deployment_timeout_minutes`: after this time an open deployment of another run no longer blocks.
    - `ignore_functions`: name patterns of orchestrators and entities that may stay active. The wildcards are `*`, `?`
      and `[…]`. Case matters.
    - `missing_task_hub_is_drained`: a task hub is drained if it does not exist at its provider and was never
      seen.
    - `message_visibility_seconds`: the app's `controlQueueVisibilityTimeout`, 5 minutes by default in its host.json.
    - `ignore_messages`: the control queues are not read.
    """

    settle_seconds: int = 30
    freshness_seconds: int = 120
    require_verification: bool = False
    deployment_timeout_minutes: int = 60
    ignore_functions: tuple[str, ...] = ()
    retention: RetentionPolicy = RetentionPolicy()
    missing_task_hub_is_drained: bool = False
    message_visibility_seconds: int = 300
    ignore_messages: bool = False

    def ignores(self, function_name: str) -> bool:
        """Whether instances of this function may stay active."""
        return Exemptions(self.ignore_functions).ignores(function_name)
