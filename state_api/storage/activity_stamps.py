"""The activity stamps that this worker writes: when an event last changed an instance of a function."""

import asyncio
from collections import OrderedDict
from contextlib import suppress

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

from state_api.domain.instants import Instant, parse_instant
from state_api.storage.instance_rows import activity_stamp_key, activity_stamp_row, check_schema
from state_api.storage.transactions import TableOperation

MAX_CACHED_STAMPS = 2_000
"""Cached stamps, about 300 bytes each: those of 200 busy task hubs with ten functions each. A stamp that is not cached
costs a read."""


class ActivityStamps:
    """Knows the time of the last event of each function, so that a late event does not set a stamp back."""

    def __init__(self, request_slots: asyncio.Semaphore) -> None:
        self._request_slots = request_slots
        # By table, shard and function. A missing entry is read from the stamp's row.
        self._last_event_at: OrderedDict[tuple[str, str, str], Instant] = OrderedDict()

    def invalidate_cache(self, table: str) -> None:
        """Forget all stamps of a table that was deleted."""
        self._last_event_at = OrderedDict((key, at) for key, at in self._last_event_at.items() if key[0] != table)

    async def build_write(
        self, client: TableClient, shard: str, function_name: str, event_at: Instant
    ) -> TableOperation:
        """The operation that writes the function's activity stamp. The write has no condition, because every writer
        of the shard writes stamps. The settle window counts from the row's Timestamp, which the storage sets. The
        column `LastEventAt` is for people, and may lag behind for a moment when several workers write. Raises
        UnsupportedSchema and the library's errors."""
        stamp_key = (client.table_name, shard, function_name)
        if stamp_key not in self._last_event_at:
            async with self._request_slots:
                event_at = max(event_at, await _read_last_event_at(client, shard, function_name))
        latest = max(self._last_event_at.pop(stamp_key, Instant(0)), event_at)
        if len(self._last_event_at) >= MAX_CACHED_STAMPS:
            # The least recently written stamp comes first.
            self._last_event_at.popitem(last=False)
        self._last_event_at[stamp_key] = latest
        return ("upsert", activity_stamp_row(shard, function_name, latest), {"mode": UpdateMode.REPLACE})


async def _read_last_event_at(client: TableClient, shard: str, function_name: str) -> Instant:
    """The time on the function's stamp; 0 if there is none."""
    with suppress(ResourceNotFoundError):
        row = await client.get_entity(shard, activity_stamp_key(function_name))
        check_schema(row)
        return parse_instant(row["LastEventAt"])
    return Instant(0)
