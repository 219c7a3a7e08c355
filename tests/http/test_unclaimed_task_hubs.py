"""The limit on unclaimed task hubs: further events wait in quarantine until an app claims their task hub, and are
recorded before any verdict on it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.services.event_parser import parse_event, to_event_grid_event
from state_api.services.ports import QuarantinedEvent
from state_api.settings import Settings, StorageSettings
from state_api.storage.instances import InstanceStore
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.tables import TASK_HUBS_TABLE, instance_table_name
from state_api.storage.unclaimed_limit import COUNT_MAX_AGE_SECONDS, UnclaimedTaskHubLimit
from tests.builders import cloud_event, event, timestamp
from tests.conftest import NO_EVENT_LEASE, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    run_headers,
)

pytestmark = pytest.mark.anyio


async def count_unclaimed_hubs(server: StateServer) -> int:
    """The number of unclaimed task hubs now. Other tests use the same storage."""
    return await UnclaimedTaskHubLimit(server.tables.client(TASK_HUBS_TABLE), 0)._count_unclaimed()


@asynccontextmanager
async def server_with_limit(
    storage: StorageSettings, limit: int
) -> AsyncIterator[tuple[StateServer, httpx.AsyncClient]]:
    """A server that creates at most `limit` task hubs that no app has claimed, and a client of it."""
    server = StateServer(Settings(storage=storage, max_unclaimed_task_hubs=limit), event_lease=NO_EVENT_LEASE)
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://limited", timeout=60) as client:
        yield server, client
    await server.close()


@pytest.fixture
async def client_at_limit(server: StateServer, storage: StorageSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A server at its limit: it quarantines events of further task hubs until an app claims them."""
    async with server_with_limit(storage, 0) as (_, client):
        yield client


async def events_waiting_for_claim(server: StateServer, hub: str) -> list[QuarantinedEvent]:
    """The events in quarantine that wait until an app claims this task hub."""
    return await QuarantineStore(server.tables).list_waiting(hub, 1000)


async def has_table(server: StateServer, hub: str) -> bool:
    """Whether the storage has an instance table for this task hub."""
    tables = server.tables._service.query_tables(f"TableName eq '{instance_table_name(hub)}'")
    return bool([table.name async for table in tables])


QUARANTINED = {"recorded": 0, "unchanged": 0, "quarantined": 1}


async def test_events_of_unclaimed_task_hubs_are_recorded_up_to_the_limit(
    server: StateServer, storage: StorageSettings
) -> None:
    known, hubs = await count_unclaimed_hubs(server), [new_hub_name() for _ in range(4)]
    async with server_with_limit(storage, known + 2) as (_, http):
        responses = [await post_events(http, event(hub)) for hub in hubs]
        assert [response["recorded"] for response in responses] == [1, 1, 0, 0]
        assert [response["quarantined"] for response in responses] == [0, 0, 1, 1]
        assert [await has_table(server, hub) for hub in hubs] == [True, True, False, False]
        # Task hubs within the limit keep receiving events.
        assert (await post_events(http, event(hubs[0], "order-2")))["recorded"] == 1
    async with server_with_limit(storage, 0) as (_, http):
        assert (await post_events(http, event(hubs[1], "order-2")))["recorded"] == 1, "also at another server"


async def test_concurrent_events_do_not_exceed_the_limit(server: StateServer, storage: StorageSettings) -> None:
    count_before = await count_unclaimed_hubs(server)
    async with server_with_limit(storage, count_before + 3) as (_, http):
        response = await post_events(http, *(event(new_hub_name()) for _ in range(40)))
    assert response == {"recorded": 3, "unchanged": 0, "quarantined": 37}
    assert await count_unclaimed_hubs(server) == count_before + 3


async def test_claimed_task_hubs_do_not_count(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str
) -> None:
    """The limit has capacity for one task hub. Claiming that task hub makes the capacity available to another one."""
    count_before = await count_unclaimed_hubs(server)
    claimed, unclaimed, over_limit = new_hub_name(), new_hub_name(), new_hub_name()
    async with server_with_limit(storage, count_before + 1) as (_, client):
        await post_events(client, event(claimed))
        assert (await post_events(client, event(over_limit)))["quarantined"] == 1
        await put_app(client, app, slots={"production": {"taskHub": claimed}})
        ended_event = event(unclaimed, status="Completed", time=timestamp(-60))
        assert (await post_events(client, ended_event))["recorded"] == 1
        assert (await post_events(client, event(over_limit)))["quarantined"] == 1


