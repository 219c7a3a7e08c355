"""Stage and swap over HTTP: the complete blue-green sequence and its refusals."""

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
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub)
    await post_events(http, event(first_hub, "a"), event(first_hub, "b"))
    await stage_and_swap(http, app, second_hub)
    refused = assert_problem(await post_staging(http, app, third_hub), 409, "StagingNotReady")
    assert refused["reasons"][0]["code"] == "InstancesActive"
    assert (refused["activeCount"], refused["taskHub"]) == (2, first_hub)
    await post_events(http, event(first_hub, "a", "Completed"), event(first_hub, "b", "Terminated"))
    assert reason_codes(await get_staging(http, app)) == ["Settling"]
    assert_problem(await post_staging(http, app, third_hub), 409, "StagingNotReady")
    clock.advance(31)
    assert (await get_staging(http, app))["ready"]
    staged = await post_staging(http, app, third_hub, version="3.0.0")
    assert staged.json()["slots"]["staging"] == {
        "taskHub": third_hub,
        "version": "3.0.0",
        "since": staged.json()["updatedAt"],
        "promoted": False,
        "priorTaskHubs": [first_hub],
    }
    assert [hub["taskHub"] for hub in staged.json()["retired"]] == [first_hub]
    swapped = (await post_swap(http, app, third_hub)).json()
    assert (swapped["slots"]["production"]["taskHub"], swapped["slots"]["staging"]["taskHub"]) == (
        third_hub,
        second_hub,
    )
    cleaned = (await http.post(f"/api/apps/{app}/cleanup", json={})).json()
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned["taskHubs"]] == [(first_hub, "Removed")]
    assert cleaned["app"]["retired"] == []
    swapped_back = (await post_swap(http, app, second_hub)).json()
    assert (swapped_back["slots"]["production"]["taskHub"], swapped_back["slots"]["staging"]["taskHub"]) == (
        second_hub,
        third_hub,
    )


async def test_an_unknown_app_is_not_found_until_post_staging_creates_it(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    for path in ("", "/staging", "/history"):
        assert_problem(await http.get(f"/api/apps/{app}{path}"), 404, "AppNotFound")
    assert_problem(await post_swap(http, app, hub), 404, "AppNotFound")
    assert_problem(await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}), 404, "AppNotFound")
    assert_problem(await http.post(f"/api/apps/{app}/cleanup"), 404, "AppNotFound")
    assert (await post_staging(http, app, hub)).status_code == 200
    assert (await http.get(f"/api/apps/{app.upper()}")).json()["app"] == app


async def test_a_slot_that_does_not_exist_is_not_found(http: httpx.AsyncClient, app: str, hub: str) -> None:
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


async def test_the_refusal_of_another_run_names_the_open_deployment(http: httpx.AsyncClient, app: str) -> None:
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


async def test_a_verdict_is_not_ready_during_the_deployment_of_another_run_but_has_running_is_false(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await post_staging(http, app, hub, run_headers(1))
    verdict = await get_staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], reason_codes(verdict)) == (False, False, ["DeploymentInProgress"])
    own = await http.get(f"/api/apps/{app}/staging", headers=run_headers(1))
    assert own.json()["ready"]


async def test_a_failed_pipeline_can_stage_again_with_a_new_hub_name(http: httpx.AsyncClient, app: str) -> None:
    await post_staging(http, app, first := new_hub_name(), run_headers(1))
    response = await post_staging(http, app, second := new_hub_name(), run_headers(1))
    assert response.json()["slots"]["staging"]["taskHub"] == second
    assert [hub["taskHub"] for hub in response.json()["retired"]] == [first]
    assert response.json()["deployment"]["taskHub"] == second


async def test_staging_a_new_hub_name_is_refused_while_the_first_hub_is_active(
    http: httpx.AsyncClient, app: str
) -> None:
    await post_staging(http, app, first := new_hub_name(), run_headers(1))
    await post_events(http, event(first))
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(1)), 409, "StagingNotReady")


