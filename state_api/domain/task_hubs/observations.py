"""What the task hub's own storage shows of an orchestration instance."""

from dataclasses import dataclass

from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus


@dataclass(frozen=True, slots=True)
class ObservedInstance:
    """One instance as a probe sees it.

    `version`: the orchestration version; None if the app uses none. `created_at` and `updated_at` are by the clocks of
    the app and of the backend. `stamp` is different after every change of the instance.
    """

    instance_id: str
    function_name: str
    version: str | None
    runtime_status: RuntimeStatus
    created_at: Instant
    updated_at: Instant
    stamp: str

    @property
    def active(self) -> bool:
        """Whether the instance is active. Entities never are, although their rows say Running (docs/platform.md)."""
        return self.runtime_status in ACTIVE_STATUSES and not is_entity(self.instance_id)
