"""Task hubs with many finished and a few active instances, in the server's tables and at their provider.

A proxy delays every storage request, as the network to a storage account in Azure does."""

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

from bench.event_stream import build_event, encode_events
from bench.load_generator import (
    LoadError,
    build_get_request,
    build_post_request,
    deliver_until_accepted,
    open_connections,
)
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
"""Filling the emulator with 50,000 instances takes four minutes, because each insert reads every row."""
DELAY_SECONDS = 0.010
"""The delay of each storage request."""
ACTIVE_COUNT = 5
SHARD_COUNT = 4
_FUNCTION_NAME = "ProcessOrder"
_CONNECTION_SETTING = "STATE_TASKHUBS_BENCH"
_ROWS_PER_STEP = 5_000
_PROVIDER_ROW_AGE_SECONDS = 3600
_FINISHED_INSTANCE_AGE_SECONDS = 7200
_STATUS_CHECK_FILTER = "RuntimeStatus eq 'Pending' or RuntimeStatus eq 'Running'"
_STATUS_CHECK_COLUMNS = ["PartitionKey", "Name", "CreatedTime", "LastUpdatedTime", "RuntimeStatus"]


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

    async def request_verdict(self, path: str) -> VerdictCost:
        """Get a verdict. Raises LoadError unless it reports all active instances."""
        async with open_connections(self.server.url, 1) as (connection,):
            answer, costs = await self.measure_cost(connection.send(build_get_request(self.server.url, path)))
        if answer.status != 200 or answer.json()["activeCount"] != ACTIVE_COUNT:
            raise LoadError(f"{path}: {answer.status} {answer.body[:500]!r}")
        return costs

    async def measure_cost(self, request: Coroutine[Any, Any, Any]) -> tuple[Any, VerdictCost]:
        """The result of a request, and its cost. Nothing else may use the proxy meanwhile."""
        self.proxy.clear()
        began = time.perf_counter()
        result = await request
        return result, VerdictCost(time.perf_counter() - began, self.proxy.count_requests_and_rows()[0])


@dataclass(frozen=True, slots=True)
class BenchTaskHub:
    """A task hub, and the requests that read whether instances are active on it."""

    finished_count: int
    environment: BenchEnvironment

    @property
    def name(self) -> str:
        return f"hub{self.finished_count}"

    @property
    def app(self) -> str:
        """The app whose staging slot holds the task hub."""
        return f"shop-{self.finished_count}"

    async def get_verdict_from_events(self) -> VerdictCost:
        """Get the verdict of the app's staging slot. The server does not probe the task hub."""
        return await self.environment.request_verdict(f"/api/apps/{self.app}/staging?verify=none")

    async def get_verified_verdict(self) -> VerdictCost:
        """Get the verdict of the app's staging slot. The server probes the task hub too, as it does by default."""
        return await self.environment.request_verdict(f"/api/apps/{self.app}/staging")

    async def read_empty_range(self) -> VerdictCost:
        """Query the range of active rows of one shard, which is empty.

        A verdict consists of such queries. Their time should not depend on the size of the table."""
        row_count, costs = await self.environment.measure_cost(self._count_rows_in_range())
        if row_count:
            raise LoadError(f"the empty range has {row_count} rows")
        return costs

    async def _count_rows_in_range(self) -> int:
        table = self.environment.service.get_table_client(instance_table_name(self.name))
        rows = table.query_entities("PartitionKey eq '00' and RowKey ge 'a|~' and RowKey lt 'a}'")
        return len([row async for row in rows])

    async def run_status_check(self) -> VerdictCost:
        """The check that Microsoft documents for pipelines: list all instances that are Pending or Running.

        Reads all pages, straight from the table. In Azure a function app in between adds its own time."""
        active_count, costs = await self.environment.measure_cost(self._count_active_rows())
        if active_count != ACTIVE_COUNT:
            raise LoadError(f"the status check found {active_count} instances, and {ACTIVE_COUNT} are active")
        return costs

    async def _count_active_rows(self) -> int:
        table = self.environment.service.get_table_client(f"{self.name}Instances")
        rows = table.query_entities(_STATUS_CHECK_FILTER, select=_STATUS_CHECK_COLUMNS, results_per_page=100)
        return len([row async for row in rows])


