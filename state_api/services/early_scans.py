"""Begins a scan while the app and its records are read, and reads the control queues. This saves a round trip while
nothing is active.

Safety: a scan must begin after a read of the records that shows nothing active (docs/correctness.md). The last question
has read them. If they have the same change token now, then they have not changed in between, and the scan has begun
after they were read. Queues that hold a message are read again: whether a timer explains it depends on what is stored,
and on the time at which it is counted.
"""

import asyncio
from dataclasses import dataclass

from state_api.backends.protocols import Backend, BackendError, ScanStart
from state_api.domain.instants import Instant
from state_api.domain.readiness.messages import QueueSnapshot
from state_api.services.ports import Clock


@dataclass(frozen=True, slots=True)
class ScanBeginning:
    """The begin of a scan, and empty control queues that were read after it. `began_at` is by the state storage's
    clock."""

    began_at: Instant
    start: ScanStart
    snapshot: QueueSnapshot


@dataclass(frozen=True, slots=True, eq=False)
class EarlyScan:
    """A scan that has begun before the records were read. It counts only if they have this change token."""

    change_token: str
    beginning: asyncio.Task[ScanBeginning]

    async def cancel(self) -> None:
        """End the read, if it is not used."""
        self.beginning.cancel()
        await asyncio.gather(self.beginning, return_exceptions=True)

    async def take(self, change_token: str) -> ScanBeginning | None:
        """The begin of the scan; None if it must begin anew. Call this once, with the token of the records."""
        if change_token != self.change_token:
            await self.cancel()
            return None
        try:
            beginning = await self.beginning
        except BackendError:
            return None
        return beginning if beginning.snapshot.message_count == 0 else None


async def begin_scan(backend: Backend, clock: Clock, task_hub: str) -> ScanBeginning:
    """Begin a scan, and read the control queues. Raises BackendError. The backend must show messages."""
    began_at = clock.now()
    start = await backend.begin_scan(task_hub)
    snapshot = await backend.read_queue_snapshot(task_hub)
    assert snapshot is not None, "only a scan of a backend that shows messages begins early"
    return ScanBeginning(began_at, start, snapshot)
