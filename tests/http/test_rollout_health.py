"""GetRolloutHealth: what it compares, and what the provider adds to the events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy
from state_api.domain.instants import Instant, datetime_of, format_instant, seconds
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem, put_app
from tests.http.release_operations import put_routing, put_side_by_side_app, register_and_promote
from tests.http.rollout_operations import (
    STEP_MINUTES,
    Orders,
    begin_rollout,
    get_health,
    post_rollout,
)
from tests.http.server_clients import client_of_server_reading

pytestmark = pytest.mark.anyio


def finished_counts(health: Any) -> tuple[int, int]:
    """How many instances of the candidate and of the baseline have finished."""
    return health["candidate"]["finished"], health["baseline"]["finished"]


async def test_a_split_without_a_rollout_is_compared_since_the_routing_changed(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    orders = Orders(http, clock)
    await put_side_by_side_app(http, app)
    hubs = await register_and_promote(http, app, "2", "1")
    assert_problem(await http.get(f"/api/apps/{app}/health"), 400, "InvalidRequest")
    await orders.work(hubs["1"], completed=5)
    clock.advance(120)
    assert (await put_routing(http, app, "1", {"1": 80, "2": 20})).status_code == 200
    await orders.work(hubs["1"], completed=8)
    await orders.work(hubs["2"], completed=1, failed=1, active=1)
    health = await get_health(http, app)
    assert (health["candidate"]["name"], health["baseline"]["name"]) == ("2", "1")
    assert (health["candidate"]["taskHub"], health["baseline"]["taskHub"]) == (hubs["2"], hubs["1"])
    assert finished_counts(health) == (2, 8)
    assert (health["candidate"]["active"], health["candidate"]["rate"]) == (1, 0.5)
    assert health["shares"] == {"configured": 20, "observed": pytest.approx(100 * 3 / 11)}
    assert health["candidate"]["durations"]["medianSeconds"] == pytest.approx(0.5, rel=0.1)
    begin = format_instant(Instant(clock.now() - seconds(600)))
    assert finished_counts(await get_health(http, app, since=begin)) == (2, 13)
    reversed_health = await get_health(http, app, candidate="1", baseline="2")
    assert finished_counts(reversed_health) == (8, 2)


async def test_the_slots_of_an_app_are_compared_by_default(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    hubs = {"production": new_hub_name(), "staging": new_hub_name()}
    await put_app(http, app, slots={name: {"taskHub": hub} for name, hub in hubs.items()} | {"canary": None})
    await Orders(http, clock).work(hubs["staging"], completed=1)
    health = await get_health(http, app)
    assert (health["candidate"]["name"], health["baseline"]["name"]) == ("staging", "production")
    assert (finished_counts(health), health["shares"]["configured"]) == ((1, 0), None)
    for names, status, code in (
        ({"candidate": "beta"}, 404, "SlotNotFound"),
        ({"candidate": "canary"}, 400, "InvalidRequest"),
        ({"candidate": "production"}, 400, "InvalidRequest"),
        ({"since": "yesterday"}, 400, "InvalidRequest"),
        ({"since": "2999-01-01T00:00:00Z"}, 400, "InvalidRequest"),
    ):
        assert_problem(await http.get(f"/api/apps/{app}/health", params=names), status, code)


async def test_functions_that_the_policy_ignores_do_not_count(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    hubs = await begin_rollout(http, app, clock)
    await Orders(http, clock).work(hubs["2"], failed=10)
    assert (await get_health(http, app))["candidate"]["failed"] == 10
    await put_app(http, app, policy={"ignoreFunctions": ["Process*"]})
    assert (await get_health(http, app))["candidate"]["failed"] == 0


async def test_a_server_whose_clock_is_behind_that_of_the_rollouts_beginning_compares_nothing_yet(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    hubs = await begin_rollout(http, app, clock)
    clock.advance(-300)
    await Orders(http, clock).work(hubs["2"], failed=10)
    health = await get_health(http, app)
    assert (health["status"], health["candidate"]["started"]) == ("Undecided", 0)
    assert (await post_rollout(http, app, "advance"))["state"] == "Running"


# What the provider adds


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that reads task hubs through the proxy."""
    async with client_of_server_reading(storage, proxy.settings, clock) as client:
        yield client


