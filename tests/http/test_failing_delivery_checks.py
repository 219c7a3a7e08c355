"""Delivery checks that cannot be recorded, or that are many, never cost the other events of their delivery."""

import asyncio
import uuid

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.domain.task_hubs.delivery_checks import MAX_REMEMBERED_CHECKS
from state_api.settings import Settings, StorageSettings
from state_api.storage.delivery_checks import DELIVERY_CHECKS_KEY
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.tables import instance_table_name
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_events, put_app
from tests.http.test_delivery_checks import check_event, get_task_hub

pytestmark = pytest.mark.anyio


async def test_a_row_of_a_newer_server_does_not_make_event_grid_send_a_delivery_for_a_day(
    http: httpx.AsyncClient, server: StateServer, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"production": {"taskHub": hub}})
    await post_events(http, check_event(hub))
    table = server.tables.client(instance_table_name(hub))
    row = await table.get_entity(FIRST_SHARD, DELIVERY_CHECKS_KEY)
    await table.update_entity({**row, "Schema": 99})
    response = await http.post("/api/events", json=[check_event(hub), event(hub), {"not": "an event"}])
    assert response.status_code == 200, response.text
    counts = response.json()
    assert (counts["recorded"], counts["unchanged"], counts["quarantined"]) == (1, 1, 1)


async def test_events_for_quarantine_are_stored_although_the_delivery_check_beside_them_is_not(
    storage: StorageSettings, app: str, hub: str
) -> None:
    """The delivery is refused, so that the delivery check comes again."""
    marker = uuid.uuid4().hex
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as http:
            await put_app(http, app, slots={"production": {"taskHub": hub}})
            table = instance_table_name(hub)
            proxy.failure_status = lambda method, path: 403 if f"/{table}(" in path else None
            refused = await http.post("/api/events", json=[check_event(hub), {"marker": marker}])
            assert_problem(refused, 503, "StorageUnavailable")
            assert marker in (await http.get("/api/quarantine")).text
            proxy.failure_status = lambda method, path: None
        await server.close()


async def test_many_delivery_checks_of_a_delivery_are_recorded_by_one_write(
    storage: StorageSettings, app: str, hub: str
) -> None:
    """One write each would take longer than Event Grid waits, so that it would send the delivery again and again."""
    checks = [check_event(hub) for _ in range(300)]
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as http:
            await put_app(http, app, slots={"production": {"taskHub": hub}})
            proxy.clear()
            counts = (await http.post("/api/events", json=[*checks, checks[-1], check_event(new_hub_name())])).json()
            assert proxy.count_requests_and_rows()[0] <= 5
            assert (counts["recorded"], counts["unchanged"]) == (MAX_REMEMBERED_CHECKS, 302 - MAX_REMEMBERED_CHECKS)
            assert len((await get_task_hub(http, hub))["deliveryChecks"]) == MAX_REMEMBERED_CHECKS
        await server.close()


async def test_as_many_delivery_checks_as_are_remembered_may_arrive_at_the_same_time(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """Each pipeline publishes one. A refusal would also send the events beside it again."""
    await put_app(http, app, slots={"production": {"taskHub": hub}})
    deliveries = [[check_event(hub)] for _ in range(MAX_REMEMBERED_CHECKS)]
    responses = await asyncio.gather(*(http.post("/api/events", json=delivery) for delivery in deliveries))
    assert {response.status_code for response in responses} == {200}
    assert len((await get_task_hub(http, hub))["deliveryChecks"]) == MAX_REMEMBERED_CHECKS
