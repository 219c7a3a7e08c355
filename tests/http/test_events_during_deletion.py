"""Events that arrive while DeleteTaskHub decides about their task hub, by two servers on one storage. None is lost: the
deletion is refused, or the event stays in quarantine."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import parse_instant
from state_api.services.ports import EventLease, QuarantinedEvent, TaskHubReopened
from state_api.settings import Settings, StorageSettings
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.tables import instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from tests.builders import event, timestamp
from tests.conftest import NO_EVENT_LEASE, ShiftedClock
from tests.http.operations import assert_problem, post_events
from tests.http.test_delete_task_hub import add_drained_hub, delete_task_hub
from tests.http.test_unclaimed_task_hubs import events_waiting_for_claim, has_table, pass_request

pytestmark = pytest.mark.anyio

ENDLESS_LEASE = EventLease(seconds=3600, margin_seconds=0)


@asynccontextmanager
async def client_of_server(
    storage: StorageSettings, clock: ShiftedClock, event_lease: EventLease = NO_EVENT_LEASE
) -> AsyncIterator[tuple[StateServer, httpx.AsyncClient]]:
    """A server that shares the storage with the first one, and a client of it."""
    server = StateServer(Settings(storage=storage), clock, event_lease)
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://other") as client:
        yield server, client
    await server.close()


@pytest.fixture
async def proxy(storage: StorageSettings) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator, in which a test can act between two requests."""
    async with run_storage_proxy(storage) as proxy:
        yield proxy


