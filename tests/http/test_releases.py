"""Apps and their slots over HTTP: the whole blue-green sequence and every way in which it is refused."""

from typing import Any

import httpx
import pytest

from tests.builders import event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap, swapped_out

pytestmark = pytest.mark.anyio


async def test_the_whole_sequence_of_three_versions(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    one, two, three = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one)
    await publish(http, event(one, "a"), event(one, "b"))
    await swapped_out(http, app, two)
    refused = problem(await stage(http, app, three), 409, "StagingNotReady")
    assert refused["reasons"][0]["code"] == "InstancesActive"
    assert (refused["activeCount"], refused["taskHub"]) == (2, one)
    await publish(http, event(one, "a", "Completed"), event(one, "b", "Terminated"))
    assert codes(await staging(http, app)) == ["Settling"]
    problem(await stage(http, app, three), 409, "StagingNotReady")
    clock.turn(31)
    assert (await staging(http, app))["ready"]
    staged = await stage(http, app, three, version="3.0.0")
    assert staged.json()["slots"]["staging"] == {
        "taskHub": three,
        "version": "3.0.0",
        "since": staged.json()["updatedAt"],
        "promoted": False,
        "beneath": [one],
    }
    assert [hub["taskHub"] for hub in staged.json()["retired"]] == [one]
    swapped = (await swap(http, app, three)).json()
    assert (swapped["slots"]["production"]["taskHub"], swapped["slots"]["staging"]["taskHub"]) == (three, two)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned["taskHubs"]] == [(one, "Removed")]
    assert cleaned["app"]["retired"] == []
    back = (await swap(http, app, two)).json()
    assert (back["slots"]["production"]["taskHub"], back["slots"]["staging"]["taskHub"]) == (two, three)


async def test_an_unknown_app_is_told_and_the_first_stage_makes_it(http: httpx.AsyncClient, app: str, hub: str) -> None:
    for path in ("", "/staging", "/history"):
        problem(await http.get(f"/api/apps/{app}{path}"), 404, "AppNotFound")
    problem(await swap(http, app, hub), 404, "AppNotFound")
    problem(await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}), 404, "AppNotFound")
    problem(await http.post(f"/api/apps/{app}/cleanup"), 404, "AppNotFound")
    assert (await stage(http, app, hub)).status_code == 200
    assert (await http.get(f"/api/apps/{app.upper()}")).json()["app"] == app


async def test_a_misspelt_slot_is_not_an_empty_one(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put(http, app)
    problem(await http.get(f"/api/apps/{app}/staging", params={"slot": "stagging"}), 404, "SlotNotFound")
    problem(await stage(http, app, hub, slot="stagging"), 404, "SlotNotFound")
    assert (await put(http, app, slots={"preview": None})).status_code == 200
    assert (await staging(http, app, slot="Preview"))["ready"]
    assert (await stage(http, app, hub, slot="preview")).json()["slots"]["preview"]["taskHub"] == hub


async def test_staging_the_same_hub_again_changes_nothing(http: httpx.AsyncClient, app: str, hub: str) -> None:
    first = await stage(http, app, hub, run(1))
    again = await stage(http, app, hub, run(1))
    assert (again.status_code, again.headers["etag"], again.json()) == (200, first.headers["etag"], first.json())
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert len(history) == 1


async def test_another_run_is_told_who_deploys(http: httpx.AsyncClient, app: str) -> None:
    first = await stage(http, app, hub := new_hub(), run(1))
    refused = problem(await stage(http, app, new_hub(), run(2)), 409, "DeploymentInProgress")
    assert refused["deployment"] == first.json()["deployment"]
    assert refused["deployment"] == {
        "taskHub": hub,
        "version": None,
        "slot": "staging",
        "startedAt": first.json()["updatedAt"],
        "by": "pipeline 1",
        "runUrl": "https://ci.example/runs/1",
    }
    problem(await stage(http, app, new_hub()), 409, "DeploymentInProgress")
    problem(await stage(http, app, hub, run(2)), 409, "DeploymentInProgress")


async def test_a_verdict_counts_the_open_deployment_of_another_run_but_not_as_running(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await stage(http, app, hub, run(1))
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], codes(verdict)) == (False, False, ["DeploymentInProgress"])
    own = await http.get(f"/api/apps/{app}/staging", headers=run(1))
    assert own.json()["ready"]


async def test_a_failed_pipeline_runs_again_under_a_new_hub_name(http: httpx.AsyncClient, app: str) -> None:
    await stage(http, app, first := new_hub(), run(1))
    answer = await stage(http, app, second := new_hub(), run(1))
    assert answer.json()["slots"]["staging"]["taskHub"] == second
    assert [hub["taskHub"] for hub in answer.json()["retired"]] == [first]
    assert answer.json()["deployment"]["taskHub"] == second


