"""Task hubs of the providers `scheduler` and `managementApi` through the whole server: Microsoft's in-memory engine,
and a fake of an app's management API."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from durabletask.worker import TaskHubGrpcWorker

from state_api.settings import StorageSettings
from tests.backends.fake_function_app import SYSTEM_KEY, FakeFunctionApp, serve_http
from tests.backends.fake_schedulers import QUIET_LOGGER, InMemoryScheduler, eternal, parent, waiting
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, get_staging, post_events, post_staging, put_app, reason_codes
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio


@pytest.fixture
def scheduler_with_worker() -> Iterator[InMemoryScheduler]:
    """An in-memory scheduler with a worker that runs the orchestrators `waiting`, `eternal` and `parent`."""
    engine = InMemoryScheduler()
    worker: Any = TaskHubGrpcWorker(host_address=engine.address, logger=QUIET_LOGGER)
    for orchestrator in (waiting, eternal, parent):
        worker.add_orchestrator(orchestrator)
    worker.start()
    yield engine
    worker.stop()
    engine.stop()


async def test_a_task_hub_of_a_scheduler_is_ready_once_its_instances_have_ended(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, scheduler_with_worker: InMemoryScheduler
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": scheduler_with_worker.connection}
    provider_config = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
    async with client_of_server_with(storage, clock, settings) as http:
        slots = {"staging": {"taskHub": hub}}
        assert (
            await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=provider_config)
        ).status_code == 200
        assert (await get_staging(http, app))["assurance"] == "verified"
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, waiting, "order-1")
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, parent, "order-2", "order-2-child")
        await asyncio.to_thread(scheduler_with_worker.wait_until, "order-2-child", "RUNNING")
        await asyncio.to_thread(scheduler_with_worker.start_and_wait, eternal, "monitor", 1)
        await asyncio.to_thread(scheduler_with_worker.client.suspend_orchestration, "order-1")
        await asyncio.to_thread(scheduler_with_worker.wait_until, "order-1", "SUSPENDED")
        verdict = await get_staging(http, app, verify="fresh")
        assert reason_codes(verdict) == ["InstancesActive"]
        statuses = {instance["instanceId"]: instance["runtimeStatus"] for instance in verdict["active"]}
        assert statuses.keys() == {"order-1", "order-2", "order-2-child", "monitor"}
        assert (statuses["order-1"], verdict["active"][0]["source"]) == ("Suspended", "probe")
        versions = (await http.get(f"/api/taskhubs/{hub}/versions")).json()["versions"]
        assert [(version["version"], version["activeCount"]) for version in versions] == [(None, 4)]
        # The monitor continues as new once, and stays active.
        await asyncio.to_thread(scheduler_with_worker.client.raise_orchestration_event, "monitor", "go")
        # The in-memory scheduler shows the same instances under every task hub name, so no name is new to it.
        assert_problem(await post_staging(http, app, new_hub_name()), 409, "TaskHubAlreadyUsed")
        replaced_slots = {"staging": {"taskHub": new_hub_name()}}
        assert_problem(await put_app(http, app, slots=replaced_slots), 409, "StagingNotReady")
        await asyncio.to_thread(scheduler_with_worker.client.resume_orchestration, "order-1")
        await asyncio.to_thread(scheduler_with_worker.wait_until, "order-1", "RUNNING")
        for instance_id in ("order-1", "order-2-child"):
            await asyncio.to_thread(scheduler_with_worker.end, instance_id)
        await asyncio.to_thread(scheduler_with_worker.wait_until, "order-2", "COMPLETED")
        assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["monitor"]
        await asyncio.to_thread(scheduler_with_worker.client.terminate_orchestration, "monitor")
        await asyncio.to_thread(scheduler_with_worker.wait_until, "monitor", "TERMINATED")
        verdict = await get_staging(http, app, wait=10, verify="fresh")
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified")
        for instance_id in statuses:
            await asyncio.to_thread(scheduler_with_worker.client.purge_orchestration, instance_id)
        assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_an_unreachable_scheduler_is_a_reason_that_names_the_setting(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str
) -> None:
    settings = {"STATE_TASKHUBS_SCHEDULER": "Endpoint=http://127.0.0.1:9;Authentication=None"}
    async with client_of_server_with(storage, clock, settings) as http:
        provider_config = {"provider": "scheduler", "connection": "STATE_TASKHUBS_SCHEDULER"}
        await put_app(http, app, slots={"staging": {"taskHub": hub}}, taskHubs=provider_config)
        verdict = await get_staging(http, app)
        assert reason_codes(verdict) == ["ProbeFailed"]
        assert "STATE_TASKHUBS_SCHEDULER" in verdict["reasons"][0]["message"]


async def test_a_task_hub_at_the_management_api_is_ready_once_its_instances_have_ended(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with staged_function_app(storage, clock, app) as staged:
        http, function_app = staged.http, staged.function_app
        await post_events(http, event(function_app.hub, "order-1", time=timestamp(-5)))
        function_app.put("order-1", "Suspended")
        function_app.put("order-2", "Pending")
        assert [instance["instanceId"] for instance in (await get_staging(http, app))["active"]] == ["order-1"]
        function_app.put("order-1", "Terminated")
        verdict = await get_staging(http, app, wait=3)
        assert [(instance["instanceId"], instance["source"]) for instance in verdict["active"]] == [
            ("order-2", "probe")
        ]
        function_app.put("order-2", "Completed")
        assert (await get_staging(http, app, wait=3))["ready"]
        refused = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True})
        assert_problem(refused, 400, "InvalidRequest")


@dataclass
class StagedFunctionApp:
    """A function app whose task hub is in the staging slot and is read through its management API.

    - `http` is a client of the state server, which cannot see messages through that API.
    - `app` is the app's name at the state server.
    """

    http: httpx.AsyncClient
    app: str
    function_app: FakeFunctionApp

    async def get_active_ids(self) -> list[str]:
        """Ask for a verified verdict, and return the ids of the instances that block. There are none if it is Ready."""
        verdict = await get_staging(self.http, self.app, verify="fresh")
        assert verdict["ready"] or reason_codes(verdict) == ["InstancesActive"], verdict["reasons"]
        return [instance["instanceId"] for instance in verdict["active"]]

    async def start_instance(self, instance_id: str, *, event_age_seconds: float = 30) -> None:
        """Deliver the start event of an instance, and make the management API show the instance."""
        await post_events(self.http, event(self.function_app.hub, instance_id, time=timestamp(-event_age_seconds)))
        self.function_app.put(instance_id)

    def purge_instance(self, instance_id: str) -> None:
        """Remove an instance from the management API without an event, as when its end event was lost."""
        del self.function_app.hubs[self.function_app.hub.lower()][instance_id]


@asynccontextmanager
async def staged_function_app(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> AsyncIterator[StagedFunctionApp]:
    """A function app in the staging slot of an app whose provider is its management API."""
    function_app = FakeFunctionApp("", new_hub_name())
    async with serve_http(function_app.handle_request) as origin:
        settings = {"STATE_TASKHUBS_API__endpoint": origin, "STATE_TASKHUBS_API__key": SYSTEM_KEY}
        async with client_of_server_with(storage, clock, settings) as http:
            provider_config = {"provider": "managementApi", "connection": "STATE_TASKHUBS_API"}
            slots = {"staging": {"taskHub": function_app.hub}}
            policy = {"settleSeconds": 0}
            assert (await put_app(http, app, slots=slots, policy=policy, taskHubs=provider_config)).status_code == 200
            yield StagedFunctionApp(http, app, function_app)


async def test_a_purged_instance_whose_start_the_management_api_has_shown_does_not_block(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with staged_function_app(storage, clock, app) as staged:
        await staged.start_instance("order-1", event_age_seconds=40)
        await staged.start_instance("order-2", event_age_seconds=30)
        assert await staged.get_active_ids() == ["order-1", "order-2"]
        staged.purge_instance("order-1")
        assert await staged.get_active_ids() == ["order-2"]
        staged.purge_instance("order-2")
        assert (await get_staging(staged.http, app, wait=3))["ready"]


async def test_a_reported_start_that_the_management_api_has_never_shown_blocks(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """Such a start may still be a message in a queue.

    An instance does not confirm a start event that is less than a second old. It does not confirm a start either if an
    earlier run with the same id created it.
    """
    async with staged_function_app(storage, clock, app) as staged:
        await staged.start_instance("confirmed")
        assert await staged.get_active_ids() == ["confirmed"]
        await staged.start_instance("too-young", event_age_seconds=0)
        await post_events(staged.http, event(staged.function_app.hub, "a-message", time=timestamp(-20)))
        staged.function_app.put("earlier-run", created=timestamp(-30))
        await post_events(staged.http, event(staged.function_app.hub, "earlier-run", time=timestamp(-10)))
        unconfirmed = ["a-message", "earlier-run", "too-young"]
        assert await staged.get_active_ids() == ["confirmed", *unconfirmed]
        for instance_id in ("confirmed", "earlier-run", "too-young"):
            staged.purge_instance(instance_id)
        assert await staged.get_active_ids() == unconfirmed


async def test_a_second_start_of_an_instance_blocks_although_the_management_api_has_shown_the_first(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    async with staged_function_app(storage, clock, app) as staged:
        await staged.start_instance("order-1")
        assert await staged.get_active_ids() == ["order-1"]
        staged.purge_instance("order-1")
        await post_events(staged.http, event(staged.function_app.hub, "order-1"))
        assert await staged.get_active_ids() == ["order-1"]


async def test_a_start_that_one_endpoint_has_shown_is_unconfirmed_at_another_endpoint(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """Both endpoints show the instance `at-both`, so each is confirmed as the backend. Only the first shows order-1."""
    second_function_app = FakeFunctionApp("")
    async with (
        serve_http(second_function_app.handle_request) as origin,
        staged_function_app(storage, clock, app) as staged,
    ):
        second_function_app.hub = staged.function_app.hub
        connection = "STATE_TASKHUBS_SECOND"
        settings = {f"{connection}__endpoint": origin, f"{connection}__key": SYSTEM_KEY}
        await staged.start_instance("order-1", event_age_seconds=40)
        await staged.start_instance("at-both", event_age_seconds=30)
        second_function_app.put("at-both")
        assert await staged.get_active_ids() == ["order-1", "at-both"]
        async with client_of_server_with(storage, clock, settings) as http:
            provider_config = {"provider": "managementApi", "connection": connection}
            slots = {"staging": {"taskHub": staged.function_app.hub}}
            policy = {"settleSeconds": 0}
            assert (await put_app(http, app, slots=slots, policy=policy, taskHubs=provider_config)).status_code == 200
            second_function_app.put("at-both", "Completed")
            assert await StagedFunctionApp(http, app, second_function_app).get_active_ids() == ["order-1"]