async def test_after_an_abandoned_deployment_other_runs_can_stage_once_its_hub_has_drained(
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


async def test_the_deployment_of_a_dead_run_is_taken_over_with_a_recorded_reason(
    http: httpx.AsyncClient, app: str
) -> None:
    await post_staging(http, app, new_hub_name(), run_headers(1))
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2), takeOver=True), 400, "InvalidRequest")
    taken_over = await post_staging(
        http, app, second := new_hub_name(), run_headers(2), takeOver=True, reason="agent of run 1 died"
    )
    assert taken_over.json()["deployment"]["taskHub"] == second
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert (newest["by"], newest["reason"]) == ("pipeline 2", "agent of run 1 died")
    assert newest["details"]["takenOverFrom"]["by"] == "pipeline 1"


async def test_an_open_deployment_expires_after_the_timeout_of_the_policy(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    await put_app(http, app, policy={"deploymentTimeoutMinutes": 5})
    await post_staging(http, app, new_hub_name(), run_headers(1))
    clock.advance(290)
    assert_problem(await post_staging(http, app, new_hub_name(), run_headers(2)), 409, "DeploymentInProgress")
    clock.advance(11)
    assert (await http.get(f"/api/apps/{app}")).json()["deployment"] is None
    assert (await post_staging(http, app, new_hub_name(), run_headers(2))).status_code == 200


async def test_force_stages_over_running_work_with_a_recorded_reason(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub, third_hub = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub)
    await post_events(http, event(first_hub))
    await stage_and_swap(http, app, second_hub)
    assert_problem(await post_staging(http, app, third_hub, force=True), 400, "InvalidRequest")
    assert_problem(await post_staging(http, app, third_hub, force=True, reason="  "), 400, "InvalidRequest")
    assert (await post_staging(http, app, third_hub, force=True, reason="orders are test data")).status_code == 200
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["reason"] == "orders are test data"
    assert "1 orchestration instance is active" in newest["details"]["forcedOver"][0]
    results = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in results] == [(first_hub, "InUse")]
    await post_swap(http, app, third_hub)
    results = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"], reason_codes(hub)) for hub in results] == [
        (first_hub, "NotDrained", ["InstancesActive"])
    ]


async def test_a_hub_can_be_used_only_once_and_by_only_one_app(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub = new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first_hub, second_hub)
    other = f"{app}-other"
    assert assert_problem(await post_staging(http, app, first_hub.upper()), 409, "TaskHubInUse")["slot"] == "staging"
    assert assert_problem(await post_staging(http, other, second_hub), 409, "TaskHubInUse")["app"] == app
    await stage_and_swap(http, app, third_hub := new_hub_name())
    assert_problem(await post_staging(http, app, first_hub), 409, "TaskHubAlreadyUsed")
    assert_problem(await post_staging(http, other, first_hub), 409, "TaskHubAlreadyUsed")
    await http.post(f"/api/apps/{app}/cleanup")
    assert_problem(await post_staging(http, app, first_hub), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, other, slots={"production": {"taskHub": first_hub}}), 409, "TaskHubAlreadyUsed")
    assert_problem(await put_app(http, other, slots={"production": {"taskHub": third_hub}}), 409, "TaskHubInUse")
    assert_problem(await http.get(f"/api/apps/{other}"), 404, "AppNotFound")


