"""Rollouts of slots: the pipeline sets the share in Azure and confirms it, and visitors stay pinned for an hour."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.rollouts.rollouts import NEW_VISITOR_SECONDS, PINNED_VISITOR_SECONDS
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
)
from tests.http.rollout_operations import (
    PIN_SECONDS,
    SECONDS_OF_THE_CHANGE,
    STEP_MINUTES,
    Orders,
    get_rollout,
    post_rollout,
    put_rollout,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hubs(http: httpx.AsyncClient, app: str) -> dict[str, str]:
    """The task hubs of an app that rolls out its staging slot, by slot."""
    task_hubs = {"production": new_hub_name(), "staging": new_hub_name()}
    slots = {name: {"taskHub": hub} for name, hub in task_hubs.items()}
    assert (await put_app(http, app, slots=slots, policy={"settleSeconds": 0})).status_code == 200
    assert (await put_rollout(http, app)).status_code == 200
    return task_hubs


async def post_finishing_swap(http: httpx.AsyncClient, app: str, hub: str, outcome: str) -> httpx.Response:
    """Report an outcome of the swap."""
    return await http.post(f"/api/apps/{app}/swap", json={"taskHub": hub, "outcome": outcome})


async def advance_time_and_rollout(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> Any:
    """Let the minutes of a step pass, and evaluate the rollout."""
    clock.advance(60 * STEP_MINUTES + 1)
    return await post_rollout(http, app, "advance")


async def abort_and_clear(http: httpx.AsyncClient, app: str) -> None:
    """Abort the rollout, and confirm that its slot has 0 %."""
    await post_rollout(http, app, "abort")
    await post_rollout(http, app, "confirm", weight=0)


async def test_a_slot_gets_a_growing_share_and_is_swapped_at_the_end(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    waiting = await advance_time_and_rollout(http, app, clock)
    assert (waiting["step"], waiting["confirmed"], waiting["waitsFor"]["code"]) == (1, False, "Confirmation")
    for weight, next_weight in ((10, 50), (50, 0)):
        assert (await post_rollout(http, app, "confirm", weight=weight))["confirmed"]
        assert (await advance_time_and_rollout(http, app, clock))["weight"] == next_weight
    finishing = await get_rollout(http, app)
    assert (finishing["state"], finishing["waitsFor"]["code"]) == ("Finishing", "Confirmation")
    assert_problem(await post_finishing_swap(http, app, hubs["staging"], "Pending"), 409, "RolloutInProgress")
    cleared = await post_rollout(http, app, "confirm", weight=0)
    assert (cleared["state"], cleared["waitsFor"]["code"]) == ("Finishing", "Swap")
    for outcome, state in (
        ("Pending", "Finishing"),
        ("Failed", "Finishing"),
        ("Pending", "Finishing"),
        ("Done", "Finished"),
    ):
        assert (await post_finishing_swap(http, app, hubs["staging"], outcome)).status_code == 200
        assert (await get_rollout(http, app))["state"] == state
    ended = await get_rollout(http, app)
    assert (ended["waitsFor"]["code"], ended["waitsFor"]["until"]) == ("PinnedVisitors", ended["trafficUntil"])


async def test_the_share_of_another_step_is_not_confirmed(
    http: httpx.AsyncClient, app: str, hubs: dict[str, str]
) -> None:
    refused = await http.post(f"/api/apps/{app}/rollout/confirm", json={"weight": 50})
    assert assert_problem(refused, 409, "WeightChanged")["weight"] == 10
    assert not (await get_rollout(http, app))["confirmed"]
    first = await post_rollout(http, app, "confirm", weight=10)
    assert await post_rollout(http, app, "confirm", weight=10) == first


async def test_an_unhealthy_slot_is_cleared_and_blocks_until_the_pinned_visitors_are_gone(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    orders = Orders(http, clock)
    await post_rollout(http, app, "confirm", weight=10)
    clock.advance(SECONDS_OF_THE_CHANGE)
    await orders.work(hubs["production"], completed=50)
    await orders.work(hubs["staging"], failed=10)
    await server.rollouts.advance_all()
    aborting = await get_rollout(http, app)
    assert (aborting["state"], aborting["weight"], aborting["confirmed"]) == ("Aborting", 0, False)
    assert aborting["lastDecision"]["code"] == "FailureRateHigher"
    clock.advance(2 * PIN_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["RolloutInProgress"], "0 % is not confirmed"
    assert (await post_rollout(http, app, "confirm", weight=0))["state"] == "Aborted"
    clock.advance(PINNED_VISITOR_SECONDS)
    assert reason_codes(await get_staging(http, app)) == ["RolloutInProgress"]
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "RolloutInProgress")
    clock.advance(NEW_VISITOR_SECONDS + 1)
    assert (await get_staging(http, app))["ready"]
    assert (await post_staging(http, app, new_hub_name())).status_code == 200


async def test_the_slot_of_a_live_rollout_is_not_changed_by_others(
    http: httpx.AsyncClient, app: str, hubs: dict[str, str]
) -> None:
    stage = await post_staging(http, app, new_hub_name(), run_headers(2), force=True, reason="urgent")
    assert_problem(stage, 409, "RolloutInProgress")
    assert_problem(await put_app(http, app, slots={"staging": None}), 409, "RolloutInProgress")
    assert_problem(await post_finishing_swap(http, app, hubs["staging"], "Pending"), 409, "RolloutInProgress")
    assert_problem(await http.delete(f"/api/apps/{app}"), 409, "RolloutInProgress")


async def test_a_probe_from_before_the_last_visitor_left_makes_no_slot_ready(
    http: httpx.AsyncClient, storage: StorageSettings, server: StateServer, app: str, clock: ShiftedClock
) -> None:
    """A pinned visitor may start work after that probe, and its events may be lost."""
    hub = new_hub_name()
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        slots = {"production": {"taskHub": new_hub_name()}, "staging": {"taskHub": hub}}
        await put_app(http, app, slots=slots, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
        assert (await put_rollout(http, app)).status_code == 200
        await abort_and_clear(http, app)
        clock.advance(PIN_SECONDS - 1)
        before = await get_staging(http, app, verify="fresh")
        assert reason_codes(before) == ["RolloutInProgress"]
        await provider.put("order-1", "Running")
        clock.advance(2)
        assert not (await get_staging(http, app))["ready"]
        await provider.put("order-1", "Completed")
        clock.advance(300)
        assert (await get_staging(http, app))["ready"]


async def test_what_was_staged_over_pinned_visitors_is_deployed_again_only_once_it_has_drained(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    """A visitor who was pinned to the slot starts an order on the version that was deployed with force."""
    await abort_and_clear(http, app)
    clock.advance(PIN_SECONDS - 600)
    hub, forced = new_hub_name(), {"force": True, "reason": "urgent"}
    assert (await post_staging(http, app, hub, run_headers(2), **forced)).status_code == 200
    assert (await post_staging(http, app, hub, run_headers(2), **forced)).status_code == 200
    await post_events(http, event(hub, "order-1"))
    clock.advance(800)
    refused = assert_problem(await post_staging(http, app, hub, run_headers(2)), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["InstancesActive"]
    await post_events(http, event(hub, "order-1", "Completed"))
    assert (await post_staging(http, app, hub, run_headers(2))).status_code == 200


async def test_an_app_is_not_deleted_while_pinned_visitors_may_come_to_an_empty_slot(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    """Production is emptied on record, so the swap leaves the slot empty. A new app would not know of the visitors."""
    await abort_and_clear(http, app)
    assert (await put_app(http, app, slots={"production": None})).status_code == 200
    assert (await post_swap(http, app, hubs["staging"])).status_code == 200
    assert (await http.post(f"/api/apps/{app}/cleanup", json={})).status_code == 200
    assert reason_codes(await get_staging(http, app)) == ["RolloutInProgress"]
    refused = assert_problem(await http.delete(f"/api/apps/{app}"), 409, "AppNotDrained")
    assert [reason["code"] for reason in refused["reasons"]] == ["RolloutInProgress"]
    clock.advance(PIN_SECONDS + 1)
    assert (await http.delete(f"/api/apps/{app}")).status_code == 200


async def test_a_wait_ends_when_the_pinned_visitors_are_gone(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    """Nothing is written when their time is over: the request is woken by the clock."""
    await abort_and_clear(http, app)
    clock.advance(PIN_SECONDS - 2)
    async with asyncio.timeout(60):
        assert (await get_staging(http, app, wait=100))["ready"]


async def test_a_wait_hears_of_the_end_of_the_rollout(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, hubs: dict[str, str]
) -> None:
    """The reason that has no end gets one when 0 % is confirmed."""
    await post_rollout(http, app, "abort")
    waiting = asyncio.create_task(get_staging(http, app, wait=100))
    await asyncio.sleep(0)
    clock.advance(10)
    await post_rollout(http, app, "confirm", weight=0)
    clock.advance(PIN_SECONDS)
    await put_app(http, app, policy={"freshnessSeconds": 90})
    async with asyncio.timeout(60):
        assert (await waiting)["ready"]


async def test_a_failed_request_to_the_slot_may_be_repeated_by_its_run_only_while_it_changes_nothing(
    http: httpx.AsyncClient, app: str, hubs: dict[str, str]
) -> None:
    """The pipeline that is run again goes on with the rollout that it began."""
    etag = (await http.get(f"/api/apps/{app}")).headers["etag"]
    repeated = await put_rollout(http, app)
    assert (repeated.status_code, repeated.headers["etag"]) == (200, etag)
    other_steps = await put_rollout(http, app, steps=[{"weight": 20, "minutes": 1}])
    assert_problem(other_steps, 409, "RolloutInProgress")


async def test_a_confirmation_that_arrives_late_clears_no_other_rollout(
    http: httpx.AsyncClient, app: str, hubs: dict[str, str]
) -> None:
    """Both rollouts are aborted, and need 0 %. Only the condition says which of them the late request means."""
    first = await post_rollout(http, app, "abort")
    await post_rollout(http, app, "confirm", weight=0)
    assert (await put_rollout(http, app)).status_code == 200
    await post_rollout(http, app, "confirm", weight=10)
    await post_rollout(http, app, "abort")
    late = await http.post(
        f"/api/apps/{app}/rollout/confirm", json={"weight": 0}, headers={"If-Match": f'"{first["revision"]}"'}
    )
    assert_problem(late, 412, "PreconditionFailed")
    second = await get_rollout(http, app)
    assert (second["state"], second["confirmed"], second["trafficUntil"]) == ("Aborting", False, None)
