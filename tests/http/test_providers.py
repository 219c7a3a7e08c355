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
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.backends import fake_function_app as management
from tests.backends.fake_schedulers import QUIET_LOGGER, InMemoryScheduler, eternal, parent, waiting
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, get_staging, post_events, post_staging, put_app, reason_codes

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of_server_with(
    storage: StorageSettings, clock: ShiftedClock, settings: dict[str, str]
) -> AsyncIterator[httpx.AsyncClient]:
    state = StateServer(Settings(storage=storage, connections=TaskHubConnections(settings)), clock)
    clock.storage = state.tables.clock
    transport = httpx.ASGITransport(state.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await state.close()


@pytest.fixture
def scheduler_with_worker() -> Iterator[InMemoryScheduler]:
    """An engine with a worker of these orchestrators."""
    engine = InMemoryScheduler()
    worker: Any = TaskHubGrpcWorker(host_address=engine.address, logger=QUIET_LOGGER)
    for orchestrator in (waiting, eternal, parent):
        worker.add_orchestrator(orchestrator)
    worker.start()
    yield engine
    worker.stop()
    engine.stop()


async def test_a_task_hub_of_the_scheduler_drains(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, scheduler_with_worker: InMemoryScheduler
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": scheduler_with_worker.connection}
    source = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
    async with client_of_server_with(storage, clock, settings) as http:
        slots = {"staging": {"taskHub": hub}}
        assert (await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)).status_code == 200
        assert (await get_staging(http, app))["assurance"] == "verified"
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, waiting, "order-1")
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, parent, "order-2", "order-2-child")
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, eternal, "monitor", 1)
        await asyncio.to_thread(scheduler_with_worker.client.suspend_orchestration, "order-1")
        verdict = await get_staging(http, app, verify="fresh")
        assert reason_codes(verdict) == ["InstancesActive"]
        statuses = {instance["instanceId"]: instance["runtimeStatus"] for instance in verdict["active"]}
        assert statuses.keys() == {"order-1", "order-2", "order-2-child", "monitor"}
        assert (statuses["order-1"], verdict["active"][0]["source"]) == ("Suspended", "probe")
        counted = (await http.get(f"/api/taskhubs/{hub}/versions")).json()
        assert [(version["version"], version["activeCount"]) for version in counted["versions"]] == [(None, 4)]
        # One turn of the monitor: it ends and goes on, and is active all the time.
        await asyncio.to_thread(scheduler_with_worker.client.raise_orchestration_event, "monitor", "go")
        # The engine does not look at the task hub's name: to it every hub has instances, and no name is new.
        assert_problem(await post_staging(http, app, new_hub_name()), 409, "TaskHubAlreadyUsed")
        replacing = {"staging": {"taskHub": new_hub_name()}}
        assert_problem(await put_app(http, app, slots=replacing), 409, "StagingNotReady")
        await asyncio.to_thread(scheduler_with_worker.client.resume_orchestration, "order-1")
        for ending in ("order-1", "order-2-child"):
            await asyncio.to_thread(scheduler_with_worker.end, ending)
        await asyncio.to_thread(scheduler_with_worker.wait_until, "order-2", "COMPLETED")
        assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["monitor"]
        await asyncio.to_thread(scheduler_with_worker.client.terminate_orchestration, "monitor")
        await asyncio.to_thread(scheduler_with_worker.wait_until, "monitor", "TERMINATED")
        verdict = await get_staging(http, app, wait=10, verify="fresh")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
        for ended in statuses:
            await asyncio.to_thread(scheduler_with_worker.client.purge_orchestration, ended)
        assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_an_unreachable_scheduler_is_a_reason(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": "Endpoint=http://127.0.0.1:9;Authentication=None"}
    async with client_of_server_with(storage, clock, settings) as http:
        source = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
        await put_app(http, app, slots={"staging": {"taskHub": hub}}, taskHubs=source)
        verdict = await get_staging(http, app)
        assert reason_codes(verdict) == ["ProbeFailed"]
        assert "STATE_TASKHUBS_SCHEDULER" in verdict["reasons"][0]["message"]


async def test_a_task_hub_behind_the_management_api_drains(
    storage: StorageSettings, clock: ShiftedClock, app: str, anyio_backend: str
) -> None:
    async def response(request: web.Request) -> web.StreamResponse:
        return await running.handle(request)

    running = management.FakeFunctionApp("")
    hub = management.HUB
    async with management.serve_http(response) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": management.SYSTEM_KEY}
        async with client_of_server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
            slots = {"staging": {"taskHub": hub}}
            assert (
                await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)
            ).status_code == 200
            await post_events(http, event(hub, "order-1", time=timestamp(-5)))
            running.put("order-1", "Suspended")
            running.put("order-2", "Pending")
            assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["order-1"]
            running.put("order-1", "Terminated")
            verdict = await get_staging(http, app, wait=3)
            assert [(instance["instanceId"], instance["source"]) for instance in verdict["active"]] == [
                ("order-2", "probe")
            ]
            running.put("order-2", "Completed")
            assert (await get_staging(http, app, wait=3))["ready"]
            refused = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
            assert_problem(refused, 400, "InvalidRequest")


