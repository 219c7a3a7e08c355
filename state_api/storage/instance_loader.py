"""Loads the stored instances that a transaction is about to change, from the cache or from their rows."""

import asyncio
from collections.abc import Iterable, Sequence

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient

from state_api.services.ports import TableMissing
from state_api.storage.instance_cache import InstanceCache
from state_api.storage.instance_rows import instance_from_row, instance_row_key
from state_api.storage.tables import etag_of, is_table_missing
from state_api.storage.transaction_plan import InstanceUpdate, StoredInstance


class InstanceLoader:
    """Reads the instances of updates that `cache` does not have, and caches them."""

    def __init__(self, cache: InstanceCache, request_slots: asyncio.Semaphore) -> None:
        self._cache = cache
        self._request_slots = request_slots
        # Whether a start of an unknown instance is written without reading the instance first. That fails often when
        # several workers record the same task hub, or when orchestrations continue as new.
        self._assume_new_starts = True

    async def load(
        self, client: TableClient, shard: str, updates: Iterable[InstanceUpdate], *, bypass_cache: bool
    ) -> dict[str, StoredInstance]:
        """The stored instance of each update, from the cache or the storage. A start of an unknown instance may be
        assumed to be new: the conditional write fails if it is not. Raises TableMissing and the library's errors."""
        table = client.table_name
        loaded: dict[str, StoredInstance] = {}
        only_starts: dict[str, bool] = {}
        for update in updates:
            only_starts[update.instance_id] = update.only_starts and only_starts.get(update.instance_id, True)
        to_read: list[str] = []
        for instance_id, is_start in only_starts.items():
            cached = None if bypass_cache else self._cache.get(table, instance_id)
            if cached is not None:
                loaded[instance_id] = cached
            elif is_start and self._assume_new_starts and not bypass_cache:
                loaded[instance_id] = StoredInstance()
            else:
                to_read.append(instance_id)
        if to_read:
            read = await self._read(client, shard, to_read)
            starts = [stored for instance_id, stored in read.items() if only_starts[instance_id]]
            if starts:
                self._assume_new_starts = all(stored.etag is None for stored in starts)
            for instance_id, stored in read.items():
                loaded[instance_id] = stored
                self._cache.put(table, instance_id, stored)
        return loaded

    async def _read(self, client: TableClient, shard: str, instance_ids: Sequence[str]) -> dict[str, StoredInstance]:
        """Read the stored rows of these instances at once."""

        async def read(instance_id: str) -> StoredInstance:
            async with self._request_slots:
                return await read_stored_instance(client, shard, instance_id)

        stored = await asyncio.gather(*(read(instance_id) for instance_id in instance_ids))
        return dict(zip(instance_ids, stored, strict=True))


async def read_stored_instance(client: TableClient, shard: str, instance_id: str) -> StoredInstance:
    """Read the row of one instance. Raises TableMissing and the library's errors."""
    try:
        row = await client.get_entity(shard, instance_row_key(instance_id))
    except ResourceNotFoundError as error:
        if is_table_missing(error):
            raise TableMissing from error
        return StoredInstance()
    return StoredInstance(instance_from_row(row), etag_of(row))
