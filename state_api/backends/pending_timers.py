"""Timers that have yet to fire, read from the histories of a task hub on Azure Storage (PLATFORM: The Durable
Functions extension, 6 and 12).

A timer's message stays invisible in a control queue until its `FireAt`, also when its instance has ended. The history
has a row `TimerCreated` with that `FireAt`.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient

from state_api.backends.table_columns import parse_column_instant
from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.readiness.messages import KnownTimers, PendingTimer
from state_api.storage.instance_keys import unescape_instance_id
from state_api.storage.tables import Tables

_PAGE_SIZE = 1000
_MAX_CHANGED_INSTANCES = 100
"""Instances on one page whose histories are read one by one, a partition each. Where more have changed, one query reads
the whole history table."""
_MAX_CONCURRENT_READS = 16
_CLOCK_SKEW_MARGIN = seconds(5)
"""The storage's machines may differ a little in time, and so may this one's idea of it."""

_PENDING_TIMER_FILTER = "EventType eq 'TimerCreated' and FireAt gt @now"
_HISTORY_COLUMNS = ["PartitionKey", "ExecutionId", "EventId", "FireAt"]


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where an unfinished read goes on: in the instance table or in the history table."""

    reads_instances: bool
    continuation: Mapping[str, Any] | None = None

    @classmethod
    def from_known(cls, known: KnownTimers) -> "_Cursor":
        if known.cursor is None:
            return cls(reads_instances=known.read_through is not None)
        instances, continuation = json.loads(known.cursor)
        return cls(reads_instances=bool(instances), continuation=continuation)

    def __str__(self) -> str:
        return json.dumps([self.reads_instances, self.continuation])


class TimerReader:
    """Reads pending timers. `executions` returns the present execution of those instances that belong to the task hub;
    it is None where the tables are the task hub's own. In a shared tracking store an instance can have rows of a former
    execution, whose timers lie in the queues of another task hub."""

    def __init__(
        self,
        tables: Tables,
        executions: Callable[[str, Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._tables = tables
        self._read_execution_ids = executions

    async def read_next(self, task_hub: str, prefix: str, known: KnownTimers) -> KnownTimers:
        """One step of reading: a page of the instances that have changed since the histories were read, with their
        histories, or a page of the whole history table. The read is complete when the result has no `cursor`."""
        now = self._tables.clock.now()
        cursor = _Cursor.from_known(known)
        since = known.reading_since if known.cursor is not None and known.reading_since is not None else now
        if cursor.reads_instances and known.read_through is not None:
            keys, onward = await self._read_changed_keys(prefix, known.read_through, cursor.continuation)
            if onward is not None and len(keys) >= _MAX_CHANGED_INSTANCES:
                # Too many to read their histories one by one.
                cursor, found, onward = _Cursor(reads_instances=False), [], None
            else:
                found = await self._read_timers_of_instances(task_hub, prefix, keys, now)
                cursor = replace(cursor, continuation=onward)
                if onward is None:
                    return _finish_read(known, found, Instant(since - _CLOCK_SKEW_MARGIN), now)
        else:
            found, onward = await self._read_history_page(task_hub, prefix, cursor.continuation, now)
            if onward is None:
                return _finish_read(known, found, Instant(since - _CLOCK_SKEW_MARGIN), now)
            cursor = _Cursor(reads_instances=False, continuation=onward)
        return replace(known, timers=known.merge_timers(found, now), cursor=str(cursor), reading_since=since)

    async def _read_changed_keys(
        self, prefix: str, since: Instant, continuation: Mapping[str, Any] | None
    ) -> tuple[list[str], Mapping[str, Any] | None]:
        """Partition keys of instances that were stamped since, and where to go on."""
        rows = self._instances_table(prefix).query_entities(
            "Timestamp ge @since",
            parameters={"since": datetime_of(since)},
            select=["PartitionKey"],
            results_per_page=_MAX_CHANGED_INSTANCES,
        )
        found, onward = await _read_next_page(rows, continuation)
        return [row["PartitionKey"] for row in found], onward

    async def _read_timers_of_instances(
        self, task_hub: str, prefix: str, keys: Sequence[str], now: Instant
    ) -> list[PendingTimer]:
        at_once = asyncio.Semaphore(_MAX_CONCURRENT_READS)

        async def of_one(key: str) -> list[Mapping[str, Any]]:
            async with at_once:
                rows = self._history_table(prefix).query_entities(
                    f"PartitionKey eq @key and {_PENDING_TIMER_FILTER}",
                    parameters={"key": key, "now": datetime_of(now)},
                    select=_HISTORY_COLUMNS,
                )
                return [row async for row in rows]

        try:
            histories = await asyncio.gather(*map(of_one, keys))
        except ResourceNotFoundError:
            return []
        return await self._to_pending_timers(task_hub, [row for history in histories for row in history])

    async def _read_history_page(
        self, task_hub: str, prefix: str, continuation: Mapping[str, Any] | None, now: Instant
    ) -> tuple[list[PendingTimer], Mapping[str, Any] | None]:
        rows = self._history_table(prefix).query_entities(
            _PENDING_TIMER_FILTER,
            parameters={"now": datetime_of(now)},
            select=_HISTORY_COLUMNS,
            results_per_page=_PAGE_SIZE,
        )
        found, onward = await _read_next_page(rows, continuation)
        return await self._to_pending_timers(task_hub, found), onward

    async def _to_pending_timers(self, task_hub: str, rows: Sequence[Mapping[str, Any]]) -> list[PendingTimer]:
        if self._read_execution_ids is not None and rows:
            ids = sorted({unescape_instance_id(row["PartitionKey"]) for row in rows})
            executions = await self._read_execution_ids(task_hub, ids)
            rows = [
                row
                for row in rows
                if executions.get(unescape_instance_id(row["PartitionKey"])) == row.get("ExecutionId")
            ]
        timers = [(_timer_key(row), parse_column_instant(row.get("FireAt"))) for row in rows]
        return [PendingTimer(key, fire_at) for key, fire_at in timers if fire_at is not None]

    def _instances_table(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}Instances")

    def _history_table(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}History")


async def _read_next_page(
    rows: Any, continuation: Mapping[str, Any] | None
) -> tuple[list[TableEntity], Mapping[str, Any] | None]:
    """A page of a query, and where the next one begins. A table that does not exist is empty."""
    # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
    pages = rows.by_page(continuation)
    try:
        found = [row async for row in await anext(pages)]
    except (StopAsyncIteration, ResourceNotFoundError):
        return [], None
    return found, pages.continuation_token or None


def _finish_read(known: KnownTimers, found: Sequence[PendingTimer], read_until: Instant, now: Instant) -> KnownTimers:
    """What a complete read leaves. If some timers could not be remembered, nothing counts as read."""
    return KnownTimers(known.merge_timers(found, now), None if known.truncated else read_until)


def _timer_key(row: Mapping[str, Any]) -> int:
    text = f"{row['PartitionKey']}\0{row.get('ExecutionId')}\0{row.get('EventId')}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
