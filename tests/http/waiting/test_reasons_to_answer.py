"""What ends the wait for a slot to be Ready, without a read of the task hub at its provider."""

import time

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import event
from tests.http.operations import post_events, post_staging, post_swap, put_app, run_headers
from tests.http.waiting.counted_server import (
    NO_POLLING,
    begin_swap,
    counted_server,
    end_order,
    is_ready_soon,
    put_active_app,
)

pytestmark = pytest.mark.anyio


async def test_what_the_same_server_records_ends_a_wait_without_any_polling(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        await end_order(counted.http, hub)
        assert await is_ready_soon(waiting)


async def test_what_another_server_records_ends_a_wait_by_one_poll(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app)
        await end_order(http, hub)
        counted.proxy.clear()
        assert await is_ready_soon(waiting)
        read_apps = sum("Apps" in request.path for request in counted.proxy.forwarded)
        assert read_apps == 1, "polls that still show the order active ask no question"


async def test_the_end_of_the_settle_window_alone_ends_a_wait(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub, settle_seconds=2)
        waiting = await counted.start_waiting(app)
        await end_order(counted.http, hub)
        assert await is_ready_soon(waiting)


async def test_the_end_of_a_swap_ends_a_wait_on_the_same_server_without_any_polling(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await begin_swap(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        assert (await post_swap(counted.http, app, hub, run_headers(1))).status_code == 200
        assert await is_ready_soon(waiting)


async def test_the_end_of_a_swap_ends_a_wait_on_another_server(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await begin_swap(http, app, hub)
        waiting = await counted.start_waiting(app)
        assert (await post_swap(http, app, hub, run_headers(1))).status_code == 200
        assert await is_ready_soon(waiting)


async def test_a_policy_that_another_server_changes_ends_a_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app)
        await put_app(http, app, policy={"settleSeconds": 0, "ignoreFunctions": ["ProcessOrder"]})
        assert await is_ready_soon(waiting)


async def test_a_deployment_that_expires_ends_a_wait(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage) as counted:
        policy = {"settleSeconds": 0, "deploymentTimeoutMinutes": 1}
        await put_app(counted.http, app, policy=policy)
        assert (await post_staging(counted.http, app, hub, run_headers(1))).status_code == 200
        waiting = await counted.start_waiting(app, run_url=run_headers(2)["X-Run-Url"])
        counted.clock.advance(61)
        assert await is_ready_soon(waiting)


async def test_the_last_answer_is_read_at_the_end_of_the_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """Without polling, a server does not hear what another server records. Its last question finds out."""
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(http, app, hub)
        waiting = await counted.start_waiting(app, wait_seconds=2)
        await end_order(http, hub)
        assert await is_ready_soon(waiting)


@pytest.mark.parametrize("seconds_ahead", [600, -600])
async def test_the_first_request_of_a_server_whose_machine_has_a_wrong_clock_is_answered_after_the_settle_window(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    app: str,
    hub: str,
    monkeypatch: pytest.MonkeyPatch,
    seconds_ahead: int,
) -> None:
    """The question begins before the storage has responded, so the server does not know the time yet."""
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub, "order-1"), event(hub, "order-1", "Completed"))
    wrong_time = time.time() + seconds_ahead
    monkeypatch.setattr(time, "time", lambda: wrong_time)
    async with counted_server(storage) as counted:
        waiting = await counted.start_waiting(app)
        counted.clock.advance(31)
        assert await is_ready_soon(waiting)
