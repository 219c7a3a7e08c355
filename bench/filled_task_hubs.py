"""Task hubs with many finished instances and a few active ones, in the server's own tables and at their provider, and
a proxy between those who ask and the storage that takes as long as a storage elsewhere."""

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

from bench.event_stream import encode_events, event
from bench.load_generator import LoadError, build_get_request, build_post_request, connections, deliver_until_accepted
from bench.storage import Emulator, RawTables, run_emulator
from harness.state_server import ServerProcess, run_server
from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from state_api.domain.task_hubs.lifecycle import Finished, Instance, RuntimeStatus, Started
from state_api.storage.instance_keys import shard_of
from state_api.storage.instance_rows import instance_row
from state_api.storage.tables import instance_table_name

SIZES = (1_000, 10_000)
FULL_SIZES = (1_000, 10_000, 50_000)
"""To fill the emulator with the last takes four minutes: it looks at every row for every row that comes."""
DELAY_SECONDS = 0.010
"""What each request to the storage takes in addition."""
ACTIVE_COUNT = 5
SHARD_COUNT = 4
_FUNCTION_NAME = "ProcessOrder"
_CONNECTION_SETTING = "STATE_TASKHUBS_BENCH"
_ROWS_PER_STEP = 5_000
_STATUS_CHECK_FILTER = "RuntimeStatus eq 'Pending' or RuntimeStatus eq 'Running'"
_STATUS_CHECK_COLUMNS = ["PartitionKey", "Name", "CreatedTime", "LastUpdatedTime", "RuntimeStatus"]


@dataclass(frozen=True, slots=True)
class VerdictCost:
    """One question: seconds until its answer, and requests to the storage."""

    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class BenchEnvironment:
    """The storage, the proxy before it, the server behind that, and a client behind the same."""

    storage: Emulator
    proxy: StorageProxy
    server: ServerProcess
    service: TableServiceClient

    async def ask(self, path: str) -> VerdictCost:
        """Ask for a verdict, which must tell of the active instances."""
        async with connections(self.server.url, 1) as (connection,):
            answer, costs = await self.measure(connection.send(build_get_request(self.server.url, path)))
        if answer.status != 200 or answer.json()["activeCount"] != ACTIVE_COUNT:
            raise LoadError(f"{path}: {answer.status} {answer.body[:500]!r}")
        return costs

    async def measure(self, question: Coroutine[Any, Any, Any]) -> tuple[Any, VerdictCost]:
        """What comes of it, and what it costs. Nothing else may pass the proxy meanwhile."""
        self.proxy.clear()
        began = time.perf_counter()
        answer = await question
        return answer, VerdictCost(time.perf_counter() - began, self.proxy.count_requests_and_rows()[0])


@dataclass(frozen=True, slots=True)
class BenchTaskHub:
    """One task hub, and the ways to ask whether anything runs on it."""

    finished_count: int
    environment: BenchEnvironment

    @property
    def name(self) -> str:
        return f"hub{self.finished_count}"

    @property
    def app(self) -> str:
        """The app that has it in its staging slot."""
        return f"shop-{self.finished_count}"

    async def get_verdict_from_events(self) -> VerdictCost:
        return await self.environment.ask(f"/api/apps/{self.app}/staging?verify=none")

    async def get_verified_verdict(self) -> VerdictCost:
        """With a look at the task hub itself, which is what an app with `taskHubs` gets."""
        return await self.environment.ask(f"/api/apps/{self.app}/staging")

    async def read_empty_range(self) -> VerdictCost:
        """A read of the range of the active rows of one shard, where there is none: what a question is made of, and
        what the storage should answer at once, however large the table is."""
        found, costs = await self.environment.measure(self._count_rows_in_range())
        if found:
            raise LoadError(f"{found} rows where none can be")
        return costs

    async def _count_rows_in_range(self) -> int:
        table = self.environment.service.get_table_client(instance_table_name(self.name))
        rows = table.query_entities("PartitionKey eq '00' and RowKey ge 'a|~' and RowKey lt 'a}'")
        return len([row async for row in rows])

    async def run_status_check(self) -> VerdictCost:
        """What Microsoft documents for pipelines: list the instances that are Pending or Running. All pages, which is
        what is right; without a front door, which a function app adds."""
        found, costs = await self.environment.measure(self._count_active_rows())
        if found != ACTIVE_COUNT:
            raise LoadError(f"the status check found {found} instances, and {ACTIVE_COUNT} are active")
        return costs

    async def _count_active_rows(self) -> int:
        table = self.environment.service.get_table_client(f"{self.name}Instances")
        rows = table.query_entities(_STATUS_CHECK_FILTER, select=_STATUS_CHECK_COLUMNS, results_per_page=100)
        return len([row async for row in rows])


