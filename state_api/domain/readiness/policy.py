"""What an app requires of a verdict: the policy that PutApp sets, with its documented defaults."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.readiness.exemptions import Exemptions


class Assurance(StrEnum):
    """What a verdict rests on: lifecycle events alone, or a read of the task hub's own storage as well."""

    EVENTS = "events"
    VERIFIED = "verified"


class QuiesceOrder(StrEnum):
    """What a promotion does first with the functions that it disables in the old release and enables in the new one.

    With `gap`, no release runs them for a moment. With `overlap`, both releases run them for a moment.
    """

    GAP = "gap"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which retired task hubs Cleanup keeps: the `keep_last` most recent ones, and those retired less than
    `keep_for_hours` hours ago. Of the releases side by side that have lost their traffic, it keeps as many, and those
    that lost it less than that ago."""

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

    For releases side by side:

    - `max_releases`: how many releases the app may have at a time; None for no limit of its own.
    - `address_pattern`: what the address of a new release must match, as patterns separated by blanks; None for any
      address.
    - `sticky_after_promotion`: visitors of a release stay with it for a while after it has lost its traffic.
    - `quiesce_functions`: functions that only the active release may run, such as those with a timer or a queue.
    - `quiesce_order`: the order in which a promotion disables and enables them.
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
    max_releases: int | None = None
    address_pattern: str | None = None
    sticky_after_promotion: bool = False
    quiesce_functions: tuple[str, ...] = ()
    quiesce_order: QuiesceOrder = QuiesceOrder.GAP

    def ignores(self, function_name: str) -> bool:
        """Whether instances of this function may stay active."""
        return Exemptions(self.ignore_functions).ignores(function_name)
