"""Requests that wait for the removal of a release hear of what ends, and cost as much as one."""

import asyncio

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.domain.releases.side_by_side.releases import RouterAcknowledgement
from state_api.domain.releases.side_by_side.verdicts import find_blocked_until
from state_api.settings import StorageSettings
from state_api.storage.routers import RouterStore
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import post_events, reason_codes
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    get_release_status,
    get_routing,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio

LONG_WAIT_SECONDS = 100
WAITER_COUNT = 100


async def test_the_end_of_the_last_instance_ends_a_wait(http: httpx.AsyncClient, clock: ShiftedClock, app: str) -> None:
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    await post_events(http, event(hubs["1"], "order-1"))
    waiting = asyncio.create_task(get_release_status(http, app, "1", wait=LONG_WAIT_SECONDS))
    await asyncio.sleep(0)
    await post_events(http, event(hubs["1"], "order-1", "Completed"))
    verdict = await waiting
    assert (verdict["ready"], verdict["state"]) == (True, "Drained")


async def test_the_acknowledgement_of_the_last_router_ends_a_wait(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that waits does not look at acknowledgements again by itself: it is woken."""
    monkeypatch.setattr(f"{find_blocked_until.__module__}._ACKNOWLEDGEMENT_INTERVAL_SECONDS", 2 * LONG_WAIT_SECONDS)
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1")
    old = (await get_routing(http, app)).headers["etag"]
    await get_routing(http, app, old, router="envoy-1")
    await post_release(http, app, "2", new_hub_name())
    new = (await put_routing(http, app, "2")).headers["etag"]
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]
    acknowledgements_read = asyncio.Event()
    list_acknowledgements = RouterStore.list_acknowledgements

    async def list_and_note(store: RouterStore, app_name: str) -> tuple[RouterAcknowledgement, ...]:
        """List the acknowledgements, and note that they were read."""
        acknowledgements = await list_acknowledgements(store, app_name)
        acknowledgements_read.set()
        return acknowledgements

    monkeypatch.setattr(RouterStore, "list_acknowledgements", list_and_note)
    waiting = asyncio.create_task(get_release_status(http, app, "1", wait=LONG_WAIT_SECONDS))
    await acknowledgements_read.wait()
    await get_routing(http, app, new, router="envoy-1")
    # At the end of its wait the request would ask in any case.
    async with asyncio.timeout(LONG_WAIT_SECONDS / 2):
        assert (await waiting)["ready"]


async def test_a_promotion_of_another_release_is_noticed_by_a_wait(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1")
    await post_release(http, app, "2", new_hub_name())
    waiting = asyncio.create_task(get_release_status(http, app, "1", wait=LONG_WAIT_SECONDS))
    await asyncio.sleep(0)
    await put_routing(http, app, "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await waiting)["ready"]


async def test_a_hundred_requests_that_wait_cost_little_more_than_one(
    storage: StorageSettings, clock: ShiftedClock, app: str
) -> None:
    """Each may ask a first and a last time, and most of them share even that."""
    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {}) as http,
    ):
        await put_side_by_side_app(http, app)
        await register_and_promote(http, app, "1", "2")
        counts = []
        for waiter_count in (1, WAITER_COUNT):
            request_count = 0

            async def count_request(method: str, path: str) -> None:
                nonlocal request_count
                request_count += 1

            proxy.before_request = count_request
            verdicts = await asyncio.gather(*(get_release_status(http, app, "1", wait=3) for _ in range(waiter_count)))
            assert {tuple(reason_codes(verdict)) for verdict in verdicts} == {("RoutersBehind",)}
            counts.append(request_count)
        single, many = counts
        # On a busy machine the requests end at different times, and share their last questions less. Each would need
        # several reads without sharing.
        assert many <= 6 * single < WAITER_COUNT
