"""Reads the timers that have yet to fire from the histories of a task hub on Azure Storage (docs/platform.md, The
Durable Functions extension, 6 and 12). Hides tables, pages and continuations.

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

from state_api.backends.provider_values import parse_column_instant
from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.readiness.messages import KnownTimers, PendingTimer
from state_api.storage.instance_keys import unescape_instance_id
from state_api.storage.tables import Tables

_PAGE_SIZE = 1000
_MAX_CHANGED_INSTANCES = 100
"""Changed instances whose histories are read one by one, a partition each. Where more have changed, the whole history
table is read instead."""
_MAX_CONCURRENT_READS = 16
_CLOCK_SKEW_MARGIN = seconds(5)
"""How far the clocks of the storage's machines, and this server's idea of their time, may differ."""

_PENDING_TIMER_FILTER = "EventType eq 'TimerCreated' and FireAt gt @now"
_HISTORY_COLUMNS = ["PartitionKey", "ExecutionId", "EventId", "FireAt"]

Continuation = Mapping[str, Any]
"""Where the service continues a query: a row key of its own."""


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where an unfinished read goes on: in the instance table or in the history table."""

    reads_instances: bool
    continuation: Continuation | None = None

    @classmethod
    def from_known(cls, known: KnownTimers) -> "_Cursor":
        """The cursor at which the last read stopped, or a new one."""
        if known.cursor is None:
            return cls(reads_instances=known.read_through is not None)
        reads_instances, continuation = json.loads(known.cursor)
        return cls(reads_instances=bool(reads_instances), continuation=continuation)

    def __str__(self) -> str:
        """The cursor as text, as it is stored between two reads."""
        return json.dumps([self.reads_instances, self.continuation])


class TimerReader:
    """Reads pending timers.

    `read_execution_ids` returns the current execution id of each of the given instances that belongs to the given task
    hub. It is None if the tables belong to one task hub. In a shared tracking store an instance can have history rows
    of a former execution, whose timers are in the queues of another task hub.
    """

    def __init__(
        self,
        tables: Tables,
        read_execution_ids: Callable[[str, Sequence[str]], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self._tables = tables
        self._read_execution_ids = read_execution_ids

    async def read_next(self, task_hub: str, prefix: str, known: KnownTimers) -> KnownTimers:
        """Read one page: instances that have changed since the histories were last read, with their histories; or a
        page of the whole history table. `prefix` begins the tables' names. The read is complete when the result has no
        `cursor`."""
        now = self._tables.clock.now()
        cursor = _Cursor.from_known(known)
        began_at = known.reading_since if known.cursor is not None and known.reading_since is not None else now
        read_through = known.read_through if cursor.reads_instances else None
        if read_through is not None:
            keys, continuation = await self._read_changed_keys(prefix, read_through, cursor.continuation)
            if continuation is not None and len(keys) >= _MAX_CHANGED_INSTANCES:
                return replace(
                    known,
                    timers=known.merge_timers([], now),
                    cursor=str(_Cursor(reads_instances=False)),
                    reading_since=began_at,
                )
            timers = await self._read_timers_of_instances(task_hub, prefix, keys, now)
        else:
            timers, continuation = await self._read_history_page(task_hub, prefix, cursor.continuation, now)
        if continuation is None:
            return _finish_read(known, timers, Instant(began_at - _CLOCK_SKEW_MARGIN), now)
        next_cursor = _Cursor(reads_instances=read_through is not None, continuation=continuation)
        return replace(known, timers=known.merge_timers(timers, now), cursor=str(next_cursor), reading_since=began_at)

    async def _read_changed_keys(
        self, prefix: str, since: Instant, continuation: Continuation | None
    ) -> tuple[list[str], Continuation | None]:
        """Return a page of the partition keys of instances whose rows have changed since `since`, and the continuation
        of the next page."""
        rows = self._instances_table(prefix).query_entities(
            "Timestamp ge @since",
            parameters={"since": datetime_of(since)},
            select=["PartitionKey"],
            results_per_page=_MAX_CHANGED_INSTANCES,
        )
        page, next_continuation = await _read_next_page(rows, continuation)
        return [row["PartitionKey"] for row in page], next_continuation

    async def _read_timers_of_instances(
        self, task_hub: str, prefix: str, keys: Sequence[str], now: Instant
    ) -> list[PendingTimer]:
        """The pending timers in the histories of these instances; `keys` are their partition keys."""
        concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)

        async def read_history(key: str) -> list[Mapping[str, Any]]:
            async with concurrency_limit:
                rows = self._history_table(prefix).query_entities(
                    f"PartitionKey eq @key and {_PENDING_TIMER_FILTER}",
                    parameters={"key": key, "now": datetime_of(now)},
                    select=_HISTORY_COLUMNS,
                )
                return [row async for row in rows]

        try:
            histories = await asyncio.gather(*map(read_history, keys))
        except ResourceNotFoundError:
            return []
        return await self._to_pending_timers(task_hub, [row for history in histories for row in history])

    async def _read_history_page(
        self, task_hub: str, prefix: str, continuation: Continuation | None, now: Instant
    ) -> tuple[list[PendingTimer], Continuation | None]:
        """One page of the pending timers in the whole history table, and where the next page begins."""
        rows = self._history_table(prefix).query_entities(
            _PENDING_TIMER_FILTER,
            parameters={"now": datetime_of(now)},
            select=_HISTORY_COLUMNS,
            results_per_page=_PAGE_SIZE,
        )
        page, next_continuation = await _read_next_page(rows, continuation)
        return await self._to_pending_timers(task_hub, page), next_continuation

    async def _to_pending_timers(self, task_hub: str, rows: Sequence[Mapping[str, Any]]) -> list[PendingTimer]:
        """Convert history rows, without those of other executions in a shared tracking store."""
        if self._read_execution_ids is not None and rows:
            instance_ids = sorted({unescape_instance_id(row["PartitionKey"]) for row in rows})
            execution_ids = await self._read_execution_ids(task_hub, instance_ids)
            rows = [
                row
                for row in rows
                if execution_ids.get(unescape_instance_id(row["PartitionKey"])) == row.get("ExecutionId")
            ]
        timers = [(_timer_key(row), parse_column_instant(row.get("FireAt"))) for row in rows]
        return [PendingTimer(key, fire_at) for key, fire_at in timers if fire_at is not None]

    def _instances_table(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}Instances")

    def _history_table(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}History")


async def _read_next_page(
    rows: Any, continuation: Continuation | None
) -> tuple[list[TableEntity], Continuation | None]:
    """Return a page of a query and its continuation. A table that does not exist counts as empty."""
    pages = rows.by_page(continuation)
    try:
        page = [row async for row in await anext(pages)]
    except (StopAsyncIteration, ResourceNotFoundError):
        return [], None
    return page, pages.continuation_token or None


def _finish_read(
    known: KnownTimers, timers: Sequence[PendingTimer], read_through: Instant, now: Instant
) -> KnownTimers:
    """Return the result of a complete read. If some timers were too many to be kept, nothing counts as read."""
    return KnownTimers(known.merge_timers(timers, now), None if known.truncated else read_through)


def _timer_key(row: Mapping[str, Any]) -> int:
    """Identify a timer within its task hub by 48 bits of a hash.

    The key is short because up to MAX_REMEMBERED_TIMERS of them are stored in one row. Two timers with the same key
    count as one, so a collision can only explain fewer invisible messages and delay Ready."""
    text = f"{row['PartitionKey']}\0{row.get('ExecutionId')}\0{row.get('EventId')}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