@asynccontextmanager
async def fill_task_hubs(folder: Path, sizes: Sequence[int] = SIZES) -> AsyncIterator[list[BenchTaskHub]]:
    """Task hubs of these sizes behind one server, with the delay already on every request that it makes."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        proxy = await stack.enter_async_context(run_storage_proxy(storage.settings))
        connection = proxy.settings.connection_string
        assert connection is not None
        more = {"STATE_SHARDS": str(SHARD_COUNT), _CONNECTION_SETTING: connection.get_secret_value()}
        server = stack.enter_context(run_server(proxy.settings, folder, extra_settings=more))
        service = TableServiceClient.from_connection_string(connection.get_secret_value())
        await stack.enter_async_context(service)
        tables = await stack.enter_async_context(RawTables(storage.connection))
        hubs = [
            BenchTaskHub(finished_count, BenchEnvironment(storage, proxy, server, service)) for finished_count in sizes
        ]
        for hub in hubs:
            await _fill_tables(hub, tables)
        proxy.before_request = delay_request
        yield hubs


async def delay_request(method: str, path: str) -> None:
    """What the proxy awaits before a request passes."""
    await asyncio.sleep(DELAY_SECONDS)


async def _fill_tables(hub: BenchTaskHub, tables: RawTables) -> None:
    """The active instances by their events, so that the server makes its tables; the finished ones straight into the
    tables, as the server and the provider write them."""
    url = hub.environment.server.url
    async with connections(url, 1) as (connection,):
        active = [
            event(hub.name, f"active-{n}", "Running", _timestamp_ago(3600), _FUNCTION_NAME) for n in range(ACTIVE_COUNT)
        ]
        await deliver_until_accepted(
            connection, build_post_request(url, "/api/events", encode_events(active)), ACTIVE_COUNT
        )
        source = {"provider": "azureStorage", "connection": _CONNECTION_SETTING}
        content = {"slots": {"staging": {"taskHub": hub.name}}, "taskHubs": source}
        answer = await connection.send(
            build_post_request(url, f"/api/apps/{hub.app}", json.dumps(content).encode(), "PUT")
        )
        if answer.status != 200:
            raise LoadError(f"{hub.app}: {answer.status} {answer.body[:500]!r}")
    at_provider = f"{hub.name}Instances"
    await tables.make_table(at_provider)
    await tables.create_rows(
        at_provider, [_provider_row(hub.name, f"active-{n}", "Running") for n in range(ACTIVE_COUNT)]
    )
    for start in range(0, hub.finished_count, _ROWS_PER_STEP):
        ids = [uuid.uuid4().hex for _ in range(min(_ROWS_PER_STEP, hub.finished_count - start))]
        rows = [instance_row(f"{shard_of(one, SHARD_COUNT):02d}", _finished_instance(one)) for one in ids]
        await tables.create_rows(instance_table_name(hub.name), rows)
        await tables.create_rows(at_provider, [_provider_row(hub.name, one, "Completed") for one in ids])


def _finished_instance(instance_id: str) -> Instance:
    seconds_ago = _instant_ago(7200)
    return Instance(
        instance_id,
        Started(seconds_ago, RuntimeStatus.RUNNING, _FUNCTION_NAME),
        Finished(Instant(seconds_ago + TICKS_PER_SECOND), RuntimeStatus.COMPLETED, "", _FUNCTION_NAME),
    )


def _provider_row(hub: str, instance_id: str, status: str) -> dict[str, Any]:
    """A row of the provider's `{TaskHub}Instances` table. Rows are not in the order of age, because ids are random."""
    created = {"CreatedTime": _timestamp_ago(3600), "CreatedTime@odata.type": "Edm.DateTime"}
    updated = {"LastUpdatedTime": _timestamp_ago(3600), "LastUpdatedTime@odata.type": "Edm.DateTime"}
    ended = {"CompletedTime": _timestamp_ago(3600), "CompletedTime@odata.type": "Edm.DateTime", "Output": '"shipped"'}
    return {
        "PartitionKey": instance_id,
        "RowKey": "",
        "ExecutionId": uuid.uuid4().hex,
        "Name": _FUNCTION_NAME,
        "Version": "",
        "Input": '{"orderId": "4711", "items": 3}',
        "CustomStatus": "null",
        "RuntimeStatus": status,
        "TaskHubName": hub,
        **created,
        **updated,
        **(ended if status == "Completed" else {}),
    }


def _instant_ago(seconds_ago: int) -> Instant:
    return Instant(int((time.time() - seconds_ago) * TICKS_PER_SECOND))


def _timestamp_ago(seconds_ago: int) -> str:
    return format_instant(_instant_ago(seconds_ago))
