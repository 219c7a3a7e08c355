"""The limit on task hubs that take events although no app has claimed them: publishers choose the names, and each task
hub costs a table."""

import asyncio
import time
from collections.abc import Callable

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient

from state_api.storage.schema import SCHEMA_PROPERTY, TASK_HUB_SCHEMA
from state_api.storage.tables import translate_storage_errors

COUNT_MAX_AGE_SECONDS = 30.0
"""How long a count is used. Servers that share a storage do not see each other's new task hubs for that long, and so
may together admit more than the limit: each at most what was left when it counted."""


class UnclaimedTaskHubLimit:
    """Counts the unclaimed task hubs in the registry. The count is kept in this process, because events of refused task
    hubs may come by the thousand; what this process admits is added to it at once."""

    def __init__(
        self,
        registry: TableClient,
        partition: str,
        limit: int | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._partition = partition
        self._limit = limit
        self._monotonic = monotonic
        self._count: int | None = None
        self._counted_at = 0.0
        self._count_lock = asyncio.Lock()

    async def admit(self) -> bool:
        """Whether one more task hub may be registered for events; then it is counted. Raises StorageUnavailable."""
        if self._limit is None:
            return True
        async with self._count_lock:
            if self._count is None or self._monotonic() - self._counted_at >= COUNT_MAX_AGE_SECONDS:
                began_at = self._monotonic()
                self._count = await self._count_unclaimed()
                self._counted_at = began_at
            if self._count >= self._limit:
                return False
            self._count += 1
            return True

    def invalidate_cache(self) -> None:
        """Count again at the next new task hub: one was claimed or closed."""
        self._count = None

    async def _count_unclaimed(self) -> int:
        rows = self._registry.query_entities(
            "PartitionKey eq @partition",
            parameters={"partition": self._partition},
            select=["App", "Closed", SCHEMA_PROPERTY],
            results_per_page=1000,
        )
        count = 0
        async with translate_storage_errors():
            try:
                async for row in rows:
                    TASK_HUB_SCHEMA.check(row)
                    count += row.get("App") is None and not row.get("Closed")
            except ResourceNotFoundError:
                return 0
        return count
