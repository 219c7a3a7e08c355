"""GetStagingStatus by events: its response, how it waits, and that finished instances do not add to its cost."""

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

SHARDS = 1
"""The number of ranges in which a task hub's records are read for one verdict."""


async def swap_out(http: httpx.AsyncClient, app: str, hub: str, *, settle_seconds: int = 30) -> None:
    """Bring a task hub into the staging slot by swapping it out of production."""
    production = {"taskHub": hub, "version": "1.4.0"}
    await put_app(http, app, policy={"settleSeconds": settle_seconds}, slots={"production": production})
    swapped_in = new_hub_name()
    assert (await post_staging(http, app, swapped_in)).status_code == 200
    assert (await post_swap(http, app, swapped_in)).status_code == 200


async def test_a_verdict_contains_all_its_evidence(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await swap_out(http, app, hub)
    earlier_start, later_start = event(hub, "5f2c"), event(hub, "6a3d", function="Ship")
    await post_events(http, later_start, earlier_start)
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
            for lifecycle_event in (earlier_start, later_start)
        ],
        "ignoredCount": 0,
        "waived": [],
        "evidence": {
            "lastEventAt": later_start["eventTime"],
            "lastRecordedAt": verdict["evidence"]["lastRecordedAt"],
            "probe": None,
        },
        "checkedAt": verdict["checkedAt"],
        "retryAfterSeconds": 10,
    }
    time_since_recording = parse_instant(verdict["checkedAt"]) - parse_instant(verdict["evidence"]["lastRecordedAt"])
    assert abs(time_since_recording) < seconds(6)


async def test_an_empty_slot_is_ready(http: httpx.AsyncClient, app: str) -> None:
    await put_app(http, app)
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["taskHub"], verdict["reasons"]) == (True, None, [])


async def test_the_settle_window_counts_from_the_recording_of_an_event_and_not_from_its_time(
    http: httpx.AsyncClient, app: str, hub: str, clock: ShiftedClock
) -> None:
    """An end event is delivered an hour late, so a start event of the next generation may be as late."""
    settle_seconds = 30
    await swap_out(http, app, hub, settle_seconds=settle_seconds)
    await post_events(http, event(hub, status="Completed", time=timestamp(-3600)))
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["hasRunning"]) == (["Settling"], False)
    assert settle_seconds - 5 <= verdict["retryAfterSeconds"] <= settle_seconds + 1
    clock.advance(settle_seconds + 1)
    assert (await get_staging(http, app))["ready"]


