"""Orchestrations as the platform runs them: executions, their episodes, and their storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from tests.backends.azure_storage_task_hub import ENDED_STATUS_NAMES
from tests.simulator.event_grid import PublishedEvent


class Phase(StrEnum):
    """The phases of an execution.

    - `SCHEDULED`: a message in a control queue starts it, and it has no row of its own yet.
    - `CONTINUING_AS_NEW`: one generation has ended, and the next has not begun.
    - `WAITING`: it waits for a sub-orchestration.
    """

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    CONTINUING_AS_NEW = "continuing as new"
    WAITING = "waiting"
    SUSPENDED = "suspended"
    ENDED = "ended"


class ProviderStorage(Protocol):
    """The task hub's own storage."""

    async def write_row(self, instance_id: str, status: str, name: str, created: datetime) -> None: ...

    async def delete_row(self, instance_id: str) -> None: ...

    async def send_start_message(self, instance_id: str, function: str) -> None: ...

    async def delete_start_message(self, instance_id: str) -> None: ...


@dataclass(eq=False, slots=True)
class Episode:
    """One turn of an orchestration: it publishes events, sends messages, and writes the row.

    An episode stays open while its worker is slow, or after its worker crashed. A crashed episode runs and publishes
    again.
    """

    statuses: Sequence[str]
    row: str
    next_phase: Phase
    started_execution: "Execution | None" = None
    has_crashed: bool = False


@dataclass(eq=False, slots=True)
class Execution:
    """One run of one instance id, over all its generations.

    - `row`: the status in the row at the provider, possibly of an earlier execution of the same id. None without a row.
    - `row_written_at`: when that row was written, on the monotonic clock, in seconds.
    - `latest_event`: the event of this instance id with the latest time.
    - `not_before`: the step before which a delayed start does not begin.
    """

    number: int
    instance_id: str
    function: str
    phase: Phase
    created: datetime
    row: str | None = None
    parent: "Execution | None" = None
    child: "Execution | None" = None
    episode: Episode | None = None
    not_before: int = 0
    latest_event: PublishedEvent | None = None
    row_written_at: float = 0.0

    @property
    def is_scheduled(self) -> bool:
        """Whether a message is to start it, and it has no row of its own."""
        return self.phase is Phase.SCHEDULED

    @property
    def is_shown_active(self) -> bool:
        """Whether the provider's table shows it active."""
        return self.row is not None and self.row not in ENDED_STATUS_NAMES
