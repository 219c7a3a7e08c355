"""Figure 4: the time from the publication of an event until a reader of the table sees it, by the webhook and by the
trigger handler.

Events come at half of the rate that each of them can handle."""

import asyncio
import itertools
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.comparison import Aim, Figure, compare_rounds, percentile, round_significant, run_in_turns
from bench.event_stream import EventStream, apply_events, encode_events, min_lag_events
from bench.group_commit_alone import GroupCommitAlone
from bench.ingest import open_event_entry
from bench.load_generator import Connection, build_post_request, deliver_until_accepted
from bench.paced_events import (
    Pace,
    PacedEvent,
    PublishingDelays,
    exempt_planned_events,
    plan_events,
    publish_when_due,
)
from bench.storage import SHARD_COUNT, Emulator, RawTables, run_emulator
from bench.transaction_limit import transaction_writes
from bench.worker import Worker, open_trigger_stream, run_worker
from state_api.storage.instance_keys import shard_of
from state_api.storage.instance_rows import instance_row_key
from state_api.storage.tables import instance_table_name

ROUNDS = 3
SECONDS = 4.0
_CALIBRATION_EVENTS = 600
_TRANSACTION_COUNT = 100
_SAMPLE_EVERY = 16
"""One of this many events is awaited in the table. Awaiting every event would add a load of its own."""
_POLL_SECONDS = 0.002
_SEEN_TIMEOUT_SECONDS = 60.0
_LEAD_SECONDS = 0.1
"""How long after the order to publish the first event is due: the order may have to reach another process."""
_RUNNING = "Running"
SEEN_AIM = Aim(maximum=10)
_AGAINST = "one transaction of two rows, alone"


@dataclass
class EventDelays:
    """Seconds from when an event was due until it was sent, acknowledged, or seen by a reader of the table. Only some
    events are awaited by a reader."""

    published: PublishingDelays = field(default_factory=PublishingDelays)
    seen: list[float] = field(default_factory=list)


_Publish = Callable[[float], Awaitable[PublishingDelays]]
"""Publishes events that are prepared, from a time of `time.perf_counter` on."""


class _Source:
    """Publishes events by one endpoint, and awaits some of them in the table. `prepare` prepares planned events."""

    def __init__(
        self,
        stream: EventStream,
        tables: RawTables,
        prepare: Callable[[list[PacedEvent], Pace], Awaitable[_Publish]],
    ) -> None:
        """Measure events of this stream. `publish` delivers them, and `tables` are read until they are visible."""
        self._stream = stream
        self._tables = tables
        self._prepare = prepare
        # Readers take turns: if each read at its own rate, a slow emulator would get ever more reads.
        self._reading = asyncio.Lock()
        self.possible_rate = 0.0

    async def run(self, seconds: float, seed: int) -> EventDelays:
        """Publish events for this time, at half of the possible rate."""
        pace = Pace(self.possible_rate / 2, seconds, seed)
        paced_events = plan_events(self._stream, pace)
        publish = await self._prepare(paced_events, pace)
        exempt_planned_events()
        delays = EventDelays()
        begins_at = time.perf_counter() + _LEAD_SECONDS

        async def publish_all() -> None:
            delays.published = await publish(begins_at)

        async with asyncio.timeout(seconds + _SEEN_TIMEOUT_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_all())
            for event in [event for event in paced_events if event.is_counted][::_SAMPLE_EVERY]:
                tasks.create_task(self._wait_until_visible(event, begins_at, delays.seen))
        return delays

    async def _wait_until_visible(self, event: PacedEvent, begins_at: float, seen: list[float]) -> None:
        """Add to `seen` how many seconds after it was due the event could be seen in the table."""
        await asyncio.sleep(begins_at + event.due_seconds - time.perf_counter())
        instance_id, status = event.body["data"]["instanceId"], event.body["data"]["runtimeStatus"]
        table, shard = instance_table_name(self._stream.hub), f"{shard_of(instance_id, SHARD_COUNT):02d}"
        row = instance_row_key(instance_id)
        while True:
            async with self._reading:
                stored_status = await self._tables.read_property(table, shard, row, "RuntimeStatus")
                # The end of the instance may have replaced its start before this read.
                if stored_status == status or (stored_status is not None and status == _RUNNING):
                    break
                await asyncio.sleep(_POLL_SECONDS)
        seen.append(time.perf_counter() - begins_at - event.due_seconds)