async def test_the_new_name_is_refused_while_the_first_hub_runs_something(http: httpx.AsyncClient, app: str) -> None:
    await stage(http, app, first := new_hub(), run(1))
    await publish(http, event(first))
    problem(await stage(http, app, new_hub(), run(1)), 409, "StagingNotReady")


async def test_an_abandoned_deployment_lets_others_in_and_its_hub_must_drain(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await stage(http, app, first := new_hub(), run(1))
    await publish(http, event(first))
    foreign = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run(2))
    assert problem(foreign, 409, "SwapMismatch")["deployment"]["by"] == "pipeline 1"
    abandoned = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run(1))
    assert (abandoned.status_code, abandoned.json()["deployment"]) == (200, None)
    assert abandoned.json()["slots"]["staging"]["taskHub"] == first
    again = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run(1))
    assert (again.status_code, again.headers["etag"]) == (200, abandoned.headers["etag"])
    problem(await stage(http, app, new_hub(), run(2)), 409, "StagingNotReady")
    await publish(http, event(first, status="Completed"))
    clock.turn(31)
    assert (await stage(http, app, new_hub(), run(2))).status_code == 200


async def test_a_dead_run_is_taken_over_with_a_reason_on_record(http: httpx.AsyncClient, app: str) -> None:
    await stage(http, app, new_hub(), run(1))
    problem(await stage(http, app, new_hub(), run(2), takeOver=True), 400, "InvalidRequest")
    taken = await stage(http, app, second := new_hub(), run(2), takeOver=True, reason="agent of run 1 died")
    assert taken.json()["deployment"]["taskHub"] == second
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (newest["by"], newest["reason"]) == ("pipeline 2", "agent of run 1 died")
    assert newest["details"]["takenOverFrom"]["by"] == "pipeline 1"


async def test_an_open_deployment_ends_with_the_timeout_of_the_policy(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await put(http, app, policy={"deploymentTimeoutMinutes": 5})
    await stage(http, app, new_hub(), run(1))
    clock.turn(290)
    problem(await stage(http, app, new_hub(), run(2)), 409, "DeploymentInProgress")
    clock.turn(11)
    assert (await http.get(f"/api/apps/{app}")).json()["deployment"] is None
    assert (await stage(http, app, new_hub(), run(2))).status_code == 200


async def test_force_stages_over_running_work_with_a_reason_on_record(http: httpx.AsyncClient, app: str) -> None:
    one, two, three = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one)
    await publish(http, event(one))
    await swapped_out(http, app, two)
    problem(await stage(http, app, three, force=True), 400, "InvalidRequest")
    problem(await stage(http, app, three, force=True, reason="  "), 400, "InvalidRequest")
    assert (await stage(http, app, three, force=True, reason="orders are test data")).status_code == 200
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["reason"] == "orders are test data"
    assert "1 orchestration instance is active" in newest["details"]["forcedOver"][0]
    kept = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in kept] == [(one, "InUse")]
    await swap(http, app, three)
    kept = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"], codes(hub)) for hub in kept] == [(one, "NotDrained", ["InstancesActive"])]


