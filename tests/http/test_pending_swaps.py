"""Swaps in two steps over HTTP: what everybody is told in between, who can end them, and what is on record."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import StorageSettings
from state_api.storage.tables import APPS, chunked, unchunked
from tests.builders import event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap, swapped_out
from tests.http.test_races import another
from tests.proxy import storage_proxy

pytestmark = pytest.mark.anyio


async def post_swap(
    http: httpx.AsyncClient, app: str, hub: str, outcome: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    sent = {"taskHub": hub, "outcome": outcome, **body}
    return await http.post(f"/api/apps/{app}/swap", json=sent, headers=headers)


async def begun(http: httpx.AsyncClient, app: str) -> tuple[str, str]:
    """The hub in production and the new one, after run 1 has staged the new one and begun to swap it."""
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    assert (await stage(http, app, new, run(1), version="2.0.0")).status_code == 200
    assert (await post_swap(http, app, new, "Pending", run(1))).status_code == 200
    return old, new


async def shown(http: httpx.AsyncClient, app: str) -> Any:
    answer = await http.get(f"/api/apps/{app}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def held(app: Any) -> tuple[str | None, str | None]:
    """The hubs in production and staging."""
    production, slot = app["slots"]["production"], app["slots"]["staging"]
    return production and production["taskHub"], slot and slot["taskHub"]


async def details(http: httpx.AsyncClient, app: str) -> list[Any]:
    """What is on record of PostSwap, newest first."""
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    return [one["details"] for one in history if one["operation"] == "PostSwap"]


async def test_a_swap_in_two_steps_is_pending_until_it_is_confirmed(http: httpx.AsyncClient, app: str) -> None:
    old, new, third = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, old)
    await stage(http, app, new, run(1), version="2.0.0")
    assert (await shown(http, app))["pendingSwap"] is None
    answer = await post_swap(http, app, new, "Pending", run(1))
    begun = answer.json()
    assert held(begun) == (new, old)
    assert begun["deployment"] is None
    assert begun["pendingSwap"] == {
        "taskHub": new,
        "swappedOut": old,
        "slot": "staging",
        "startedAt": begun["updatedAt"],
        "by": "pipeline 1",
        "runUrl": "https://ci.example/runs/1",
        "rollback": False,
    }
    assert await shown(http, app) == begun
    again = await post_swap(http, app, new.upper(), "Pending", run(1))
    assert (again.status_code, again.headers["etag"], again.json()) == (200, answer.headers["etag"], begun)
    done = (await post_swap(http, app, new, "Done", run(1))).json()
    assert (done["slots"], done["pendingSwap"], done["deployment"]) == (begun["slots"], None, None)
    assert (await staging(http, app))["ready"]
    assert (await stage(http, app, third, run(2))).status_code == 200


async def test_a_swap_that_failed_is_taken_back_and_the_same_run_goes_on(http: httpx.AsyncClient, app: str) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    before = (await stage(http, app, new, run(1), version="2.0.0")).json()
    await post_swap(http, app, new, "Pending", run(1))
    back = await post_swap(http, app, new, "Failed", run(1))
    assert {**back.json(), "updatedAt": None, "updatedBy": None} == {**before, "updatedAt": None, "updatedBy": None}
    again = await post_swap(http, app, new, "Failed", run(1))
    assert (again.status_code, again.headers["etag"]) == (200, back.headers["etag"])
    problem(await stage(http, app, new_hub(), run(2)), 409, "DeploymentInProgress")
    assert (await stage(http, app, new, run(1))).headers["etag"] == back.headers["etag"]
    third = new_hub()
    assert (await stage(http, app, third, run(1))).status_code == 200
    assert (await post_swap(http, app, third, "Pending", run(1))).status_code == 200
    assert held((await post_swap(http, app, third, "Done", run(1))).json()) == (third, old)
    problem(await post_swap(http, app, third, "Failed", run(1)), 409, "SwapMismatch")


async def test_everybody_is_told_that_a_swap_is_pending_its_own_run_too(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await begun(http, app)
    clock.turn(30 * 86_400)
    for headers in (run(1), run(2), {}):
        verdict = (await http.get(f"/api/apps/{app}/staging", headers=headers)).json()
        assert (verdict["ready"], verdict["hasRunning"], codes(verdict)) == (False, False, ["SwapPending"])
        assert verdict["retryAfterSeconds"] == 10
        assert "pipeline 1, run https://ci.example/runs/1, began to swap" in verdict["reasons"][0]["message"]


async def test_a_slot_that_is_empty_on_record_is_not_ready_either(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await stage(http, app, hub, run(1))
    first = await post_swap(http, app, hub, "Pending", run(1))
    assert (held(first.json()), first.json()["pendingSwap"]["swappedOut"]) == ((hub, None), None)
    assert codes(await staging(http, app)) == ["SwapPending"]
    assert held((await post_swap(http, app, hub, "Failed", run(1))).json()) == (None, hub)


async def test_who_waits_for_ready_is_answered_when_the_swap_is_confirmed(http: httpx.AsyncClient, app: str) -> None:
    _, new = await begun(http, app)
    waiting = asyncio.create_task(staging(http, app, wait=60))
    assert codes(await staging(http, app)) == ["SwapPending"]
    await post_swap(http, app, new, "Done", run(2))
    assert (await asyncio.wait_for(waiting, 30))["ready"]


async def test_nothing_that_depends_on_the_slots_is_done_while_a_swap_is_pending(
    http: httpx.AsyncClient, app: str
) -> None:
    old, new = await begun(http, app)
    before = await shown(http, app)
    forced = {"force": True, "takeOver": True, "reason": "hotfix"}
    refused = [
        await stage(http, app, new_hub(), run(1)),
        await stage(http, app, new, run(1)),
        await stage(http, app, new_hub(), run(2), **forced),
        await stage(http, app, new_hub()),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": new}, headers=run(1)),
        await put(http, app, slots={"staging": None}),
        await put(http, app, slots={"production": {"taskHub": new_hub()}}),
        await post_swap(http, app, new, "Pending", run(2)),
        await post_swap(http, app, old, "Pending", run(1)),
        await post_swap(http, app, new_hub(), "Done", run(1)),
        await post_swap(http, app, old, "Failed", run(1)),
        # A late repetition of how an earlier swap went must not end this one.
        await post_swap(http, app, old, "Done", run(1)),
    ]
    for answer in refused:
        told = problem(answer, 409, "SwapPending")
        assert told["pendingSwap"] == before["pendingSwap"]
        assert f"if it is {new}, send PostSwap for it with the outcome Done" in told["detail"]
    assert await shown(http, app) == before


@pytest.mark.parametrize(("production_has", "outcome"), [("new", "Done"), ("old", "Failed")])
async def test_whoever_looked_at_the_platform_ends_the_swap_of_a_dead_run(
    http: httpx.AsyncClient, app: str, production_has: str, outcome: str
) -> None:
    old, new = await begun(http, app)
    ended = await post_swap(http, app, new, outcome, {"X-Actor": "ops"})
    assert (ended.status_code, ended.json()["pendingSwap"]) == (200, None)
    assert held(ended.json()) == ((new, old) if production_has == "new" else (old, new))
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (newest["operation"], newest["by"], newest["runUrl"]) == ("PostSwap", "ops", None)
    assert newest["details"] == {
        "outcome": "Done" if production_has == "new" else "Failed",
        "slot": "staging",
        "production": new,
        "swappedOut": old,
    }


async def test_every_step_is_on_record(http: httpx.AsyncClient, app: str) -> None:
    old, new = await begun(http, app)
    await post_swap(http, app, new, "Failed", run(1))
    await post_swap(http, app, new, "Failed", run(1))
    await post_swap(http, app, new, "Pending", run(1))
    await post_swap(http, app, new, "Pending", run(1))
    await post_swap(http, app, new, "Done", run(1))
    await post_swap(http, app, old, "Pending", run(2), rollback=True)
    await post_swap(http, app, old, "Done", run(2), rollback=True)
    forward = {"slot": "staging", "production": new, "swappedOut": old}
    back = {"slot": "staging", "production": old, "swappedOut": new, "rollback": True}
    assert await details(http, app) == [
        {"outcome": "Done", **back},
        {"outcome": "Pending", **back},
        {"outcome": "Done", **forward},
        {"outcome": "Pending", **forward},
        {"outcome": "Failed", **forward},
        {"outcome": "Pending", **forward},
        {"slot": "staging", "production": old, "swappedOut": None},
    ]


async def test_a_rollback_is_to_a_hub_that_was_in_production_and_goes_back_once(
    http: httpx.AsyncClient, app: str
) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    await stage(http, app, new, run(1))
    for outcome in ("Pending", "Done"):
        told = problem(await post_swap(http, app, new, outcome, run(1), rollback=True), 409, "SwapMismatch")
        assert told["slots"] == {"production": old, "staging": new}
    await post_swap(http, app, new, "Done", run(1))
    begun = (await post_swap(http, app, old, "Pending", run(2), rollback=True)).json()
    assert begun["pendingSwap"]["rollback"] is True
    assert held((await post_swap(http, app, old, "Done", run(2), rollback=True)).json()) == (old, new)
    for outcome in ("Pending", "Done"):
        again = (await post_swap(http, app, old, outcome, run(2), rollback=True)).json()
        assert (held(again), again["pendingSwap"]) == ((old, new), None)


async def test_of_many_runs_that_begin_the_same_swap_exactly_one_does(http: httpx.AsyncClient, app: str) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old, new)
    answers = await asyncio.gather(*(post_swap(http, app, old, "Pending", run(n)) for n in range(8)))
    (winner,) = [answer.json()["pendingSwap"] for answer in answers if answer.status_code == 200]
    for answer in answers:
        if answer.status_code != 200:
            assert problem(answer, 409, "SwapPending")["pendingSwap"] == winner
    assert len(await details(http, app)) == 3


@pytest.mark.parametrize("late_one", ["begins", "stages"])
async def test_who_decided_before_a_swap_was_begun_is_refused_after_it(
    storage: StorageSettings, http: httpx.AsyncClient, app: str, late_one: str
) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old, new)
    async with storage_proxy(storage) as proxy, another(proxy.settings) as late:
        raced = False

        async def overtake(method: str, path: str) -> None:
            nonlocal raced
            if path.endswith("$batch") and not raced:
                raced = True
                assert (await post_swap(http, app, old, "Pending", run(1))).status_code == 200

        proxy.before = overtake
        if late_one == "begins":
            answer = await post_swap(late, app, old, "Pending", run(2))
        else:
            answer = await stage(late, app, new_hub(), run(2))
    assert raced
    assert problem(answer, 409, "SwapPending")["pendingSwap"]["by"] == "pipeline 1"


async def test_if_match_guards_every_step(http: httpx.AsyncClient, app: str) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    etag = (await stage(http, app, new, run(1))).headers["etag"]
    stale = {**run(1), "If-Match": '"1"'}
    for outcome in ("Pending", "Done", "Failed"):
        problem(await post_swap(http, app, new, outcome, stale), 412, "PreconditionFailed")
    begun = await post_swap(http, app, new, "Pending", {**run(1), "If-Match": etag})
    assert begun.status_code == 200
    for outcome in ("Done", "Failed"):
        problem(await post_swap(http, app, new, outcome, {**run(1), "If-Match": etag}), 412, "PreconditionFailed")
    done = await post_swap(http, app, new, "Done", {**run(1), "If-Match": begun.headers["etag"]})
    assert done.status_code == 200


async def test_that_a_swap_is_done_is_refused_once_it_was_swapped_back_and_changes_nothing(
    http: httpx.AsyncClient, app: str
) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    await stage(http, app, new, run(1))
    for outcome in ("Pending", "Done"):
        assert (await post_swap(http, app, new, outcome, run(1))).status_code == 200
    assert (await http.post(f"/api/apps/{app}/swap", json={"taskHub": old, "rollback": True})).status_code == 200
    before = (await http.get(f"/api/apps/{app}")).json()
    told = problem(await post_swap(http, app, new, "Done", run(1)), 409, "SwapMismatch")
    assert "without an outcome" in told["detail"]
    assert told["slots"] == {"production": old, "staging": new}
    assert (await http.get(f"/api/apps/{app}")).json() == before
    # Left out, it is a swap like any other.
    assert (await swap(http, app, new)).json()["slots"]["production"]["taskHub"] == new


@pytest.mark.parametrize("body", [{"outcome": "done"}, {"outcome": None}, {"outcome": "Began"}, {"rollback": "yes"}])
async def test_an_outcome_that_is_none_is_refused(
    http: httpx.AsyncClient, app: str, hub: str, body: dict[str, Any]
) -> None:
    await stage(http, app, hub)
    sent = {"taskHub": hub, **body}
    told = problem(await http.post(f"/api/apps/{app}/swap", json=sent), 400, "InvalidRequest")
    assert [one["at"] for one in told["errors"]] == [f"body.{name}" for name in body]


async def test_a_step_of_an_app_or_a_slot_that_nobody_knows_is_told(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    for outcome in ("Pending", "Done", "Failed"):
        problem(await post_swap(http, app, hub, outcome), 404, "AppNotFound")
    await put(http, app)
    for outcome in ("Pending", "Done", "Failed"):
        problem(await post_swap(http, app, hub, outcome, slot="canary"), 404, "SlotNotFound")
        problem(await post_swap(http, app, hub, outcome, slot="production"), 400, "InvalidRequest")
        problem(await post_swap(http, app, hub, outcome), 409, "SwapMismatch")


async def test_an_answer_is_sent_back_while_a_swap_is_pending_and_it_stays_so(
    http: httpx.AsyncClient, app: str
) -> None:
    await begun(http, app)
    body = await shown(http, app)
    unchanged = await http.put(f"/api/apps/{app}", json=body)
    assert (unchanged.status_code, unchanged.json()) == (200, body)
    body["policy"]["settleSeconds"] = 5
    changed = (await http.put(f"/api/apps/{app}", json={**body, "pendingSwap": None})).json()
    assert changed["policy"]["settleSeconds"] == 5
    assert (changed["slots"], changed["pendingSwap"]) == (body["slots"], body["pendingSwap"])
    assert changed["pendingSwap"] is not None


async def test_retired_hubs_are_cleaned_up_while_a_swap_is_pending_and_those_in_doubt_stay(
    http: httpx.AsyncClient, app: str
) -> None:
    oldest = new_hub()
    await swapped_out(http, app, oldest, new_hub())
    await publish(http, event(oldest, status="Completed"))
    await put(http, app, policy={"settleSeconds": 0})
    old, new = await begun(http, app)
    answer = (await http.post(f"/api/apps/{app}/cleanup")).json()
    outcomes = {one["taskHub"]: one["outcome"] for one in answer["taskHubs"]}
    assert outcomes.pop(oldest) == "Removed"
    assert not outcomes.keys() & {old, new}
    assert held(answer["app"]) == (new, old)
    assert answer["app"]["pendingSwap"]["taskHub"] == new
    assert held((await post_swap(http, app, new, "Failed", run(1))).json()) == (old, new)


async def test_an_app_that_was_written_before_there_were_pending_swaps_is_read_and_swapped(
    server: StateServer, http: httpx.AsyncClient, app: str
) -> None:
    old, new = new_hub(), new_hub()
    await swapped_out(http, app, old)
    await stage(http, app, new, run(1))
    before = await shown(http, app)
    table = server.tables.client(APPS)
    row = await table.get_entity(app, "app")
    state = json.loads(unchunked("State", row))
    assert state.pop("pending_swap") is None
    row.update(chunked("State", json.dumps(state)))
    await table.update_entity(row)
    assert await shown(http, app) == before
    assert (await post_swap(http, app, new, "Pending", run(1))).json()["pendingSwap"]["taskHub"] == new
    assert held((await post_swap(http, app, new, "Failed", run(1))).json()) == (old, new)
