"""The straightforward way to record events: for each, one read and one write of one row, 64 at a time. Behind the same
front door as the server's own, for comparison: `python -m bench.straightforward serve` takes the server's arguments.

It keeps the same row, merged the same way, and none of what makes a verdict cheap or a race harmless: no row of what
is active, no beat, no ETag.
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
    """In the place of the server's recorder. Knows no quarantine: an event that cannot be understood is an error."""

    def __init__(self, tables: Tables, shards: int) -> None:
        self._tables = tables
        self._shards = shards
        self._in_flight = asyncio.Semaphore(CONCURRENT_EVENTS)
        self._table_tasks: dict[HubKey, asyncio.Task[TableClient]] = {}

    async def record(self, events: Sequence[Any], endpoint_type: str) -> RecordingResult:
        understood = [parse_event(event, self._now()) for event in events]
        changed = await asyncio.gather(*(self._record_event(event) for event in understood))
        return RecordingResult(sum(changed), len(changed) - sum(changed), 0)

    def _now(self) -> Instant:
        return self._tables.clock.now()

    async def _record_event(self, event: LifecycleEvent) -> bool:
        table = await self._table(event.task_hub)
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

    async def _table(self, hub: str) -> TableClient:
        key = hub_key(hub)
        if key not in self._table_tasks:
            self._table_tasks[key] = asyncio.create_task(self._create_table(f"Straightforward{hub}"))
        return await self._table_tasks[key]

    async def _create_table(self, name: str) -> TableClient:
        await self._tables.create_table(name)
        return self._tables.client(name)


class StraightforwardServer(StateServer):
    """The server with that recorder, and otherwise as it is."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        recorder = StraightforwardRecorder(self.tables, settings.shards)
        self.services = replace(self.services, recorder=recorder)
        self.api.state.services = self.services


if __name__ == "__main__":
    setattr(command, "StateServer", StraightforwardServer)  # noqa: B010 (the one part that differs)
    sys.exit(command.main())
