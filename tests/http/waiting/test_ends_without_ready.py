"""Requests that wait when a caller leaves, the storage fails, the app is gone or the server stops."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from state_api.domain.errors import AppNotFound, StorageUnavailable
from state_api.domain.names import app_key
from state_api.settings import StorageSettings
from state_api.storage.app_rows import APP_ROW_KEY
from state_api.storage.tables import APPS_TABLE
from tests.http.waiting.counted_server import (
    NO_POLLING,
    TEST_TIMEOUT_SECONDS,
    begin_swap,
    counted_server,
    end_order,
    is_ready_soon,
    put_active_app,
)

pytestmark = pytest.mark.anyio


async def test_a_caller_that_is_gone_leaves_the_others_waiting(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, replace(NO_POLLING, connection_check=0.01)) as counted:
        await put_active_app(counted.http, app, hub)
        is_gone = asyncio.Event()

        async def is_disconnected() -> bool:
            return is_gone.is_set()

        staying = await counted.start_waiting(app)
        leaving = await counted.start_waiting(app, is_disconnected=is_disconnected)
        is_gone.set()
        assert not await is_ready_soon(leaving)
        assert not staying.done()
        await end_order(counted.http, hub)
        assert await is_ready_soon(staying)


async def test_a_cancelled_request_leaves_the_others_waiting(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        staying, cancelled = await counted.start_waiting(app), await counted.start_waiting(app)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await end_order(counted.http, hub)
        assert await is_ready_soon(staying)


async def test_all_waits_end_when_the_server_stops(storage: StorageSettings, app: str, hub: str) -> None:
    async with counted_server(storage, NO_POLLING) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = [await counted.start_waiting(app) for _ in range(3)]
        counted.server.stopping.set()
        assert [await is_ready_soon(task) for task in waiting] == [False] * 3
        assert not (await counted.wait_for_ready(app)).verdict.ready, "later requests are answered at once"


async def test_a_storage_that_stays_away_fails_every_request_that_waits(
    storage: StorageSettings, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = [await counted.start_waiting(app) for _ in range(3)]
        counted.proxy.failure_status = lambda method, path: 500
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), TEST_TIMEOUT_SECONDS)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3


async def test_a_poll_that_fails_once_does_not_end_a_wait(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    """The library repeats a request that fails. A response that cannot be read is not repeated."""
    async with counted_server(storage) as counted:
        await put_active_app(counted.http, app, hub)
        waiting = await counted.start_waiting(app)
        failed = asyncio.Event()

        def fail_once(method: str, path: str) -> int | None:
            """Let the first request to the storage fail in a way that is not repeated."""
            if failed.is_set():
                return None
            failed.set()
            return 400

        counted.proxy.failure_status = fail_once
        await asyncio.wait_for(failed.wait(), TEST_TIMEOUT_SECONDS)
        await end_order(http, hub)
        assert await is_ready_soon(waiting)


async def test_a_request_that_waits_for_an_app_that_is_gone_fails(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, hub: str
) -> None:
    async with counted_server(storage) as counted:
        await begin_swap(http, app, hub)
        waiting = await counted.start_waiting(app)
        await counted.server.tables.client(APPS_TABLE).delete_entity(app_key(app), APP_ROW_KEY)
        with pytest.raises(AppNotFound):
            await asyncio.wait_for(waiting, TEST_TIMEOUT_SECONDS)
