"""Requests that wait while the server reads the task hub at its provider."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.waiting import VerificationIntervals
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub
from tests.builders import event, timestamp
from tests.http.operations import get_staging, post_events
from tests.http.waiting.counted_server import (
    NO_POLLING,
    SHORT_INTERVALS,
    TEST_TIMEOUT_SECONDS,
    counted_server,
    end_order,
    is_ready_soon,
)

pytestmark = pytest.mark.anyio


async def test_the_look_ups_of_requests_that_wait_are_shared(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the order is never reported, so only a look-up at the provider shows it."""
    hub = drained_provider_hub.hub
    await post_events(http, event(hub, time=timestamp(-60)))
    await drained_provider_hub.put("order-1", "Running")
    find_instances, look_up_count = AzureStorageBackend.find_instances, 0

    async def count_look_up(backend: AzureStorageBackend, task_hub: str, ids: Sequence[str]) -> Any:
        """Look up instances, and count how often that is done."""
        nonlocal look_up_count
        look_up_count += 1
        return await find_instances(backend, task_hub, ids)

    monkeypatch.setattr(AzureStorageBackend, "find_instances", count_look_up)
    async with counted_server(storage) as counted:
        waiting = [asyncio.create_task(counted.wait_for_ready(app)) for _ in range(50)]
        await counted.wait_until_idle(*waiting)
        after_first_questions = look_up_count
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while look_up_count < after_first_questions + 3:
                await asyncio.sleep(0.01)
        await drained_provider_hub.put("order-1", "Completed")
        assert all([await is_ready_soon(task) for task in waiting])
    assert after_first_questions <= 2, "requests that come while another one reads share the next read"
    assert look_up_count < 50


async def test_the_task_hub_is_read_at_once_when_the_records_show_that_it_has_drained(
    storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    hub = drained_provider_hub.hub
    await drained_provider_hub.put("order-1", "Running")
    async with counted_server(storage, NO_POLLING) as counted:
        await post_events(counted.http, event(hub, time=timestamp(-60)))
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        await end_order(counted.http, hub)
        assert (await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)).verdict.assurance is Assurance.VERIFIED


async def test_an_instance_that_only_the_task_hub_shows_is_waited_for(
    storage: StorageSettings, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """No event reports the start or the end."""
    await drained_provider_hub.put("order-1", "Running")
    async with counted_server(storage) as counted:
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        assert await is_ready_soon(waiting)


async def test_an_event_of_another_server_is_a_reason_to_read_a_task_hub_again_that_was_not_drained(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """The start of an order is still a message. Nothing else would make the server read the task hub again soon."""
    rarely = VerificationIntervals(look_up=1e6, longest=1e6)
    async with (
        ControlQueue(drained_provider_hub) as queue,
        counted_server(storage, replace(SHORT_INTERVALS, verification=rarely)) as counted,
    ):
        message = await queue.send("the start of order-1")
        waiting = await counted.start_waiting(app)
        await drained_provider_hub.put("order-1", "Completed")
        await queue.delete(message)
        await post_events(http, event(drained_provider_hub.hub), event(drained_provider_hub.hub, status="Completed"))
        assert await is_ready_soon(waiting)


async def test_a_request_that_reads_no_task_hub_waits_for_the_probe_of_another_server(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    async with counted_server(storage) as counted:
        waiting = await counted.start_waiting(app, mode=VerificationMode.NONE)
        assert (await get_staging(http, app))["ready"]
        assert await is_ready_soon(waiting)


async def test_a_probe_that_began_in_the_future_by_the_clock_of_the_waiting_server_counts_once_it_is_past(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    """Two servers agree on the time only to a second. The waiting server asks while the probe does not count yet."""
    async with counted_server(storage) as counted:
        counted.clock.advance(-1)
        waiting = await counted.start_waiting(app, mode=VerificationMode.NONE)
        assert (await get_staging(http, app))["ready"]
        assert await is_ready_soon(waiting)
