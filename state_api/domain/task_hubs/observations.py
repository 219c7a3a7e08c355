"""What the task hub's own storage shows of an orchestration instance."""

from dataclasses import dataclass

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus


@dataclass(frozen=True, slots=True)
class ObservedInstance:
    """One instance as a probe saw it. `created_at` and `updated_at` are of the app's and the backend's clocks.
    `version` is the orchestration version, None where the app uses none. `stamp` differs whenever the instance has
    changed in between."""

    instance_id: str
    function_name: str
    version: str | None
    runtime_status: RuntimeStatus
    created_at: Instant
    updated_at: Instant
    stamp: str

    @property
    def active(self) -> bool:
        """Entities are never active, whatever their rows say (PLATFORM: Lifecycle events 6)."""
        return self.runtime_status in ACTIVE_STATUSES and not is_entity(self.instance_id)
