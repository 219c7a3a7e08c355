"""GetRouting and PutRouting: the document, long polls, and routers that acknowledge what they have."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.instants import parse_instant
from state_api.services.routing import RoutingReader
from state_api.settings import StorageSettings
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, put_app, reason_codes
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    address_of,
    delete_release,
    get_release_status,
    get_routing,
    list_releases,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)
from tests.http.server_clients import client_of_second_server

pytestmark = pytest.mark.anyio

LONG_WAIT_SECONDS = 100


@pytest.fixture
async def routed_app(http: httpx.AsyncClient, app: str, anyio_backend: str) -> str:
    """An app whose release 2 is active and whose release 1 has lost its traffic."""
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    return app


async def wait_until_waiting(server: StateServer, count: int) -> None:
    """Wait until so many requests wait for another routing document."""
    watches = server.services.routing._watches
    while sum(watch.waiter_count for watch in watches.values()) < count:
        await asyncio.sleep(0.01)


async def test_the_document_has_what_a_router_needs(http: httpx.AsyncClient, app: str) -> None:
    await put_side_by_side_app(http, app)
    hub, staged_hub = new_hub_name(), new_hub_name()
    await post_release(http, app, "1.4.0", hub)
    await put_routing(http, app, "1.4.0")
    await post_release(http, app, "1.5.0", staged_hub)
    response = await get_routing(http, app)
    document = response.json()
    tokens = [
        document["releases"][version].pop(name)
        for version in ("1.4.0", "1.5.0")
        for name in ("stickyToken", "overrideToken")
    ]
    assert len(set(tokens)) == 4
    assert all(len(bytes.fromhex(token)) == 16 for token in tokens)
    assert response.headers["etag"] == f'"{document["revision"]}"'
    assert document.pop("updatedAt")
    assert document == {
        "app": app,
        "revision": 4,
        "active": "1.4.0",
        "split": None,
        "sticky": {"cookie": "release", "maxAgeSeconds": 3600},
        "override": {"cookie": "release-override", "header": "X-Release-Override"},
        "releases": {
            "1.4.0": {"address": address_of("1.4.0"), "taskHub": hub, "state": "Serving", "stickyUntil": None},
            "1.5.0": {"address": address_of("1.5.0"), "taskHub": staged_hub, "state": "Staged", "stickyUntil": None},
        },
    }
    state = (await http.get(f"/api/apps/{app}")).text + (await http.get(f"/api/apps/{app}/releases")).text
    assert not any(token in state for token in tokens)


async def test_only_changes_of_the_document_change_its_etag(http: httpx.AsyncClient, routed_app: str) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    await put_app(http, routed_app, policy={"settleSeconds": 1})
    unchanged = await get_routing(http, routed_app, etag)
    assert (unchanged.status_code, unchanged.headers["etag"], unchanged.content) == (304, etag, b"")
    await post_release(http, routed_app, "3")
    changed = await get_routing(http, routed_app, etag)
    assert changed.status_code == 200
    assert int(changed.headers["etag"].strip('"')) > int(etag.strip('"'))


@pytest.mark.parametrize("etag", [None, '"1"', '"99999999999"', '"x"', "*", '"1", "2"', "1"])
async def test_a_caller_with_another_document_gets_the_present_one_at_once(
    http: httpx.AsyncClient, routed_app: str, etag: str | None
) -> None:
    response = await get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS)
    assert (response.status_code, response.json()["active"]) == (200, "2")


async def test_a_weak_etag_is_the_same_document(http: httpx.AsyncClient, routed_app: str) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    assert (await get_routing(http, routed_app, f"W/{etag}")).status_code == 304


# Waiting


async def test_a_hundred_routers_that_wait_hear_of_a_promotion(
    server: StateServer, http: httpx.AsyncClient, routed_app: str
) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    waiting = [asyncio.create_task(get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS)) for _ in range(100)]
    await wait_until_waiting(server, 100)
    assert (await put_routing(http, routed_app, "1")).status_code == 200
    responses = await asyncio.gather(*waiting)
    assert {(response.status_code, response.json()["active"]) for response in responses} == {(200, "1")}
    assert server.services.routing._watches == {}, "the last one ends the watch"


async def test_a_router_hears_of_a_promotion_on_another_server(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, routed_app: str
) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    waiting = asyncio.create_task(get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS))
    await wait_until_waiting(server, 1)
    async with client_of_second_server(storage) as other:
        assert (await put_routing(other, routed_app, "1")).status_code == 200
    assert (await waiting).json()["active"] == "1"


async def test_a_wait_that_ends_without_a_change_is_answered_with_304(http: httpx.AsyncClient, routed_app: str) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    assert (await get_routing(http, routed_app, etag, wait=1)).status_code == 304


async def test_other_changes_of_the_app_do_not_end_a_wait(
    server: StateServer, http: httpx.AsyncClient, routed_app: str
) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    waiting = asyncio.create_task(get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS))
    await wait_until_waiting(server, 1)
    await put_app(http, routed_app, policy={"settleSeconds": 1})
    await post_release(http, routed_app, "3")
    assert "3" in (await waiting).json()["releases"]


async def test_a_server_that_stops_ends_all_waits(
    server: StateServer, http: httpx.AsyncClient, routed_app: str
) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    waiting = asyncio.create_task(get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS))
    await wait_until_waiting(server, 1)
    server.stopping.set()
    assert (await waiting).status_code == 304


async def test_a_deleted_app_ends_a_wait(server: StateServer, http: httpx.AsyncClient, routed_app: str) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    waiting = asyncio.create_task(get_routing(http, routed_app, etag, wait=LONG_WAIT_SECONDS))
    await wait_until_waiting(server, 1)
    assert (await http.delete(f"/api/apps/{routed_app}")).status_code == 200
    assert_problem(await waiting, 404, "AppNotFound")
    await put_side_by_side_app(http, routed_app)
    recreated = (await get_routing(http, routed_app)).headers["etag"]
    assert int(recreated.strip('"')) > int(etag.strip('"')), "a router must not take the old document for the new one"


async def test_a_read_that_ends_late_does_not_hide_a_newer_revision(
    server: StateServer, http: httpx.AsyncClient, routed_app: str
) -> None:
    services = server.services
    older = await services.releases.get(routed_app)
    await put_routing(http, routed_app, "1")
    newer = await services.releases.get(routed_app)
    reader: RoutingReader = services.routing
    async with reader._watch(newer) as watch:
        watch.note(older)
        assert watch.revision == newer.routing.revision


async def test_a_response_says_the_time_by_which_visitors_leave_a_release(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    """The clock of the machine, which the header Date shows, may be another one."""
    clock.advance(86_400)
    before = clock.now()
    known = await get_routing(http, routed_app)
    unchanged = await get_routing(http, routed_app, known.headers["etag"])
    after = clock.now()
    assert (known.status_code, unchanged.status_code) == (200, 304)
    times = [parse_instant(response.headers["x-server-time"]) for response in (known, unchanged)]
    assert [before, *times, after] == sorted([before, *times, after])


# Acknowledgements


async def acknowledge(http: httpx.AsyncClient, app: str, router: str, etag: str | None) -> str:
    """Let a router ask with this document. Returns the ETag of the present one."""
    response = await get_routing(http, app, etag, router=router)
    etag_now: str = response.headers["etag"]
    return etag_now


async def acknowledge_current(http: httpx.AsyncClient, app: str, router: str) -> str:
    """Let a router ask with the present document. Returns its ETag."""
    return await acknowledge(http, app, router, (await get_routing(http, app)).headers["etag"])


async def test_a_release_waits_until_every_router_has_confirmed_a_document_without_it(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    old = await acknowledge(http, routed_app, "envoy-1", None)
    await acknowledge(http, routed_app, "envoy-1", old)
    await acknowledge(http, routed_app, "envoy-2", old)
    await put_routing(http, routed_app, "1")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    verdict = await get_release_status(http, routed_app, "2")
    assert reason_codes(verdict) == ["RoutersBehind"]
    assert "envoy-1, envoy-2" in verdict["reasons"][0]["message"]
    new = await acknowledge(http, routed_app, "envoy-1", old)
    assert reason_codes(await get_release_status(http, routed_app, "2")) == ["RoutersBehind"]
    assert_problem(await delete_release(http, routed_app, "2", "Pending"), 409, "ReleaseNotDrained")
    await acknowledge(http, routed_app, "envoy-1", new)
    await acknowledge(http, routed_app, "envoy-2", new)
    assert (await get_release_status(http, routed_app, "2"))["ready"]
    assert {router["router"]: router["revision"] for router in (await list_releases(http, routed_app))["routers"]} == {
        "envoy-1": int(new.strip('"')),
        "envoy-2": int(new.strip('"')),
    }


async def test_a_router_that_goes_back_to_an_older_document_is_behind_again(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    old = await acknowledge(http, routed_app, "envoy-1", None)
    await put_routing(http, routed_app, "1")
    new = await acknowledge(http, routed_app, "envoy-1", old)
    await acknowledge(http, routed_app, "envoy-1", new)
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, routed_app, "2"))["ready"]
    for restored in (old, None, '"99999"'):
        await acknowledge(http, routed_app, "envoy-1", restored)
        assert reason_codes(await get_release_status(http, routed_app, "2")) == ["RoutersBehind"]
        await acknowledge(http, routed_app, "envoy-1", new)
        assert (await get_release_status(http, routed_app, "2"))["ready"]


async def test_a_release_that_has_drained_stays_ready_when_routers_confirm_another_revision(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    """Without a provider, a release waits for `settleSeconds` after a router has confirmed that it sends it nothing."""
    await put_side_by_side_app(http, app, policy={"settleSeconds": 3600})
    await register_and_promote(http, app, "1", "2")
    await acknowledge(http, app, "envoy-1", await acknowledge(http, app, "envoy-1", None))
    clock.advance(3660)
    assert (await get_release_status(http, app, "1"))["ready"]
    for version in ("3", "4"):
        await post_release(http, app, version)
        await acknowledge_current(http, app, "envoy-1")
        assert (await get_release_status(http, app, "1"))["ready"]
    await acknowledge(http, app, "envoy-1", None)
    await acknowledge_current(http, app, "envoy-1")
    verdict = await get_release_status(http, app, "1")
    assert reason_codes(verdict) == ["RoutersBehind"], "in between it had an older document, or none"


async def test_two_instances_of_a_router_under_one_name_begin_the_time_anew(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app, policy={"settleSeconds": 3600})
    await register_and_promote(http, app, "1", "2")
    new = (await get_routing(http, app)).headers["etag"]
    await acknowledge(http, app, "envoy-1", new)
    clock.advance(3660)
    await asyncio.gather(*(acknowledge(http, app, "envoy-1", etag) for etag in (new, None, new, None)))
    await acknowledge(http, app, "envoy-1", new)
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]
    clock.advance(3660)
    assert (await get_release_status(http, app, "1"))["ready"]


async def test_a_forgotten_router_that_asks_again_begins_the_time_anew(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str
) -> None:
    await put_side_by_side_app(http, app, policy={"settleSeconds": 3600})
    await register_and_promote(http, app, "1", "2")
    new = (await get_routing(http, app)).headers["etag"]
    await acknowledge(http, app, "envoy-1", new)
    clock.advance(3660)
    assert (await http.delete(f"/api/apps/{app}/routers/envoy-1")).status_code == 200
    assert (await get_release_status(http, app, "1"))["ready"]
    await acknowledge(http, app, "envoy-1", new)
    assert reason_codes(await get_release_status(http, app, "1")) == ["RoutersBehind"]


async def test_the_time_of_an_acknowledgement_is_that_of_its_revision(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    async def get_router() -> Any:
        """The only router of the app, as ListReleases shows it."""
        (router,) = (await list_releases(http, routed_app))["routers"]
        return router

    etag = await acknowledge(http, routed_app, "envoy-1", None)
    await acknowledge(http, routed_app, "envoy-1", etag)
    first = await get_router()
    clock.advance(200)
    await acknowledge(http, routed_app, "envoy-1", etag)
    assert await get_router() == first
    clock.advance(200)
    await acknowledge(http, routed_app, "envoy-1", etag)
    later = await get_router()
    assert later["since"] == first["since"]
    assert later["seenAt"] > first["seenAt"]


async def test_an_administrator_forgets_a_router_that_is_gone(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    await acknowledge(http, routed_app, "envoy-1", None)
    await put_routing(http, routed_app, "1")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert reason_codes(await get_release_status(http, routed_app, "2")) == ["RoutersBehind"]
    path = f"/api/apps/{routed_app}/routers/envoy-1"
    assert (await http.delete(path)).status_code == 200
    assert (await get_release_status(http, routed_app, "2"))["ready"]
    assert assert_problem(await http.delete(path), 404, "RouterNotFound")["router"] == "envoy-1"
    history = (await http.get(f"/api/apps/{routed_app}/history")).json()["history"]
    assert (history[0]["operation"], history[0]["details"]) == ("ForgetRouter", {"router": "envoy-1", "revision": 0})
    await acknowledge(http, routed_app, "envoy-1", None)
    assert not (await get_release_status(http, routed_app, "2"))["ready"], "it asks again, so it counts again"


async def test_a_router_that_asks_does_not_disturb_changes_of_the_app(http: httpx.AsyncClient, routed_app: str) -> None:
    before = (await http.get(f"/api/apps/{routed_app}")).headers["etag"]
    await acknowledge(http, routed_app, "envoy-1", None)
    assert (await http.get(f"/api/apps/{routed_app}")).headers["etag"] == before


@pytest.mark.parametrize("router", ["", "~", "a b", "a/b", "x" * 65])
async def test_a_router_needs_a_valid_name(http: httpx.AsyncClient, routed_app: str, router: str) -> None:
    assert_problem(await get_routing(http, routed_app, router=router), 400, "InvalidRequest")


# PutRouting


async def test_a_routing_is_changed_only_from_the_document_that_the_caller_knows(
    http: httpx.AsyncClient, routed_app: str
) -> None:
    etag = (await get_routing(http, routed_app)).headers["etag"]
    changed = await put_routing(http, routed_app, "1", headers={"If-Match": etag})
    assert changed.headers["etag"] != etag
    assert_problem(await put_routing(http, routed_app, "2", headers={"If-Match": etag}), 412, "PreconditionFailed")
    assert (await put_routing(http, routed_app, "2", headers={"If-Match": "*"})).status_code == 200
    missing = await put_routing(http, f"{routed_app}-x", "2", headers={"If-Match": "*"})
    assert_problem(missing, 412, "PreconditionFailed")


async def test_a_repeated_promotion_changes_nothing(http: httpx.AsyncClient, routed_app: str) -> None:
    first = await put_routing(http, routed_app, "1")
    again = await put_routing(http, routed_app, "1")
    assert (again.status_code, again.json()) == (200, first.json())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"active": "2", "split": {}},
        {"active": "2", "split": {"2": 50, "1": 49}},
        {"active": "2", "split": {"2": 100.0}},
        {"active": "2", "split": {"2": 99, "1": True}},
        {"active": "2", "split": {"1": 100}},
        {"active": "2", "split": {"2": 40, "1": 30, "3": 30}},
        {"active": "2", "split": {"2": 0, "1": 100}},
        {"active": "2", "other": 1},
    ],
)
async def test_an_invalid_routing_is_refused(http: httpx.AsyncClient, routed_app: str, body: dict[str, Any]) -> None:
    await post_release(http, routed_app, "3")
    assert_problem(await http.put(f"/api/apps/{routed_app}/routing", json=body), 400, "InvalidRequest")


async def test_waiting_for_a_release_ends_when_it_is_ready(
    http: httpx.AsyncClient, clock: ShiftedClock, routed_app: str
) -> None:
    await acknowledge(http, routed_app, "envoy-1", None)
    await put_routing(http, routed_app, "1")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    waiting = asyncio.create_task(get_release_status(http, routed_app, "2", wait=LONG_WAIT_SECONDS))
    await asyncio.sleep(0)
    assert (await http.delete(f"/api/apps/{routed_app}/routers/envoy-1")).status_code == 200
    assert (await waiting)["ready"]
    assert not (await get_release_status(http, routed_app, "1", wait=1))["ready"]
