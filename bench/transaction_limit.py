"""The storage's limit: only the writes that events need, in full transactions, to as many partitions as the server has
shards. No reads, no merges, no HTTP server."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from azure.data.tables.aio import TableServiceClient

from bench.event_stream import EventStream, apply_events, min_lag_events
from bench.machine import Stopwatch
from bench.storage import ROWS_PER_TRANSACTION, SHARD_COUNT, RawTables, RowWrite
from state_api.domain.task_hubs.lifecycle import Instance
from state_api.storage.instance_rows import active_row, active_row_key, instance_row

WRITES_PER_EVENT = 2
"""An instance's row, and the row that marks the instance as active, which its end deletes."""
EVENTS_PER_TRANSACTION = ROWS_PER_TRANSACTION // WRITES_PER_EVENT


def transaction_writes(shard: str, before: Instance | None, after: Instance) -> list[RowWrite]:
    """The writes of one event: a start creates two rows, an end updates one of them and deletes the other."""
    if before is None:
        return [
            ("create", instance_row(shard, after)),
            ("upsert", active_row(shard, active_row_key(after), after)),
        ]
    gone = {"PartitionKey": shard, "RowKey": active_row_key(before)}
    return [("update", instance_row(shard, after)), ("delete", gone)]


class _Partition:
    """A partition with a stream of its own, and the active instances of its rows."""

    def __init__(self, number: int) -> None:
        """Begin a stream of events for the partition with this number."""
        self.name = f"{number:02d}"
        self._stream = EventStream("limit", seed=number, lag=min_lag_events(EVENTS_PER_TRANSACTION))
        self._known: dict[str, Instance] = {}

    def next_transactions(self, count: int) -> list[list[RowWrite]]:
        """The next `count` full transactions."""
        return [self._next_transaction() for _ in range(count)]

    def _next_transaction(self) -> list[RowWrite]:
        """The row writes of the next events, as the server itself would write them."""
        changes = apply_events(self._stream.next_events(EVENTS_PER_TRANSACTION), self._known)
        return [write for before, after in changes for write in transaction_writes(self.name, before, after)]


class TransactionLimit:
    """Writes transactions through the client library that the server uses.

    With `without_library` the bodies are built before the clock starts, so that only the emulator is measured."""

    def __init__(self, connection: str, *, without_library: bool) -> None:
        """Prepare to write transactions as fast as the storage takes them, through the library of Azure or without
        it."""
        self._connection = connection
        self._raw = without_library
        self._table = "RawLimit" if without_library else "TransactionLimit"
        self._partitions = [_Partition(number) for number in range(SHARD_COUNT)]
        self._exit_stack = AsyncExitStack()

    async def __aenter__(self) -> "TransactionLimit":
        self._tables = await self._exit_stack.enter_async_context(RawTables(self._connection))
        await self._tables.create_table(self._table)
        service = TableServiceClient.from_connection_string(self._connection)
        await self._exit_stack.enter_async_context(service)
        self._client = service.get_table_client(self._table)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._exit_stack.aclose()

    async def run(self, events: int) -> tuple[float, float]:
        """Write what `events` events need, to all partitions at once. Returns wall and processor seconds.

        Transactions are prepared before the clock starts. Raises ValueError if the events do not fill transactions."""
        transactions_per_partition, rest = divmod(events, EVENTS_PER_TRANSACTION * SHARD_COUNT)
        if not transactions_per_partition or rest:
            raise ValueError(f"{events} events do not fill the transactions of {SHARD_COUNT} partitions")
        work = [partition.next_transactions(transactions_per_partition) for partition in self._partitions]
        if self._raw:
            bodies = [
                [self._tables.build_transaction(self._table, transaction) for transaction in of_partition]
                for of_partition in work
            ]
            clock = Stopwatch()
            await asyncio.gather(*(self._submit_bodies(partition_bodies) for partition_bodies in bodies))
        else:
            clock = Stopwatch()
            await asyncio.gather(*(self._submit_through_library(transactions) for transactions in work))
        return clock.read()

    async def _submit_bodies(self, bodies: Sequence[bytes]) -> None:
        """Send prepared transactions one after another. Nothing but the storage is measured."""
        for body in bodies:
            await self._tables.submit_transaction(body, ROWS_PER_TRANSACTION)

    async def _submit_through_library(self, transactions: Sequence[list[RowWrite]]) -> None:
        """Send the same transactions through the library of Azure, one after another."""
        for transaction in transactions:
            await self._client.submit_transaction(transaction)
