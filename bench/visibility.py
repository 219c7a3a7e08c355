"""Figure 4: the time from the publication of an event until a reader of the table sees it.

Events come at half of the rate that the webhook can handle."""

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

from bench.comparison import compare_rounds, percentile, round_significant
from bench.event_stream import EventStream, apply_events, encode_events, min_lag_events
from bench.ingest import EventEntry, open_event_entry
from bench.load_generator import Connection, build_post_request, deliver_until_accepted
from bench.storage import Emulator, RawTables, run_emulator
from bench.transaction_limit import transaction_writes
from state_api.storage.instance_keys import shard_of
from state_api.storage.instance_rows import instance_row_key
from state_api.storage.tables import instance_table_name

ROUNDS = 3
SECONDS = 4.0
SHARD_COUNT = 4
_CALIBRATION_EVENTS = 600
_TRANSACTION_COUNT = 100
_SAMPLE_EVERY = 8
"""One of this many events is awaited in the table. Awaiting every event would add a load of its own."""
_POLL_SECONDS = 0.002


@dataclass
class EventDelays:
    """Seconds from when an event was due until its request was sent, its response came, or a reader saw it.

    Only some events are awaited by a reader."""

    sent: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)


async def run(folder: Path, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure single transactions, and events at half of the possible rate, in turns."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        entry = open_event_entry(
            stack, storage, folder, "visible", 1, extra_settings={"STATE_SHARDS": str(SHARD_COUNT)}
        )
        tables = await stack.enter_async_context(RawTables(storage.connection))
        single_transactions = await stack.enter_async_context(_SingleTransactions(storage))
        await entry.send_events(_CALIBRATION_EVENTS)
        possible_rate = (await entry.send_events(_CALIBRATION_EVENTS)).events_per_second
        alone_seconds: list[list[float]] = []
        delays: list[EventDelays] = []
        for number in range(rounds):
            alone_seconds.append(await single_transactions.run())
            delays.append(
                await _publish_events(
                    entry,
                    tables,
                    events_per_second=possible_rate / 2,
                    seconds=seconds,
                    random_source=random.Random(number),
                )
            )
    median_seconds = [statistics.median(durations) for durations in alone_seconds]
    against = "one transaction of two rows, alone"
    half = "at half of the possible rate"
    figures = [
        compare_rounds(
            f"{description} {half}, p{round(share * 100)}",
            [percentile(getattr(round_delays, name), share) for round_delays in delays],
            f"{against} (median)",
            median_seconds,
        )
        for description, name, share in (
            ("published to acknowledged", "acknowledged", 0.5),
            ("published to acknowledged", "acknowledged", 0.99),
            ("published to seen in the table", "seen", 0.5),
            ("published to seen in the table", "seen", 0.99),
        )
    ]
    figures.append(
        compare_rounds(
            f"{against}, p99",
            [percentile(durations, 0.99) for durations in alone_seconds],
            f"{against} (median)",
            median_seconds,
        )
    )
    return {
        "figures": [figure.as_json() for figure in figures],
        "eventsPerSecond": {"possible": round(possible_rate), "published": round(possible_rate / 2)},
        "events": sum(len(round_delays.acknowledged) for round_delays in delays),
        "awaited": sum(len(round_delays.seen) for round_delays in delays),
        "transactionMilliseconds": [round_significant(1000 * seconds) for seconds in median_seconds],
        "sentLateMilliseconds": round_significant(
            1000 * percentile([seconds for round_delays in delays for seconds in round_delays.sent], 0.99)
        ),
    }


class _SingleTransactions:
    """Writes what one event needs, one transaction at a time, through the client library that the server uses."""

    def __init__(self, storage: Emulator) -> None:
        self._service = TableServiceClient.from_connection_string(storage.connection)
        self._stream = EventStream("alone", lag=min_lag_events(1))
        self._known: dict[str, Any] = {}

    async def __aenter__(self) -> "_SingleTransactions":
        self._table = await self._service.create_table("Alone")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._service.close()

    async def run(self) -> list[float]:
        """The seconds of each transaction."""
        durations = []
        for before, after in apply_events(self._stream.next_events(_TRANSACTION_COUNT), self._known):
            writes = transaction_writes(f"{shard_of(after.instance_id, SHARD_COUNT):02d}", before, after)
            began = time.perf_counter()
            await self._table.submit_transaction(writes)
            durations.append(time.perf_counter() - began)
        return durations


async def _publish_events(
    entry: EventEntry, tables: RawTables, *, events_per_second: float, seconds: float, random_source: random.Random
) -> EventDelays:
    """Publish events at random times, at this rate, as many orchestrations would.

    An event does not wait for the responses to earlier ones: that would hide the delays of slow responses."""
    url = entry.server.url
    delays = EventDelays()
    idle: deque[Connection] = deque()
    opened: list[Connection] = []
    next_due_seconds = 0.0
    due_events: list[tuple[float, dict[str, Any], bytes]] = []
    while (next_due_seconds := next_due_seconds + random_source.expovariate(events_per_second)) < seconds:
        (event_body,) = entry.stream.next_events(1)
        due_events.append(
            (next_due_seconds, event_body, build_post_request(url, "/api/events", encode_events([event_body])))
        )
    began = time.perf_counter()

    async def publish_event(due_seconds: float, request: bytes) -> None:
        if idle:
            connection = idle.pop()
        else:
            opened.append(connection := await Connection.open(url))
        delays.sent.append(time.perf_counter() - began - due_seconds)
        await deliver_until_accepted(connection, request, 1)
        delays.acknowledged.append(time.perf_counter() - began - due_seconds)
        idle.append(connection)

    async def wait_until_row_is_visible(due_seconds: float, event_body: dict[str, Any]) -> None:
        instance_id, status = event_body["data"]["instanceId"], event_body["data"]["runtimeStatus"]
        table, shard = instance_table_name(entry.stream.hub), f"{shard_of(instance_id, SHARD_COUNT):02d}"
        row = instance_row_key(instance_id)
        while not await tables.has_value(table, shard, row, property_name="RuntimeStatus", value=status):
            await asyncio.sleep(_POLL_SECONDS)
        delays.seen.append(time.perf_counter() - began - due_seconds)

    async with asyncio.TaskGroup() as tasks:
        for number, (due_seconds, event_body, request) in enumerate(due_events):
            await asyncio.sleep(began + due_seconds - time.perf_counter())
            tasks.create_task(publish_event(due_seconds, request))
            if number % _SAMPLE_EVERY == 0:
                tasks.create_task(wait_until_row_is_visible(due_seconds, event_body))
    for connection in opened:
        await connection.close()
    return delays
