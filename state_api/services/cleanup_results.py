"""What one call of Cleanup reports of each retired task hub."""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.readiness.reasons import ReadinessReason
from state_api.domain.releases.apps import RetiredHub


class CleanupOutcome(StrEnum):
    """What Cleanup did with a retired task hub."""

    REMOVED = "Removed"
    WOULD_REMOVE = "WouldRemove"
    NOT_DRAINED = "NotDrained"
    KEPT = "Kept"
    IN_USE = "InUse"
    NOT_OWNED = "NotOwned"
    UNFINISHED = "Unfinished"


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What became of one retired task hub.

    - `reasons`: why the task hub has not drained.
    - `artifacts`: what was deleted at its provider, or would be deleted in a dry run.
    - `shared`: what stays at its provider because other task hubs use it.
    - `message`: why the task hub was not removed, or what is removed with it.
    """

    retired_hub: RetiredHub
    outcome: CleanupOutcome
    reasons: tuple[ReadinessReason, ...] = ()
    artifacts: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    message: str | None = None
