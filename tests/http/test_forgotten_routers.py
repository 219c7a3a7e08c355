"""ForgetRouter: nothing waits for the router any more, and what it may have sent until then is still looked for."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from state_api.storage.tables import APPS_TABLE
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem, put_app, reason_codes
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    delete_release,
    get_release_status,
    get_routing,
    list_releases,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio

SETTLE_SECONDS = 3600
SECONDS_UNTIL_SETTLED = SETTLE_SECONDS + 60
"""How long until the settle window has ended by the clock of every server."""


async def forget_router(http: httpx.AsyncClient, app: str, router: str = "envoy-1") -> httpx.Response:
    """Have a router forgotten."""
    return await http.delete(f"/api/apps/{app}/routers/{router}")


async def promote_past_router(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    """An app without a provider, whose release 1 has lost its traffic. Router envoy-1 has acknowledged nothing since,
    and all other routers have stopped."""
    await put_side_by_side_app(http, app, policy={"settleSeconds": SETTLE_SECONDS})
    await register_and_promote(http, app, "1")
    await get_routing(http, app, router="envoy-1")
    await register_and_promote(http, app, "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)


@asynccontextmanager
async def server_with_race(
    storage: StorageSettings, clock: ShiftedClock, path_end: str, act: Callable[[], Awaitable[object]]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server, before whose first storage request to this path another caller acts."""
    is_raced = False

    async def act_once(method: str, path: str) -> None:
        nonlocal is_raced
        if path.endswith(path_end) and not is_raced:
            is_raced = True
            await act()

    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {}) as late,
    ):
        proxy.before_request = act_once
        yield late
    assert is_raced


async def test_a_probe_from_before_a_router_was_forgotten_does_not_count(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, provider_hub: ProviderTaskHub
) -> None:
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG, policy={"freshnessSeconds": SETTLE_SECONDS})
    await post_release(http, app, "1", provider_hub.hub)
    await provider_hub.create()
    await put_routing(http, app, "1")
    await get_routing(http, app, router="envoy-1")
    async with ProviderTaskHub(provider_hub.storage, new_hub_name()) as next_hub:
        await post_release(http, app, "2", next_hub.hub)
        await next_hub.create()
        assert (await put_routing(http, app, "2")).status_code == 200
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert reason_codes(await get_release_status(http, app, "1", verify="fresh")) == ["RoutersBehind"]
    clock.advance(10)
    await provider_hub.put("order-1", "Running")
    assert (await forget_router(http, app)).status_code == 200
    verdict = await get_release_status(http, app, "1", verify="none")
    assert reason_codes(verdict) == ["ProbeStale"], "the router may have started order-1 after the probe"
    assert reason_codes(await get_release_status(http, app, "1")) == ["InstancesActive"]
    await provider_hub.put("order-1", "Completed")
    assert (await get_release_status(http, app, "1", verify="fresh"))["ready"]
    assert (await delete_release(http, app, "1", "Pending")).status_code == 200


async def test_without_a_provider_a_release_waits_for_the_events_of_what_a_forgotten_router_had_sent(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await promote_past_router(http, app, clock)
    clock.advance(SECONDS_UNTIL_SETTLED)
    await forget_router(http, app)
    verdict = await get_release_status(http, app, "1")
    assert reason_codes(verdict) == ["RoutersBehind"]
    assert "or was forgotten" in verdict["reasons"][0]["message"]
    assert_problem(await delete_release(http, app, "1", "Pending"), 409, "ReleaseNotDrained")
    clock.advance(SECONDS_UNTIL_SETTLED)
    assert (await delete_release(http, app, "1", "Pending")).status_code == 200


async def test_a_router_that_is_forgotten_while_a_verdict_is_made_has_its_time_in_it(
    storage: StorageSettings, http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """The app was read before the router was forgotten, and the acknowledgements are read after it."""
    await promote_past_router(http, app, clock)
    clock.advance(SECONDS_UNTIL_SETTLED)
    race = server_with_race(storage, clock, f"{APPS_TABLE}()", lambda: forget_router(http, app))
    async with race as late:
        verdict = await get_release_status(late, app, "1")
    assert reason_codes(verdict) == ["RoutersBehind"]
    assert "or was forgotten" in verdict["reasons"][0]["message"]


async def test_a_router_that_loses_its_document_while_it_is_forgotten_counts_as_behind_until_then(
    storage: StorageSettings, http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """It had stopped when its acknowledgement was read, and has an older document when its row is removed."""
    await promote_past_router(http, app, clock)
    etag = (await get_routing(http, app)).headers["etag"]
    await get_routing(http, app, etag, router="envoy-1")
    clock.advance(SECONDS_UNTIL_SETTLED)
    assert (await get_release_status(http, app, "1"))["ready"]
    race = server_with_race(storage, clock, "$batch", lambda: get_routing(http, app, router="envoy-1"))
    async with race as late:
        assert (await forget_router(late, app)).status_code == 200
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]
    clock.advance(SECONDS_UNTIL_SETTLED)
    assert (await get_release_status(http, app, "1"))["ready"]


async def test_two_routers_are_forgotten_at_the_same_time(
    storage: StorageSettings, http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """Neither loses the time that the other one leaves."""
    await promote_past_router(http, app, clock)
    clock.advance(SECONDS_UNTIL_SETTLED)
    etag = (await get_routing(http, app)).headers["etag"]
    await get_routing(http, app, etag, router="envoy-2")
    clock.advance(SECONDS_UNTIL_SETTLED)
    race = server_with_race(storage, clock, "$batch", lambda: forget_router(http, app))
    async with race as late:
        assert (await forget_router(late, app, "envoy-2")).status_code == 200
    assert (await list_releases(http, app))["routers"] == []
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]


async def test_forgotten_routers_delay_no_later_change(http: httpx.AsyncClient, clock: ShiftedClock, app: str) -> None:
    await promote_past_router(http, app, clock)
    await forget_router(http, app)
    await register_and_promote(http, app, "3")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, app, "2"))["ready"]
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]


async def test_an_app_that_is_created_again_does_not_wait_for_routers_forgotten_before(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await promote_past_router(http, app, clock)
    await forget_router(http, app)
    clock.advance(SECONDS_UNTIL_SETTLED)
    assert (await http.delete(f"/api/apps/{app}")).status_code == 200
    assert (await put_app(http, app, model="sideBySide", policy={"settleSeconds": SETTLE_SECONDS})).status_code == 200
    await register_and_promote(http, app, "3", "4")
    assert (await list_releases(http, app))["routers"] == []
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, app, "3"))["ready"]


async def test_what_is_remembered_of_forgotten_routers_is_no_router(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await promote_past_router(http, app, clock)
    await get_routing(http, app, router="envoy-2")
    await forget_router(http, app)
    assert [router["router"] for router in (await list_releases(http, app))["routers"]] == ["envoy-2"]
    assert_problem(await get_routing(http, app, router="~"), 400, "InvalidRequest")
    assert_problem(await forget_router(http, app, "~"), 400, "InvalidRequest")
