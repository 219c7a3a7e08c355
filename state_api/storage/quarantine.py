"""Events that were not recorded, kept with the reason: events that the server could not read, and events that wait for
an app to claim their task hub."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from state_api.domain.instants import Instant
from state_api.services.ports import Page, PurgeResult, QuarantinedEvent
from state_api.storage.quarantine_rows import (
    MAX_EVENT_CHARACTERS,
    QUARANTINE_PARTITION,
    first_key_before,
    quarantine_partition,
    quarantine_row,
    quarantined_event_from_row,
)
from state_api.storage.schema import QUARANTINE_SCHEMA, SCHEMA_PROPERTY
from state_api.storage.tables import (
    QUARANTINE_TABLE,
    Tables,
    is_table_missing,
    is_write_conflict,
    read_page,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation

_MAX_TRANSACTION_CHARACTERS = 500_000
"""Characters of event text in one transaction. Escaped and in UTF-16 they stay below the 4 MiB limit of a
transaction."""
_MAX_TRANSACTION_ROWS = 100
_MAX_CONCURRENT_TRANSACTIONS = 16
MAX_PURGED_EVENTS = 5000
"""Events that one call to `purge` removes at most."""
PURGE_TIMEOUT_SECONDS = 60.0
"""How long one call to `purge` lists events to remove."""

Result = TypeVar("Result")


class QuarantineStore:
    """Reads and writes the quarantine table. Every method raises StorageUnavailable."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(QUARANTINE_TABLE)
        self._transaction_slots = asyncio.Semaphore(_MAX_CONCURRENT_TRANSACTIONS)

    async def add(self, events: Sequence[QuarantinedEvent]) -> None:
        """Store all events durably. After an error, adding all of them again loses none and may duplicate some."""
        by_partition: dict[str, list[QuarantinedEvent]] = defaultdict(list)
        for event in events:
            by_partition[quarantine_partition(event.task_hub)].append(event)
        await _gather_all(
            self._write_batch(batch)
            for partition_events in by_partition.values()
            for batch in _split_into_batches(partition_events)
        )

    async def _write_batch(self, batch: Sequence[QuarantinedEvent]) -> None:
        """Store these events in one transaction, in a new table if there is none."""
        operations: list[TableOperation] = [("create", quarantine_row(event)) for event in batch]
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
        """Up to `top` events: first those that the server could not read, then the waiting ones by task hub. The
        newest come first in each group."""
        parameters = {"partition": QUARANTINE_PARTITION}
        rows = await read_page(
            self._table, "PartitionKey ge @partition", parameters, top=top, token=token, list_name="quarantine"
        )
        return Page(tuple(quarantined_event_from_row(row) for row in rows.items), rows.continuation_token)

    async def list_waiting(self, task_hub: str, top: int) -> list[QuarantinedEvent]:
        """Up to `top` events that wait for an app to claim this task hub."""
        rows = self._table.query_entities(
            "PartitionKey eq @partition",
            parameters={"partition": quarantine_partition(task_hub)},
            results_per_page=min(top, 1000),
        )
        events: list[QuarantinedEvent] = []
        async with translate_storage_errors():
            try:
                async for row in rows:
                    events.append(quarantined_event_from_row(row))
                    if len(events) == top:
                        break
            except ResourceNotFoundError:
                return []
        return events

    async def remove(self, events: Sequence[QuarantinedEvent]) -> None:
        """Remove events that `list_waiting` returned; an event that was removed already is skipped."""
        await self._delete([(quarantine_partition(event.task_hub), event.key) for event in events])

    async def purge(self, received_before: Instant) -> PurgeResult:
        """Remove events that arrived before this time: at most MAX_PURGED_EVENTS, and only those that are listed
        within PURGE_TIMEOUT_SECONDS. Raises UnsupportedSchema before any event is removed."""
        rows = self._table.query_entities(
            "PartitionKey ge @partition and RowKey ge @key",
            parameters={"partition": QUARANTINE_PARTITION, "key": first_key_before(received_before)},
            select=["PartitionKey", "RowKey", SCHEMA_PROPERTY],
            results_per_page=1000,
        )
        keys: list[tuple[str, str]] = []
        has_more = False
        async with translate_storage_errors():
            try:
                async with asyncio.timeout(PURGE_TIMEOUT_SECONDS):
                    async for row in rows:
                        QUARANTINE_SCHEMA.check(row)
                        if len(keys) == MAX_PURGED_EVENTS:
                            has_more = True
                            break
                        keys.append((row["PartitionKey"], row["RowKey"]))
            except TimeoutError:
                has_more = True
            except ResourceNotFoundError:
                return PurgeResult(removed=0, has_more=False)
        return PurgeResult(removed=await self._delete(keys), has_more=has_more)

    async def _delete(self, keys: Sequence[tuple[str, str]]) -> int:
        """Delete rows by partition and row key. Returns how many of them existed."""
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
        """Delete these rows, as far as they still exist. Returns how many were deleted."""
        async with self._transaction_slots, translate_storage_errors():
            try:
                await submit_transaction(self._table, operations)
                return len(operations)
            except HttpResponseError as error:
                if not is_write_conflict(error):
                    raise
        if len(operations) == 1:
            return 0
        # Another caller has removed one of the rows, and a transaction deletes all rows or none.
        return sum([await self._delete_batch([operation]) for operation in operations])


async def _gather_all(awaitables: Iterable[Awaitable[Result]]) -> list[Result]:
    """Await all of them. Raises the first error, but only after the others have ended."""
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    results: list[Result] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results


def _split_into_batches(events: Sequence[QuarantinedEvent]) -> list[list[QuarantinedEvent]]:
    """Batches of which each fits into one transaction."""
    batches: list[list[QuarantinedEvent]] = []
    batch_characters = 0
    for event in events:
        characters = min(len(event.event), MAX_EVENT_CHARACTERS)
        if (
            not batches
            or len(batches[-1]) == _MAX_TRANSACTION_ROWS
            or batch_characters + characters > _MAX_TRANSACTION_CHARACTERS
        ):
            batches.append([])
            batch_characters = 0
        batches[-1].append(event)
        batch_characters += characters
    return batches
