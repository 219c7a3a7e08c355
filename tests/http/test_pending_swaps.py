"""Swaps in two steps over HTTP: what callers see in between, who can end them, and what is recorded."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.settings import StorageSettings
from state_api.storage.tables import APPS_TABLE, join_property, split_property
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    reason_codes,
    run_headers,
    stage_and_swap,
)
from tests.http.server_clients import client_of_second_server

pytestmark = pytest.mark.anyio


async def post_swap_outcome(
    http: httpx.AsyncClient, app: str, hub: str, outcome: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    """Call PostSwap with this outcome."""
    sent = {"taskHub": hub, "outcome": outcome, **body}
    return await http.post(f"/api/apps/{app}/swap", json=sent, headers=headers)


async def stage_and_begin_swap(http: httpx.AsyncClient, app: str) -> tuple[str, str]:
    """Run 1 stages a new task hub and begins to swap it. Returns the task hub in production before, and the new one."""
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    assert (await post_staging(http, app, new_hub, run_headers(1), version="2.0.0")).status_code == 200
    assert (await post_swap_outcome(http, app, new_hub, "Pending", run_headers(1))).status_code == 200
    return old_hub, new_hub


async def get_app(http: httpx.AsyncClient, app: str) -> Any:
    """The response of GetApp."""
    response = await http.get(f"/api/apps/{app}")
    assert response.status_code == 200, response.text
    return response.json()


def hubs_in_slots(app: Any) -> tuple[str | None, str | None]:
    """The task hubs in production and in staging."""
    production, slot = app["slots"]["production"], app["slots"]["staging"]
    return production and production["taskHub"], slot and slot["taskHub"]


async def swap_audit_details(http: httpx.AsyncClient, app: str) -> list[Any]:
    """The details of the PostSwap entries in the audit log, newest first."""
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    return [record["details"] for record in history if record["operation"] == "PostSwap"]


async def test_a_swap_in_two_steps_is_pending_until_it_is_confirmed(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub, third = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    await post_staging(http, app, new_hub, run_headers(1), version="2.0.0")
    assert (await get_app(http, app))["pendingSwap"] is None
    response = await post_swap_outcome(http, app, new_hub, "Pending", run_headers(1))
    begun_app = response.json()
    assert hubs_in_slots(begun_app) == (new_hub, old_hub)
    assert begun_app["deployment"] is None
    assert begun_app["pendingSwap"] == {
        "taskHub": new_hub,
        "swappedOut": old_hub,
        "slot": "staging",
        "startedAt": begun_app["updatedAt"],
        "by": "pipeline 1",
        "runUrl": "https://ci.example/runs/1",
        "rollback": False,
    }
    assert await get_app(http, app) == begun_app
    again = await post_swap_outcome(http, app, new_hub.upper(), "Pending", run_headers(1))
    assert (again.status_code, again.headers["etag"], again.json()) == (200, response.headers["etag"], begun_app)
    confirmed = (await post_swap_outcome(http, app, new_hub, "Done", run_headers(1))).json()
    assert (confirmed["slots"], confirmed["pendingSwap"], confirmed["deployment"]) == (begun_app["slots"], None, None)
    assert (await get_staging(http, app))["ready"]
    assert (await post_staging(http, app, third, run_headers(2))).status_code == 200


async def test_a_failed_swap_is_reverted_and_the_same_run_can_swap_again(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    before = (await post_staging(http, app, new_hub, run_headers(1), version="2.0.0")).json()
    await post_swap_outcome(http, app, new_hub, "Pending", run_headers(1))
    reverted = await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))
    assert {**reverted.json(), "updatedAt": None, "updatedBy": None} == {**before, "updatedAt": None, "updatedBy": None}
    again = await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))
    assert (again.status_code, again.headers["etag"]) == (200, reverted.headers["etag"])
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress")
    assert (await post_staging(http, app, new_hub, run_headers(1))).headers["etag"] == reverted.headers["etag"]
    third = new_hub_name()
    assert (await post_staging(http, app, third, run_headers(1))).status_code == 200
    assert (await post_swap_outcome(http, app, third, "Pending", run_headers(1))).status_code == 200
    assert hubs_in_slots((await post_swap_outcome(http, app, third, "Done", run_headers(1))).json()) == (third, old_hub)
    assert_problem(await post_swap_outcome(http, app, third, "Failed", run_headers(1)), 409, "SwapMismatch")


async def test_every_caller_sees_a_pending_swap_even_its_own_run(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await stage_and_begin_swap(http, app)
    clock.advance(30 * 86_400)
    for headers in (run_headers(1), run_headers(2), {}):
        verdict = (await http.get(f"/api/apps/{app}/staging", headers=headers)).json()
        assert (verdict["ready"], verdict["hasRunning"], reason_codes(verdict)) == (False, False, ["SwapPending"])
        assert verdict["retryAfterSeconds"] == 10
        assert "pipeline 1, run https://ci.example/runs/1, began to swap" in verdict["reasons"][0]["message"]


async def test_an_empty_slot_is_not_ready_while_its_swap_is_pending(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await post_staging(http, app, hub, run_headers(1))
    first = await post_swap_outcome(http, app, hub, "Pending", run_headers(1))
    assert (hubs_in_slots(first.json()), first.json()["pendingSwap"]["swappedOut"]) == ((hub, None), None)
    assert reason_codes(await get_staging(http, app)) == ["SwapPending"]
    assert hubs_in_slots((await post_swap_outcome(http, app, hub, "Failed", run_headers(1))).json()) == (None, hub)


async def test_waiting_for_ready_ends_when_the_swap_is_confirmed(http: httpx.AsyncClient, app: str) -> None:
    _, new_hub = await stage_and_begin_swap(http, app)
    waiting = asyncio.create_task(get_staging(http, app, wait=60))
    assert reason_codes(await get_staging(http, app)) == ["SwapPending"]
    await post_swap_outcome(http, app, new_hub, "Done", run_headers(1))
    assert (await asyncio.wait_for(waiting, 30))["ready"]


async def test_every_operation_on_the_slots_is_refused_while_a_swap_is_pending(
    http: httpx.AsyncClient, app: str
) -> None:
    old_hub, new_hub = await stage_and_begin_swap(http, app)
    before = await get_app(http, app)
    forced = {"force": True, "takeOver": True, "reason": "hotfix"}
    refused = [
        await post_staging(http, app, new_hub_name(), run_headers(1)),
        await post_staging(http, app, new_hub, run_headers(1)),
        await post_staging(http, app, new_hub_name(), run_headers(2), **forced),
        await post_staging(http, app, new_hub_name()),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": new_hub}, headers=run_headers(1)),
        await put_app(http, app, slots={"staging": None}),
        await put_app(http, app, slots={"production": {"taskHub": new_hub_name()}}),
        await post_swap_outcome(http, app, new_hub, "Pending", run_headers(2)),
        await post_swap_outcome(http, app, old_hub, "Pending", run_headers(1)),
        await post_swap_outcome(http, app, new_hub_name(), "Done", run_headers(1)),
        await post_swap_outcome(http, app, old_hub, "Failed", run_headers(1)),
        # A late report on an earlier swap must not end the pending swap.
        await post_swap_outcome(http, app, old_hub, "Done", run_headers(1)),
    ]
    for response in refused:
        problem = assert_problem(response, 409, "SwapPending")
        assert problem["pendingSwap"] == before["pendingSwap"]
        assert f"if it is {new_hub}, send PostSwap for it with the outcome Done" in problem["detail"]
    assert await get_app(http, app) == before


@pytest.mark.parametrize(("production_has", "outcome"), [("new", "Done"), ("old", "Failed")])
async def test_any_caller_can_end_the_swap_of_a_dead_run(
    http: httpx.AsyncClient, app: str, production_has: str, outcome: str
) -> None:
    old_hub, new_hub = await stage_and_begin_swap(http, app)
    etag = (await http.get(f"/api/apps/{app}")).headers["etag"]
    ended = await post_swap_outcome(http, app, new_hub, outcome, {"X-Actor": "ops", "If-Match": etag})
    assert (ended.status_code, ended.json()["pendingSwap"]) == (200, None)
    assert hubs_in_slots(ended.json()) == ((new_hub, old_hub) if production_has == "new" else (old_hub, new_hub))
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (newest["operation"], newest["by"], newest["runUrl"]) == ("PostSwap", "ops", None)
    assert newest["details"] == {
        "outcome": "Done" if production_has == "new" else "Failed",
        "slot": "staging",
        "production": new_hub,
        "swappedOut": old_hub,
    }


@pytest.mark.parametrize("outcome", ["Done", "Failed", None])
@pytest.mark.parametrize("headers", [run_headers(1), {"X-Actor": "ops"}, run_headers(1) | {"If-Match": "*"}])
async def test_a_repeated_outcome_does_not_end_the_next_swap_of_another_run(
    http: httpx.AsyncClient, app: str, outcome: str | None, headers: dict[str, str]
) -> None:
    """A caller without an ETag repeats an outcome whose response was lost, after another run began the same swap."""
    _, new_hub = await stage_and_begin_swap(http, app)
    await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))
    await post_swap_outcome(http, app, new_hub, "Pending", run_headers(2))
    before = await get_app(http, app)
    body = {"taskHub": new_hub} | ({"outcome": outcome} if outcome else {})
    repeated = await http.post(f"/api/apps/{app}/swap", json=body, headers=headers)
    problem = assert_problem(repeated, 409, "SwapPending")
    assert problem["pendingSwap"] == before["pendingSwap"]
    assert "with the ETag of GetApp in If-Match" in problem["detail"]
    assert await get_app(http, app) == before
    assert reason_codes(await get_staging(http, app)) == ["SwapPending"]


async def test_every_step_of_a_swap_is_recorded(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub = await stage_and_begin_swap(http, app)
    await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))
    await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))
    await post_swap_outcome(http, app, new_hub, "Pending", run_headers(1))
    await post_swap_outcome(http, app, new_hub, "Pending", run_headers(1))
    await post_swap_outcome(http, app, new_hub, "Done", run_headers(1))
    await post_swap_outcome(http, app, old_hub, "Pending", run_headers(2), rollback=True)
    await post_swap_outcome(http, app, old_hub, "Done", run_headers(2), rollback=True)
    forward = {"slot": "staging", "production": new_hub, "swappedOut": old_hub}
    rollback_details = {"slot": "staging", "production": old_hub, "swappedOut": new_hub, "rollback": True}
    assert await swap_audit_details(http, app) == [
        {"outcome": "Done", **rollback_details},
        {"outcome": "Pending", **rollback_details},
        {"outcome": "Done", **forward},
        {"outcome": "Pending", **forward},
        {"outcome": "Failed", **forward},
        {"outcome": "Pending", **forward},
        {"slot": "staging", "production": old_hub, "swappedOut": None},
    ]


async def test_a_rollback_in_two_steps_needs_a_promoted_hub_and_is_idempotent(
    http: httpx.AsyncClient, app: str
) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    await post_staging(http, app, new_hub, run_headers(1))
    for outcome in ("Pending", "Done"):
        problem = assert_problem(
            await post_swap_outcome(http, app, new_hub, outcome, run_headers(1), rollback=True), 409, "SwapMismatch"
        )
        assert problem["slots"] == {"production": old_hub, "staging": new_hub}
    await post_swap_outcome(http, app, new_hub, "Done", run_headers(1))
    begun_app = (await post_swap_outcome(http, app, old_hub, "Pending", run_headers(2), rollback=True)).json()
    assert begun_app["pendingSwap"]["rollback"] is True
    assert hubs_in_slots(
        (await post_swap_outcome(http, app, old_hub, "Done", run_headers(2), rollback=True)).json()
    ) == (
        old_hub,
        new_hub,
    )
    for outcome in ("Pending", "Done"):
        again = (await post_swap_outcome(http, app, old_hub, outcome, run_headers(2), rollback=True)).json()
        assert (hubs_in_slots(again), again["pendingSwap"]) == ((old_hub, new_hub), None)


async def test_exactly_one_of_many_runs_begins_a_swap(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub, new_hub)
    responses = await asyncio.gather(
        *(post_swap_outcome(http, app, old_hub, "Pending", run_headers(n)) for n in range(8))
    )
    (winner,) = [response.json()["pendingSwap"] for response in responses if response.status_code == 200]
    for response in responses:
        if response.status_code != 200:
            assert assert_problem(response, 409, "SwapPending")["pendingSwap"] == winner
    assert len(await swap_audit_details(http, app)) == 3, "two swaps before, and the one that has begun"


@pytest.mark.parametrize("slower_request", ["begins", "stages"])
async def test_a_decision_that_was_made_before_a_swap_began_is_refused_afterwards(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, slower_request: str
) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub, new_hub)
    async with run_storage_proxy(storage) as proxy, client_of_second_server(proxy.settings) as slower_client:
        swap_has_begun = False

        async def begin_swap_before_first_commit(method: str, path: str) -> None:
            """Let another run begin a swap just before the first transaction."""
            nonlocal swap_has_begun
            if path.endswith("$batch") and not swap_has_begun:
                swap_has_begun = True
                assert (await post_swap_outcome(http, app, old_hub, "Pending", run_headers(1))).status_code == 200

        proxy.before_request = begin_swap_before_first_commit
        if slower_request == "begins":
            response = await post_swap_outcome(slower_client, app, old_hub, "Pending", run_headers(2))
        else:
            response = await post_staging(slower_client, app, new_hub_name(), run_headers(2))
    assert swap_has_begun
    assert assert_problem(response, 409, "SwapPending")["pendingSwap"]["by"] == "pipeline 1"


async def test_if_match_is_checked_by_every_step_of_a_swap(http: httpx.AsyncClient, app: str) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    etag = (await post_staging(http, app, new_hub, run_headers(1))).headers["etag"]
    stale = {**run_headers(1), "If-Match": '"1"'}
    for outcome in ("Pending", "Done", "Failed"):
        assert_problem(await post_swap_outcome(http, app, new_hub, outcome, stale), 412, "PreconditionFailed")
    begun_response = await post_swap_outcome(http, app, new_hub, "Pending", {**run_headers(1), "If-Match": etag})
    assert begun_response.status_code == 200
    for outcome in ("Done", "Failed"):
        assert_problem(
            await post_swap_outcome(http, app, new_hub, outcome, {**run_headers(1), "If-Match": etag}),
            412,
            "PreconditionFailed",
        )
    confirmed_response = await post_swap_outcome(
        http, app, new_hub, "Done", {**run_headers(1), "If-Match": begun_response.headers["etag"]}
    )
    assert confirmed_response.status_code == 200


async def test_a_late_report_of_done_is_refused_after_a_swap_back_and_changes_nothing(
    http: httpx.AsyncClient, app: str
) -> None:
    old_hub, new_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, old_hub)
    await post_staging(http, app, new_hub, run_headers(1))
    for outcome in ("Pending", "Done"):
        assert (await post_swap_outcome(http, app, new_hub, outcome, run_headers(1))).status_code == 200
    assert (await http.post(f"/api/apps/{app}/swap", json={"taskHub": old_hub, "rollback": True})).status_code == 200
    before = (await http.get(f"/api/apps/{app}")).json()
    problem = assert_problem(await post_swap_outcome(http, app, new_hub, "Done", run_headers(1)), 409, "SwapMismatch")
    assert "without an outcome" in problem["detail"]
    assert problem["slots"] == {"production": old_hub, "staging": new_hub}
    assert (await http.get(f"/api/apps/{app}")).json() == before
    # Without an outcome, it is an ordinary swap.
    assert (await post_swap(http, app, new_hub)).json()["slots"]["production"]["taskHub"] == new_hub


@pytest.mark.parametrize("body", [{"outcome": "done"}, {"outcome": None}, {"outcome": "Began"}, {"rollback": "yes"}])
async def test_an_invalid_outcome_is_refused(http: httpx.AsyncClient, app: str, hub: str, body: dict[str, Any]) -> None:
    await post_staging(http, app, hub)
    sent = {"taskHub": hub, **body}
    problem = assert_problem(await http.post(f"/api/apps/{app}/swap", json=sent), 400, "InvalidRequest")
    assert [error["field"] for error in problem["errors"]] == [f"body.{name}" for name in body]


async def test_an_outcome_for_an_unknown_app_or_slot_is_refused(http: httpx.AsyncClient, app: str, hub: str) -> None:
    for outcome in ("Pending", "Done", "Failed"):
        assert_problem(await post_swap_outcome(http, app, hub, outcome), 404, "AppNotFound")
    await put_app(http, app)
    for outcome in ("Pending", "Done", "Failed"):
        assert_problem(await post_swap_outcome(http, app, hub, outcome, slot="canary"), 404, "SlotNotFound")
        assert_problem(await post_swap_outcome(http, app, hub, outcome, slot="production"), 400, "InvalidRequest")
        assert_problem(await post_swap_outcome(http, app, hub, outcome), 409, "SwapMismatch")


async def test_the_body_of_get_app_can_be_sent_to_put_app_while_a_swap_is_pending(
    http: httpx.AsyncClient, app: str
) -> None:
    await stage_and_begin_swap(http, app)
    body = await get_app(http, app)
    unchanged = await http.put(f"/api/apps/{app}", json=body)
    assert (unchanged.status_code, unchanged.json()) == (200, body)
    body["policy"]["settleSeconds"] = 5
    changed = (await http.put(f"/api/apps/{app}", json={**body, "pendingSwap": None})).json()
    assert changed["policy"]["settleSeconds"] == 5
    assert (changed["slots"], changed["pendingSwap"]) == (body["slots"], body["pendingSwap"])
    assert changed["pendingSwap"] is not None


async def test_cleanup_keeps_the_possible_hubs_of_a_pending_swap(http: httpx.AsyncClient, app: str) -> None:
    oldest = new_hub_name()
    await stage_and_swap(http, app, oldest, new_hub_name())
    await post_events(http, event(oldest, status="Completed"))
    await put_app(http, app, policy={"settleSeconds": 0})
    old_hub, new_hub = await stage_and_begin_swap(http, app)
    response = (await http.post(f"/api/apps/{app}/cleanup")).json()
    outcomes = {result["taskHub"]: result["outcome"] for result in response["taskHubs"]}
    assert outcomes.pop(oldest) == "Removed"
    assert not outcomes.keys() & {old_hub, new_hub}
    assert hubs_in_slots(response["app"]) == (new_hub, old_hub)
    assert response["app"]["pendingSwap"]["taskHub"] == new_hub
    assert hubs_in_slots((await post_swap_outcome(http, app, new_hub, "Failed", run_headers(1))).json()) == (
        old_hub,
        new_hub,
    )


async def test_a_stored_app_without_the_member_pending_swap_is_not_read_as_if_no_swap_were_pending(
    server: StateServer, http: httpx.AsyncClient, app: str
) -> None:
    """A server that read missing members with defaults could stage over a swap that another server has begun."""
    await stage_and_swap(http, app, new_hub_name())
    table = server.tables.client(APPS_TABLE)
    row = await table.get_entity(app, "app")
    state = json.loads(join_property("State", row))
    assert state.pop("pendingSwap") is None
    await table.update_entity({**row, **split_property("State", json.dumps(state))})
    try:
        assert_problem(await post_staging(http, app, new_hub_name(), run_headers(1)), 500, "InternalError")
    finally:
        # Other tests list all apps of this storage.
        await table.update_entity(row)
