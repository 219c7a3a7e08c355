"""Figure 4: how long it takes from when an event is published until whoever asks is told of it, while events come in at
half of the rate that this door can take."""

import asyncio
import random
import statistics
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.ingest import Door, door
from bench.lifecycles import Lifecycles, encoded, instances, lag_of
from bench.limit import writes_of
from bench.load import Connection, deliver, post
from bench.rates import compared, percentile, significant
from bench.storage import Emulator, RawTables, emulator
from state_api.storage.instance_rows import instance_key_of
from state_api.storage.keys import shard_of
from state_api.storage.tables import instance_table

ROUNDS = 3
SECONDS = 4.0
SHARDS = 4
_CALIBRATION = 600
_TRANSACTIONS = 100
_SAMPLED = 8
"""Every so manieth event is looked for while it is on its way. Looking for all would be a load of its own."""
_LOOK_EVERY = 0.002


@dataclass
class Delays:
    """Seconds from when each event was due: until its request was sent, until its answer came, and, of some, until a
    reader of the table saw it."""

    sent: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)


async def run(folder: Path, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Transactions alone and events at half of the rate, by turns."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(emulator())
        way_in = door(stack, storage, folder, "visible", 1, more={"STATE_SHARDS": str(SHARDS)})
        tables = await stack.enter_async_context(RawTables(storage.connection))
        raw = await stack.enter_async_context(_Transactions(storage))
        await way_in.take(_CALIBRATION)
        possible = (await way_in.take(_CALIBRATION)).rate
        alone: list[list[float]] = []
        delays: list[Delays] = []
        for number in range(rounds):
            alone.append(await raw.run())
            delays.append(await _publish(way_in, tables, possible / 2, seconds, random.Random(number)))
    one = [statistics.median(of) for of in alone]
    against = "one transaction of two rows, alone"
    half = "at half of the possible rate"
    figures = [
        compared(
            f"{what} {half}, p{round(share * 100)}",
            [percentile(getattr(of, name), share) for of in delays],
            f"{against} (median)",
            one,
        )
        for what, name, share in (
            ("published to acknowledged", "acknowledged", 0.5),
            ("published to acknowledged", "acknowledged", 0.99),
            ("published to seen in the table", "seen", 0.5),
            ("published to seen in the table", "seen", 0.99),
        )
    ]
    figures.append(compared(f"{against}, p99", [percentile(of, 0.99) for of in alone], f"{against} (median)", one))
    return {
        "figures": [each.as_json() for each in figures],
        "eventsASecond": {"possible": round(possible), "published": round(possible / 2)},
        "events": sum(len(of.acknowledged) for of in delays),
        "looked": sum(len(of.seen) for of in delays),
        "transactionMilliseconds": [significant(1000 * each) for each in one],
        "sentLateMilliseconds": significant(1000 * percentile([each for of in delays for each in of.sent], 0.99)),
    }


class _Transactions:
    """One transaction at a time, of what one event writes, through the library that the server uses."""

    def __init__(self, storage: Emulator) -> None:
        self._service = TableServiceClient.from_connection_string(storage.connection)
        self._stream = Lifecycles("alone", lag=lag_of(1))
        self._known: dict[str, Any] = {}

    async def __aenter__(self) -> "_Transactions":
        self._table = await self._service.create_table("Alone")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._service.close()

    async def run(self) -> list[float]:
        """Seconds of each."""
        took = []
        for before, after in instances(self._stream.take(_TRANSACTIONS), self._known):
            writes = writes_of(f"{shard_of(after.instance_id, SHARDS):02d}", before, after)
            began = time.perf_counter()
            await self._table.submit_transaction(writes)
            took.append(time.perf_counter() - began)
        return took


async def _publish(way_in: Door, tables: RawTables, rate: float, seconds: float, chance: random.Random) -> Delays:
    """Publish when events are due, whether or not earlier ones were answered: who waits for the slow ones would
    measure too little. They come at random, as from many orchestrations."""
    url = way_in.server.url
    delays = Delays()
    idle: deque[Connection] = deque()
    opened: list[Connection] = []
    at = 0.0
    due: list[tuple[float, dict[str, Any], bytes]] = []
    while (at := at + chance.expovariate(rate)) < seconds:
        (one,) = way_in.stream.take(1)
        due.append((at, one, post(url, "/api/events", encoded([one]))))
    began = time.perf_counter()

    async def publish(when: float, request: bytes) -> None:
        if idle:
            connection = idle.pop()
        else:
            opened.append(connection := await Connection.to(url))
        delays.sent.append(time.perf_counter() - began - when)
        await deliver(connection, request, 1)
        delays.acknowledged.append(time.perf_counter() - began - when)
        idle.append(connection)

    async def look(when: float, one: dict[str, Any]) -> None:
        instance_id, status = one["data"]["instanceId"], one["data"]["runtimeStatus"]
        place = (
            instance_table(way_in.stream.hub),
            f"{shard_of(instance_id, SHARDS):02d}",
            instance_key_of(instance_id),
        )
        while not await tables.exists(*place, "RuntimeStatus", status):
            await asyncio.sleep(_LOOK_EVERY)  # as whoever asks does: nobody tells them
        delays.seen.append(time.perf_counter() - began - when)

    async with asyncio.TaskGroup() as tasks:
        for number, (when, one, request) in enumerate(due):
            await asyncio.sleep(began + when - time.perf_counter())
            tasks.create_task(publish(when, request))
            if number % _SAMPLED == 0:
                tasks.create_task(look(when, one))
    for connection in opened:
        await connection.close()
    return delays
