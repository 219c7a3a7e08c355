"""Concurrent operations on releases: exactly one wins, and nothing is removed that gets traffic."""

import asyncio

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, post_events, reason_codes, run_headers
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    delete_release,
    get_routing,
    list_releases,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio

PIPELINE_COUNT = 20


async def test_one_of_twenty_pipelines_registers_and_the_others_learn_its_name(
    http: httpx.AsyncClient, app: str
) -> None:
    await put_side_by_side_app(http, app)
    responses = await asyncio.gather(
        *(post_release(http, app, f"1.{n}", headers=run_headers(n)) for n in range(PIPELINE_COUNT))
    )
    assert sorted(response.status_code for response in responses) == [200] + [409] * (PIPELINE_COUNT - 1)
    (winner,) = (response.json() for response in responses if response.status_code == 200)
    for response in responses:
        if response.status_code == 409:
            refused = assert_problem(response, 409, "DeploymentInProgress")
            assert refused["deployment"]["version"] == winner["deployment"]["version"]
    assert len((await list_releases(http, app))["releases"]) == 1


async def test_two_pipelines_cannot_use_the_same_version_at_once(http: httpx.AsyncClient, app: str) -> None:
    await put_side_by_side_app(http, app)
    responses = await asyncio.gather(*(post_release(http, app, "1", headers=run_headers(1)) for _ in range(10)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 9


async def test_a_release_that_is_rolled_back_to_is_not_removed_at_the_same_time(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """In twenty races, either the rollback or the removal wins, and the other is refused."""
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "0")
    for number in range(1, 21):
        old, new = str(number - 1), str(number)
        await register_and_promote(http, app, new)
        clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
        rollback, removal = await asyncio.gather(
            put_routing(http, app, old), delete_release(http, app, old, "Pending", run_headers(1))
        )
        assert sorted([rollback.status_code, removal.status_code]) == [200, 409]
        document = (await get_routing(http, app)).json()
        if rollback.status_code == 200:
            assert_problem(removal, 409, "ReleaseInUse")
            assert (document["active"], document["releases"][old]["state"]) == (old, "Serving")
            assert (await put_routing(http, app, new)).status_code == 200
        else:
            assert_problem(rollback, 409, "ReleaseRemoved")
            assert (document["active"], document["releases"][old]["state"]) == (new, "Removing")
            assert (await delete_release(http, app, old, "Done", run_headers(1))).status_code == 200


async def test_a_rollback_between_the_evidence_and_the_write_of_a_removal_wins(
    storage: StorageSettings, http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    is_raced = False

    async def roll_back_first(method: str, path: str) -> None:
        """Let another caller roll back just before the first transaction."""
        nonlocal is_raced
        if path.endswith("$batch") and not is_raced:
            is_raced = True
            assert (await put_routing(http, app, "1")).status_code == 200

    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {}) as late,
    ):
        proxy.before_request = roll_back_first
        assert_problem(await delete_release(late, app, "1", "Pending"), 409, "ReleaseInUse")
    assert is_raced


async def test_a_start_and_a_document_that_a_router_lost_are_seen_by_a_removal(
    storage: StorageSettings, http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """After the acknowledgements were read, a router is restored, sends a request, and acknowledges its old document.

    The order that the request starts is seen, because the task hub is read after the acknowledgements."""
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "1", "2")
    etag = (await get_routing(http, app)).headers["etag"]
    await get_routing(http, app, etag, router="envoy-1")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    is_raced = False

    async def start_order(method: str, path: str) -> None:
        """Start an order in the release that is removed, and let its router ask again, just before its task hub is
        read."""
        nonlocal is_raced
        if hubs["1"] in path and not is_raced:
            is_raced = True
            await post_events(http, event(hubs["1"], "order-1"))
            await get_routing(http, app, '"1"', router="envoy-1")

    async with (
        run_storage_proxy(storage) as proxy,
        client_of_server_with(proxy.settings, clock, {}) as late,
    ):
        proxy.before_request = start_order
        refused = assert_problem(await delete_release(late, app, "1", "Pending"), 409, "ReleaseNotDrained")
        assert reason_codes(refused) == ["InstancesActive"]
    assert is_raced


async def test_one_of_two_runs_removes_a_release(http: httpx.AsyncClient, clock: ShiftedClock, app: str) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    responses = await asyncio.gather(*(delete_release(http, app, "1", "Pending", run_headers(n)) for n in range(10)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 9
    for response in responses:
        if response.status_code == 409:
            assert assert_problem(response, 409, "RemovalPending")["removal"]["by"].startswith("pipeline")


async def test_of_two_promotions_from_the_same_document_one_wins(http: httpx.AsyncClient, app: str) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1")
    for version in ("2", "3"):
        await post_release(http, app, version, new_hub_name(), run_headers(1))
    headers = {"If-Match": (await get_routing(http, app)).headers["etag"]}
    responses = await asyncio.gather(*(put_routing(http, app, version, headers=headers) for version in ("2", "3")))
    assert sorted(response.status_code for response in responses) == [200, 412]
