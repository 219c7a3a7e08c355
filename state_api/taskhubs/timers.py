"""Timers that have yet to fire, read from the histories of a task hub on Azure Storage (PLATFORM: The Durable
Functions extension, 6 and 12).

A timer's message stays invisible in a control queue until its `FireAt`, also when its instance has ended. The history
has a row `TimerCreated` with that `FireAt`.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient

from state_api.domain.instants import Instant, datetime_of, seconds
from state_api.domain.messages import MOST_TIMERS, KnownTimers, PendingTimer
from state_api.storage.keys import unescape
from state_api.storage.tables import Tables
from state_api.taskhubs.columns import instant_of

_PAGE = 1000
_MOST_CHANGED = 100
"""Instances whose histories are read one by one, a partition each. Where more have changed, one query reads the whole
history table."""
_AT_ONCE = 16
_MARGIN = seconds(5)
"""The storage's machines may differ a little in time, and so may this one's idea of it."""

_CREATED = "EventType eq 'TimerCreated' and FireAt gt @now"
_COLUMNS = ["PartitionKey", "ExecutionId", "EventId", "FireAt"]


class TimerReader:
    """Reads pending timers. `owned` returns those of some instance ids that belong to the task hub; it is None where
    the tables are the task hub's own."""

    def __init__(
        self, tables: Tables, owned: Callable[[str, Sequence[str]], Awaitable[Sequence[str]]] | None = None
    ) -> None:
        self._tables = tables
        self._owned = owned

    async def read_on(self, task_hub: str, prefix: str, known: KnownTimers) -> KnownTimers:
        """One step of reading: by the instances that have changed since the histories were read, else a page of the
        whole history table. The read is complete when the result has no `cursor`."""
        now = self._tables.clock.now()
        if known.cursor is None and known.read_through is not None:
            changed = await self._changed(prefix, known.read_through)
            if len(changed) <= _MOST_CHANGED:
                found = await self._of_instances(task_hub, prefix, changed, now)
                return _kept(known, found, Instant(now - _MARGIN), now)
        since = known.reading_since if known.cursor is not None and known.reading_since is not None else now
        found, cursor = await self._page(task_hub, prefix, known.cursor, now)
        if cursor is not None:
            timers = known.with_timers(found, now)
            return KnownTimers(timers, known.read_through, cursor, since)
        return _kept(known, found, Instant(since - _MARGIN), now)

    async def _changed(self, prefix: str, since: Instant) -> list[str]:
        """Partition keys of the instances that were stamped since, a few more than are read one by one."""
        rows = self._instances(prefix).query_entities(
            "Timestamp ge @since",
            parameters={"since": datetime_of(since)},
            select=["PartitionKey"],
            results_per_page=_MOST_CHANGED + 1,
        )
        keys: list[str] = []
        async for row in rows:
            keys.append(row["PartitionKey"])
            if len(keys) > _MOST_CHANGED:
                break
        return keys

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
        self, task_hub: str, prefix: str, cursor: str | None, now: Instant
    ) -> tuple[list[PendingTimer], str | None]:
        rows = self._history(prefix).query_entities(
            _CREATED, parameters={"now": datetime_of(now)}, select=_COLUMNS, results_per_page=_PAGE
        )
        # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
        pages: Any = rows.by_page(json.loads(cursor) if cursor else None)
        try:
            found = [row async for row in await anext(pages)]
        except (StopAsyncIteration, ResourceNotFoundError):
            return [], None
        onward = pages.continuation_token
        return await self._timers(task_hub, found), json.dumps(onward) if onward else None

    async def _timers(self, task_hub: str, rows: Sequence[Mapping[str, Any]]) -> list[PendingTimer]:
        if self._owned is not None and rows:
            ids = sorted({unescape(row["PartitionKey"]) for row in rows})
            own = set(await self._owned(task_hub, ids))
            rows = [row for row in rows if unescape(row["PartitionKey"]) in own]
        timers = [(_key(row), instant_of(row.get("FireAt"))) for row in rows]
        return [PendingTimer(key, fire_at) for key, fire_at in timers if fire_at is not None]

    def _instances(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}Instances")

    def _history(self, prefix: str) -> TableClient:
        return self._tables.client(f"{prefix}History")


def _kept(known: KnownTimers, found: Sequence[PendingTimer], through: Instant, now: Instant) -> KnownTimers:
    """What a complete read leaves. With too many timers nothing counts as read, and the next probe reads all anew."""
    timers = known.with_timers(found, now)
    return KnownTimers(timers, through if len(timers) <= MOST_TIMERS else None)


def _key(row: Mapping[str, Any]) -> int:
    text = f"{row['PartitionKey']}\0{row.get('ExecutionId')}\0{row.get('EventId')}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:6], "big")