async def test_a_hub_is_used_once_and_by_one_app(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub(), new_hub()
    await swapped_out(http, app, one, two)
    other = f"{app}-other"
    assert problem(await stage(http, app, one.upper()), 409, "TaskHubInUse")["slot"] == "staging"
    assert problem(await stage(http, other, two), 409, "TaskHubInUse")["app"] == app
    await swapped_out(http, app, three := new_hub())
    problem(await stage(http, app, one), 409, "TaskHubAlreadyUsed")
    problem(await stage(http, other, one), 409, "TaskHubAlreadyUsed")
    await http.post(f"/api/apps/{app}/cleanup")
    problem(await stage(http, app, one), 409, "TaskHubAlreadyUsed")
    problem(await put(http, other, slots={"production": {"taskHub": one}}), 409, "TaskHubAlreadyUsed")
    problem(await put(http, other, slots={"production": {"taskHub": three}}), 409, "TaskHubInUse")
    problem(await http.get(f"/api/apps/{other}"), 404, "AppNotFound")


async def test_a_hub_that_events_were_seen_of_is_not_new(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await publish(http, event(hub))
    problem(await stage(http, app, hub), 409, "TaskHubAlreadyUsed")
    # But it may be the production that existed before the server did.
    assert (await put(http, app, slots={"production": {"taskHub": hub, "version": "1"}})).status_code == 200


async def test_a_swap_promotes_only_what_the_caller_believes(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub(), new_hub()
    await stage(http, app, one)
    mismatch = problem(await swap(http, app, two), 409, "SwapMismatch")
    assert mismatch["slots"] == {"production": None, "staging": one}
    first = await swap(http, app, one)
    again = await swap(http, app, one)
    assert (again.status_code, again.headers["etag"]) == (200, first.headers["etag"])
    problem(
        await http.post(f"/api/apps/{app}/swap", json={"taskHub": one, "slot": "production"}), 400, "InvalidRequest"
    )
    problem(await stage(http, app, two, slot="production"), 400, "InvalidRequest")


async def test_a_swap_closes_the_deployment(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await stage(http, app, hub, run(1))
    assert (await swap(http, app, hub, run(1))).json()["deployment"] is None
    assert (await stage(http, app, new_hub(), run(2))).status_code == 200


async def test_if_match_guards_every_change(http: httpx.AsyncClient, app: str) -> None:
    hub = new_hub()
    stale = {"If-Match": '"99"'}
    problem(await stage(http, app, hub, stale), 412, "PreconditionFailed")
    first = await stage(http, app, hub)
    etag = first.headers["etag"]
    assert (await http.get(f"/api/apps/{app}")).headers["etag"] == etag
    problem(await swap(http, app, hub, stale), 412, "PreconditionFailed")
    problem(await http.put(f"/api/apps/{app}", json={}, headers=stale), 412, "PreconditionFailed")
    problem(await http.post(f"/api/apps/{app}/cleanup", headers=stale), 412, "PreconditionFailed")
    deleted = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}, headers=stale)
    problem(deleted, 412, "PreconditionFailed")
    problem(await swap(http, app, hub, {"If-Match": "7"}), 400, "InvalidRequest")
    assert (await swap(http, app, hub, {"If-Match": f'"98", {etag}'})).status_code == 200
    assert (await http.post(f"/api/apps/{app}/cleanup", headers={"If-Match": "*"})).status_code == 200


async def test_history_is_complete_and_newest_first_page_by_page(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub() for _ in range(4)]
    for number, hub in enumerate(hubs):
        await stage(http, app, hub, run(number))
        await swap(http, app, hub, run(number))
    seen: list[Any] = []
    token = None
    while True:
        parameters: dict[str, Any] = {"top": 3} | ({"continuationToken": token} if token else {})
        page = (await http.get(f"/api/apps/{app}/history", params=parameters)).json()
        seen += page["history"]
        token = page["continuationToken"]
        if token is None:
            break
    assert [one["revision"] for one in seen] == list(range(8, 0, -1))
    assert [one["operation"] for one in reversed(seen)] == ["PostStaging", "PostSwap"] * 4
    assert seen[0]["runUrl"] == "https://ci.example/runs/3"


async def test_a_swap_of_one_slot_leaves_a_deployment_into_another_open(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub(), new_hub()
    await put(http, app, slots={"canary": None, "staging": {"taskHub": one}})
    assert (await stage(http, app, two, run(2), slot="canary")).status_code == 200
    assert (await swap(http, app, one, run(1))).json()["deployment"]["taskHub"] == two


async def test_a_refusal_says_when_to_come_back(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub(), new_hub()
    await put(http, app, slots={"staging": {"taskHub": one}})
    await publish(http, event(one, status="Completed"))
    refused = await stage(http, app, two)
    told = problem(refused, 409, "StagingNotReady")
    assert refused.headers["retry-after"] == str(told["retryAfterSeconds"])
    assert 1 <= told["retryAfterSeconds"] <= 30
    assert "must not be overwritten: the last event of task hub" in told["detail"]


async def test_every_answer_that_holds_an_app_carries_its_etag(http: httpx.AsyncClient, app: str, hub: str) -> None:
    answers = [
        await put(http, app),
        await stage(http, app, hub),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}),
        await swap(http, app, hub),
        await http.get(f"/api/apps/{app}"),
        await http.post(f"/api/apps/{app}/cleanup"),
    ]
    assert [answer.headers["etag"] for answer in answers] == ['"1"', '"2"', '"3"', '"4"', '"4"', '"4"']


async def test_all_apps_are_listed_once_page_by_page(http: httpx.AsyncClient, app: str) -> None:
    names = [f"{app}-{number}" for number in range(5)]
    for name in names:
        await put(http, name)
    seen: list[str] = []
    token = None
    while True:
        parameters: dict[str, Any] = {"top": 2} | ({"continuationToken": token} if token else {})
        page = (await http.get("/api/apps", params=parameters)).json()
        seen += [one["app"] for one in page["apps"] if one["app"].startswith(app)]
        token = page["continuationToken"]
        if token is None:
            break
    assert seen == names
