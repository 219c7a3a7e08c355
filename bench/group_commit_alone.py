"""A group commit without a server: only the writes that events need, as soon as the previous transaction has ended. Its
delays are the emulator's own."""

import asyncio
import time
from collections import deque

from bench.event_stream import EventStream, apply_events, min_lag_events
from bench.paced_events import Pace, PublishingDelays, exempt_planned_events, plan_events, publish_when_due
from bench.storage import RawTables, RowWrite
from bench.transaction_limit import EVENTS_PER_TRANSACTION, transaction_writes
from state_api.domain.task_hubs.lifecycle import Instance

_TABLE = "GroupCommitAlone"
_PARTITION = "00"


class GroupCommitAlone:
    """Writes the events of one stream to one partition. Transactions are not sent through the client library."""

    def __init__(self, tables: RawTables) -> None:
        """Prepare to write the rows of events by group commit, without a server."""
        self._tables = tables
        self._stream = EventStream("alone", lag=min_lag_events(EVENTS_PER_TRANSACTION))
        self._known: dict[str, Instance] = {}

    async def create_table(self) -> None:
        await self._tables.create_table(_TABLE)

    async def run(self, pace: Pace) -> PublishingDelays:
        """Publish events at this pace. An event is acknowledged when its transaction has ended."""
        paced_events = plan_events(self._stream, pace)
        writes_by_event = [
            transaction_writes(_PARTITION, before, after)
            for before, after in apply_events([event.body for event in paced_events], self._known)
        ]
        queue: deque[tuple[list[RowWrite], asyncio.Future[None]]] = deque()
        arrived = asyncio.Event()

        async def enqueue(index: int) -> None:
            """Queue the rows of one event, and wait until they are written."""
            written = asyncio.get_running_loop().create_future()
            queue.append((writes_by_event[index], written))
            arrived.set()
            await written

        async def write_queue() -> None:
            """Write what waits in the queue, in one transaction after the other."""
            while True:
                await arrived.wait()
                batch = [queue.popleft() for _ in range(min(len(queue), EVENTS_PER_TRANSACTION))]
                if not queue:
                    arrived.clear()
                writes = [write for event_writes, _ in batch for write in event_writes]
                await self._tables.submit_transaction(self._tables.build_transaction(_TABLE, writes), len(writes))
                for _, written in batch:
                    written.set_result(None)

        exempt_planned_events()
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(write_queue())
            delays = await publish_when_due(paced_events, enqueue, begins_at=time.perf_counter())
            writer.cancel()
        return delays