@pytest.fixture
async def deleting(proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server that deletes. Its storage requests pass the proxy."""
    async with client_of_server(proxy.settings, clock) as (_, client):
        yield client


async def get_task_hub(http: httpx.AsyncClient, hub: str) -> Any:
    """The response of GetTaskHub."""
    response = await http.get(f"/api/taskhubs/{hub}")
    assert response.status_code == 200, response.text
    return response.json()


def is_transaction(method: str, path: str) -> bool:
    """Whether a storage request is a transaction, in which the server writes events."""
    return path.endswith("$batch")


def waiting_event(hub: str) -> QuarantinedEvent:
    """A start that waits in quarantine because the task hub was closed."""
    return QuarantinedEvent(
        parse_instant(timestamp(0)),
        "TaskHubCleanedUp",
        "closed",
        "webhook",
        json.dumps(event(hub, "order-2")),
        task_hub=hub,
    )


@pytest.mark.usefixtures("server")  # It sets the storage's clock of `clock`.
async def test_an_event_that_a_lease_covers_is_found_and_refuses_the_deletion(
    *, storage: StorageSettings, proxy: StorageProxy, deleting: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    """The recording server has read the registry row before the closing and acknowledges the event without reading it
    again."""
    async with client_of_server(storage, clock, ENDLESS_LEASE) as (_, recording):
        await add_drained_hub(recording, hub, clock)

        async def start_after_closing(method: str, path: str) -> None:
            """Record a start just after the task hub was closed."""
            if instance_table_name(hub) in path and (await get_task_hub(recording, hub))["closed"]:
                proxy.before_request = pass_request
                assert (await post_events(recording, event(hub, "order-2")))["recorded"] == 1

        proxy.before_request = start_after_closing
        assert_problem(await delete_task_hub(deleting, hub), 409, "TaskHubNotDrained")
        assert proxy.before_request is pass_request, "the event was sent"
        state = await get_task_hub(recording, hub)
        assert (state["closed"], state["activeCount"]) == (False, 1)


async def test_an_event_that_waits_in_quarantine_refuses_the_deletion_and_is_recorded(
    *,
    server: StateServer,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    deleting: httpx.AsyncClient,
    hub: str,
    clock: ShiftedClock,
) -> None:
    await add_drained_hub(http, hub, clock)

    async def start_after_closing(method: str, path: str) -> None:
        if instance_table_name(hub) in path and (await get_task_hub(http, hub))["closed"]:
            proxy.before_request = pass_request
            await server.services.recorder.record([event(hub, "order-2")], "webhook")
            assert len(await events_waiting_for_claim(server, hub)) == 1

    proxy.before_request = start_after_closing
    refused = assert_problem(await delete_task_hub(deleting, hub), 409, "TaskHubNotDrained")
    assert (proxy.before_request, refused["activeCount"]) == (pass_request, 1)
    assert await events_waiting_for_claim(server, hub) == []
    assert (await get_task_hub(http, hub))["closed"] is False


async def test_waiting_events_that_change_nothing_ask_the_caller_to_delete_again(
    *,
    server: StateServer,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    deleting: httpx.AsyncClient,
    hub: str,
    clock: ShiftedClock,
) -> None:
    """For example a duplicate of an old event, that Event Grid delivers late."""
    await add_drained_hub(http, hub, clock)
    (ended,) = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    duplicate = event(hub, ended["instanceId"], "Completed", time=ended["finishedAt"])

    async def send_duplicate_after_closing(method: str, path: str) -> None:
        if instance_table_name(hub) in path and (await get_task_hub(http, hub))["closed"]:
            proxy.before_request = pass_request
            await post_events(http, duplicate)

    proxy.before_request = send_duplicate_after_closing
    problem = assert_problem(await delete_task_hub(deleting, hub), 503, "StorageUnavailable")
    assert "send the request again" in problem["detail"]
    assert (await delete_task_hub(deleting, hub)).status_code == 200
    assert not await has_table(server, hub)


async def test_an_event_that_reaches_quarantine_after_the_reopening_is_recorded(
    server: StateServer, storage: StorageSettings, http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    """The call that has reopened the task hub looked for waiting events before."""
    await post_events(http, event(hub, "order-1"))
    registry = TaskHubStore(server.tables, shards=1)
    closing = await registry.close_for_deletion(hub)
    async with run_storage_proxy(storage) as proxy, client_of_server(proxy.settings, clock) as (_, recording):

        async def reopen_before_quarantine(method: str, path: str) -> None:
            if is_transaction(method, path):
                proxy.before_request = pass_request
                await registry.reopen(closing)

        proxy.before_request = reopen_before_quarantine
        assert (await post_events(recording, event(hub, "order-2")))["quarantined"] == 1
        assert proxy.before_request is pass_request
    assert await events_waiting_for_claim(server, hub) == []
    assert (await get_task_hub(http, hub))["activeCount"] == 2


async def test_a_call_does_not_delete_a_task_hub_that_a_concurrent_call_has_reopened(
    *,
    server: StateServer,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    deleting: httpx.AsyncClient,
    hub: str,
    clock: ShiftedClock,
) -> None:
    """It has seen no active instance, before the other call has seen one."""
    await add_drained_hub(http, hub, clock)
    write_count = 0

    async def refuse_before_decision(method: str, path: str) -> None:
        """Let a concurrent deletion find a start and be refused, just before this one decides."""
        nonlocal write_count
        write_count += is_transaction(method, path)
        if write_count == 2:
            proxy.before_request = pass_request
            await post_events(http, event(hub, "order-2"))
            assert_problem(await delete_task_hub(http, hub), 409, "TaskHubNotDrained")

    proxy.before_request = refuse_before_decision
    assert_problem(await delete_task_hub(deleting, hub), 409, "TaskHubNotDrained")
    assert proxy.before_request is pass_request
    state = await get_task_hub(http, hub)
    assert (state["closed"], state["activeCount"]) == (False, 1)


async def test_a_call_does_not_reopen_a_task_hub_whose_deletion_a_concurrent_call_has_decided(
    *,
    server: StateServer,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    deleting: httpx.AsyncClient,
    hub: str,
    clock: ShiftedClock,
) -> None:
    """The other call has deleted the table by then, so an open task hub would have lost its records."""
    await add_drained_hub(http, hub, clock)

    async def delete_before_second_look(method: str, path: str) -> None:
        """Let a concurrent deletion finish, and put a waiting event there, before this one looks a second time."""
        if instance_table_name(hub) in path and (await get_task_hub(http, hub))["closed"]:
            proxy.before_request = pass_request
            assert (await delete_task_hub(http, hub)).status_code == 200
            # Puts a waiting event there, as a worker does that found the task hub closed before the decision.
            await QuarantineStore(server.tables).add([waiting_event(hub)])

    proxy.before_request = delete_before_second_look
    assert (await delete_task_hub(deleting, hub)).status_code == 200
    assert proxy.before_request is pass_request
    state = await get_task_hub(http, hub)
    assert (state["closed"], state["eventsInQuarantine"]) == (True, True)
    assert not await has_table(server, hub)


async def test_concurrent_deletions_share_the_closing_and_a_later_closing_is_another_one(
    server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    await post_events(http, event(hub))
    registry = TaskHubStore(server.tables, shards=1)
    first = await registry.close_for_deletion(hub)
    assert await registry.close_for_deletion(hub) == first
    assert (await registry.reopen(first)).closed is False
    second = await registry.close_for_deletion(hub)
    assert second.deletion_id != first.deletion_id
    with pytest.raises(TaskHubReopened):
        await registry.decide_deletion(first)
    assert await registry.reopen(first) == second, "the later closing stays"
    decided = await registry.decide_deletion(second)
    assert (decided.closed, decided.deletion_id) == (True, "")
    assert await registry.decide_deletion(second) == decided, "calling it again has no further effect"
    assert await registry.reopen(second) == decided, "a decided deletion stays"
    assert await registry.close_for_deletion(hub) == decided


async def test_a_deletion_waits_for_leases_to_end_and_a_stopping_server_ends_the_wait(
    *, server: StateServer, storage: StorageSettings, http: httpx.AsyncClient, hub: str, clock: ShiftedClock
) -> None:
    await add_drained_hub(http, hub, clock)
    async with client_of_server(storage, clock, ENDLESS_LEASE) as (stopped_server, stopped):
        deletion = asyncio.create_task(delete_task_hub(stopped, hub))
        while not (await get_task_hub(http, hub))["closed"]:
            await asyncio.sleep(0.01)
        state = await get_task_hub(http, hub)
        assert state["lastEventAt"] is not None, "the records count until the deletion is decided"
        stopped_server.stopping.set()
        problem = assert_problem(await deletion, 503, "StorageUnavailable")
        assert "the server is stopping" in problem["detail"]
    assert await has_table(server, hub)
    assert (await post_events(http, event(hub, "order-2")))["quarantined"] == 1
    refused = assert_problem(await delete_task_hub(http, hub), 409, "TaskHubNotDrained")
    assert refused["activeCount"] == 1, "the next call has recorded the event that waited"
    assert (await get_task_hub(http, hub))["closed"] is False
