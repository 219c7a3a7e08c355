"""GetStagingStatus: its response, its waiting, and that its cost does not depend on finished instances."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.task_hubs.lifecycle import Finished, Instance, RuntimeStatus
from state_api.settings import Settings, StorageSettings
from state_api.storage.instance_keys import shard_of
from state_api.storage.instance_rows import instance_row
from state_api.storage.tables import instance_table_name
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
)
from tests.storage.stored_rows import task_hub_record

pytestmark = pytest.mark.anyio


async def swap_out(http: httpx.AsyncClient, app: str, hub: str, settle: int = 30) -> None:
    """Bring a task hub into the staging slot by swapping it out of production."""
    await put_app(
        http, app, policy={"settleSeconds": settle}, slots={"production": {"taskHub": hub, "version": "1.4.0"}}
    )
    assert (await post_staging(http, app, promoted := new_hub_name())).status_code == 200
    assert (await post_swap(http, app, promoted)).status_code == 200


async def test_a_verdict_contains_all_its_evidence(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await swap_out(http, app, hub)
    first, second = event(hub, "5f2c"), event(hub, "6a3d", function="Ship")
    await post_events(http, second, first)
    verdict = await get_staging(http, app)
    assert verdict == {
        "app": app,
        "slot": "staging",
        "status": "NotReady",
        "ready": False,
        "hasRunning": True,
        "taskHub": hub,
        "version": "1.4.0",
        "assurance": "events",
        "reasons": [
            {
                "code": "InstancesActive",
                "message": f"2 orchestration instances are active on task hub {hub}; the oldest, "
                "ProcessOrder 5f2c, for 0 s",
            }
        ],
        "warnings": [{"code": "EventsOnly", "message": verdict["warnings"][0]["message"]}],
        "activeCount": 2,
        "activeCountIsLowerBound": False,
        "active": [
            {
                "instanceId": lifecycle_event["data"]["instanceId"],
                "functionName": lifecycle_event["data"]["functionName"],
                "runtimeStatus": "Running",
                "startedAt": lifecycle_event["eventTime"],
                "lastEventAt": lifecycle_event["eventTime"],
                "source": "event",
                "version": None,
            }
            for lifecycle_event in (first, second)
        ],
        "ignoredCount": 0,
        "waived": [],
        "evidence": {
            "lastEventAt": second["eventTime"],
            "lastRecordedAt": verdict["evidence"]["lastRecordedAt"],
            "probe": None,
        },
        "checkedAt": verdict["checkedAt"],
        "retryAfterSeconds": 10,
    }
    assert abs(parse_instant(verdict["evidence"]["lastRecordedAt"]) - parse_instant(verdict["checkedAt"])) < 60_000_000


async def test_an_empty_slot_is_ready(http: httpx.AsyncClient, app: str) -> None:
    await put_app(http, app)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["taskHub"], verdict["reasons"]) == (True, None, [])


async def test_the_settle_window_counts_from_the_recording_of_an_event_and_not_from_its_time(
    http: httpx.AsyncClient, app: str, hub: str, clock: ShiftedClock
) -> None:
    await swap_out(http, app, hub)
    # A Completed that was delivered an hour late: the Running of the next generation may be just as late.
    await post_events(http, event(hub, status="Completed", time=timestamp(-3600)))
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["hasRunning"]) == (["Settling"], False)
    assert 25 <= verdict["retryAfterSeconds"] <= 31
    clock.advance(31)
    assert (await get_staging(http, app))["ready"]


async def test_the_gap_of_continue_as_new_is_never_ready(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await swap_out(http, app, hub)
    start, end, restart = (event(hub, "monitor", status) for status in ("Running", "Completed", "Running"))
    for lifecycle_event in (start, end, restart):
        await post_events(http, lifecycle_event)
        assert not (await get_staging(http, app))["ready"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_the_count_is_exact_to_a_thousand_and_lists_the_oldest(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    base = event(hub)["eventTime"][:20]
    batch = [event(hub, f"order-{n}", time=f"{base}{9999 - n:07d}Z") for n in range(1001)]
    await post_events(http, *batch[:1000])
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"]) == (1000, False)
    assert [instance["instanceId"] for instance in verdict["active"]] == [f"order-{n}" for n in range(999, 979, -1)]
    await post_events(http, batch[1000])
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"]) == (1000, True)
    assert verdict["active"][0]["instanceId"] == "order-1000"


async def start_waiting_request(proxy: StorageProxy, http: httpx.AsyncClient, app: str, most: int) -> asyncio.Task[Any]:
    """A request that waits. Its server has read the task hub at least twice."""
    proxy.clear()
    task = asyncio.create_task(get_staging(http, app, wait=most))
    while sum("State" in request.path for request in proxy.forwarded) < 8:
        assert not task.done()
        await asyncio.sleep(0.02)
    return task


@asynccontextmanager
async def server_behind_proxy(
    storage: StorageSettings,
) -> AsyncIterator[tuple[StorageProxy, StateServer, httpx.AsyncClient]]:
    """Another server, with a proxy that records its storage requests."""
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        transport = httpx.ASGITransport(server.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
            yield proxy, server, client
        await server.close()


async def test_waiting_ends_as_soon_as_the_task_hub_has_drained(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub, settle=0)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, _, client):
        waiting = await start_waiting_request(proxy, client, app, 60)
        began = time.monotonic()
        await post_events(http, event(hub, status="Completed"))
        assert (await waiting)["ready"]
        assert time.monotonic() - began < 30, "half of what it would wait for nothing"


async def test_waiting_ends_when_the_caller_disconnects(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, server, _):
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0) if len(messages) > 1 else messages[0]

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/api/apps/{app}/staging",
            "raw_path": f"/api/apps/{app}/staging".encode(),
            "root_path": "",
            "query_string": b"wait=120",
            "headers": [],
        }
        await asyncio.wait_for(server.application(scope, receive, send), 30)
        assert sum("State" in request.path for request in proxy.forwarded) <= 8, (
            "two verdicts at the most, one range for each shard"
        )


async def test_waiting_ends_after_the_requested_time_with_the_current_verdict(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    began = time.monotonic()
    assert reason_codes(await get_staging(http, app, wait=2)) == ["InstancesActive"]
    assert time.monotonic() - began >= 2


async def test_waiting_ends_when_the_server_stops(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, server, client):
        waiting = await start_waiting_request(proxy, client, app, 120)
        server.stopping.set()
        assert not (await asyncio.wait_for(waiting, 30))["ready"]


@pytest.mark.long
async def test_the_settle_window_is_read_after_the_active_instances(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """An orchestration continues as new while the pages of its shard are read."""
    settle = 3
    policy = {"settleSeconds": settle, "ignoreFunctions": ["Monitor"]}
    await put_app(http, app, policy=policy, slots={"staging": {"taskHub": hub}})
    for first in range(0, 4400, 1100):
        monitors = range(first, first + 1100)
        await post_events(
            http, *(event(hub, f"monitor-{n}", time=timestamp(-3600), function="Monitor") for n in monitors)
        )
    await post_events(http, event(hub, "order"))
    async with server_behind_proxy(storage) as (proxy, server, client):
        started = parse_instant((await get_staging(client, app))["evidence"]["lastRecordedAt"])
        while server.services.clock.now() < started + seconds(settle + 1):
            await asyncio.sleep(0.1)
        turning = asyncio.Lock()
        turned = False
        proxy.clear()

        async def between_pages(method: str, path: str) -> None:
            nonlocal turned
            async with turning:
                if sum("State" in request.path for request in proxy.forwarded) >= 4 and not turned:
                    turned = True
                    await post_events(http, event(hub, "order", "Completed"))

        proxy.before_request = between_pages
        verdict = await get_staging(client, app)
        assert turned, "every shard must have a second page"
    assert not verdict["ready"], "either the order is seen active, or its end is seen to be recent"


@pytest.mark.parametrize("parameters", [{"wait": 121}, {"wait": -1}, {"wait": "soon"}, {"verify": "maybe"}])
async def test_an_invalid_parameter_is_reported(http: httpx.AsyncClient, app: str, parameters: dict[str, Any]) -> None:
    await put_app(http, app)
    response = await http.get(f"/api/apps/{app}/staging", params=parameters)
    refused = assert_problem(response, 400, "InvalidRequest")
    assert refused["errors"][0]["field"] == f"query.{next(iter(parameters))}"


async def test_the_first_azure_pipelines_extension_works_against_this_server(
    http: httpx.AsyncClient, app: str, hub: str, clock: ShiftedClock
) -> None:
    """The extension polls a URL with GET, reads only `hasRunning`, and continues the deployment when it is false."""
    await swap_out(http, app, hub)

    async def may_deploy() -> bool:
        response = await http.get(f"/api/apps/{app}/staging")
        assert response.status_code == 200
        running = response.json()["hasRunning"]
        assert isinstance(running, bool)
        return not running

    assert await may_deploy()
    await post_events(http, event(hub))
    assert not await may_deploy()
    await post_events(http, event(hub, status="Completed"))
    assert await may_deploy()


async def add_finished_instances(server: StateServer, hub: str, finished: int) -> None:
    """Write finished instances into a task hub's table as the store does, a hundred in a transaction."""
    record = await task_hub_record(server, hub)
    table = server.tables.client(instance_table_name(record.name))
    by_shard: dict[int, list[Any]] = {}
    for number in range(finished):
        instance = Instance(
            f"done-{number}",
            finished=Finished(Instant(parse_instant("2026-11-20T09:00:00Z")), RuntimeStatus.COMPLETED, "", "F"),
        )
        shard = shard_of(instance.instance_id, record.shards)
        by_shard.setdefault(shard, []).append(("create", instance_row(f"{shard:02d}", instance)))
    for rows in by_shard.values():
        for first in range(0, len(rows), 100):
            await table.submit_transaction(rows[first : first + 100])


async def test_a_verdict_reads_no_finished_row(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, *(event(hub, f"active-{n}") for n in range(3)))
    await post_events(http, event(hub, "done", "Completed"))
    async with run_storage_proxy(storage) as proxy:
        counted = StateServer(Settings(storage=proxy.settings))
        transport = httpx.ASGITransport(counted.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
            verdict = await get_staging(client, app)
            before = proxy.count_requests_and_rows()
            await add_finished_instances(server, hub, 20_000)
            proxy.clear()
            second = await get_staging(client, app)
            after = proxy.count_requests_and_rows()
        await counted.close()
    assert (verdict["activeCount"], second["activeCount"]) == (3, 3)
    # The app, the registry, and one range per shard; the rows are the three active ones and what stamps a shard.
    assert before == after
    requests, rows = after
    assert requests == 2 + 4
    assert 3 <= rows <= 3 + 4
