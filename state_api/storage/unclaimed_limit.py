"""The limit on unclaimed task hubs that take events. Publishers choose the names of task hubs, and every task hub costs
a table."""

import asyncio
import time
from collections.abc import Callable

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient

from state_api.storage.schema import SCHEMA_PROPERTY, TASK_HUB_SCHEMA
from state_api.storage.tables import translate_storage_errors
from state_api.storage.task_hub_rows import APP_COLUMN, CLOSED_COLUMN, TASK_HUB_PARTITION

COUNT_MAX_AGE_SECONDS = 30.0
"""How long a count is used. Servers that share a storage do not see each other's new task hubs during that time.
Together they may exceed the limit, because each server admits as many as the limit allowed when it counted."""


class UnclaimedTaskHubLimit:
    """Counts the unclaimed task hubs in the registry. This process caches the count, because events of refused task
    hubs may arrive by the thousand, and adds the task hubs that it admits itself."""

    def __init__(
        self, registry: TableClient, limit: int | None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Limit the task hubs without an app to `limit`; None removes the limit. The count is cached."""
        self._registry = registry
        self._limit = limit
        self._monotonic = monotonic
        self._count: int | None = None
        self._counted_at = 0.0
        self._count_lock = asyncio.Lock()

    async def admit(self) -> bool:
        """Whether one more unclaimed task hub may be registered, which is then counted. Raises StorageUnavailable."""
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
        """Count again before the next task hub is admitted, because one was claimed or closed."""
        self._count = None

    async def _count_unclaimed(self) -> int:
        """How many task hubs of the registry are open and claimed by no app."""
        rows = self._registry.query_entities(
            "PartitionKey eq @partition",
            parameters={"partition": TASK_HUB_PARTITION},
            select=[APP_COLUMN, CLOSED_COLUMN, SCHEMA_PROPERTY],
            results_per_page=1000,
        )
        count = 0
        async with translate_storage_errors():
            try:
                async for row in rows:
                    TASK_HUB_SCHEMA.check(row)
                    count += row.get(APP_COLUMN) is None and not row[CLOSED_COLUMN]
            except ResourceNotFoundError:
                return 0
        return count