async def run(folder: Path, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure single transactions, events at half of the possible rate, and the emulator alone at the same rate, in
    turns."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        tables = await stack.enter_async_context(RawTables(storage.connection))
        single_transactions = await stack.enter_async_context(_SingleTransactions(storage))
        sources = {
            "webhook": await _open_webhook(stack, storage, folder, tables),
            "trigger": await _open_trigger(stack, storage, tables),
        }
        alone = GroupCommitAlone(tables)
        await alone.create_table()
        seeds = itertools.count()

        async def run_without_server(events_per_second: float) -> PublishingDelays:
            """Write the rows of events at this rate to the emulator by group commit, without a server. The delays of
            the server are compared with these."""
            return await alone.run(Pace(events_per_second, seconds, next(seeds)))

        async def run_source(source: _Source) -> EventDelays:
            """Publish events at half of the rate that the source's endpoint can take."""
            return await source.run(seconds, next(seeds))

        variants: dict[str, Callable[[], Awaitable[Any]]] = {"single": single_transactions.run}
        for name, source in sources.items():
            variants[name] = partial(run_source, source)
            variants[f"alone, {name}"] = partial(run_without_server, source.possible_rate / 2)
        samples = await run_in_turns(rounds, variants)
    return _build_section(samples, {name: source.possible_rate for name, source in sources.items()})


async def _open_webhook(stack: AsyncExitStack, storage: Emulator, folder: Path, tables: RawTables) -> _Source:
    """A server that gets events by its webhook, with the rate that it can take."""
    entry = open_event_entry(stack, storage, folder, "visible", 1)

    async def prepare(paced_events: list[PacedEvent], pace: Pace) -> _Publish:
        """Build the requests that deliver the events by HTTP from this process."""
        url = entry.server.url
        requests = [build_post_request(url, "/api/events", encode_events([event.body])) for event in paced_events]
        return partial(_post_events, url, paced_events, requests)

    source = _Source(entry.stream, tables, prepare)
    await entry.send_events(_CALIBRATION_EVENTS)
    source.possible_rate = (await entry.send_events(_CALIBRATION_EVENTS)).events_per_second
    return source


async def _open_trigger(stack: AsyncExitStack, storage: Emulator, tables: RawTables) -> _Source:
    """The worker process has a stream of its own with the same instances, and publishes its events itself."""
    worker: Worker = stack.enter_context(run_worker("trigger", storage.connection))
    stream = open_trigger_stream()

    async def prepare(paced_events: list[PacedEvent], pace: Pace) -> _Publish:
        """Have the worker process build the same events. They are not sent to it, because that would take time."""
        await worker.prepare(pace)
        return worker.publish

    source = _Source(stream, tables, prepare)
    for _ in range(2):
        stream.next_events(_CALIBRATION_EVENTS)
        source.possible_rate = _CALIBRATION_EVENTS / (await worker.run(_CALIBRATION_EVENTS))[0]
    return source


async def _post_events(
    url: str, paced_events: list[PacedEvent], requests: list[bytes], begins_at: float
) -> PublishingDelays:
    """Deliver each event by its request."""
    idle: deque[Connection] = deque()
    opened: list[Connection] = []

    async def post(index: int) -> None:
        """Deliver one event, over a connection that is free or over a new one."""
        if idle:
            # Use the connection that is idle for longest, because the server closes one that is idle for some seconds.
            connection = idle.popleft()
        else:
            opened.append(connection := await Connection.open(url))
        await deliver_until_accepted(connection, requests[index], 1)
        idle.append(connection)

    try:
        return await publish_when_due(paced_events, post, begins_at=begins_at)
    finally:
        for connection in opened:
            await connection.close()


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


def _build_section(samples: dict[str, list[Any]], possible_rates: dict[str, float]) -> dict[str, Any]:
    """The section of this figure in the results: delays of events, against the time of one transaction."""
    alone_seconds: list[list[float]] = samples["single"]
    median_seconds = [statistics.median(durations) for durations in alone_seconds]

    def against_one_transaction(
        subject: str, delays: list[list[float]], share: float, aim: Aim | None = None
    ) -> Figure:
        """A percentile of the delays, as a multiple of the time of one storage transaction."""
        values = [percentile(round_delays, share) for round_delays in delays]
        return compare_rounds(f"{subject}, p{round(share * 100)}", values, f"{_AGAINST} (median)", median_seconds, aim)

    figures: list[Figure] = []
    for name in ("webhook", "trigger"):
        rounds: list[EventDelays] = samples[name]
        acknowledged = [delays.published.acknowledged for delays in rounds]
        seen = [delays.seen for delays in rounds]
        half = f"by the {name} at half of its possible rate"
        figures += [
            against_one_transaction(f"published to acknowledged {half}", acknowledged, 0.5),
            against_one_transaction(f"published to acknowledged {half}", acknowledged, 0.99),
            against_one_transaction(f"published to seen in the table {half}", seen, 0.5),
            against_one_transaction(f"published to seen in the table {half}", seen, 0.99, SEEN_AIM),
        ]
    for name in ("webhook", "trigger"):
        written = [delays.acknowledged for delays in samples[f"alone, {name}"]]
        same_rate = f"the emulator alone: published to written, without a server, at the {name}'s rate"
        figures += [
            against_one_transaction(same_rate, written, 0.5),
            against_one_transaction(same_rate, written, 0.99),
        ]
    figures.append(against_one_transaction(_AGAINST, alone_seconds, 0.99))
    published = [delays for name in ("webhook", "trigger") for delays in samples[name]]
    return {
        "figures": [figure.as_json() for figure in figures],
        "eventsPerSecond": {
            name: {"possible": round(rate), "published": round(rate / 2)} for name, rate in possible_rates.items()
        },
        "events": sum(len(delays.published.acknowledged) for delays in published),
        "awaited": sum(len(delays.seen) for delays in published),
        "transactionMilliseconds": [round_significant(1000 * seconds) for seconds in median_seconds],
        "sentLateMilliseconds": round_significant(
            1000 * percentile([seconds for delays in published for seconds in delays.published.sent], 0.99)
        ),
    }