@dataclass
class Behind:
    """An app behind its management API, and a server that cannot see messages."""

    http: httpx.AsyncClient
    app: str
    running: management.FakeFunctionApp

    async def active(self) -> list[str]:
        """The instances that block; empty if the slot is Ready."""
        verdict = await get_staging(self.http, self.app, verify="fresh")
        assert verdict["ready"] or reason_codes(verdict) == ["InstancesActive"], verdict["reasons"]
        return [instance["instanceId"] for instance in verdict["active"]]

    async def start(self, instance_id: str, age: float = 30) -> None:
        """The app starts an instance, the event arrives, and the row is written."""
        await post_events(self.http, event(self.running.hub, instance_id, time=timestamp(-age)))
        self.running.put(instance_id)

    def purge(self, instance_id: str) -> None:
        """The instance ends, the event is lost, and the instance is purged."""
        del self.running.hubs[self.running.hub.lower()][instance_id]


@asynccontextmanager
async def behind_the_api(storage: StorageSettings, clock: ShiftedClock, app: str) -> AsyncIterator[Behind]:
    async def response(request: web.Request) -> web.StreamResponse:
        return await running.handle(request)

    running = management.FakeFunctionApp("", new_hub_name())
    async with management.serve_http(response) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": management.SYSTEM_KEY}
        async with client_of_server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
            slots = {"staging": {"taskHub": running.hub}}
            assert (
                await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=source)
            ).status_code == 200
            yield Behind(http, app, running)


async def test_behind_the_management_api_a_purged_instance_whose_start_was_confirmed_does_not_block(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("order-1", age=40)
        await behind.start("order-2", age=30)
        assert await behind.active() == ["order-1", "order-2"]
        behind.purge("order-1")
        assert await behind.active() == ["order-2"]
        behind.purge("order-2")
        assert (await get_staging(behind.http, app, wait=3))["ready"]


async def test_behind_the_management_api_a_start_that_was_never_confirmed_blocks(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """It may still be a message. A start younger than a second, or with a row of an earlier run, is not confirmed."""
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("known")
        assert await behind.active() == ["known"]
        await behind.start("too-young", age=0)
        await post_events(behind.http, event(behind.running.hub, "a-message", time=timestamp(-20)))
        behind.running.put("earlier-run", created=timestamp(-30))
        await post_events(behind.http, event(behind.running.hub, "earlier-run", time=timestamp(-10)))
        everything = ["known", "a-message", "earlier-run", "too-young"]
        assert await behind.active() == everything
        for instance_id in ("known", "earlier-run", "too-young"):
            behind.purge(instance_id)
        assert await behind.active() == everything[1:]


async def test_behind_the_management_api_a_restart_blocks_although_an_earlier_start_was_confirmed(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with behind_the_api(storage, clock, app) as behind:
        await behind.start("order-1")
        assert await behind.active() == ["order-1"]
        behind.purge("order-1")
        await post_events(behind.http, event(behind.running.hub, "order-1"))
        assert await behind.active() == ["order-1"]


async def test_a_confirmation_by_one_endpoint_does_not_count_for_another(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """Both endpoints show a reported instance, so both are confirmed. But the second has never shown order-1."""

    async def response(request: web.Request) -> web.StreamResponse:
        return await second.handle(request)

    second = management.FakeFunctionApp("")
    async with management.serve_http(response) as origin, behind_the_api(storage, clock, app) as behind:
        second.hub = behind.running.hub
        connection = "STATE_TASKHUBS_SECOND"
        settings = {f"{connection}__endpoint": origin, f"{connection}__key": management.SYSTEM_KEY}
        await behind.start("order-1", age=40)
        await behind.start("both", age=30)
        second.put("both")
        assert await behind.active() == ["order-1", "both"]
        async with client_of_server_with(storage, clock, settings) as http:
            source = {"provider": "managementApi", "connection": connection}
            slots = {"staging": {"taskHub": behind.running.hub}}
            policy = {"settleSeconds": 0}
            assert (await put_app(http, app, slots=slots, policy=policy, taskHubs=source)).status_code == 200
            second.put("both", "Completed")
            assert await Behind(http, app, second).active() == ["order-1"]