@asynccontextmanager
async def fill_task_hubs(folder: Path, sizes: Sequence[int] = SIZES) -> AsyncIterator[list[BenchTaskHub]]:
    """Task hubs with these numbers of finished instances behind one server, whose storage requests are delayed."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        proxy = await stack.enter_async_context(run_storage_proxy(storage.settings))
        connection = proxy.settings.connection_string
        assert connection is not None
        extra_settings = {"STATE_SHARDS": str(SHARD_COUNT), _CONNECTION_SETTING: connection.get_secret_value()}
        server = stack.enter_context(run_server(proxy.settings, folder, extra_settings=extra_settings))
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
    """Wait DELAY_SECONDS. The proxy awaits this before it forwards a storage request."""
    await asyncio.sleep(DELAY_SECONDS)


async def _fill_tables(hub: BenchTaskHub, tables: RawTables) -> None:
    """Send the events of the active instances, and write the rows of the finished ones in both tables of the task hub.

    The events also make the server create its tables."""
    url = hub.environment.server.url
    async with open_connections(url, 1) as (connection,):
        active = [
            build_event(hub.name, f"active-{n}", "Running", _timestamp_ago(_PROVIDER_ROW_AGE_SECONDS), _FUNCTION_NAME)
            for n in range(ACTIVE_COUNT)
        ]
        await deliver_until_accepted(
            connection, build_post_request(url, "/api/events", encode_events(active)), ACTIVE_COUNT
        )
        source = {"provider": "azureStorage", "connection": _CONNECTION_SETTING}
        app_body = {"slots": {"staging": {"taskHub": hub.name}}, "taskHubs": source}
        answer = await connection.send(
            build_post_request(url, f"/api/apps/{hub.app}", json.dumps(app_body).encode(), "PUT")
        )
        if answer.status != 200:
            raise LoadError(f"{hub.app}: {answer.status} {answer.body[:500]!r}")
    provider_table = f"{hub.name}Instances"
    await tables.create_table(provider_table)
    await tables.create_rows(
        provider_table, [_build_provider_row(hub.name, f"active-{n}", "Running") for n in range(ACTIVE_COUNT)]
    )
    for start in range(0, hub.finished_count, _ROWS_PER_STEP):
        ids = [uuid.uuid4().hex for _ in range(min(_ROWS_PER_STEP, hub.finished_count - start))]
        rows = [
            instance_row(f"{shard_of(instance_id, SHARD_COUNT):02d}", _build_finished_instance(instance_id))
            for instance_id in ids
        ]
        await tables.create_rows(instance_table_name(hub.name), rows)
        await tables.create_rows(
            provider_table, [_build_provider_row(hub.name, instance_id, "Completed") for instance_id in ids]
        )


def _build_finished_instance(instance_id: str) -> Instance:
    started_at = _instant_ago(_FINISHED_INSTANCE_AGE_SECONDS)
    return Instance(
        instance_id,
        Started(started_at, RuntimeStatus.RUNNING, _FUNCTION_NAME),
        Finished(Instant(started_at + TICKS_PER_SECOND), RuntimeStatus.COMPLETED, "", _FUNCTION_NAME),
    )


def _build_provider_row(hub: str, instance_id: str, status: str) -> dict[str, Any]:
    """A row of the provider's `{TaskHub}Instances` table. Rows are not in the order of age, because ids are random."""
    created = {"CreatedTime": _timestamp_ago(_PROVIDER_ROW_AGE_SECONDS), "CreatedTime@odata.type": "Edm.DateTime"}
    updated = {
        "LastUpdatedTime": _timestamp_ago(_PROVIDER_ROW_AGE_SECONDS),
        "LastUpdatedTime@odata.type": "Edm.DateTime",
    }
    ended = {
        "CompletedTime": _timestamp_ago(_PROVIDER_ROW_AGE_SECONDS),
        "CompletedTime@odata.type": "Edm.DateTime",
        "Output": '"shipped"',
    }
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
