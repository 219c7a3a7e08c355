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

from bench.lifecycles import encoded, event
from bench.load import LoadError, connections, deliver, get, post
from bench.storage import Emulator, RawTables, emulator
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from state_api.domain.lifecycle import Finished, Instance, RuntimeStatus, Started
from state_api.storage.instance_rows import instance_row
from state_api.storage.keys import shard_of
from state_api.storage.tables import instance_table
from tests.proxy import StorageProxy, storage_proxy
from tests.server.processes import Served, serving

SIZES = (1_000, 10_000)
FULL_SIZES = (1_000, 10_000, 50_000)
"""To fill the emulator with the last takes four minutes: it looks at every row for every row that comes."""
DELAY_SECONDS = 0.010
"""What each request to the storage takes in addition."""
ACTIVE = 5
SHARDS = 4
_FUNCTION = "ProcessOrder"
_CONNECTION = "STATE_TASKHUBS_BENCH"
_PIECE = 5_000
_STATUS_CHECK = "RuntimeStatus eq 'Pending' or RuntimeStatus eq 'Running'"
_COLUMNS = ["PartitionKey", "Name", "CreatedTime", "LastUpdatedTime", "RuntimeStatus"]


@dataclass(frozen=True, slots=True)
class Costs:
    """One question: seconds until its answer, and requests to the storage."""

    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Place:
    """The storage, the proxy before it, the server behind that, and a client behind the same."""

    storage: Emulator
    proxy: StorageProxy
    server: Served
    service: TableServiceClient

    async def ask(self, path: str) -> Costs:
        """Ask for a verdict, which must tell of the active instances."""
        async with connections(self.server.url, 1) as (connection,):
            answer, costs = await self.measured(connection.send(get(self.server.url, path)))
        if answer.status != 200 or answer.json()["activeCount"] != ACTIVE:
            raise LoadError(f"{path}: {answer.status} {answer.body[:500]!r}")
        return costs

    async def measured(self, question: Coroutine[Any, Any, Any]) -> tuple[Any, Costs]:
        """What comes of it, and what it costs. Nothing else may pass the proxy meanwhile."""
        self.proxy.clear()
        began = time.perf_counter()
        answer = await question
        return answer, Costs(time.perf_counter() - began, self.proxy.count()[0])


@dataclass(frozen=True, slots=True)
class Hub:
    """One task hub, and the ways to ask whether anything runs on it."""

    size: int
    place: Place

    @property
    def name(self) -> str:
        return f"hub{self.size}"

    @property
    def app(self) -> str:
        """The app that has it in its staging slot."""
        return f"shop-{self.size}"

    async def by_events(self) -> Costs:
        return await self.place.ask(f"/api/apps/{self.app}/staging?verify=none")

    async def verified(self) -> Costs:
        """With a look at the task hub itself, which is what an app with `taskHubs` gets."""
        return await self.place.ask(f"/api/apps/{self.app}/staging")

    async def empty_range(self) -> Costs:
        """A read of the range of the active rows of one shard, where there is none: what a question is made of, and
        what the storage should answer at once, however large the table is."""
        found, costs = await self.place.measured(self._in_range())
        if found:
            raise LoadError(f"{found} rows where none can be")
        return costs

    async def _in_range(self) -> int:
        table = self.place.service.get_table_client(instance_table(self.name))
        rows = table.query_entities("PartitionKey eq '00' and RowKey ge 'a|~' and RowKey lt 'a}'")
        return len([row async for row in rows])

    async def status_check(self) -> Costs:
        """What Microsoft documents for pipelines: list the instances that are Pending or Running. All pages, which is
        what is right; without a front door, which a function app adds."""
        found, costs = await self.place.measured(self._listed())
        if found != ACTIVE:
            raise LoadError(f"the status check found {found} instances, and {ACTIVE} are active")
        return costs

    async def _listed(self) -> int:
        table = self.place.service.get_table_client(f"{self.name}Instances")
        rows = table.query_entities(_STATUS_CHECK, select=_COLUMNS, results_per_page=100)
        return len([row async for row in rows])


