"""Apps and their slots over HTTP: the whole blue-green sequence and every way in which it is refused."""

from typing import Any

import httpx
import pytest

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

pytestmark = pytest.mark.anyio


async def test_the_whole_sequence_of_three_versions(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    one, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, one)
    await post_events(http, event(one, "a"), event(one, "b"))
    await stage_and_swap(http, app, two)
    refused = assert_problem(await post_staging(http, app, three), 409, "StagingNotReady")
    assert refused["reasons"][0]["code"] == "InstancesActive"
    assert (refused["activeCount"], refused["taskHub"]) == (2, one)
    await post_events(http, event(one, "a", "Completed"), event(one, "b", "Terminated"))
    assert reason_codes(await get_staging(http, app)) == ["Settling"]
    assert_problem(await post_staging(http, app, three), 409, "StagingNotReady")
    clock.advance(31)
    assert (await get_staging(http, app))["ready"]
    staged = await post_staging(http, app, three, version="3.0.0")
    assert staged.json()["slots"]["staging"] == {
        "taskHub": three,
        "version": "3.0.0",
        "since": staged.json()["updatedAt"],
        "promoted": False,
        "priorTaskHubs": [one],
    }
    assert [hub["taskHub"] for hub in staged.json()["retired"]] == [one]
    swapped = (await post_swap(http, app, three)).json()
    assert (swapped["slots"]["production"]["taskHub"], swapped["slots"]["staging"]["taskHub"]) == (three, two)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned["taskHubs"]] == [(one, "Removed")]
    assert cleaned["app"]["retired"] == []
    back = (await post_swap(http, app, two)).json()
    assert (back["slots"]["production"]["taskHub"], back["slots"]["staging"]["taskHub"]) == (two, three)


async def test_an_unknown_app_is_told_and_the_first_stage_makes_it(http: httpx.AsyncClient, app: str, hub: str) -> None:
    for path in ("", "/staging", "/history"):
        assert_problem(await http.get(f"/api/apps/{app}{path}"), 404, "AppNotFound")
    assert_problem(await post_swap(http, app, hub), 404, "AppNotFound")
    assert_problem(await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}), 404, "AppNotFound")
    assert_problem(await http.post(f"/api/apps/{app}/cleanup"), 404, "AppNotFound")
    assert (await post_staging(http, app, hub)).status_code == 200
    assert (await http.get(f"/api/apps/{app.upper()}")).json()["app"] == app


async def test_a_misspelt_slot_is_not_an_empty_one(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put_app(http, app)
    assert_problem(await http.get(f"/api/apps/{app}/staging", params={"slot": "stagging"}), 404, "SlotNotFound")
    assert_problem(await post_staging(http, app, hub, slot="stagging"), 404, "SlotNotFound")
    assert (await put_app(http, app, slots={"preview": None})).status_code == 200
    assert (await get_staging(http, app, slot="Preview"))["ready"]
    assert (await post_staging(http, app, hub, slot="preview")).json()["slots"]["preview"]["taskHub"] == hub


async def test_staging_the_same_hub_again_changes_nothing(http: httpx.AsyncClient, app: str, hub: str) -> None:
    first = await post_staging(http, app, hub, run_headers(1))
    again = await post_staging(http, app, hub, run_headers(1))
    assert (again.status_code, again.headers["etag"], again.json()) == (200, first.headers["etag"], first.json())
    history = (await http.get(f"/api/apps/{app}/history")).json()["history"]
    assert len(history) == 1


async def test_another_run_is_told_who_deploys(http: httpx.AsyncClient, app: str) -> None:
    first = await post_staging(http, app, hub := new_hub_name(), run_headers(1))
    refused = assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress")
    assert refused["deployment"] == first.json()["deployment"]
    assert refused["deployment"] == {
        "taskHub": hub,
        "version": None,
        "slot": "staging",
        "startedAt": first.json()["updatedAt"],
        "by": "pipeline 1",
        "runUrl": "https://ci.example/runs/1",
    }
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "DeploymentInProgress")
    assert_problem(await post_staging(http, app, hub, run_headers(2)), 409, "DeploymentInProgress")


async def test_a_verdict_counts_the_open_deployment_of_another_run_but_not_as_running(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await post_staging(http, app, hub, run_headers(1))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], reason_codes(verdict)) == (False, False, ["DeploymentInProgress"])
    own = await http.get(f"/api/apps/{app}/staging", headers=run_headers(1))
    assert own.json()["ready"]


