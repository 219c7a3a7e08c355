"""Which visitors stay with a release that has lost its traffic: the server decides, and a router routes by it."""

import httpx
import pytest

from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.rules import RoutedRequest, format_visit, route
from tests.conftest import ShiftedClock
from tests.http.operations import assert_problem, reason_codes
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    delete_release,
    get_release_status,
    get_routing,
    post_release,
    put_routing,
    put_side_by_side_app,
    register_and_promote,
)

pytestmark = pytest.mark.anyio

BUCKET = 5


async def route_visitor(http: httpx.AsyncClient, app: str, version: str) -> str | None:
    """Where a router sends a visitor who was with this release."""
    document = parse_routing_document((await get_routing(http, app)).json())
    cookie = f"{document.sticky_cookie}={format_visit(document.releases[version], BUCKET)}"
    return route(document, RoutedRequest("/orders", [("Cookie", cookie)]), lambda: BUCKET).version


@pytest.fixture
async def canary_app(http: httpx.AsyncClient, clock: ShiftedClock, app: str) -> str:
    """Release 1 is active, release 2 gets 10 % of the requests, and visitors stay after a promotion."""
    await put_side_by_side_app(http, app, policy={"settleSeconds": 0, "stickyAfterPromotion": True})
    await register_and_promote(http, app, "1")
    clock.advance(1)
    await post_release(http, app, "2")
    assert (await put_routing(http, app, "1", {"1": 90, "2": 10})).status_code == 200
    return app


async def test_visitors_stay_with_the_release_that_a_promotion_replaces(
    http: httpx.AsyncClient, clock: ShiftedClock, canary_app: str
) -> None:
    await put_routing(http, canary_app, "2")
    assert await route_visitor(http, canary_app, "1") == "1"
    clock.advance(3590)
    assert reason_codes(await get_release_status(http, canary_app, "1")) == ["ReleaseInUse", "RoutersBehind"]
    clock.advance(20)
    assert reason_codes(await get_release_status(http, canary_app, "1")) == ["RoutersBehind"]
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, canary_app, "1"))["ready"]


async def test_a_router_that_has_stopped_to_ask_may_send_visitors_back_for_ever(
    http: httpx.AsyncClient, clock: ShiftedClock, canary_app: str
) -> None:
    """Envoy goes on with its last routes when its follower is gone, and they do not end by themselves."""
    await put_routing(http, canary_app, "2")
    etag = (await get_routing(http, canary_app)).headers["etag"]
    await get_routing(http, canary_app, etag, router="envoy-1")
    clock.advance(3600 + SECONDS_UNTIL_ROUTERS_STOP)
    verdict = await get_release_status(http, canary_app, "1")
    assert reason_codes(verdict) == ["RoutersBehind"]
    assert "have not asked since the visitors of release 1 should have left it" in verdict["reasons"][0]["message"]
    assert_problem(await delete_release(http, canary_app, "1", "Pending"), 409, "ReleaseNotDrained")
    for _ in range(2):
        await get_routing(http, canary_app, etag, router="envoy-1")
        assert (await get_release_status(http, canary_app, "1"))["ready"]
        clock.advance(200)


async def test_visitors_leave_an_aborted_candidate_at_once(
    http: httpx.AsyncClient, clock: ShiftedClock, canary_app: str
) -> None:
    assert await route_visitor(http, canary_app, "2") == "2"
    await put_routing(http, canary_app, "1")
    assert await route_visitor(http, canary_app, "2") == "1"
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, canary_app, "2"))["ready"], "nothing of it is in use"


async def test_visitors_leave_a_release_that_is_rolled_back_at_once(
    http: httpx.AsyncClient, clock: ShiftedClock, canary_app: str
) -> None:
    await put_routing(http, canary_app, "2")
    await put_routing(http, canary_app, "1")
    assert await route_visitor(http, canary_app, "2") == "1"
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP)
    assert (await get_release_status(http, canary_app, "2"))["ready"]
