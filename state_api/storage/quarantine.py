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
from state_api.services.ports import Page, PurgeResult, QuarantinedEvent
from state_api.storage.schema import QUARANTINE_SCHEMA, SCHEMA_PROPERTY
from state_api.storage.tables import (
    QUARANTINE_TABLE,
    Tables,
    is_table_missing,
    is_write_conflict,
    join_property,
    read_page,
    split_property,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation

_PARTITION = "quarantine"
_TASK_HUB_PREFIX = "waiting|"
"""What the partition of a task hub begins with. It sorts after the one partition of all others."""
_KEY_ORIGIN = 10**20
_MAX_EVENT_CHARACTERS = 300_000
"""Characters kept of an event: in UTF-16 well below the 1 MiB that an entity may have."""
_MAX_TRANSACTION_CHARACTERS = 500_000
"""Event text per transaction: escaped and in UTF-16 it stays below the 4 MiB that a transaction may have."""
_MAX_TRANSACTION_ROWS = 100
_MAX_CONCURRENT_TRANSACTIONS = 16
MAX_PURGED_EVENTS = 5000
"""Events that one call to `purge` removes at most."""
PURGE_TIMEOUT_SECONDS = 60.0
"""How long one call to `purge` looks for events to remove."""


class QuarantineStore:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(QUARANTINE_TABLE)
        self._transaction_slots = asyncio.Semaphore(_MAX_CONCURRENT_TRANSACTIONS)

    async def add(self, events: Sequence[QuarantinedEvent]) -> None:
        """Keep all, durably, or raise StorageUnavailable; then sending them again is safe."""
        by_partition: dict[str, list[QuarantinedEvent]] = defaultdict(list)
        for event in events:
            by_partition[_partition_key(event.task_hub)].append(event)
        await _gather_all(
            self._write_batch(batch) for kept in by_partition.values() for batch in _split_into_batches(kept)
        )

    async def _write_batch(self, batch: Sequence[QuarantinedEvent]) -> None:
        operations: list[TableOperation] = [("create", _row_from_event(event)) for event in batch]
        for attempt in range(2):
            async with self._transaction_slots, translate_storage_errors():
                try:
                    await submit_transaction(self._table, operations)
                    break
                except HttpResponseError as error:
                    if attempt or not is_table_missing(error):
                        raise
                    await self._tables.create_table(QUARANTINE_TABLE)

    async def list_page(self, top: int, token: str | None) -> Page[QuarantinedEvent]:
        """Those that could not be understood first, newest first; then the waiting ones by task hub, newest first."""
        rows = await read_page(
            self._table, "PartitionKey ge @p", {"p": _PARTITION}, top=top, token=token, list_name="quarantine"
        )
        return Page(tuple(_event_from_row(row) for row in rows.items), rows.continuation_token)

    async def list_waiting(self, task_hub: str, top: int) -> list[QuarantinedEvent]:
        """Up to `top` events that wait for this task hub to be claimed."""
        parameters = {"partition": _partition_key(task_hub)}
        rows = self._table.query_entities(
            "PartitionKey eq @partition", parameters=parameters, results_per_page=min(top, 1000)
        )
        found: list[QuarantinedEvent] = []
        async with translate_storage_errors():
            try:
                async for row in rows:
                    found.append(_event_from_row(row))
                    if len(found) == top:
                        break
            except ResourceNotFoundError:
                return []
        return found

    async def remove(self, events: Sequence[QuarantinedEvent]) -> None:
        await self._delete([(_partition_key(event.task_hub), event.key) for event in events])

    async def purge(self, received_before: Instant) -> PurgeResult:
        """Remove events that came before that time: at most PURGED_AT_ONCE, and those that are found within
        PURGE_SECONDS. Raises UnsupportedSchema before anything is removed."""
        # Keys count down from `_KEY_ORIGIN`, so what came earlier has a greater one. Texts are compared: of the same
        # length.
        least = min(_KEY_ORIGIN - received_before + 1, _KEY_ORIGIN - 1)
        rows = self._table.query_entities(
            "PartitionKey ge @partition and RowKey ge @key",
            parameters={"partition": _PARTITION, "key": f"{least:020d}"},
            select=["PartitionKey", "RowKey", SCHEMA_PROPERTY],
            results_per_page=1000,
        )
        found: list[tuple[str, str]] = []
        more = False
        async with translate_storage_errors():
            try:
                async with asyncio.timeout(PURGE_TIMEOUT_SECONDS):
                    async for row in rows:
                        QUARANTINE_SCHEMA.check(row)
                        if len(found) == MAX_PURGED_EVENTS:
                            more = True
                            break
                        found.append((row["PartitionKey"], row["RowKey"]))
            except TimeoutError:
                more = True
            except ResourceNotFoundError:
                return PurgeResult(0, has_more=False)
        return PurgeResult(await self._delete(found), more)

    async def _delete(self, keys: Sequence[tuple[str, str]]) -> int:
        """Delete rows; how many were there."""
        by_partition: dict[str, list[TableOperation]] = defaultdict(list)
        for partition, key in keys:
            by_partition[partition].append(("delete", {"PartitionKey": partition, "RowKey": key}))
        batches = [
            operations[start : start + _MAX_TRANSACTION_ROWS]
            for operations in by_partition.values()
            for start in range(0, len(operations), _MAX_TRANSACTION_ROWS)
        ]
        return sum(await _gather_all(self._delete_batch(batch) for batch in batches))

    async def _delete_batch(self, operations: Sequence[TableOperation]) -> int:
        async with self._transaction_slots, translate_storage_errors():
            try:
                await submit_transaction(self._table, operations)
                return len(operations)
            except HttpResponseError as error:
                if not is_write_conflict(error):
                    raise
        if len(operations) == 1:
            return 0
        # Somebody else has removed one of them.
        return sum([await self._delete_batch([operation]) for operation in operations])


async def _gather_all(awaitables: Any) -> list[Any]:
    """Await all of it. Raises the first error after everything has ended."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _partition_key(task_hub: str | None) -> str:
    return _PARTITION if task_hub is None else f"{_TASK_HUB_PREFIX}{hub_key(task_hub)}"


def _split_into_batches(events: Sequence[QuarantinedEvent]) -> list[list[QuarantinedEvent]]:
    batches: list[list[QuarantinedEvent]] = []
    size = 0
    for event in events:
        length = min(len(event.event), _MAX_EVENT_CHARACTERS)
        if not batches or len(batches[-1]) == _MAX_TRANSACTION_ROWS or size + length > _MAX_TRANSACTION_CHARACTERS:
            batches.append([])
            size = 0
        batches[-1].append(event)
        size += length
    return batches


def _row_from_event(event: QuarantinedEvent) -> dict[str, object]:
    # The same event may come twice in one request: the last part keeps their rows apart.
    digest = hashlib.sha256(event.event.encode()).hexdigest()[:16]
    return {
        "PartitionKey": _partition_key(event.task_hub),
        "RowKey": f"{_KEY_ORIGIN - event.received_at:020d}|{digest}|{secrets.token_hex(4)}",
        **QUARANTINE_SCHEMA.schema_property,
        "ReceivedAt": format_instant(event.received_at),
        "Code": event.code,
        "Message": event.message,
        "EndpointType": event.endpoint_type,
        "TaskHub": event.task_hub,
        "Truncated": event.truncated or len(event.event) > _MAX_EVENT_CHARACTERS,
        **split_property("Event", event.event[:_MAX_EVENT_CHARACTERS]),
    }


def _event_from_row(row: TableEntity) -> QuarantinedEvent:
    QUARANTINE_SCHEMA.check(row)
    return QuarantinedEvent(
        received_at=parse_instant(row["ReceivedAt"]),
        code=row["Code"],
        message=row["Message"],
        endpoint_type=row["EndpointType"],
        event=join_property("Event", row),
        truncated=row["Truncated"],
        task_hub=row.get("TaskHub"),
        key=row["RowKey"],
    )
