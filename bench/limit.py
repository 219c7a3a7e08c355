"""The limit: the writes that events need, in full transactions, and nothing else. No reading, no merging, no HTTP."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from azure.data.tables.aio import TableServiceClient

from bench.lifecycles import Lifecycles, instances, lag_of
from bench.machine import Stopwatch
from bench.storage import TRANSACTION, RawTables, Write
from state_api.domain.lifecycle import Instance
from state_api.storage.instance_rows import active_key_of, active_row, instance_row

PARTITIONS = 4
WRITES_AN_EVENT = 2
"""An instance's row, and the row that says that it is active, which an end takes away."""
EVENTS_A_TRANSACTION = TRANSACTION // WRITES_AN_EVENT


def writes_of(shard: str, before: Instance | None, after: Instance) -> list[Write]:
    """What one event of an ordinary life writes: a start two rows, an end one; and it deletes one."""
    if before is None:
        return [
            ("create", instance_row(shard, after)),
            ("upsert", active_row(shard, active_key_of(after), after)),
        ]
    gone = {"PartitionKey": shard, "RowKey": active_key_of(before)}
    return [("update", instance_row(shard, after)), ("delete", gone)]


class _Partition:
    """One partition's own stream, and what is known of it, as its rows are."""

    def __init__(self, number: int) -> None:
        self.name = f"{number:02d}"
        self._stream = Lifecycles("limit", seed=number, lag=lag_of(EVENTS_A_TRANSACTION))
        self._known: dict[str, Instance] = {}

    def transactions(self, count: int) -> list[list[Write]]:
        """So many full transactions."""
        return [self._transaction() for _ in range(count)]

    def _transaction(self) -> list[Write]:
        changes = instances(self._stream.take(EVENTS_A_TRANSACTION), self._known)
        return [write for before, after in changes for write in writes_of(self.name, before, after)]


class Limit:
    """Transactions through the client library that the server uses; `raw` leaves the library out as well, and has the
    bodies ready before the clock starts: what is left is the emulator."""

    def __init__(self, connection: str, raw: bool) -> None:
        self._connection = connection
        self._raw = raw
        self._table = "RawLimit" if raw else "Limit"
        self._partitions = [_Partition(number) for number in range(PARTITIONS)]
        self._open = AsyncExitStack()

    async def __aenter__(self) -> "Limit":
        self._tables = await self._open.enter_async_context(RawTables(self._connection))
        await self._tables.make(self._table)
        service = TableServiceClient.from_connection_string(self._connection)
        await self._open.enter_async_context(service)
        self._client = service.get_table_client(self._table)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._open.aclose()

    async def run(self, events: int) -> tuple[float, float]:
        """Write what so many events need, all partitions at once; seconds, and of them the processor's. What is written
        is ready before the clock starts."""
        each, rest = divmod(events, EVENTS_A_TRANSACTION * PARTITIONS)
        if not each or rest:
            raise ValueError(f"{events} events do not fill the transactions of {PARTITIONS} partitions")
        work = [partition.transactions(each) for partition in self._partitions]
        if self._raw:
            bodies = [[self._tables.transaction(self._table, one) for one in of_partition] for of_partition in work]
            clock = Stopwatch()
            await asyncio.gather(*(self._submit(some) for some in bodies))
        else:
            clock = Stopwatch()
            await asyncio.gather(*(self._transact(some) for some in work))
        return clock.read()

    async def _submit(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            await self._tables.submit(body, TRANSACTION)

    async def _transact(self, transactions: Sequence[list[Write]]) -> None:
        for transaction in transactions:
            await self._client.submit_transaction(transaction)