async def test_no_verdict_is_ready_between_the_events_of_an_instance_that_continues_as_new(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    start, end, restart = (event(hub, "monitor", status) for status in ("Running", "Completed", "Running"))
    for lifecycle_event in (start, end, restart):
        await post_events(http, lifecycle_event)
        assert not (await get_staging(http, app))["ready"]
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_the_active_count_is_exact_up_to_a_thousand_and_the_oldest_instances_are_listed(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The events are in the order from the youngest instance to the oldest."""
    await swap_out(http, app, hub)
    current_second = event(hub)["eventTime"].partition(".")[0]
    starts = [event(hub, f"order-{n}", time=f"{current_second}.{9999 - n:07d}Z") for n in range(1001)]
    await post_events(http, *starts[:1000])
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"]) == (1000, False)
    assert [instance["instanceId"] for instance in verdict["active"]] == [f"order-{n}" for n in range(999, 979, -1)]
    await post_events(http, starts[1000])
    verdict = await get_staging(http, app)
    assert (verdict["activeCount"], verdict["activeCountIsLowerBound"]) == (1000, True)
    assert verdict["active"][0]["instanceId"] == "order-1000"


def count_record_reads(proxy: StorageProxy) -> int:
    """The number of requests through the proxy that read a range of a task hub's records."""
    return sum("State" in request.path for request in proxy.forwarded)


async def start_waiting_request(
    proxy: StorageProxy, http: httpx.AsyncClient, app: str, *, wait_seconds: int
) -> asyncio.Task[Any]:
    """Start a GetStagingStatus request that waits, and return once its server has read the records twice."""
    proxy.clear()
    waiting_request = asyncio.create_task(get_staging(http, app, wait=wait_seconds))
    while count_record_reads(proxy) < 2 * SHARDS:
        assert not waiting_request.done()
        await asyncio.sleep(0.02)
    return waiting_request


@asynccontextmanager
async def server_behind_proxy(
    storage: StorageSettings,
) -> AsyncIterator[tuple[StorageProxy, StateServer, httpx.AsyncClient]]:
    """Another server, a client of it, and the proxy that counts its storage requests."""
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(Settings(storage=proxy.settings))
        transport = httpx.ASGITransport(server.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
            yield proxy, server, client
        await server.close()


async def test_waiting_ends_as_soon_as_the_task_hub_has_drained(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    wait_seconds = 60
    await swap_out(http, app, hub, settle_seconds=0)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, _, client):
        waiting_request = await start_waiting_request(proxy, client, app, wait_seconds=wait_seconds)
        began = time.monotonic()
        await post_events(http, event(hub, status="Completed"))
        assert (await waiting_request)["ready"]
        assert time.monotonic() - began < wait_seconds / 2


async def test_waiting_ends_when_the_caller_disconnects(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, server, _):
        request_messages = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]

        async def receive_message() -> Any:
            """The next message of the request; the last one again when there are no more."""
            return request_messages.pop(0) if len(request_messages) > 1 else request_messages[0]

        async def discard_message(message: Any) -> None:
            """Drop what the server sends, because the caller has disconnected."""

        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/api/apps/{app}/staging",
            "raw_path": f"/api/apps/{app}/staging".encode(),
            "root_path": "",
            "query_string": b"wait=120",
            "headers": [],
        }
        await asyncio.wait_for(server.application(scope, receive_message, discard_message), 30)
        assert count_record_reads(proxy) <= 2 * SHARDS, "the records are read for two verdicts at most"


async def test_waiting_ends_after_the_requested_time_with_the_current_verdict(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    wait_seconds = 2
    began = time.monotonic()
    assert reason_codes(await get_staging(http, app, wait=wait_seconds)) == ["InstancesActive"]
    assert time.monotonic() - began >= wait_seconds


async def test_waiting_ends_when_the_server_stops(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swap_out(http, app, hub)
    await post_events(http, event(hub))
    async with server_behind_proxy(storage) as (proxy, server, client):
        waiting_request = await start_waiting_request(proxy, client, app, wait_seconds=120)
        server.stopping.set()
        assert not (await asyncio.wait_for(waiting_request, 30))["ready"]


@pytest.mark.long
async def test_an_instance_that_ends_between_two_pages_of_its_records_does_not_make_the_task_hub_ready(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The server reads the time of the last event after the active instances, so it sees one of the two."""
    settle_seconds = 3
    # A page has at most 1,000 rows, so every shard has a second page.
    ignored_count, delivery_size = SHARDS * 1100, 1100
    policy = {"settleSeconds": settle_seconds, "ignoreFunctions": ["Monitor"]}
    await put_app(http, app, policy=policy, slots={"staging": {"taskHub": hub}})
    starts = [event(hub, f"monitor-{n}", time=timestamp(-3600), function="Monitor") for n in range(ignored_count)]
    for first in range(0, ignored_count, delivery_size):
        await post_events(http, *starts[first : first + delivery_size])
    await post_events(http, event(hub, "order"))
    async with server_behind_proxy(storage) as (proxy, server, client):
        last_recorded_at = parse_instant((await get_staging(client, app))["evidence"]["lastRecordedAt"])
        while server.services.clock.now() < last_recorded_at + seconds(settle_seconds + 1):
            await asyncio.sleep(0.1)
        checking_first_pages = asyncio.Lock()
        end_was_posted = False
        proxy.clear()

        async def post_end_after_first_pages(method: str, path: str) -> None:
            """Record the end of the order once the first page of each shard was asked for."""
            nonlocal end_was_posted
            async with checking_first_pages:
                if count_record_reads(proxy) >= SHARDS and not end_was_posted:
                    end_was_posted = True
                    await post_events(http, event(hub, "order", "Completed"))

        proxy.before_request = post_end_after_first_pages
        verdict = await get_staging(client, app)
        assert end_was_posted, "every shard must have a second page"
    assert not verdict["ready"], "the verdict shows the order as active, or the recent time of its end"


@pytest.mark.parametrize("parameters", [{"wait": 121}, {"wait": -1}, {"wait": "soon"}, {"verify": "maybe"}])
async def test_an_invalid_parameter_is_reported(http: httpx.AsyncClient, app: str, parameters: dict[str, Any]) -> None:
    await put_app(http, app)
    response = await http.get(f"/api/apps/{app}/staging", params=parameters)
    refused = assert_problem(response, 400, "InvalidRequest")
    assert refused["errors"][0]["field"] == f"query.{next(iter(parameters))}"


async def test_a_pipeline_that_reads_only_has_running_waits_while_an_instance_is_active(
    http: httpx.AsyncClient, app: str, hub: str, clock: ShiftedClock
) -> None:
    """The first extension for Azure Pipelines polls the URL and continues the deployment once `hasRunning` is false."""
    await swap_out(http, app, hub)

    async def read_has_running() -> bool:
        """The member `hasRunning`, as a pipeline reads it that looks at nothing else."""
        response = await http.get(f"/api/apps/{app}/staging")
        assert response.status_code == 200
        has_running = response.json()["hasRunning"]
        assert isinstance(has_running, bool)
        return has_running

    assert not await read_has_running()
    await post_events(http, event(hub))
    assert await read_has_running()
    await post_events(http, event(hub, status="Completed"))
    assert not await read_has_running()


async def add_finished_instances(server: StateServer, hub: str, count: int) -> None:
    """Write the records of `count` finished instances into a task hub's table as the store does, in transactions."""
    max_rows_per_transaction = 100
    record = await task_hub_record(server, hub)
    table = server.tables.client(instance_table_name(record.name))
    by_shard: dict[int, list[Any]] = {}
    for number in range(count):
        instance = Instance(
            f"done-{number}",
            finished=Finished(Instant(parse_instant("2026-11-20T09:00:00Z")), RuntimeStatus.COMPLETED, "", "F"),
        )
        shard = shard_of(instance.instance_id, record.shards)
        by_shard.setdefault(shard, []).append(("create", instance_row(f"{shard:02d}", instance)))
    for rows in by_shard.values():
        for first in range(0, len(rows), max_rows_per_transaction):
            await table.submit_transaction(rows[first : first + max_rows_per_transaction])


async def test_a_verdict_reads_no_row_of_a_finished_instance(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    active_count = 3
    app_reads = 1
    await swap_out(http, app, hub)
    await post_events(http, *(event(hub, f"active-{n}") for n in range(active_count)))
    await post_events(http, event(hub, "done", "Completed"))
    async with server_behind_proxy(storage) as (proxy, _, client):
        verdict_before = await get_staging(client, app)
        cost_before = proxy.count_requests_and_rows()
        await add_finished_instances(server, hub, 3_000)
        proxy.clear()
        verdict_after = await get_staging(client, app)
        cost_after = proxy.count_requests_and_rows()
    assert (verdict_before["activeCount"], verdict_after["activeCount"]) == (active_count, active_count)
    assert cost_before == cost_after
    requests, rows = cost_after
    assert requests == app_reads + SHARDS
    # The state of the task hub, its active instances, and the activity stamp of their function.
    assert rows == 1 + active_count + 1