async def test_the_count_of_unclaimed_task_hubs_is_not_read_for_every_event(
    server: StateServer, storage: StorageSettings
) -> None:
    async with run_storage_proxy(storage) as proxy, server_with_limit(proxy.settings, 0) as (_, http):
        hub = new_hub_name()
        await post_events(http, event(hub))
        proxy.clear()
        for number in range(5):
            await post_events(http, event(hub, f"order-{number}"))
        scans = [request for request in proxy.forwarded if request.path.endswith("()")]
        assert scans == []
        # For each event: one read of the registry before, one write, and one read after.
        assert proxy.count_requests_and_rows()[0] == 15


async def test_the_count_of_unclaimed_task_hubs_is_read_again_when_it_is_too_old(server: StateServer) -> None:
    """Another server or an administrator may have changed it."""
    seconds = 0.0
    limit = UnclaimedTaskHubLimit(
        server.tables.client(TASK_HUBS_TABLE), await count_unclaimed_hubs(server) + 1, lambda: seconds
    )
    assert [await limit.admit() for _ in range(3)] == [True, False, False], (
        "this server has registered one since the count was read"
    )
    seconds = COUNT_MAX_AGE_SECONDS - 1
    assert not await limit.admit()
    seconds = COUNT_MAX_AGE_SECONDS
    assert await limit.admit(), "the task hub that was admitted was never registered"


async def test_a_waiting_event_is_listed_and_shown_by_get_task_hub(
    client_at_limit: httpx.AsyncClient, hub: str
) -> None:
    assert_problem(await client_at_limit.get(f"/api/taskhubs/{hub}"), 404, "TaskHubNotFound")
    assert await post_events(client_at_limit, event(hub)) == QUARANTINED
    listed_events: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = (
            await client_at_limit.get(
                "/api/quarantine", params={"top": 1000, "continuationToken": token} if token else {}
            )
        ).json()
        listed_events += [quarantined for quarantined in page["events"] if hub in quarantined["event"]]
        token = page["continuationToken"]
    assert [(event["code"], event["endpointType"], event["truncated"]) for event in listed_events] == [
        ("TooManyTaskHubs", "webhook", False)
    ]
    assert "STATE_UNCLAIMED_TASK_HUBS" in listed_events[0]["message"]
    body = (await client_at_limit.get(f"/api/taskhubs/{hub}")).json()
    assert (body["taskHub"], body["app"], body["eventsInQuarantine"], body["closed"]) == (hub, None, True, False)


async def test_put_app_records_waiting_events_before_the_slot_has_a_verdict(
    client_at_limit: httpx.AsyncClient, server: StateServer, app: str, hub: str
) -> None:
    started = event(hub, "order-1")
    assert await post_events(client_at_limit, started) == QUARANTINED
    assert await post_events(client_at_limit, event(hub, "order-2"), event(hub, "order-2", "Completed")) | {
        "quarantined": 2
    } == {
        "recorded": 0,
        "unchanged": 0,
        "quarantined": 2,
    }
    assert await post_events(client_at_limit, cloud_event(hub, "order-3")) == QUARANTINED
    body = {"slots": {"staging": {"taskHub": hub.upper()}}, "policy": {"settleSeconds": 0}}
    assert (await put_app(client_at_limit, app, **body)).status_code == 200
    verdict = await get_staging(client_at_limit, app)
    assert (verdict["ready"], reason_codes(verdict)) == (False, ["InstancesActive"])
    assert [instance["instanceId"] for instance in verdict["active"]] == ["order-1", "order-3"]
    assert await events_waiting_for_claim(server, hub) == []
    body = (await client_at_limit.get(f"/api/taskhubs/{hub}")).json()
    assert (body["app"], body["eventsInQuarantine"], body["activeCount"]) == (app, False, 2)
    # Later events are recorded at once.
    ends = [event(hub, name, "Completed") for name in ("order-1", "order-3")]
    assert (await post_events(client_at_limit, *ends))["recorded"] == 2
    assert (await post_events(client_at_limit, started))["unchanged"] == 1
    assert (await get_staging(client_at_limit, app))["ready"]