async def test_a_failed_pipeline_runs_again_under_a_new_hub_name(http: httpx.AsyncClient, app: str) -> None:
    await post_staging(http, app, first := new_hub_name(), run_headers(1))
    answer = await post_staging(http, app, second := new_hub_name(), run_headers(1))
    assert answer.json()["slots"]["staging"]["taskHub"] == second
    assert [hub["taskHub"] for hub in answer.json()["retired"]] == [first]
    assert answer.json()["deployment"]["taskHub"] == second


async def test_the_new_name_is_refused_while_the_first_hub_runs_something(http: httpx.AsyncClient, app: str) -> None:
    await post_staging(http, app, first := new_hub_name(), run_headers(1))
    await post_events(http, event(first))
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(1)), 409, "StagingNotReady")


async def test_an_abandoned_deployment_lets_others_in_and_its_hub_must_drain(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await post_staging(http, app, first := new_hub_name(), run_headers(1))
    await post_events(http, event(first))
    foreign = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run_headers(2))
    assert assert_problem(foreign, 409, "SwapMismatch")["deployment"]["by"] == "pipeline 1"
    abandoned = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run_headers(1))
    assert (abandoned.status_code, abandoned.json()["deployment"]) == (200, None)
    assert abandoned.json()["slots"]["staging"]["taskHub"] == first
    again = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": first}, headers=run_headers(1))
    assert (again.status_code, again.headers["etag"]) == (200, abandoned.headers["etag"])
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2)), 409, "StagingNotReady")
    await post_events(http, event(first, status="Completed"))
    clock.advance(31)
    assert (await post_staging(http, app, new_hub_name(), run_headers(2))).status_code == 200


async def test_a_dead_run_is_taken_over_with_a_reason_on_record(http: httpx.AsyncClient, app: str) -> None:
    await post_staging(http, app, new_hub_name(), run_headers(1))
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2), takeOver=True), 400, "InvalidRequest")
    taken = await post_staging(
        http, app, second := new_hub_name(), run_headers(2), takeOver=True, reason="agent of run 1 died"
    )
    assert taken.json()["deployment"]["taskHub"] == second
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (newest["by"], newest["reason"]) == ("pipeline 2", "agent of run 1 died")
    assert newest["details"]["takenOverFrom"]["by"] == "pipeline 1"


async def test_an_open_deployment_ends_with_the_timeout_of_the_policy(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await put_app(http, app, policy={"deploymentTimeoutMinutes": 5})
    await post_staging(http, app, new_hub_name(), run_headers(1))
    clock.advance(290)
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress")
    clock.advance(11)
    assert (await http.get(f"/api/apps/{app}")).json()["deployment"] is None
    assert (await post_staging(http, app, new_hub_name(), run_headers(2))).status_code == 200


async def test_force_stages_over_running_work_with_a_reason_on_record(http: httpx.AsyncClient, app: str) -> None:
    one, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, one)
    await post_events(http, event(one))
    await stage_and_swap(http, app, two)
    assert_problem(await post_staging(http, app, three, force=True), 400, "InvalidRequest")
    assert_problem(await post_staging(http, app, three, force=True, reason="  "), 400, "InvalidRequest")
    assert (await post_staging(http, app, three, force=True, reason="orders are test data")).status_code == 200
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["reason"] == "orders are test data"
    assert "1 orchestration instance is active" in newest["details"]["forcedOver"][0]
    kept = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in kept] == [(one, "InUse")]
    await post_swap(http, app, three)
    kept = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"], reason_codes(hub)) for hub in kept] == [
        (one, "NotDrained", ["InstancesActive"])
    ]


async def test_a_hub_is_used_once_and_by_one_app(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, one, two)
    other = f"{app}-other"
    assert assert_problem(await post_staging(http, app, one.upper()), 409, "TaskHubInUse")["slot"] == "staging"
    assert assert_problem(await post_staging(http, other, two), 409, "TaskHubInUse")["app"] == app
    await stage_and_swap(http, app, three := new_hub_name())
    assert_problem(await post_staging(http, app, one), 409, "TaskHubAlreadyUsed")
    assert_problem(await post_staging(http, other, one), 409, "TaskHubAlreadyUsed")
    await http.post(f"/api/apps/{app}/cleanup")
    assert_problem(await post_staging(http, app, one), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, other, slots={"production": {"taskHub": one}}), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, other, slots={"production": {"taskHub": three}}), 409, "TaskHubInUse")
    assert_problem(await http.get(f"/api/apps/{other}"), 404, "AppNotFound")


