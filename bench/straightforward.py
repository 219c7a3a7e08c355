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
from state_api.domain.lifecycle import LifecycleEvent, apply
from state_api.domain.names import HubKey, hub_key
from state_api.services.envelopes import understand
from state_api.services.recording import Recorded, Recorder
from state_api.settings import Settings
from state_api.storage.instance_rows import instance_from, instance_key_of, instance_row
from state_api.storage.keys import shard_of
from state_api.storage.tables import Tables

IN_FLIGHT = 64


class StraightforwardRecorder(Recorder):
    """In the place of the server's recorder. Knows no quarantine: an event that cannot be understood is an error."""

    def __init__(self, tables: Tables, shards: int) -> None:
        self._tables = tables
        self._shards = shards
        self._in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._made: dict[HubKey, asyncio.Task[TableClient]] = {}

    async def record(self, events: Sequence[Any], source: str) -> Recorded:
        understood = [understand(event, self._now()) for event in events]
        changed = await asyncio.gather(*(self._record_one(event) for event in understood))
        return Recorded(sum(changed), len(changed) - sum(changed), 0)

    def _now(self) -> Instant:
        return self._tables.clock.now()

    async def _record_one(self, event: LifecycleEvent) -> bool:
        table = await self._table(event.task_hub)
        shard = f"{shard_of(event.instance_id, self._shards):02d}"
        async with self._in_flight:
            try:
                known = instance_from(await table.get_entity(shard, instance_key_of(event.instance_id)))
            except ResourceNotFoundError:
                known = None
            merged = apply(known, event)
            if merged == known:
                return False
            await table.upsert_entity(instance_row(shard, merged), mode=UpdateMode.REPLACE)
            return True

    async def _table(self, hub: str) -> TableClient:
        key = hub_key(hub)
        if key not in self._made:
            self._made[key] = asyncio.create_task(self._make(f"Straightforward{hub}"))
        return await self._made[key]

    async def _make(self, name: str) -> TableClient:
        await self._tables.make(name)
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
