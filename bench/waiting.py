"""Figure 3: what requests cost that wait for Ready, and how soon they are answered.

The requests wait at a server of their own. A proxy counts its requests to the storage, by app."""

import asyncio
import json
import random
import statistics
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.comparison import Aim, compare_rounds, round_significant
from bench.load_generator import (
    Connection,
    LoadError,
    build_get_request,
    build_post_request,
    deliver_until_accepted,
    open_connections,
)
from bench.storage import run_emulator
from harness.state_server import run_server
from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.domain.instants import Instant, format_instant
from state_api.services.app_watch import WaitIntervals
from state_api.settings import StorageSettings

ROUNDS = 3
WAIT_SECONDS = 20
CALLER_COUNT = 1000
FEW_CALLERS = 10
DELAY_SAMPLES = 8
_WRITE_COUNT = 100
_LONGEST_WAIT_SECONDS = 120
_OK_STATUS = 200
_PLACES = {"the same process": False, "another process": True}
"""Where the event is recorded, and whether that is another process than the one at which the request waits."""
_POLL_SECONDS = WaitIntervals().per_request


@dataclass
class WaitingApp:
    """An app without a settle window whose staging slot holds a task hub of its own."""

    name: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")
    task_hub: str = field(default_factory=lambda: f"h{uuid.uuid4().hex[:16]}")

    def count_requests(self, proxy: StorageProxy) -> int:
        """The storage requests about this app since the proxy's last `clear`."""
        return sum(self.name in request.path or self.task_hub in request.path for request in proxy.forwarded)

    def build_wait_request(self, url: str, wait_seconds: int) -> bytes:
        """The bytes of a request that waits up to `wait_seconds` until the app's slot is ready."""
        return build_get_request(url, f"/api/apps/{self.name}/staging?wait={wait_seconds}")

    def build_event_request(self, url: str, runtime_status: str) -> bytes:
        """A delivery with one event of the only instance."""
        event = {
            "id": str(uuid.uuid4()),
            "topic": "",
            "subject": "durable/orchestrator",
            "eventType": "orchestratorEvent",
            "eventTime": format_instant(Instant(time.time_ns() // 100)),
            "metadataVersion": "1",
            "dataVersion": "1.0",
            "data": {
                "hubName": self.task_hub,
                "functionName": "ProcessOrder",
                "instanceId": "order-1",
                "reason": "",
                "runtimeStatus": runtime_status,
            },
        }
        return build_post_request(url, "/api/events", json.dumps([event]).encode())


@dataclass
class WaitingBench:
    """The server at which requests wait, behind the proxy, and another one that records events."""

    proxy: StorageProxy
    url: str
    other_url: str
    connection: Connection
    other_connection: Connection

    async def add_app(self) -> WaitingApp:
        """An app with one active instance."""
        app = WaitingApp()
        body = json.dumps({"policy": {"settleSeconds": 0}, "slots": {"staging": {"taskHub": app.task_hub}}}).encode()
        await self.connection.reconnect()
        response = await self.connection.send(build_post_request(self.url, f"/api/apps/{app.name}", body, "PUT"))
        if response.status != _OK_STATUS:
            raise LoadError(f"PutApp: {response.status} {response.body[:300]!r}")
        await self.record(app, "Running", elsewhere=False)
        return app

    async def record(self, app: WaitingApp, runtime_status: str, *, elsewhere: bool) -> None:
        """Record an event at the server at which requests wait, or at the other one."""
        connection, url = (self.other_connection, self.other_url) if elsewhere else (self.connection, self.url)
        await connection.reconnect()
        await deliver_until_accepted(connection, app.build_event_request(url, runtime_status), 1)

    async def count_requests_of_waiting(self, app: WaitingApp, caller_count: int, wait_seconds: int) -> int:
        """The storage requests of so many callers that wait in vain."""
        async with open_connections(self.url, caller_count) as connections:
            request = app.build_wait_request(self.url, wait_seconds)
            responses = await asyncio.gather(*(connection.send(request) for connection in connections))
        if any(response.status != _OK_STATUS or response.json()["ready"] for response in responses):
            raise LoadError("a request that waits was not answered with NotReady")
        return app.count_requests(self.proxy)

    async def measure_delay(self, app: WaitingApp, *, elsewhere: bool, pause_seconds: float) -> float:
        """Seconds from when the end of the active instance is recorded until the request that waits is answered."""
        await self.record(app, "Running", elsewhere=False)
        self.proxy.clear()
        async with open_connections(self.url, 1) as (connection,):
            waiting = asyncio.create_task(connection.send(app.build_wait_request(self.url, _LONGEST_WAIT_SECONDS)))
            while not any(app.task_hub in request.path for request in self.proxy.forwarded):
                await asyncio.sleep(0.001)
            await asyncio.sleep(pause_seconds)
            await self.record(app, "Completed", elsewhere=elsewhere)
            recorded_at = time.perf_counter()
            response = await waiting
            delay = time.perf_counter() - recorded_at
        if not response.json()["ready"]:
            raise LoadError("a request that waits was not answered with Ready")
        return delay


async def run(
    folder: Path,
    rounds: int = ROUNDS,
    wait_seconds: int = WAIT_SECONDS,
    caller_count: int = CALLER_COUNT,
    delay_samples: int = DELAY_SAMPLES,
) -> dict[str, Any]:
    """Let different numbers of callers wait in vain, and then measure how soon one is answered."""
    requests: dict[int, list[int]] = {1: [], FEW_CALLERS: [], caller_count: []}
    delays: dict[bool, list[list[float]]] = {False: [], True: []}
    writes: list[float] = []
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        proxy = await stack.enter_async_context(run_storage_proxy(storage.settings))
        server = stack.enter_context(run_server(proxy.settings, folder))
        other_server = stack.enter_context(run_server(storage.settings, folder))
        (connection,) = await stack.enter_async_context(open_connections(server.url, 1))
        (other_connection,) = await stack.enter_async_context(open_connections(other_server.url, 1))
        bench = WaitingBench(proxy, server.url, other_server.url, connection, other_connection)
        random_source = random.Random(0)
        for _ in range(rounds):
            apps = [await bench.add_app() for _ in requests]
            proxy.clear()
            counts = await asyncio.gather(
                *(
                    bench.count_requests_of_waiting(app, count, wait_seconds)
                    for app, count in zip(apps, requests, strict=True)
                )
            )
            for count, request_count in zip(requests, counts, strict=True):
                requests[count].append(request_count)
            writes.append(await _measure_write_seconds(proxy.settings))
            app = await bench.add_app()
            for elsewhere, delays_by_round in delays.items():
                samples = [
                    await bench.measure_delay(
                        app, elsewhere=elsewhere, pause_seconds=0.1 + random_source.random() * _POLL_SECONDS
                    )
                    for _ in range(delay_samples)
                ]
                delays_by_round.append(samples)
    return _build_section(requests, delays, writes, wait_seconds=wait_seconds, caller_count=caller_count)


def _build_section(
    requests: dict[int, list[int]],
    delays: dict[bool, list[list[float]]],
    writes: list[float],
    *,
    wait_seconds: int,
    caller_count: int,
) -> dict[str, Any]:
    """The section of this figure in the results: requests of callers that wait, and delays of their answers."""
    rounds = len(writes)

    def describe(count: int) -> str:
        """The subject of a figure about this number of callers."""
        return f"storage requests of {count:,} {'caller' if count == 1 else 'callers'} that wait for {wait_seconds} s"

    def medians(samples: Sequence[Sequence[float]]) -> list[float]:
        """The median of each round."""
        return [statistics.median(round_samples) for round_samples in samples]

    recorded_to_answered = "from recorded to answered"
    figures = [
        compare_rounds(
            describe(caller_count), requests[caller_count], "those of one caller", requests[1], Aim(maximum=1.5)
        ),
        compare_rounds(
            describe(FEW_CALLERS),
            requests[FEW_CALLERS],
            "a status check every second for as long",
            [wait_seconds] * rounds,
            Aim(maximum=1.0),
        ),
        *(
            compare_rounds(
                f"{recorded_to_answered}, in {place}, median", medians(delays[elsewhere]), "one write, median", writes
            )
            for place, elsewhere in _PLACES.items()
        ),
        compare_rounds(
            f"{recorded_to_answered}, in another process, longest",
            [max(round_delays) for round_delays in delays[True]],
            f"the {_POLL_SECONDS:g} s between two reads of the records",
            [_POLL_SECONDS] * rounds,
            Aim(maximum=1.1),
        ),
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "requests": {str(count): counts for count, counts in requests.items()},
        "delayMilliseconds": {
            place: [round_significant(1000 * median) for median in medians(delays[elsewhere])]
            for place, elsewhere in _PLACES.items()
        },
        "writeMilliseconds": [round_significant(1000 * seconds) for seconds in writes],
    }


async def _measure_write_seconds(storage: StorageSettings) -> float:
    """The median time of one write of one row, alone, through the client library and the proxy."""
    assert storage.connection_string is not None
    durations: list[float] = []
    connection = storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as service:
        table = await service.create_table_if_not_exists("Writes")
        for number in range(_WRITE_COUNT):
            began = time.perf_counter()
            await table.upsert_entity({"PartitionKey": "writes", "RowKey": str(number)})
            durations.append(time.perf_counter() - began)
    return statistics.median(durations)
