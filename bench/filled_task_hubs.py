"""Task hubs with many finished and a few active instances, each with a worker of the Durable Functions extension.

Proxies delay every request to tables and queues, as the network to a storage account in Azure does."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.load_generator import HttpResponse, LoadError, build_get_request, build_post_request, open_connections
from bench.storage import SHARD_COUNT, Emulator, RawTables, run_emulator
from bench.task_hub_rows import FUNCTION_NAME, provider_row, recorded_row
from harness.durable_host import DurableHost
from harness.state_server import ServerProcess, run_server
from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.settings import STATE_SHARDS, StorageSettings
from state_api.storage.instance_keys import shard_of
from state_api.storage.tables import instance_table_name

SIZES = (1_000, 10_000)
FULL_SIZES = (1_000, 10_000, 50_000)
"""Filling a table with 50,000 rows takes minutes, because the emulator reads every row for each insert."""
DELAY_SECONDS = 0.010
"""The delay of each storage request, about that of Azure Storage in the same region: the emulator alone has none."""
ACTIVE_COUNT = 5
CONTROL_QUEUE_COUNT = 4
"""The extension's default."""
_CONNECTION_SETTING = "STATE_TASKHUBS_BENCH"
_ROWS_PER_STEP = 5_000
_EVENT_TIMEOUT_SECONDS = 120
_IDLE_POLLING_INTERVAL = "00:00:10"
"""How often an idle worker looks into a queue. The default of the test program, 0.2 s, would be a load of its own."""
_STATUS_CHECK_PATH = "/runtime/webhooks/durabletask/instances?runtimeStatus=Running,Pending&top=100"
_STATUS_CHECK_FILTER = "RuntimeStatus eq 'Pending' or RuntimeStatus eq 'Running'"


@dataclass(frozen=True, slots=True)
class VerdictCost:
    """The cost of one request for a verdict: seconds until the response, and the number of storage requests."""

    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class BenchEnvironment:
    """The storage, the proxy in front of it, and a server and a table client that use the proxy."""

    storage: Emulator
    proxy: StorageProxy
    server: ServerProcess
    service: TableServiceClient

    async def request_verdict(self, path: str, active_count: int = ACTIVE_COUNT) -> VerdictCost:
        """Get a verdict. Raises LoadError unless it reports this number of active instances, and Ready without any."""
        answer, costs = await measure_request_cost(self.server.url, path, self.proxy)
        verdict = answer.json() if answer.status == 200 else {}
        if (verdict.get("activeCount"), verdict.get("ready")) != (active_count, not active_count):
            raise LoadError(f"{path}: {answer.status} {answer.body[:1000]!r}")
        return costs


async def measure_request_cost(url: str, path: str, proxy: StorageProxy) -> tuple[HttpResponse, VerdictCost]:
    """The response to a GET request on a new connection, and its cost without the time to connect."""
    async with open_connections(url, 1) as (connection,):
        return await measure_cost(connection.send(build_get_request(url, path)), proxy)


async def measure_cost(request: Coroutine[Any, Any, Any], proxy: StorageProxy) -> tuple[Any, VerdictCost]:
    """The result of a request, and its cost. Nothing else may use the proxy meanwhile."""
    proxy.clear()
    began = time.perf_counter()
    result = await request
    return result, VerdictCost(time.perf_counter() - began, proxy.count_requests_and_rows()[0])


