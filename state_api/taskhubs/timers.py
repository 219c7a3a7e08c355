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

from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.messages import KnownTimers, PendingTimer
from state_api.storage.keys import unescape
from state_api.storage.tables import Tables
from state_api.taskhubs.columns import instant_of

_PAGE = 1000
_MOST_CHANGED = 100
"""Instances on one page whose histories are read one by one, a partition each. Where more have changed, one query reads
the whole history table."""
_AT_ONCE = 16
_MARGIN = seconds(5)
"""The storage's machines may differ a little in time, and so may this one's idea of it."""

_CREATED = "EventType eq 'TimerCreated' and FireAt gt @now"
_COLUMNS = ["PartitionKey", "ExecutionId", "EventId", "FireAt"]


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where an unfinished read goes on: in the instance table or in the history table."""

    instances: bool
    at: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, known: KnownTimers) -> "_Cursor":
        if known.cursor is None:
            return cls(instances=known.read_through is not None)
        instances, at = json.loads(known.cursor)
        return cls(instances=bool(instances), at=at)

    def __str__(self) -> str:
        return json.dumps([self.instances, self.at])


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
        self._executions = executions

    async def read_on(self, task_hub: str, prefix: str, known: KnownTimers) -> KnownTimers:
        """One step of reading: a page of the instances that have changed since the histories were read, with their
        histories, or a page of the whole history table. The read is complete when the result has no `cursor`."""
        now = self._tables.clock.now()
        cursor = _Cursor.of(known)
        since = known.reading_since if known.cursor is not None and known.reading_since is not None else now
        if cursor.instances and known.read_through is not None:
            keys, onward = await self._changed(prefix, known.read_through, cursor.at)
            if onward is not None and len(keys) >= _MOST_CHANGED:
                # Too many to read their histories one by one.
                cursor, found, onward = _Cursor(instances=False), [], None
            else:
                found = await self._of_instances(task_hub, prefix, keys, now)
                cursor = replace(cursor, at=onward)
                if onward is None:
                    return _kept(known, found, Instant(since - _MARGIN), now)
        else:
            found, onward = await self._page(task_hub, prefix, cursor.at, now)
            if onward is None:
                return _kept(known, found, Instant(since - _MARGIN), now)
            cursor = _Cursor(instances=False, at=onward)
        return replace(known, timers=known.with_timers(found, now), cursor=str(cursor), reading_since=since)

    async def _changed(
        self, prefix: str, since: Instant, at: Mapping[str, Any] | None
    ) -> tuple[list[str], Mapping[str, Any] | None]:
        """Partition keys of instances that were stamped since, and where to go on."""
        rows = self._instances(prefix).query_entities(
            "Timestamp ge @since",
            parameters={"since": datetime_of(since)},
            select=["PartitionKey"],
            results_per_page=_MOST_CHANGED,
        )
        found, onward = await _next_page(rows, at)
        return [row["PartitionKey"] for row in found], onward

    async def _of_instances(self, task_hub: str, prefix: str, keys: Sequence[str], now: Instant) -> list[PendingTimer]:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def of_one(key: str) -> list[Mapping[str, Any]]:
            async with at_once:
                rows = self._history(prefix).query_entities(
                    f"PartitionKey eq @key and {_CREATED}",
                    parameters={"key": key, "now": datetime_of(now)},
                    select=_COLUMNS,
                )
                return [row async for row in rows]

        try:
            histories = await asyncio.gather(*map(of_one, keys))
        except ResourceNotFoundError:
            return []
        return await self._timers(task_hub, [row for history in histories for row in history])

    async def _page(
        self, task_hub: str, prefix: str, at: Mapping[str, Any] | None, now: Instant
    ) -> tuple[list[PendingTimer], Mapping[str, Any] | None]:
        rows = self._history(prefix).query_entities(
            _CREATED, parameters={"now": datetime_of(now)}, select=_COLUMNS, results_per_page=_PAGE
        )
        found, onward = await _next_page(rows, at)
        return await self._timers(task_hub, found), onward

    async def _timers(self, task_hub: str, rows: Sequence[Mapping[str, Any]]) -> list[PendingTimer]:
        if self._executions is not None and rows:
            ids = sorted({unescape(row["PartitionKey"]) for row in rows})
            executions = await self._executions(task_hub, ids)
            rows = [row for row in rows if executions.get(unescape(row["PartitionKey"])) == row.get("ExecutionId")]
        timers = [(_key(row), instant_of(row.get("FireAt"))) for row in rows]
        return [PendingTimer(key, fire_at) for key, fire_at in timers if fire_at is not None]

    def _instances(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}Instances")

    def _history(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}History")


async def _next_page(rows: Any, at: Mapping[str, Any] | None) -> tuple[list[TableEntity], Mapping[str, Any] | None]:
    """A page of a query, and where the next one begins. A table that does not exist is empty."""
    # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
    pages = rows.by_page(at)
    try:
        found = [row async for row in await anext(pages)]
    except (StopAsyncIteration, ResourceNotFoundError):
        return [], None
    return found, pages.continuation_token or None


def _kept(known: KnownTimers, found: Sequence[PendingTimer], through: Instant, now: Instant) -> KnownTimers:
    """What a complete read leaves. If some timers could not be remembered, nothing counts as read."""
    return KnownTimers(known.with_timers(found, now), None if known.partial else through)


def _key(row: Mapping[str, Any]) -> int:
    text = f"{row['PartitionKey']}\0{row.get('ExecutionId')}\0{row.get('EventId')}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