async def test_post_staging_refuses_a_task_hub_with_waiting_events(
    client_at_limit: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The task hub has run before, although its events were not recorded."""
    await post_events(client_at_limit, event(hub))
    assert_problem(await post_staging(client_at_limit, app, hub), 409, "TaskHubAlreadyUsed")


async def test_after_a_claim_was_cut_off_no_run_can_stage_a_task_hub_that_has_run(
    storage: StorageSettings, client_at_limit: httpx.AsyncClient, app: str, hub: str
) -> None:
    """Its own run has not deployed to it, because the request failed. So the events are those of another app."""
    async with run_storage_proxy(storage) as proxy, server_with_limit(proxy.settings, 0) as (_, dying):

        async def post_event_before_the_claim(method: str, path: str) -> None:
            if path.endswith("$batch"):
                proxy.before_request = pass_request
                assert await post_events(client_at_limit, event(hub)) == QUARANTINED
                proxy.failure_status = lambda method, path: 500 if "Quarantine" in path else None

        proxy.before_request = post_event_before_the_claim
        assert_problem(await post_staging(dying, app, hub, run_headers(1)), 503, "StorageUnavailable")
    assert (await client_at_limit.get(f"/api/taskhubs/{hub}")).json()["app"] == app
    for run in (1, 2):
        assert_problem(await post_staging(client_at_limit, app, hub, run_headers(run)), 409, "TaskHubAlreadyUsed")


async def test_post_staging_records_events_that_arrive_during_the_claim(
    storage: StorageSettings, server: StateServer, client_at_limit: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with run_storage_proxy(storage) as proxy, server_with_limit(proxy.settings, 0) as (_, http):

        async def post_event_before_the_claim(method: str, path: str) -> None:
            if path.endswith("$batch"):
                proxy.before_request = pass_request
                assert await post_events(client_at_limit, event(hub)) == QUARANTINED

        proxy.before_request = post_event_before_the_claim
        assert (await post_staging(http, app, hub)).status_code == 200
        assert await events_waiting_for_claim(server, hub) == []
        assert reason_codes(await get_staging(http, app, slot="staging"))[-1] == "InstancesActive"


async def pass_request(method: str, path: str) -> None:
    """Do nothing, so that the proxy forwards the request."""


async def test_an_event_that_is_quarantined_during_the_claim_of_its_task_hub_is_recorded(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The server has read that the task hub is unclaimed. Then another server claims it and finds no waiting event."""
    async with run_storage_proxy(storage) as proxy, server_with_limit(proxy.settings, 0) as (_, late):
        await post_events(late, event(new_hub_name()))

        async def claim_before_the_event_is_kept(method: str, path: str) -> None:
            """Let an app claim the task hub just before its event is put into quarantine."""
            if path.endswith("$batch"):
                proxy.before_request = pass_request
                body = {"slots": {"staging": {"taskHub": hub}}, "policy": {"settleSeconds": 0}}
                assert (await put_app(http, app, **body)).status_code == 200
                assert (await get_staging(http, app))["ready"]

        proxy.before_request = claim_before_the_event_is_kept
        assert await post_events(late, event(hub)) == QUARANTINED
        assert proxy.before_request is pass_request
    # It was acknowledged, so the verdict must include it.
    assert (await get_staging(http, app))["activeCount"] == 1
    assert await events_waiting_for_claim(server, hub) == []


@pytest.mark.parametrize("completed_writes", range(8))
async def test_a_server_that_dies_during_a_claim_loses_no_event(
    *,
    storage: StorageSettings,
    server: StateServer,
    client_at_limit: httpx.AsyncClient,
    app: str,
    hub: str,
    completed_writes: int,
) -> None:
    """The server can die after any number of writes. The same request to another server finishes the claim."""
    await post_events(client_at_limit, event(hub, "order-1"), event(hub, "order-2"), event(hub, "order-2", "Completed"))
    body = {"slots": {"staging": {"taskHub": hub}}, "policy": {"settleSeconds": 0}}
    async with run_storage_proxy(storage) as proxy, server_with_limit(proxy.settings, 0) as (_, dying):
        writes = 0

        def fail_after_written_requests(method: str, path: str) -> int | None:
            """Let every request fail once enough writes were sent."""
            nonlocal writes
            writes += method != "GET"
            return 500 if writes > completed_writes else None

        proxy.failure_status = fail_after_written_requests
        response = await put_app(dying, app, **body)
        died = response.status_code != 200
    assert died == (writes > completed_writes)
    if died:
        assert_problem(response, 503, "StorageUnavailable")
        unknown = await client_at_limit.get(f"/api/apps/{app}/staging")
        assert unknown.status_code == 404, "no verdict rests on the task hub yet"
    assert (await put_app(client_at_limit, app, **body)).status_code == 200
    verdict = await get_staging(client_at_limit, app)
    assert [instance["instanceId"] for instance in verdict["active"]] == ["order-1"]
    assert await events_waiting_for_claim(server, hub) == []
    instances = (await client_at_limit.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert {instance["instanceId"]: instance["active"] for instance in instances} == {"order-1": True, "order-2": False}


async def test_all_waiting_events_are_recorded_even_if_one_read_does_not_return_them(
    client_at_limit: httpx.AsyncClient, server: StateServer, app: str, hub: str
) -> None:
    events = [event(hub, f"order-{number}") for number in range(1203)]
    assert (await post_events(client_at_limit, *events))["quarantined"] == 1203
    assert (await put_app(client_at_limit, app, slots={"staging": {"taskHub": hub}})).status_code == 200
    body = (await client_at_limit.get(f"/api/taskhubs/{hub}")).json()
    assert (body["activeCount"], body["activeCountIsLowerBound"]) == (1000, True)
    assert await events_waiting_for_claim(server, hub) == []
    store = InstanceStore(server.tables)
    record = await server.services.task_hub_queries._task_hubs.get(hub)
    assert record is not None
    token: str | None = None
    instance_count = 0
    while True:
        page = await store.list_page(record, top=1000, token=token)
        instance_count, token = instance_count + len(page.items), page.continuation_token
        if token is None:
            break
    assert instance_count == 1203


async def post_raw_event(http: httpx.AsyncClient, sent: Any) -> Any:
    """Publish an event that httpx itself would not encode."""
    body = json.dumps([sent]).encode()
    return (await http.post("/api/events", content=body, headers={"Content-Type": "application/json"})).json()


@pytest.mark.parametrize(
    "odd",
    [
        {"extra": "x" * 400_000},
        {"reason": "\u0000\ud800 broken " * 30_000},
        {"nested": [[[[]]]], "number": 10**40, "float": 1e300},
        {"nested": json.loads("[" * 900 + "]" * 900)},
    ],
    ids=["long", "long reason", "other members", "nested deeply"],
)
async def test_waiting_events_of_any_size_can_be_recorded_later(
    client_at_limit: httpx.AsyncClient, http: httpx.AsyncClient, server: StateServer, app: str, odd: dict[str, Any]
) -> None:
    """An event replayed from quarantine is recorded exactly as if it had been recorded at once."""
    hub, direct = new_hub_name(), new_hub_name()
    sent = event(hub, status="Failed", time=timestamp(-10))
    sent["data"] |= odd
    assert await post_raw_event(client_at_limit, sent) == QUARANTINED
    (waiting_event,) = await events_waiting_for_claim(server, hub)
    assert not waiting_event.truncated
    assert len(waiting_event.event) <= 64 * 1024
    sent["data"]["hubName"] = direct
    assert (await post_raw_event(http, sent))["recorded"] == 1
    assert (await put_app(client_at_limit, app, slots={"production": {"taskHub": hub}})).status_code == 200
    instances_by_hub = [
        (await client_at_limit.get(f"/api/taskhubs/{task_hub}/instances")).json()["instances"]
        for task_hub in (hub, direct)
    ]
    assert instances_by_hub[0] == instances_by_hub[1]


async def test_a_waiting_event_that_cannot_be_parsed_stops_the_claim(
    client_at_limit: httpx.AsyncClient, server: StateServer, app: str, hub: str
) -> None:
    """Without the event, the records could show a drained task hub."""
    store = QuarantineStore(server.tables)
    now = server.tables.clock.now()
    await store.add([QuarantinedEvent(now, "TooManyTaskHubs", "", "webhook", '{"odd": 1}', task_hub=hub)])
    refused = assert_problem(
        await put_app(client_at_limit, app, slots={"staging": {"taskHub": hub}}), 503, "StorageUnavailable"
    )
    assert "PurgeQuarantine" in refused["detail"]
    assert_problem(await client_at_limit.get(f"/api/apps/{app}"), 404, "AppNotFound")


async def test_both_event_schemas_are_replayed_from_quarantine_as_the_same_event(server: StateServer, hub: str) -> None:
    now = server.tables.clock.now()
    for status in RuntimeStatus:
        known = parse_event(
            event(hub, "a/b\u2028", status.value, time=timestamp(-1), function="Füñ", reason="why\u0007 not"), now
        )
        assert parse_event(to_event_grid_event(known), now) == known