async def test_a_hub_with_recorded_events_cannot_be_staged(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_events(http, event(hub))
    assert_problem(await post_staging(http, app, hub), 409, "TaskHubAlreadyUsed")
    # It may be an existing production, which PutApp registers.
    assert (await put_app(http, app, slots={"production": {"taskHub": hub, "version": "1"}})).status_code == 200


async def test_a_swap_is_refused_if_the_slot_holds_another_hub(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub = new_hub_name(), new_hub_name()
    await post_staging(http, app, first_hub)
    mismatch = assert_problem(await post_swap(http, app, second_hub), 409, "SwapMismatch")
    assert mismatch["slots"] == {"production": None, "staging": first_hub}
    first = await post_swap(http, app, first_hub)
    again = await post_swap(http, app, first_hub)
    assert (again.status_code, again.headers["etag"]) == (200, first.headers["etag"])
    assert_problem(
        await http.post(f"/api/apps/{app}/swap", json={"taskHub": first_hub, "slot": "production"}),
        400,
        "InvalidRequest",
    )
    assert_problem(await post_staging(http, app, second_hub, slot="production"), 400, "InvalidRequest")


async def test_a_swap_closes_the_deployment(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_staging(http, app, hub, run_headers(1))
    assert (await post_swap(http, app, hub, run_headers(1))).json()["deployment"] is None
    assert (await post_staging(http, app, new_hub_name(), run_headers(2))).status_code == 200


async def test_if_match_is_checked_by_every_change(http: httpx.AsyncClient, app: str) -> None:
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


async def test_the_pages_of_the_history_are_complete_and_newest_first(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub_name() for _ in range(4)]
    for number, hub in enumerate(hubs):
        await post_staging(http, app, hub, run_headers(number))
        await post_swap(http, app, hub, run_headers(number))
    records: list[Any] = []
    token = None
    while True:
        parameters: dict[str, Any] = {"top": 3} | ({"continuationToken": token} if token else {})
        page = (await http.get(f"/api/apps/{app}/history", params=parameters)).json()
        records += page["history"]
        token = page["continuationToken"]
        if token is None:
            break
    assert [record["revision"] for record in records] == list(range(8, 0, -1))
    assert [record["operation"] for record in reversed(records)] == ["PostStaging", "PostSwap"] * 4
    assert records[0]["runUrl"] == "https://ci.example/runs/3"


async def test_a_swap_of_one_slot_leaves_a_deployment_into_another_open(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub = new_hub_name(), new_hub_name()
    await put_app(http, app, slots={"canary": None, "staging": {"taskHub": first_hub}})
    assert (await post_staging(http, app, second_hub, run_headers(2), slot="canary")).status_code == 200
    assert (await post_swap(http, app, first_hub, run_headers(1))).json()["deployment"]["taskHub"] == second_hub


async def test_a_refusal_has_a_retry_after_header(http: httpx.AsyncClient, app: str) -> None:
    first_hub, second_hub = new_hub_name(), new_hub_name()
    await put_app(http, app, slots={"staging": {"taskHub": first_hub}})
    await post_events(http, event(first_hub, status="Completed"))
    refused = await post_staging(http, app, second_hub)
    problem = assert_problem(refused, 409, "StagingNotReady")
    assert refused.headers["retry-after"] == str(problem["retryAfterSeconds"])
    assert 1 <= problem["retryAfterSeconds"] <= 30
    assert "must not be overwritten: the last event of task hub" in problem["detail"]


async def test_every_response_with_an_app_has_its_etag(http: httpx.AsyncClient, app: str, hub: str) -> None:
    responses = [
        await put_app(http, app),
        await post_staging(http, app, hub),
        await http.delete(f"/api/apps/{app}/staging", params={"taskHub": hub}),
        await post_swap(http, app, hub),
        await http.get(f"/api/apps/{app}"),
        await http.post(f"/api/apps/{app}/cleanup"),
    ]
    assert [response.headers["etag"] for response in responses] == ['"1"', '"2"', '"3"', '"4"', '"4"', '"4"']


async def test_the_pages_of_the_list_have_every_app_once(http: httpx.AsyncClient, app: str) -> None:
    names = [f"{app}-{number}" for number in range(5)]
    for name in names:
        await put_app(http, name)
    listed_names: list[str] = []
    token = None
    while True:
        parameters: dict[str, Any] = {"top": 2} | ({"continuationToken": token} if token else {})
        page = (await http.get("/api/apps", params=parameters)).json()
        listed_names += [listed_app["app"] for listed_app in page["apps"] if listed_app["app"].startswith(app)]
        token = page["continuationToken"]
        if token is None:
            break
    assert listed_names == names
