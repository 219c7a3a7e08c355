"""Orchestrations as the platform runs them: executions, which consist of episodes, and the storage of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from tests.backends.azure_storage_task_hub import ENDED_STATUS_NAMES
from tests.simulator.event_grid import PublishedEvent


class Phase(StrEnum):
    """`SCHEDULED`: a message in a control queue, without a row of this execution.

    `CONTINUING_AS_NEW`: between two generations. `WAITING`: for a sub-orchestration.
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

    async def put(self, instance_id: str, status: str, name: str, created: datetime) -> None: ...

    async def purge(self, instance_id: str) -> None: ...

    async def enqueue(self, instance_id: str, function: str) -> None: ...

    async def dequeue(self, instance_id: str) -> None: ...


@dataclass(eq=False, slots=True)
class Episode:
    """One turn of an orchestration: it publishes events, sends messages, and writes the row.

    An open episode is slow, or has crashed and runs and publishes again.
    """

    statuses: Sequence[str]
    row: str
    next_phase: Phase
    started_execution: "Execution | None" = None
    crashed: bool = False


@dataclass(eq=False, slots=True)
class Execution:
    """One run of one instance id, over all its generations.

    - `row`: the status at the provider, possibly of an earlier run of the same id.
    - `row_written_at`: the time of that write.
    - `latest_event`: the event of the id with the latest time.
    - `not_before`: the step that a delayed start waits for.
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
    def in_flight(self) -> bool:
        return self.phase is Phase.SCHEDULED

    @property
    def is_shown_active(self) -> bool:
        """Whether the provider's table shows it active."""
        return self.row is not None and self.row not in ENDED_STATUS_NAMES
