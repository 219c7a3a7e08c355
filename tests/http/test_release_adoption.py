"""Releases that PutApp adopts, with the traffic that they have before a router routes it."""

import asyncio

import httpx
import pytest

from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import PROVIDER_CONFIG, assert_problem, put_app, reason_codes
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    address_of,
    delete_release,
    get_release_status,
    get_routing,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)
from tests.http.rollout_operations import STEP_MINUTES, begin_rollout, post_rollout, put_rollout

pytestmark = pytest.mark.anyio


async def adopt_releases(http: httpx.AsyncClient, app: str, *versions: str) -> None:
    """Adopt existing releases with PutApp, each with a new task hub."""
    releases = {version: {"taskHub": new_hub_name(), "address": address_of(version)} for version in versions}
    await put_side_by_side_app(http, app, releases=releases)


async def test_an_idle_production_that_was_adopted_is_not_removed_before_the_routing_is_set(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await adopt_releases(http, app, "1.4.0")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    verdict = await get_release_status(http, app, "1.4.0")
    assert (verdict["state"], verdict["traffic"], reason_codes(verdict)) == ("Serving", 0, ["ReleaseInUse"])
    for outcome in ("Pending", "Done"):
        refused = assert_problem(await delete_release(http, app, "1.4.0", outcome), 409, "ReleaseInUse")
        assert "set the routing with PutRouting, also if the same release stays active" in refused["detail"]
    document = (await get_routing(http, app)).json()
    assert (document["active"], document["releases"]["1.4.0"]["state"]) == (None, "Serving")
    assert (await http.delete(f"/api/apps/{app}")).status_code == 200, "an administrator may give up the whole app"


async def test_an_adopted_release_drains_from_the_first_routing_without_it(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await adopt_releases(http, app, "1.3.0", "1.4.0")
    assert (await put_routing(http, app, "1.4.0")).status_code == 200
    verdict = await get_release_status(http, app, "1.3.0")
    assert (verdict["state"], reason_codes(verdict)) == ("Draining", ["RoutersBehind"])
    assert_problem(await delete_release(http, app, "1.3.0", "Pending"), 409, "ReleaseNotDrained")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await delete_release(http, app, "1.3.0", "Pending")).status_code == 200
    assert_problem(await delete_release(http, app, "1.4.0", "Pending"), 409, "ReleaseInUse")


async def test_an_adopted_release_is_not_removed_while_the_first_routing_is_set(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """In every race the removal is refused: before the routing the release is in use, and then routers are behind."""
    for number in range(10):
        raced = f"{app}-{number}"
        await adopt_releases(http, raced, "1.3.0", "1.4.0")
        clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
        routing, removal = await asyncio.gather(
            put_routing(http, raced, "1.4.0"), delete_release(http, raced, "1.3.0", "Pending")
        )
        assert routing.status_code == 200
        assert removal.status_code == 409
        assert removal.json()["code"] in {"ReleaseInUse", "ReleaseNotDrained"}


async def test_a_release_that_is_adopted_later_is_in_use_until_the_routing_is_set_again(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1.4.0")
    etag = (await get_routing(http, app)).headers["etag"]
    await adopt_releases(http, app, "1.3.0")
    assert_problem(await delete_release(http, app, "1.3.0", "Pending"), 409, "ReleaseInUse")
    repeated = await put_routing(http, app, "1.4.0")
    assert int(repeated.headers["etag"].strip('"')) > int(etag.strip('"'))
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, app, "1.3.0"))["state"] == "Drained"


async def test_a_release_that_is_adopted_during_a_rollout_is_in_use_until_the_routing_is_set(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """The rollout takes its steps by itself, and knows nothing of visitors who come past the router."""
    await begin_rollout(http, app, clock)
    await adopt_releases(http, app, "1.3.0")
    clock.advance(60 * STEP_MINUTES)
    assert (await post_rollout(http, app, "advance"))["step"] == 2
    assert (await post_rollout(http, app, "finish"))["state"] == "Finished"
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert_problem(await delete_release(http, app, "1.3.0", "Pending"), 409, "ReleaseInUse")
    assert (await put_routing(http, app, "2")).status_code == 200
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await delete_release(http, app, "1.3.0", "Pending")).status_code == 200


async def test_an_adopted_release_is_rolled_out_only_after_the_routing_was_set(
    http: httpx.AsyncClient, app: str
) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "2")
    await adopt_releases(http, app, "1.3.0")
    refused = assert_problem(await put_rollout(http, app, version="1.3.0"), 409, "ReleaseInUse")
    assert "set the routing with PutRouting" in refused["detail"]
    assert (await get_routing(http, app)).json()["split"] is None
    assert (await put_routing(http, app, "2")).status_code == 200
    assert (await put_rollout(http, app, version="1.3.0")).status_code == 200


async def test_the_response_of_get_app_can_be_sent_back(http: httpx.AsyncClient, app: str) -> None:
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    before = await http.get(f"/api/apps/{app}")
    after = await http.put(f"/api/apps/{app}", json=before.json())
    assert (after.status_code, after.json(), after.headers["etag"]) == (200, before.json(), before.headers["etag"])


async def test_an_app_moves_from_slots_to_releases(http: httpx.AsyncClient, app: str) -> None:
    production, staging = new_hub_name(), new_hub_name()
    slots = {"production": {"taskHub": production, "version": "1.4.0"}, "staging": {"taskHub": staging}}
    await put_app(http, app, slots=slots, policy={"settleSeconds": 0})
    releases = {"1.4.0": {"taskHub": production, "address": "https://shop.azurewebsites.net"}}
    assert_problem(await put_app(http, app, model="sideBySide", releases=releases), 409, "WrongModel")
    moved = await put_app(http, app, model="sideBySide", releases=releases, slots={"staging": None})
    assert moved.status_code == 200, moved.text
    state = moved.json()
    assert (state["model"], state["slots"], state["releases"]["1.4.0"]["state"]) == ("sideBySide", {}, "Serving")
    assert [retired["taskHub"] for retired in state["retired"]] == [staging]
    assert (await put_routing(http, app, "1.4.0")).json()["active"] == "1.4.0"
    assert_problem(await put_app(http, app, model="slots"), 409, "WrongModel")
    task_hub = (await http.get(f"/api/taskhubs/{production}")).json()
    assert (task_hub["slot"], task_hub["release"]) == (None, "1.4.0")


async def test_a_task_hub_that_exists_is_not_registered_but_adopted(
    http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub
) -> None:
    await provider_hub.create()
    await put_side_by_side_app(http, app, taskHubs=PROVIDER_CONFIG)
    assert_problem(await post_release(http, app, "1", provider_hub.hub), 409, "TaskHubAlreadyUsed")
    release = {"taskHub": provider_hub.hub, "address": address_of("1")}
    adopted = await put_app(http, app, releases={"1": release})
    assert adopted.json()["releases"]["1"]["state"] == "Serving"
    proof = (await http.get(f"/api/taskhubs/{provider_hub.hub}")).json()["proof"]
    assert proof["basis"] == "Adopted"