@dataclass(slots=True)
class BenchTaskHub:
    """A task hub, and the requests that read whether instances are active on it.

    The worker's own requests pass a proxy of their own, so that they are not counted as the state server's."""

    finished_count: int
    environment: BenchEnvironment
    worker: DurableHost
    worker_proxy: StorageProxy
    active_count: int = 0

    @property
    def name(self) -> str:
        return self.worker.task_hub

    @property
    def app(self) -> str:
        """The app whose staging slot holds the task hub."""
        return f"shop-{self.finished_count}"

    async def get_verdict_from_events(self) -> VerdictCost:
        """Ask for the verdict without a read of the task hub, and return what it cost."""
        return await self._get_staging_status("none")

    async def get_cached_verdict(self) -> VerdictCost:
        """The default: an earlier probe counts while nothing has changed since."""
        return await self._get_staging_status("cached")

    async def get_fresh_verdict(self) -> VerdictCost:
        """The server reads the task hub for this request."""
        return await self._get_staging_status("fresh")

    async def _get_staging_status(self, verification: str) -> VerdictCost:
        """Ask for the verdict, verified as `verification` says, and return what it cost."""
        path = f"/api/apps/{self.app}/staging?verify={verification}"
        return await self.environment.request_verdict(path, self.active_count)

    async def run_status_check(self) -> VerdictCost:
        """The check that Microsoft documents for pipelines: one page of the management API, which the worker serves."""
        answer, costs = await measure_request_cost(self.worker.url, _STATUS_CHECK_PATH, self.worker_proxy)
        if answer.status != 200 or len(answer.json()) != self.active_count:
            raise LoadError(f"the status check of {self.name}: {answer.status} {answer.body[:1000]!r}")
        return costs

    async def query_provider_table(self) -> VerdictCost:
        """The query of the status check, sent straight to the storage."""
        table = self.environment.service.get_table_client(f"{self.name}Instances")
        row_count, costs = await measure_cost(
            _count_rows(table.query_entities(_STATUS_CHECK_FILTER)), self.environment.proxy
        )
        if row_count != self.active_count:
            raise LoadError(f"{self.name} has {row_count} active rows, and {self.active_count} instances are active")
        return costs

    async def query_empty_range(self) -> VerdictCost:
        """A query of a range of the server's own table that holds nothing, sent straight to the storage.

        A verdict by events consists of such queries. Their time should not depend on the size of the table."""
        table = self.environment.service.get_table_client(instance_table_name(self.name))
        rows = table.query_entities("PartitionKey eq '00' and RowKey ge 'a|~' and RowKey lt 'a}'")
        row_count, costs = await measure_cost(_count_rows(rows), self.environment.proxy)
        if row_count:
            raise LoadError(f"the empty range has {row_count} rows")
        return costs

    async def start_instances(self) -> None:
        """Start orchestrations that stay active, and wait until the server has recorded their events."""
        for number in range(ACTIVE_COUNT):
            await self.worker.start_orchestration(FUNCTION_NAME, f"active-{number}")
        self.active_count = ACTIVE_COUNT
        await self._wait_for_verdict()

    async def end_instances(self) -> None:
        """End these orchestrations, and wait until the verdict is Ready."""
        for number in range(self.active_count):
            await self.worker.raise_go_event(f"active-{number}")
        self.active_count = 0
        await self._wait_for_verdict()

    async def _wait_for_verdict(self) -> None:
        """Wait until all three queries agree. Raises LoadError of the last attempt if they do not in time."""
        deadline = time.monotonic() + _EVENT_TIMEOUT_SECONDS
        while True:
            try:
                for send_query in (self.run_status_check, self.get_verdict_from_events, self.get_fresh_verdict):
                    await send_query()
                return
            except LoadError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)

    async def register_app(self) -> None:
        """Register the app whose staging slot holds the task hub. The server then records the task hub's events."""
        body = {
            "slots": {"staging": {"taskHub": self.name}},
            "policy": {"settleSeconds": 1},
            "taskHubs": {"provider": "azureStorage", "connection": _CONNECTION_SETTING},
        }
        url = self.environment.server.url
        async with open_connections(url, 1) as (connection,):
            answer = await connection.send(
                build_post_request(url, f"/api/apps/{self.app}", json.dumps(body).encode(), "PUT")
            )
        if answer.status != 200:
            raise LoadError(f"{self.app}: {answer.status} {answer.body[:500]!r}")

    async def write_finished_rows(self, tables: RawTables) -> None:
        """Write the rows of the finished instances into both tables, which must exist."""
        for start in range(0, self.finished_count, _ROWS_PER_STEP):
            ids = [uuid.uuid4().hex for _ in range(min(_ROWS_PER_STEP, self.finished_count - start))]
            recorded = [recorded_row(f"{shard_of(instance_id, SHARD_COUNT):02d}", instance_id) for instance_id in ids]
            await tables.create_rows(instance_table_name(self.name), recorded)
            await tables.create_rows(
                f"{self.name}Instances", [provider_row(self.name, instance_id) for instance_id in ids]
            )

    async def purge_finished_instances(self, tables: RawTables) -> None:
        """Leave the table of the task hub's instances as a purge of all finished ones does: empty.

        Raises LoadError while instances are active. The extension would purge them one by one, for an hour."""
        if self.active_count:
            raise LoadError(f"instances are active in {self.name}")
        table = f"{self.name}Instances"
        await tables.delete_table(table)
        await tables.create_table(table)


async def _count_rows(rows: Any) -> int:
    return len([row async for row in rows])


@asynccontextmanager
async def fill_task_hubs(folder: Path, sizes: Sequence[int] = SIZES) -> AsyncIterator[list[BenchTaskHub]]:
    """Task hubs with these numbers of finished instances and ACTIVE_COUNT active ones, behind one server.

    Raises FileNotFoundError if the program `durable-host` is missing."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        proxy = await stack.enter_async_context(run_storage_proxy(storage.settings, all_services=True))
        worker_proxy = await stack.enter_async_context(run_storage_proxy(storage.settings))
        extra_settings = {STATE_SHARDS: str(SHARD_COUNT), _CONNECTION_SETTING: _connection_string(proxy.settings)}
        server = stack.enter_context(run_server(proxy.settings, folder, extra_settings=extra_settings))
        service = TableServiceClient.from_connection_string(_connection_string(proxy.settings))
        await stack.enter_async_context(service)
        tables = await stack.enter_async_context(RawTables(storage.connection))
        environment = BenchEnvironment(storage, proxy, server, service)
        hubs: list[BenchTaskHub] = []
        for finished_count in sizes:
            worker = DurableHost(
                f"hub{finished_count}",
                _connection_string(worker_proxy.settings),
                folder,
                topic=f"{server.url}/api/events",
                partitions=CONTROL_QUEUE_COUNT,
                polling_interval=_IDLE_POLLING_INTERVAL,
            )
            stack.push_async_callback(worker.close)
            await worker.start()
            hub = BenchTaskHub(finished_count, environment, worker, worker_proxy)
            await hub.register_app()
            await hub.start_instances()
            await hub.write_finished_rows(tables)
            hubs.append(hub)
        proxy.before_request = worker_proxy.before_request = delay_request
        yield hubs


def _connection_string(storage: StorageSettings) -> str:
    """The connection string of the benchmark's emulator."""
    assert storage.connection_string is not None
    return storage.connection_string.get_secret_value()


async def delay_request(method: str, path: str) -> None:
    """Delay a request of a proxy as a network does."""
    await asyncio.sleep(DELAY_SECONDS)
