"""A straightforward recorder as a baseline: one read and one write of a row for each event, 64 events at a time.

`python -m bench.straightforward serve` starts the server with it and takes the server's arguments. It writes the same
merged row, but no index of active instances, no activity stamp and no ETag. So verdicts are slow and races lose events.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

from state_api import __main__ as command
from state_api.app import StateServer
from state_api.domain.instants import Instant
from state_api.domain.names import HubKey, hub_key
from state_api.domain.task_hubs.lifecycle import LifecycleEvent, apply_event
from state_api.services.event_parser import parse_event
from state_api.services.recording import Recorder, RecordingResult
from state_api.settings import Settings
from state_api.storage.instance_keys import shard_of
from state_api.storage.instance_rows import instance_from_row, instance_row, instance_row_key
from state_api.storage.tables import Tables

CONCURRENT_EVENTS = 64


class StraightforwardRecorder(Recorder):
    """Replaces the server's recorder. It has no quarantine: an event that cannot be parsed is an error."""

    def __init__(self, tables: Tables, shards: int) -> None:
        """Prepare to record events one by one into the tables, with at most as many at once as the benchmarks send."""
        self._tables = tables
        self._shards = shards
        self._in_flight = asyncio.Semaphore(CONCURRENT_EVENTS)
        self._table_tasks: dict[HubKey, asyncio.Task[TableClient]] = {}

    async def record(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        """Record each event by a read and a write of its own, all at the same time."""
        parsed = [parse_event(event, self._now()) for event in events]
        changed = await asyncio.gather(*(self._record_event(event) for event in parsed))
        return RecordingResult(sum(changed), len(changed) - sum(changed), 0)

    def _now(self) -> Instant:
        return self._tables.clock.now()

    async def _record_event(self, event: LifecycleEvent) -> bool:
        """Merge one event into its stored instance. Returns whether that changed the instance."""
        table = await self._get_table(event.task_hub)
        shard = f"{shard_of(event.instance_id, self._shards):02d}"
        async with self._in_flight:
            try:
                known = instance_from_row(await table.get_entity(shard, instance_row_key(event.instance_id)))
            except ResourceNotFoundError:
                known = None
            merged = apply_event(known, event)
            if merged == known:
                return False
            await table.upsert_entity(instance_row(shard, merged), mode=UpdateMode.REPLACE)
            return True

    async def _get_table(self, hub: str) -> TableClient:
        """The table of the task hub, created by the first event that needs it."""
        key = hub_key(hub)
        if key not in self._table_tasks:
            self._table_tasks[key] = asyncio.create_task(self._create_table(f"Straightforward{hub}"))
        return await self._table_tasks[key]

    async def _create_table(self, name: str) -> TableClient:
        await self._tables.create_table(name)
        return self._tables.client(name)


class StraightforwardServer(StateServer):
    """The state server with the straightforward recorder."""

    def __init__(self, settings: Settings) -> None:
        """Build a state server, and replace its recorder by the straightforward one."""
        super().__init__(settings)
        recorder = StraightforwardRecorder(self.tables, settings.shards)
        self.services = replace(self.services, recorder=recorder)
        self.api.state.services = self.services


if __name__ == "__main__":
    setattr(command, "StateServer", StraightforwardServer)  # noqa: B010 (main() creates the server from this name)
    sys.exit(command.main())