async def test_a_hub_that_events_were_seen_of_is_not_new(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_events(http, event(hub))
    assert_problem(await post_staging(http, app, hub), 409, "TaskHubAlreadyUsed")
    # But it may be the production that existed before the server did.
    assert (await put_app(http, app, slots={"production": {"taskHub": hub, "version": "1"}})).status_code == 200


async def test_a_swap_promotes_only_what_the_caller_believes(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub_name(), new_hub_name()
    await post_staging(http, app, one)
    mismatch = assert_problem(await post_swap(http, app, two), 409, "SwapMismatch")
    assert mismatch["slots"] == {"production": None, "staging": one}
    first = await post_swap(http, app, one)
    again = await post_swap(http, app, one)
    assert (again.status_code, again.headers["etag"]) == (200, first.headers["etag"])
    assert_problem(
        await http.post(f"/api/apps/{app}/swap", json={"taskHub": one, "slot": "production"}), 400, "InvalidRequest"
    )
    assert_problem(await post_staging(http, app, two, slot="production"), 400, "InvalidRequest")


async def test_a_swap_closes_the_deployment(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_staging(http, app, hub, run_headers(1))
    assert (await post_swap(http, app, hub, run_headers(1))).json()["deployment"] is None
    assert (await post_staging(http, app, new_hub_name(), run_headers(2))).status_code == 200


async def test_if_match_guards_every_change(http: httpx.AsyncClient, app: str) -> None:
    hub = new_hub_name()
    stale = {"If-Match": '"99"'}
    assert_problem(await post_staging(http, app, hub, stale), 412, "PreconditionFailed")
    first = await post_staging(http, app, hub)
    etag = first.headers["etag"]
    assert (await http.get(f"/api/apps/{app}")).headers["etag"] == etag
    assert_problem(await post_swap(http, app, hub, stale), 412, "PreconditionFailed")
    assert_problem(await http.put(f"/api/apps/{app}", json={}, headers=stale), 412, "PreconditionFailed")
    assert_problem(await http.post(f"/api/apps/{app}/cleanup", headers=stale), 412, "PreconditionFailed")
    deleted = await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}, headers=stale)
    assert_problem(deleted, 412, "PreconditionFailed")
    assert_problem(await post_swap(http, app, hub, {"If-Match": "7"}), 400, "InvalidRequest")
    assert (await post_swap(http, app, hub, {"If-Match": f'"98", {etag}'})).status_code == 200
    assert (await http.post(f"/api/apps/{app}/cleanup", headers={"If-Match": "*"})).status_code == 200


async def test_history_is_complete_and_newest_first_page_by_page(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub_name() for _ in range(4)]
    for number, hub in enumerate(hubs):
        await post_staging(http, app, hub, run_headers(number))
        await post_swap(http, app, hub, run_headers(number))
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
    one, two = new_hub_name(), new_hub_name()
    await put_app(http, app, slots={"canary": None, "staging": {"taskHub": one}})
    assert (await post_staging(http, app, two, run_headers(2), slot="canary")).status_code == 200
    assert (await post_swap(http, app, one, run_headers(1))).json()["deployment"]["taskHub"] == two


async def test_a_refusal_says_when_to_come_back(http: httpx.AsyncClient, app: str) -> None:
    one, two = new_hub_name(), new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": one}})
    await post_events(http, event(one, status="Completed"))
    refused = await post_staging(http, app, two)
    told = assert_problem(refused, 409, "StagingNotReady")
    assert refused.headers["retry-after"] == str(told["retryAfterSeconds"])
    assert 1 <= told["retryAfterSeconds"] <= 30
    assert "must not be overwritten: the last event of task hub" in told["detail"]


async def test_every_answer_that_holds_an_app_carries_its_etag(http: httpx.AsyncClient, app: str, hub: str) -> None:
    answers = [
        await put_app(http, app),
        await post_staging(http, app, hub),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}),
        await post_swap(http, app, hub),
        await http.get(f"/api/apps/{app}"),
        await http.post(f"/api/apps/{app}/cleanup"),
    ]
    assert [answer.headers["etag"] for answer in answers] == ['"1"', '"2"', '"3"', '"4"', '"4"', '"4"']


async def test_all_apps_are_listed_once_page_by_page(http: httpx.AsyncClient, app: str) -> None:
    names = [f"{app}-{number}" for number in range(5)]
    for name in names:
        await put_app(http, name)
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
