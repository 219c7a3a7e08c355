"""Rollouts of releases side by side: the server routes, and goes on by itself as long as the candidate is healthy."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.names import app_key
from state_api.storage.app_rows import APP_ROW_KEY
from state_api.storage.tables import APPS_TABLE, instance_table_name
from tests.conftest import ShiftedClock
from tests.http.operations import assert_problem, put_app, run_headers
from tests.http.release_operations import (
    SECONDS_UNTIL_ROUTERS_STOP,
    delete_release,
    get_release_status,
    get_routing,
    put_routing,
)
from tests.http.rollout_operations import (
    STEP_MINUTES,
    Orders,
    begin_rollout,
    get_health,
    get_rollout,
    list_operations,
    post_rollout,
    put_rollout,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def orders(http: httpx.AsyncClient, clock: ShiftedClock) -> Orders:
    """Records orders by the time of the server."""
    return Orders(http, clock)


async def routed_share(http: httpx.AsyncClient, app: str) -> int:
    """The percentage of the requests that routers send to release 2."""
    routing = (await get_routing(http, app)).json()
    share: int = (routing["split"] or {routing["active"]: 100}).get("2", 0)
    return share


def assert_ended(rollout: Any, state: str, action: str, code: str) -> None:
    """Assert that the rollout has ended like this."""
    decision = rollout["lastDecision"]
    assert (rollout["state"], decision["action"], decision["code"]) == (state, action, code), rollout


# The life of a rollout


async def test_a_good_candidate_gets_all_requests_step_by_step_without_any_pipeline(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(http, app, clock)
    rollout = await get_rollout(http, app)
    assert (rollout["state"], rollout["step"], rollout["weight"], rollout["confirmed"]) == ("Running", 1, 10, True)
    assert rollout["waitsFor"]["code"] == "StepTime"
    assert rollout["waitsFor"]["until"] == rollout["stepEndsAt"]
    shares = []
    for _ in range(2):
        await orders.work(hubs["1"], completed=20)
        await orders.work(hubs["2"], completed=20)
        await server.rollouts.advance_all()
        shares.append(await routed_share(http, app))
        clock.advance(60 * STEP_MINUTES + 1)
        await server.rollouts.advance_all()
        shares.append(await routed_share(http, app))
    assert shares == [10, 50, 50, 100]
    finished = await get_rollout(http, app)
    assert_ended(finished, "Finished", "Finish", "EvidenceInconclusive")
    assert finished["waitsFor"] is None
    assert (await list_operations(http, app))[:3] == ["AdvanceRollout", "AdvanceRollout", "PutRollout"]


async def test_an_unhealthy_candidate_gets_no_more_requests_within_one_evaluation(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(http, app, clock)
    await orders.work(hubs["1"], completed=90, failed=1)
    await orders.work(hubs["2"], completed=4, failed=6)
    clock.advance(30)
    await server.rollouts.advance_all()
    aborted = await get_rollout(http, app)
    assert_ended(aborted, "Aborted", "Abort", "FailureRateHigher")
    assert "6 of 10" in aborted["lastDecision"]["message"]
    assert await routed_share(http, app) == 0
    record = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (record["operation"], record["by"]) == ("AdvanceRollout", "state server")
    health = record["details"]["health"]
    candidate, baseline = health["candidate"], health["baseline"]
    assert (candidate["started"], candidate["finished"], candidate["failed"]) == (10, 10, 6)
    assert (baseline["started"], baseline["finished"], baseline["failed"]) == (91, 91, 1)
    assert health["evidence"]["unhealthy"] >= health["evidence"]["threshold"]
    assert health["shares"] == {"configured": 10, "observed": pytest.approx(100 * 10 / 101)}


async def test_the_release_of_an_aborted_rollout_drains_and_is_removed(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(http, app, clock)
    await orders.work(hubs["2"], completed=1)
    status = await get_release_status(http, app, "2")
    assert "RolloutInProgress" in [reason["code"] for reason in status["reasons"]]
    assert not status["ready"]
    assert_problem(await delete_release(http, app, "2", "Pending"), 409, "RolloutInProgress")
    await post_rollout(http, app, "abort", reason="wrong prices")
    clock.advance(61)
    assert (await get_release_status(http, app, "2"))["ready"]
    assert (await delete_release(http, app, "2", "Pending")).status_code == 200
    assert (await delete_release(http, app, "2", "Done")).status_code == 200


async def test_a_wait_for_the_candidate_hears_of_the_end_of_the_rollout(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    """The request is woken by the abort, and then by the clock: routers may send requests for a minute."""
    await begin_rollout(http, app, clock)
    waiting = asyncio.create_task(get_release_status(http, app, "2", wait=100))
    await asyncio.sleep(0)
    await post_rollout(http, app, "abort")
    clock.advance(SECONDS_UNTIL_ROUTERS_STOP - 3)
    async with asyncio.timeout(60):
        assert (await waiting)["ready"]


async def test_a_candidate_without_traffic_is_undecided_until_its_time_is_over(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(http, app, clock, analysis={"onUndecided": "pause"})
    await orders.work(hubs["1"], completed=100, failed=5)
    await server.rollouts.advance_all()
    assert (await get_health(http, app))["decidedBy"]["code"] == "TooFewFinished"
    assert (await get_rollout(http, app))["state"] == "Running"
    clock.advance(60 * STEP_MINUTES + 1)
    await server.rollouts.advance_all()
    paused = await get_rollout(http, app)
    assert_ended(paused, "Paused", "Pause", "TooFewFinished")
    assert (paused["step"], paused["waitsFor"]["code"]) == (1, "Resume")


async def test_failures_that_are_reported_an_hour_late_still_abort_the_rollout(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(http, app, clock, steps=[{"weight": 10, "minutes": 120}])
    late_events = orders.build(hubs["2"], failed=10) + orders.build(hubs["1"], completed=50)
    clock.advance(3600)
    await server.rollouts.advance_all()
    assert (await get_rollout(http, app))["state"] == "Running"
    await orders.deliver(late_events)
    await server.rollouts.advance_all()
    assert_ended(await get_rollout(http, app), "Aborted", "Abort", "FailureRateHigher")


@pytest.mark.parametrize("offset_seconds", [-290, 290])
async def test_a_candidate_whose_clock_is_five_minutes_off_is_aborted_a_little_later(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    clock: ShiftedClock,
    orders: Orders,
    offset_seconds: float,
) -> None:
    """What started before the rollout by its own clock does not count, and what starts later counts later. Events that
    are more than five minutes ahead go to quarantine."""
    hubs = await begin_rollout(http, app, clock, steps=[{"weight": 10, "minutes": 60}])
    await orders.work(hubs["1"], completed=50)
    for _ in range(2):
        assert (await get_rollout(http, app))["state"] == "Running"
        clock.advance(offset_seconds)
        failures = orders.build(hubs["2"], failed=10)
        clock.advance(-offset_seconds)
        await orders.deliver(failures)
        await server.rollouts.advance_all()
        clock.advance(360)
        await orders.work(hubs["1"], completed=50)
    await server.rollouts.advance_all()
    assert_ended(await get_rollout(http, app), "Aborted", "Abort", "FailureRateHigher")


async def test_an_instance_that_does_not_end_aborts_the_rollout(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    hubs = await begin_rollout(
        http, app, clock, steps=[{"weight": 10, "minutes": 60}], analysis={"maximumActiveAgeMinutes": 5}
    )
    await orders.work(hubs["2"], completed=1, active=1)
    clock.advance(240)
    await server.rollouts.advance_all()
    assert (await get_rollout(http, app))["state"] == "Running"
    clock.advance(120)
    await server.rollouts.advance_all()
    assert_ended(await get_rollout(http, app), "Aborted", "Abort", "ActiveTooLong")
    health = await get_health(http, app)
    assert health["oldestActive"]["functionName"] == "ProcessOrder"
    assert [warning["code"] for warning in health["warnings"]] == ["EventsOnly"]


async def test_the_greatest_age_that_an_instance_may_reach_is_noticed_before_the_comparison_forgets_it(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    steps, analysis = [{"weight": 10, "minutes": 10_080}], {"maximumActiveAgeMinutes": 2820}
    hubs = await begin_rollout(http, app, clock, steps=steps, analysis=analysis)
    await orders.work(hubs["2"], active=1)
    clock.advance(60 * 2819)
    assert (await post_rollout(http, app, "advance"))["state"] == "Running"
    clock.advance(60 * 59)
    assert_ended(await post_rollout(http, app, "advance"), "Aborted", "Abort", "ActiveTooLong")


async def test_a_rollout_whose_timeline_cannot_be_read_takes_no_step_and_is_paused_after_a_while(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock, orders: Orders
) -> None:
    """For example because a newer server has written a part of it."""
    hubs = await begin_rollout(http, app, clock)
    await orders.work(hubs["2"], completed=1)
    table = server.tables.client(instance_table_name(hubs["2"]))
    async for row in table.query_entities("RowKey ge 't|' and RowKey lt 't}'"):
        await table.update_entity({**row, "Schema": 99})
    clock.advance(60 * STEP_MINUTES)
    assert (await post_rollout(http, app, "advance"))["step"] == 1
    clock.advance(900)
    await server.rollouts.advance_all()
    paused = await get_rollout(http, app)
    assert (paused["state"], paused["lastDecision"]["code"]) == ("Paused", "HealthUnknown")


async def test_an_app_that_cannot_be_read_does_not_stop_the_rollouts_of_others(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock
) -> None:
    other, apps = f"a-{app}", server.tables.client(APPS_TABLE)
    assert (await put_app(http, other)).status_code == 200
    await begin_rollout(http, app, clock)
    await apps.update_entity({"PartitionKey": app_key(other), "RowKey": APP_ROW_KEY, "Schema": 99})
    clock.advance(60 * STEP_MINUTES)
    await server.rollouts.advance_all()
    await apps.delete_entity(app_key(other), APP_ROW_KEY)
    assert (await get_rollout(http, app))["step"] == 2


# What people and pipelines ask


async def test_a_paused_rollout_keeps_its_share_until_it_is_resumed(
    http: httpx.AsyncClient, server: StateServer, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    clock.advance(60)
    paused = await post_rollout(http, app, "pause", reason="lunch")
    assert (paused["state"], paused["waitsFor"]["code"]) == ("Paused", "Resume")
    assert "lunch" in paused["lastDecision"]["message"]
    clock.advance(3600)
    await server.rollouts.advance_all()
    assert await routed_share(http, app) == 10
    assert (await post_rollout(http, app, "resume"))["state"] == "Running"
    await server.rollouts.advance_all()
    assert await routed_share(http, app) == 10, "the minutes of the step begin again"
    clock.advance(60 * STEP_MINUTES + 1)
    assert (await post_rollout(http, app, "advance"))["weight"] == 50


@pytest.mark.parametrize("on_unhealthy", ["abort", "pause"])
async def test_an_unhealthy_candidate_of_a_paused_rollout_is_aborted_if_the_analysis_says_so(
    http: httpx.AsyncClient,
    server: StateServer,
    app: str,
    clock: ShiftedClock,
    orders: Orders,
    on_unhealthy: str,
) -> None:
    hubs = await begin_rollout(http, app, clock, analysis={"onUnhealthy": on_unhealthy})
    await post_rollout(http, app, "pause")
    await orders.work(hubs["1"], completed=50)
    await orders.work(hubs["2"], failed=10)
    await server.rollouts.advance_all()
    assert (await get_rollout(http, app))["state"] == {"abort": "Aborted", "pause": "Paused"}[on_unhealthy]


async def test_finish_gives_all_requests_to_the_candidate_on_record(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    finished = await post_rollout(http, app, "finish", reason="the fix is urgent")
    assert_ended(finished, "Finished", "Finish", "Requested")
    assert await routed_share(http, app) == 100
    record = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (record["operation"], record["reason"]) == ("PostRollout", "the fix is urgent")


@pytest.mark.parametrize("action", ["pause", "abort", "finish"])
async def test_an_action_may_be_repeated(http: httpx.AsyncClient, app: str, clock: ShiftedClock, action: str) -> None:
    await begin_rollout(http, app, clock)
    first = await post_rollout(http, app, action)
    assert await post_rollout(http, app, action) == first


async def test_all_requests_go_back_to_the_baseline_by_put_routing_which_aborts_the_rollout(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    assert_problem(await put_routing(http, app, "2"), 409, "RolloutInProgress")
    assert_problem(await put_routing(http, app, "1", {"1": 60, "2": 40}), 409, "RolloutInProgress")
    assert (await put_routing(http, app, "1")).status_code == 200
    assert (await get_rollout(http, app))["state"] == "Aborted"


# Refusals


async def test_one_rollout_is_live_at_a_time_and_its_run_may_repeat_its_request(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    problem = assert_problem(await put_rollout(http, app, run_headers(2), version="2"), 409, "RolloutInProgress")
    assert problem["rollout"]["candidate"] == "2"
    assert "PostRollout" in problem["detail"]
    etag = (await http.get(f"/api/apps/{app}")).headers["etag"]
    repeated = await put_rollout(http, app, version="2")
    assert (repeated.status_code, repeated.headers["etag"]) == (200, etag)


async def test_an_ended_rollout_cannot_be_changed_and_another_one_begins(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    await post_rollout(http, app, "abort")
    for action in ("pause", "resume", "finish"):
        refused = await http.post(f"/api/apps/{app}/rollout/{action}")
        assert assert_problem(refused, 409, "RolloutEnded")["state"] == "Aborted"
    assert (await put_rollout(http, app, run_headers(2), version="2")).status_code == 200
    assert (await get_rollout(http, app))["state"] == "Running"


async def test_an_app_without_a_rollout_has_none_to_change(http: httpx.AsyncClient, app: str) -> None:
    assert_problem(await http.get(f"/api/apps/{app}/rollout"), 404, "AppNotFound")
    await http.put(f"/api/apps/{app}", json={"model": "sideBySide"})
    assert (await http.get(f"/api/apps/{app}")).json()["rollout"] is None
    assert_problem(await http.get(f"/api/apps/{app}/rollout"), 404, "RolloutNotFound")
    for action in ("pause", "resume", "abort", "finish", "advance"):
        assert_problem(await http.post(f"/api/apps/{app}/rollout/{action}"), 404, "RolloutNotFound")
    assert_problem(await put_rollout(http, app, version="2"), 400, "InvalidRequest")


async def test_a_rollout_begins_only_if_the_app_is_as_the_caller_knows_it(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    response = await http.get(f"/api/apps/{app}/rollout")
    assert response.headers["etag"] == f'"{response.json()["revision"]}"'
    for address in ("pause", "resume", "abort", "finish", "advance"):
        stale = await http.post(f"/api/apps/{app}/rollout/{address}", headers={"If-Match": '"1"'})
        assert_problem(stale, 412, "PreconditionFailed")
    assert_problem(await put_rollout(http, app, {"If-Match": '"1"'}, version="2"), 412, "PreconditionFailed")


@pytest.mark.parametrize(
    "body",
    [
        {"version": "2", "steps": []},
        {"version": "2", "steps": [{"weight": 0, "minutes": 1}]},
        {"version": "2", "steps": [{"weight": 100, "minutes": 1}]},
        {"version": "2", "steps": [{"weight": 5, "minutes": 0}]},
        {"version": "2", "steps": [{"weight": 50, "minutes": 1}, {"weight": 10, "minutes": 1}]},
        {"version": "2", "analysis": {"toleratedRatio": 0.5}},
        {"version": "2", "analysis": {"onUnhealthy": "continue"}},
        {"version": "2", "analysis": {"maximumActiveAgeMinutes": 2821}},
        {"slot": "staging"},
        {},
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock, body: dict[str, Any]
) -> None:
    await begin_rollout(http, app, clock)
    await post_rollout(http, app, "abort")
    assert_problem(await put_rollout(http, app, run_headers(3), **body), 400, "InvalidRequest")


async def test_a_weight_is_only_for_confirm_which_is_only_for_slots(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    path = f"/api/apps/{app}/rollout"
    assert_problem(await http.post(f"{path}/abort", json={"weight": 0}), 400, "InvalidRequest")
    assert_problem(await http.post(f"{path}/confirm"), 400, "InvalidRequest")
    assert_problem(await http.post(f"{path}/confirm", json={"weight": 10}), 409, "WrongModel")
    assert_problem(await http.post(f"{path}/stop"), 400, "InvalidRequest")


async def test_the_app_shows_its_rollout_and_can_be_sent_back(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begin_rollout(http, app, clock)
    app_body = (await http.get(f"/api/apps/{app}")).json()
    assert app_body["rollout"] == await get_rollout(http, app)
    assert (await http.put(f"/api/apps/{app}", json=app_body)).status_code == 200
