"""Servers and callers that change a rollout at once: one changes it, and the others report what it has become."""

import asyncio

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import StorageSettings
from tests.conftest import ShiftedClock
from tests.http.operations import run_headers
from tests.http.release_operations import get_routing, put_routing
from tests.http.rollout_operations import (
    STEP_MINUTES,
    Orders,
    begin_rollout,
    get_rollout,
    list_operations,
    post_rollout,
    put_rollout,
)
from tests.http.server_clients import client_of_server_with

pytestmark = pytest.mark.anyio

CALLER_COUNT = 10


async def test_two_servers_that_advance_at_once_take_one_step(
    http: httpx.AsyncClient, server: StateServer, storage: StorageSettings, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    clock.advance(60 * STEP_MINUTES + 1)
    async with client_of_server_with(storage, clock, {}) as other:
        rollouts = await asyncio.gather(
            *(post_rollout(client, app, "advance") for client in (http, other) * CALLER_COUNT)
        )
        await server.rollouts.advance_all()
    assert {rollout["weight"] for rollout in rollouts} == {50}
    assert (await list_operations(http, app)).count("AdvanceRollout") == 1


async def test_an_operator_who_aborts_and_a_timer_that_advances_leave_an_aborted_rollout(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    clock.advance(60 * STEP_MINUTES + 1)
    aborted, *_ = await asyncio.gather(
        post_rollout(http, app, "abort"), *(server.rollouts.advance_all() for _ in range(CALLER_COUNT))
    )
    assert aborted["state"] == "Aborted"
    await server.rollouts.advance_all()
    assert (await get_rollout(http, app))["state"] == "Aborted"
    assert (await get_routing(http, app)).json()["split"] is None


async def test_of_two_pipelines_that_begin_a_rollout_one_is_refused(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    await post_rollout(http, app, "abort")
    responses = await asyncio.gather(
        *(put_rollout(http, app, run_headers(number), version="2") for number in range(2, 2 + CALLER_COUNT))
    )
    assert sorted(response.status_code for response in responses) == [200] + [409] * (CALLER_COUNT - 1)
    assert {response.json()["code"] for response in responses if response.status_code == 409} == {"RolloutInProgress"}


async def test_a_rollback_by_put_routing_wins_over_an_evaluation_that_has_begun(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation has read the rollout, and writes after the rollback: it must see that the rollout has ended."""
    hubs = await begin_rollout(http, app, clock)
    await Orders(http, clock).work(hubs["2"], completed=1)
    clock.advance(60 * STEP_MINUTES + 1)
    compare, has_rolled_back = server.services.rollout_health.compare, False

    async def compare_after_rollback(*arguments: object) -> object:
        """Roll back while the candidate is compared."""
        nonlocal has_rolled_back
        report = await compare(*arguments)  # type: ignore[arg-type]
        if not has_rolled_back:
            has_rolled_back = True
            assert (await put_routing(http, app, "1")).status_code == 200
        return report

    monkeypatch.setattr(server.services.rollout_health, "compare", compare_after_rollback)
    rollout = await post_rollout(http, app, "advance")
    assert (rollout["state"], rollout["weight"]) == ("Aborted", 0)
    assert (await get_routing(http, app)).json()["active"] == "1"


async def test_a_router_that_waits_hears_of_an_advance_at_once(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    etag = (await get_routing(http, app)).headers["etag"]
    waiting = asyncio.create_task(get_routing(http, app, etag, wait=100))
    await asyncio.sleep(0)
    clock.advance(60 * STEP_MINUTES + 1)
    await post_rollout(http, app, "advance")
    async with asyncio.timeout(60):
        assert (await waiting).json()["split"] == {"1": 50, "2": 50}
