"""The other providers through the whole server: Microsoft's in-memory engine, and an app's management API."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web
from durabletask.worker import TaskHubGrpcWorker

from state_api.app import StateServer
from state_api.settings import Connections, Settings, StorageSettings
from tests.builders import at, event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, stage, staging
from tests.taskhubs import management_app as management
from tests.taskhubs.schedulers import QUIET, Engine, eternal, parent, waiting

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server_with(
    storage: StorageSettings, clock: ShiftedClock, settings: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    state = StateServer(Settings(storage=storage, connections=Connections(settings)), clock)
    clock.storage = state.tables.clock
    transport = httpx.ASGITransport(state.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await state.close()


@pytest.fixture
def working() -> Iterator[Engine]:
    """An engine with a worker of these orchestrators."""
    engine = Engine()
    worker: Any = TaskHubGrpcWorker(host_address=engine.address, logger=QUIET)
    for orchestrator in (waiting, eternal, parent):
        worker.add_orchestrator(orchestrator)
    worker.start()
    yield engine
    worker.stop()
    engine.stop()


async def test_a_hub_of_the_scheduler_drains(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, working: Engine
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": working.connection}
    source = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
    async with server_with(storage, clock, settings) as http:
        slots = {"staging": {"taskHub": hub}}
        assert (await put(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)).status_code == 200
        assert (await staging(http, app))["assurance"] == "verified"
        await asyncio.to_thread(working.begin, waiting, "order-1")
        await asyncio.to_thread(working.begin, parent, "order-2", "order-2-child")
        await asyncio.to_thread(working.begin, eternal, "monitor", 1)
        await asyncio.to_thread(working.client.suspend_orchestration, "order-1")
        verdict = await staging(http, app, verify="fresh")
        assert codes(verdict) == ["InstancesActive"]
        found = {one["instanceId"]: one["runtimeStatus"] for one in verdict["active"]}
        assert found.keys() == {"order-1", "order-2", "order-2-child", "monitor"}
        assert (found["order-1"], verdict["active"][0]["source"]) == ("Suspended", "probe")
        counted = (await http.get(f"/api/taskhubs/{hub}/versions")).json()
        assert [(one["version"], one["activeCount"]) for one in counted["versions"]] == [(None, 4)]
        # One turn of the monitor: it ends and goes on, and is active all the time.
        await asyncio.to_thread(working.client.raise_orchestration_event, "monitor", "go")
        # The engine does not look at the task hub's name: to it every hub has instances, and no name is new.
        problem(await stage(http, app, new_hub()), 409, "TaskHubAlreadyUsed")
        replacing = {"staging": {"taskHub": new_hub()}}
        problem(await put(http, app, slots=replacing), 409, "StagingNotReady")
        await asyncio.to_thread(working.client.resume_orchestration, "order-1")
        for ending in ("order-1", "order-2-child"):
            await asyncio.to_thread(working.end, ending)
        await asyncio.to_thread(working.until, "order-2", "COMPLETED")
        assert [one["instanceId"] for one in (await staging(http, app))["active"]] == ["monitor"]
        await asyncio.to_thread(working.client.terminate_orchestration, "monitor")
        await asyncio.to_thread(working.until, "monitor", "TERMINATED")
        verdict = await staging(http, app, wait=10, verify="fresh")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
        for ended in found:
            await asyncio.to_thread(working.client.purge_orchestration, ended)
        assert (await stage(http, app, new_hub())).status_code == 200


async def test_a_scheduler_that_is_away_is_a_reason(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": "Endpoint=http://127.0.0.1:9;Authentication=None"}
    async with server_with(storage, clock, settings) as http:
        source = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
        await put(http, app, slots={"staging": {"taskHub": hub}}, taskHubs=source)
        verdict = await staging(http, app)
        assert codes(verdict) == ["ProbeFailed"]
        assert "STATE_TASKHUBS_SCHEDULER" in verdict["reasons"][0]["message"]


async def test_a_hub_behind_the_management_api_drains(
    storage: StorageSettings, clock: ShiftedClock, app: str, anyio_backend: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await running.answer(request)

    running = management.App("")
    hub = management.HUB
    async with management.served(answer) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": management.KEY}
        async with server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
            slots = {"staging": {"taskHub": hub}}
            assert (await put(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)).status_code == 200
            await publish(http, event(hub, "order-1", time=at(-5)))
            running.put("order-1", "Suspended")
            running.put("order-2", "Pending")
            assert [one["instanceId"] for one in (await staging(http, app))["active"]] == ["order-1"]
            running.put("order-1", "Terminated")
            verdict = await staging(http, app, wait=3)
            assert [(one["instanceId"], one["source"]) for one in verdict["active"]] == [("order-2", "probe")]
            running.put("order-2", "Completed")
            assert (await staging(http, app, wait=3))["ready"]
            told = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
            problem(told, 400, "InvalidRequest")


@dataclass
class Behind:
    """An app behind its management API, guarded by a server that sees no messages."""

    http: httpx.AsyncClient
    app: str
    running: management.App

    async def active(self) -> list[str]:
        """What blocks; nothing if the slot is Ready."""
        verdict = await staging(self.http, self.app, verify="fresh")
        assert verdict["ready"] or codes(verdict) == ["InstancesActive"], verdict["reasons"]
        return [one["instanceId"] for one in verdict["active"]]

    async def start(self, instance_id: str, age: float = 30) -> None:
        """The app starts an instance, the event arrives, and the row is written."""
        await publish(self.http, event(self.running.hub, instance_id, time=at(-age)))
        self.running.put(instance_id)

    def purge(self, instance_id: str) -> None:
        """The instance ends, the event is lost, and the instance is purged."""
        del self.running.hubs[self.running.hub.lower()][instance_id]


@asynccontextmanager
async def behind_the_api(storage: StorageSettings, clock: ShiftedClock, app: str) -> AsyncIterator[Behind]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await running.answer(request)

    running = management.App("", new_hub())
    async with management.served(answer) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": management.KEY}
        async with server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
            slots = {"staging": {"taskHub": running.hub}}
            assert (await put(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)).status_code == 200
            yield Behind(http, app, running)


async def test_behind_the_management_api_a_purged_instance_that_was_shown_before_does_not_block(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("order-1", age=40)
        await behind.start("order-2", age=30)
        assert await behind.active() == ["order-1", "order-2"]
        behind.purge("order-1")
        assert await behind.active() == ["order-2"]
        behind.purge("order-2")
        assert (await staging(behind.http, app, wait=3))["ready"]


async def test_behind_the_management_api_a_start_that_was_never_shown_blocks(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """It may still be a message. One that is younger than a second, or shown as it was before, is not confirmed."""
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("known")
        assert await behind.active() == ["known"]
        await behind.start("too-young", age=0)
        await publish(behind.http, event(behind.running.hub, "a-message", time=at(-20)))
        behind.running.put("earlier-run", created=at(-30))
        await publish(behind.http, event(behind.running.hub, "earlier-run", time=at(-10)))
        everything = ["known", "a-message", "earlier-run", "too-young"]
        assert await behind.active() == everything
        for instance_id in ("known", "earlier-run", "too-young"):
            behind.purge(instance_id)
        assert await behind.active() == everything[1:]


async def test_behind_the_management_api_an_id_that_is_started_again_blocks_although_it_was_shown_before(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("order-1")
        assert await behind.active() == ["order-1"]
        behind.purge("order-1")
        await publish(behind.http, event(behind.running.hub, "order-1"))
        assert await behind.active() == ["order-1"]


async def test_what_one_endpoint_has_shown_says_nothing_of_another(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """Both show an instance that events told of, so both are believed; but the second has never shown order-1."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await second.answer(request)

    second = management.App("")
    async with management.served(answer) as origin, behind_the_api(storage, clock, app) as behind:
        second.hub = behind.running.hub
        connection = "STATE_TASKHUBS_SECOND"
        settings = {f"{connection}__endpoint": origin, f"{connection}__key": management.KEY}
        await behind.start("order-1", age=40)
        await behind.start("both", age=30)
        second.put("both")
        assert await behind.active() == ["order-1", "both"]
        async with server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": connection}
            slots = {"staging": {"taskHub": behind.running.hub}}
            policy = {"settleSeconds": 0}
            assert (await put(http, app, slots=slots, policy=policy, taskHubs=source)).status_code == 200
            second.put("both", "Completed")
            assert await Behind(http, app, second).active() == ["order-1"]