@asynccontextmanager
async def filled_hubs(folder: Path, sizes: Sequence[int] = SIZES) -> AsyncIterator[list[Hub]]:
    """Task hubs of these sizes behind one server, with the delay already on every request that it makes."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(emulator())
        proxy = await stack.enter_async_context(storage_proxy(storage.settings))
        connection = proxy.settings.connection_string
        assert connection is not None
        more = {"STATE_SHARDS": str(SHARDS), _CONNECTION: connection.get_secret_value()}
        server = stack.enter_context(serving(proxy.settings, folder, more=more))
        service = TableServiceClient.from_connection_string(connection.get_secret_value())
        await stack.enter_async_context(service)
        tables = await stack.enter_async_context(RawTables(storage.connection))
        hubs = [Hub(size, Place(storage, proxy, server, service)) for size in sizes]
        for hub in hubs:
            await _fill(hub, tables)
        proxy.before = delayed
        yield hubs


async def delayed(method: str, path: str) -> None:
    """What the proxy awaits before a request passes."""
    await asyncio.sleep(DELAY_SECONDS)


async def _fill(hub: Hub, tables: RawTables) -> None:
    """The active instances by their events, so that the server makes its tables; the finished ones straight into the
    tables, as the server and the provider write them."""
    url = hub.place.server.url
    async with connections(url, 1) as (connection,):
        active = [event(hub.name, f"active-{n}", "Running", _time(3600), _FUNCTION) for n in range(ACTIVE)]
        await deliver(connection, post(url, "/api/events", encoded(active)), ACTIVE)
        source = {"provider": "azureStorage", "connection": _CONNECTION}
        content = {"slots": {"staging": {"taskHub": hub.name}}, "taskHubs": source}
        answer = await connection.send(post(url, f"/api/apps/{hub.app}", json.dumps(content).encode(), "PUT"))
        if answer.status != 200:
            raise LoadError(f"{hub.app}: {answer.status} {answer.body[:500]!r}")
    at_provider = f"{hub.name}Instances"
    await tables.make(at_provider)
    await tables.fill(at_provider, [_provider_row(hub.name, f"active-{n}", "Running") for n in range(ACTIVE)])
    for start in range(0, hub.size, _PIECE):
        ids = [uuid.uuid4().hex for _ in range(min(_PIECE, hub.size - start))]
        rows = [instance_row(f"{shard_of(one, SHARDS):02d}", _finished(one)) for one in ids]
        await tables.fill(instance_table(hub.name), rows)
        await tables.fill(at_provider, [_provider_row(hub.name, one, "Completed") for one in ids])


def _finished(instance_id: str) -> Instance:
    ago = _instant(7200)
    return Instance(
        instance_id,
        Started(ago, RuntimeStatus.RUNNING, _FUNCTION),
        Finished(Instant(ago + TICKS_PER_SECOND), RuntimeStatus.COMPLETED, "", _FUNCTION),
    )


def _provider_row(hub: str, instance_id: str, status: str) -> dict[str, Any]:
    """A row of `{Hub}Instances` (PLATFORM: Task hubs on Azure Storage). Not sorted by age: the ids are random."""
    created = {"CreatedTime": _time(3600), "CreatedTime@odata.type": "Edm.DateTime"}
    updated = {"LastUpdatedTime": _time(3600), "LastUpdatedTime@odata.type": "Edm.DateTime"}
    ended = {"CompletedTime": _time(3600), "CompletedTime@odata.type": "Edm.DateTime", "Output": '"shipped"'}
    return {
        "PartitionKey": instance_id,
        "RowKey": "",
        "ExecutionId": uuid.uuid4().hex,
        "Name": _FUNCTION,
        "Version": "",
        "Input": '{"orderId": "4711", "items": 3}',
        "CustomStatus": "null",
        "RuntimeStatus": status,
        "TaskHubName": hub,
        **created,
        **updated,
        **(ended if status == "Completed" else {}),
    }


def _instant(ago: int) -> Instant:
    return Instant(int((time.time() - ago) * TICKS_PER_SECOND))


def _time(ago: int) -> str:
    return format_instant(_instant(ago))