@pytest.fixture
async def providers(
    http: httpx.AsyncClient, storage: StorageSettings, app: str, clock: ShiftedClock
) -> AsyncIterator[dict[str, ProviderTaskHub]]:
    """The task hubs of an app that rolls out release 2 and has a provider, by version."""
    hubs = await begin_rollout(http, app, clock, analysis={"maximumActiveAgeMinutes": 5})
    async with AsyncExitStack() as stack:
        task_hubs = {
            version: await stack.enter_async_context(ProviderTaskHub(storage, hub)) for version, hub in hubs.items()
        }
        for task_hub in task_hubs.values():
            await task_hub.create()
        assert (await put_app(http, app, taskHubs=PROVIDER_CONFIG)).status_code == 200
        yield task_hubs


async def start_orders(
    http: httpx.AsyncClient, clock: ShiftedClock, provider: ProviderTaskHub, status: str, count: int = 1
) -> None:
    """Start orders whose ends no event reports."""
    events = Orders(http, clock).build(provider.hub, active=count)
    await Orders(http, clock).deliver(events)
    updated_at = datetime_of(Instant(clock.now() + seconds(2)))
    for started in events:
        await provider.put(started["data"]["instanceId"], status, LastUpdatedTime=updated_at)


async def test_ends_that_events_have_lost_are_found_before_the_versions_are_compared(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, providers: dict[str, ProviderTaskHub]
) -> None:
    await start_orders(http, clock, providers["1"], "Completed", count=20)
    await start_orders(http, clock, providers["2"], "Failed", count=10)
    assert (await get_health(http, app))["candidate"]["active"] == 10, "the instances are young"
    clock.advance(120)
    health = await get_health(http, app)
    assert (health["candidate"]["failed"], health["baseline"]["finished"]) == (10, 20)
    assert (health["status"], health["warnings"]) == ("Unhealthy", [])
    assert (await post_rollout(http, app, "advance"))["state"] == "Aborted"


async def test_an_instance_is_too_old_only_if_its_provider_shows_it_active(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, providers: dict[str, ProviderTaskHub]
) -> None:
    await start_orders(http, clock, providers["2"], "Completed")
    clock.advance(300)
    assert (await post_rollout(http, app, "advance"))["state"] == "Running"
    await start_orders(http, clock, providers["2"], "Running")
    clock.advance(300)
    aborted = await post_rollout(http, app, "advance")
    assert (aborted["state"], aborted["lastDecision"]["code"]) == ("Aborted", "ActiveTooLong")


async def test_a_rollout_takes_no_step_while_a_task_hub_cannot_be_read_and_is_paused_after_a_while(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    clock: ShiftedClock,
    providers: dict[str, ProviderTaskHub],
) -> None:
    await start_orders(http, clock, providers["1"], "Running")
    clock.advance(120)
    proxy.failure_status = lambda method, path: 500
    health = await get_health(http, app)
    assert [warning["code"] for warning in health["warnings"]] == ["TaskHubUnread"]
    clock.advance(60 * STEP_MINUTES)
    assert (await post_rollout(http, app, "advance"))["step"] == 1
    proxy.failure_status = lambda method, path: None
    clock.advance(1)
    assert (await post_rollout(http, app, "advance"))["step"] == 2
    proxy.failure_status = lambda method, path: 500
    clock.advance(60 * STEP_MINUTES + 901)
    paused = await post_rollout(http, app, "advance")
    assert (paused["state"], paused["lastDecision"]["code"]) == ("Paused", "HealthUnknown")


async def test_an_unhealthy_candidate_is_aborted_although_its_task_hub_cannot_be_read(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    clock: ShiftedClock,
    providers: dict[str, ProviderTaskHub],
) -> None:
    orders = Orders(http, clock)
    await start_orders(http, clock, providers["2"], "Running")
    clock.advance(120)
    await orders.work(providers["1"].hub, completed=50)
    await orders.work(providers["2"].hub, failed=10)
    proxy.failure_status = lambda method, path: 500
    aborted = await post_rollout(http, app, "advance")
    assert (aborted["state"], aborted["lastDecision"]["code"]) == ("Aborted", "FailureRateHigher")


async def test_a_provider_that_does_not_answer_delays_an_evaluation_only_for_a_while(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    clock: ShiftedClock,
    providers: dict[str, ProviderTaskHub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_api.services.rollout_health.LOOK_UP_TIMEOUT_SECONDS", 0.2)
    await start_orders(http, clock, providers["2"], "Running")
    clock.advance(120)
    has_answered = asyncio.Event()

    async def answer_later(method: str, path: str) -> None:
        """Do not answer before the test has ended."""
        await has_answered.wait()

    proxy.before_request = answer_later
    health = await get_health(http, app)
    has_answered.set()
    assert "did not answer in time" in health["warnings"][0]["message"]
