"""Events that were not recorded, kept with the reason, newest first. Those that could not be understood share one
partition. Those that wait for their task hub to be claimed have a partition for each task hub, so that they are found
again without reading the others."""

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableEntity

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.names import hub_key
from state_api.services.ports import Page, Purged, Quarantined
from state_api.storage.schema import QUARANTINED, SCHEMA
from state_api.storage.tables import (
    QUARANTINE,
    Tables,
    chunked,
    is_lost_race,
    is_no_table,
    read_page,
    transact,
    translated,
    unchunked,
)
from state_api.storage.transactions import Operation

_PARTITION = "quarantine"
_WAITING = "waiting|"
"""What the partition of a task hub begins with. It sorts after the one partition of all others."""
_LAST = 10**20
_LONGEST = 300_000
"""Characters kept of an event: in UTF-16 well below the 1 MiB that an entity may have."""
_TRANSACTION_CHARACTERS = 500_000
"""Event text per transaction: escaped and in UTF-16 it stays below the 4 MiB that a transaction may have."""
_TRANSACTION_ROWS = 100
_TRANSACTIONS_AT_ONCE = 16
PURGED_AT_ONCE = 5000
"""Events that one call to `purge` removes at most."""
PURGE_SECONDS = 60.0
"""How long one call to `purge` looks for events to remove."""


class QuarantineStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(QUARANTINE)
        self._transactions = asyncio.Semaphore(_TRANSACTIONS_AT_ONCE)

    async def keep(self, events: Sequence[Quarantined]) -> None:
        """Keep all, durably, or raise StorageUnavailable; then sending them again is safe."""
        by_partition: dict[str, list[Quarantined]] = defaultdict(list)
        for event in events:
            by_partition[_partition(event.task_hub)].append(event)
        await _all(self._keep(batch) for kept in by_partition.values() for batch in _batches(kept))

    async def _keep(self, batch: Sequence[Quarantined]) -> None:
        operations: list[Operation] = [("create", _row(event)) for event in batch]
        for attempt in range(2):
            async with self._transactions, translated():
                try:
                    await transact(self._table, operations)
                    break
                except HttpResponseError as error:
                    if attempt or not is_no_table(error):
                        raise
                    await self._tables.make(QUARANTINE)

    async def page(self, top: int, token: str | None) -> Page[Quarantined]:
        """Those that could not be understood first, newest first; then the waiting ones by task hub, newest first."""
        rows = await read_page(self._table, "PartitionKey ge @p", {"p": _PARTITION}, top, token, "quarantine")
        return Page(tuple(_quarantined(row) for row in rows.items), rows.continuation_token)

    async def waiting(self, task_hub: str, top: int) -> list[Quarantined]:
        """Up to `top` events that wait for this task hub to be claimed."""
        parameters = {"partition": _partition(task_hub)}
        rows = self._table.query_entities(
            "PartitionKey eq @partition", parameters=parameters, results_per_page=min(top, 1000)
        )
        found: list[Quarantined] = []
        async with translated():
            try:
                async for row in rows:
                    found.append(_quarantined(row))
                    if len(found) == top:
                        break
            except ResourceNotFoundError:
                return []
        return found

    async def remove(self, events: Sequence[Quarantined]) -> None:
        await self._delete([(_partition(event.task_hub), event.key) for event in events])

    async def purge(self, before: Instant) -> Purged:
        """Remove events that came before that time: at most PURGED_AT_ONCE, and those that are found within
        PURGE_SECONDS. Raises UnsupportedSchema before anything is removed."""
        # Keys count down from `_LAST`, so what came earlier has a greater one. Texts are compared: of the same length.
        least = min(_LAST - before + 1, _LAST - 1)
        rows = self._table.query_entities(
            "PartitionKey ge @partition and RowKey ge @key",
            parameters={"partition": _PARTITION, "key": f"{least:020d}"},
            select=["PartitionKey", "RowKey", SCHEMA],
            results_per_page=1000,
        )
        found: list[tuple[str, str]] = []
        more = False
        async with translated():
            try:
                async with asyncio.timeout(PURGE_SECONDS):
                    async for row in rows:
                        QUARANTINED.check(row)
                        if len(found) == PURGED_AT_ONCE:
                            more = True
                            break
                        found.append((row["PartitionKey"], row["RowKey"]))
            except TimeoutError:
                more = True
            except ResourceNotFoundError:
                return Purged(0, more=False)
        return Purged(await self._delete(found), more)

    async def _delete(self, keys: Sequence[tuple[str, str]]) -> int:
        """Delete rows; how many were there."""
        by_partition: dict[str, list[Operation]] = defaultdict(list)
        for partition, key in keys:
            by_partition[partition].append(("delete", {"PartitionKey": partition, "RowKey": key}))
        batches = [
            operations[start : start + _TRANSACTION_ROWS]
            for operations in by_partition.values()
            for start in range(0, len(operations), _TRANSACTION_ROWS)
        ]
        return sum(await _all(self._delete_batch(batch) for batch in batches))

    async def _delete_batch(self, operations: Sequence[Operation]) -> int:
        async with self._transactions, translated():
            try:
                await transact(self._table, operations)
                return len(operations)
            except HttpResponseError as error:
                if not is_lost_race(error):
                    raise
        if len(operations) == 1:
            return 0
        # Somebody else has removed one of them.
        return sum([await self._delete_batch([operation]) for operation in operations])


async def _all(work: Any) -> list[Any]:
    """Await all of it. Raises the first error after everything has ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _partition(task_hub: str | None) -> str:
    return _PARTITION if task_hub is None else f"{_WAITING}{hub_key(task_hub)}"


def _batches(events: Sequence[Quarantined]) -> list[list[Quarantined]]:
    batches: list[list[Quarantined]] = []
    size = 0
    for event in events:
        length = min(len(event.event), _LONGEST)
        if not batches or len(batches[-1]) == _TRANSACTION_ROWS or size + length > _TRANSACTION_CHARACTERS:
            batches.append([])
            size = 0
        batches[-1].append(event)
        size += length
    return batches


def _row(event: Quarantined) -> dict[str, object]:
    # The same event may come twice in one request: the last part keeps their rows apart.
    digest = hashlib.sha256(event.event.encode()).hexdigest()[:16]
    return {
        "PartitionKey": _partition(event.task_hub),
        "RowKey": f"{_LAST - event.received_at:020d}|{digest}|{secrets.token_hex(4)}",
        **QUARANTINED.stamp,
        "ReceivedAt": format_instant(event.received_at),
        "Code": event.code,
        "Message": event.message,
        "Source": event.source,
        "TaskHub": event.task_hub,
        "Truncated": event.truncated or len(event.event) > _LONGEST,
        **chunked("Event", event.event[:_LONGEST]),
    }


def _quarantined(row: TableEntity) -> Quarantined:
    QUARANTINED.check(row)
    return Quarantined(
        received_at=parse_instant(row["ReceivedAt"]),
        code=row["Code"],
        message=row["Message"],
        source=row["Source"],
        event=unchunked("Event", row),
        truncated=row["Truncated"],
        task_hub=row.get("TaskHub"),
        key=row["RowKey"],
    )
