"""Reads the timeline of a task hub from its counter rows, and deletes rows that are too old to be shown."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables.aio import TableClient

from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant
from state_api.domain.task_hubs.timeline import (
    TIMELINE_MINUTES,
    CounterKey,
    Minute,
    Timeline,
    add_up_counts,
    minute_of,
)
from state_api.storage.schema import TIMELINE_SCHEMA
from state_api.storage.tables import submit_transaction
from state_api.storage.timeline_rows import TIMELINE_FROM, bucket_of, counts_from_row, timeline_key_from
from state_api.storage.transaction_plan import MAX_OPERATIONS
from state_api.storage.transactions import TableOperation

_MAX_READS = 3


def first_counted_minute(now: Instant) -> Minute:
    """The first minute that is still counted: an hour before the first one that is shown. The clocks of servers differ
    by far less, and no transaction is on its way for so long."""
    return minute_of(now) - TIMELINE_MINUTES - 60


def _first_kept_minute(now: Instant) -> Minute:
    """The first minute whose row is kept: an hour before the first one that is counted, so that no server writes a row
    that another one deletes."""
    return bucket_of(first_counted_minute(now) - 60)


async def read_timeline(
    client: TableClient, partitions: Iterable[str], first_minute: Minute, end_minute: Minute
) -> Timeline:
    """The sums of all counters of these minutes. Empty without a table. Raises UnsupportedSchema, StorageUnavailable,
    and the library's errors."""
    shards = await asyncio.gather(
        *(_read_shard(client, partition, first_minute, end_minute) for partition in partitions)
    )
    return add_up_counts(shard.counts for shard in shards)


async def _read_shard(client: TableClient, partition: str, first_minute: Minute, end_minute: Minute) -> Timeline:
    """The counters of one shard. A page of rows is what the storage held at one moment. A transaction between two
    pages can be seen in part, so what no records can have counted is read again."""
    for _ in range(_MAX_READS):
        timeline = await _read_rows(client, partition, first_minute, end_minute)
        if timeline.is_consistent:
            return timeline
    raise StorageUnavailable("instances of the task hub change while the timeline is read: try again")


async def _read_rows(client: TableClient, partition: str, first_minute: Minute, end_minute: Minute) -> Timeline:
    """The sums of the counter rows of one shard, from one query."""
    rows = client.query_entities(
        "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to",
        parameters={
            "partition": partition,
            "from": timeline_key_from(bucket_of(first_minute)),
            "to": timeline_key_from(end_minute),
        },
        results_per_page=1000,
    )
    parts: list[Mapping[CounterKey, int]] = []
    try:
        async for row in rows:
            counts = counts_from_row(row)
            parts.append({key: count for key, count in counts.items() if first_minute <= key.minute < end_minute})
    except ResourceNotFoundError:
        return Timeline({})
    return add_up_counts(parts)


async def delete_old_counters(client: TableClient, partition: str, now: Instant) -> None:
    """Delete the counter rows of a shard that are too old to be shown. Raises the library's errors, also if another
    server deletes them at the same time. Rows of another schema stay."""
    rows = client.query_entities(
        "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to and Schema eq @schema",
        parameters={
            "partition": partition,
            "from": TIMELINE_FROM,
            "to": timeline_key_from(_first_kept_minute(now)),
            "schema": TIMELINE_SCHEMA.number,
        },
        select=["PartitionKey", "RowKey"],
        results_per_page=1000,
    )
    batch: list[TableOperation] = []
    async for row in rows:
        batch.append(_delete_operation(row))
        if len(batch) == MAX_OPERATIONS:
            await submit_transaction(client, batch)
            batch = []
    if batch:
        await submit_transaction(client, batch)


def _delete_operation(row: Mapping[str, Any]) -> TableOperation:
    """The operation of a transaction that deletes this row."""
    return ("delete", {"PartitionKey": row["PartitionKey"], "RowKey": row["RowKey"]})
