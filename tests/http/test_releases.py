"""Apps and their slots over HTTP: the whole blue-green sequence and every way in which it is refused."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings
from tests.builders import at, event
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


async def test_the_run_that_staged_may_not_deploy_over_what_has_become_active_beneath(
    http: httpx.AsyncClient, app: str
) -> None:
    one, two, three = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one, two)
    assert (await stage(http, app, three, run(1))).status_code == 200
    assert (await stage(http, app, three, run(1))).status_code == 200
    await publish(http, event(one, "late"))
    told = problem(await stage(http, app, three, run(1)), 409, "StagingNotReady")
    assert told["reasons"][0]["code"] == "InstancesActive"
    again = await stage(http, app, three, run(1), force=True, reason="test data")
    assert again.status_code == 200


async def test_what_is_put_right_may_still_be_beneath(http: httpx.AsyncClient, app: str) -> None:
    one, two, three = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one, two)
    await put(http, app, slots={"staging": {"taskHub": three}})
    await publish(http, event(one, "late"))
    assert codes(await staging(http, app)) == ["InstancesActive"]


async def test_a_version_that_was_staged_and_never_deployed_does_not_hide_what_runs_in_the_slot(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    one, two, three, four = new_hub(), new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one)
    await swapped_out(http, app, two)
    assert (await stage(http, app, three)).status_code == 200
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": three})
    # The deployment of three failed, so the slot still has the code that runs on one.
    await publish(http, event(one, "late"))
    verdict = await staging(http, app)
    assert (verdict["taskHub"], codes(verdict), verdict["activeCount"]) == (three, ["InstancesActive"], 1)
    assert one in verdict["reasons"][0]["message"]
    problem(await stage(http, app, four), 409, "StagingNotReady")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(one, "InUse")]
    await publish(http, event(one, "late", "Completed"))
    clock.turn(31)
    assert (await stage(http, app, four)).json()["slots"]["staging"]["beneath"] == [three, one]
    swapped = await swap(http, app, four)
    assert swapped.json()["slots"]["production"]["beneath"] == []
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(one, "Removed"), (three, "Removed")]


async def test_production_goes_back_to_what_is_beneath_a_staged_hub_and_cleanup_takes_the_staged_one(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    """What serves customers again is judged as production, and what they have left behind as the slot's."""
    one, two, three = new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one, two)
    assert (await stage(http, app, three)).status_code == 200
    answer = await http.post(f"/api/apps/{app}/swap", json={"taskHub": one, "outcome": "Done", "rollback": True})
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert {name: held["taskHub"] for name, held in changed["slots"].items()} == {"production": one, "staging": two}
    assert [held["beneath"] for held in changed["slots"].values()] == [[], []]
    assert ([hub["taskHub"] for hub in changed["retired"]], changed["deployment"]) == ([three], None)
    await publish(http, event(two, "left-behind"), event(one, "served"))
    assert codes(await staging(http, app)) == ["InstancesActive"]
    clock.turn(31)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(three, "Removed")]
    problem(await stage(http, app, three), 409, "TaskHubAlreadyUsed")
    problem(await stage(http, app, new_hub()), 409, "StagingNotReady")


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


async def test_an_existing_production_is_registered_and_guarded(http: httpx.AsyncClient, app: str) -> None:
    old, new, next_one = new_hub(), new_hub(), new_hub()
    registered = await put(http, app, slots={"production": {"taskHub": old, "version": "1.4.0"}})
    assert registered.json()["slots"]["production"]["taskHub"] == old
    await publish(http, event(old))
    await swapped_out(http, app, new)
    problem(await stage(http, app, next_one), 409, "StagingNotReady")
    problem(await put(http, app, slots={"staging": None}), 409, "StagingNotReady")
    problem(await put(http, app, slots={"staging": {"taskHub": next_one}}), 409, "StagingNotReady")


async def test_an_answer_can_be_changed_and_sent_back(http: httpx.AsyncClient, app: str, hub: str) -> None:
    first = await put(http, app, slots={"production": {"taskHub": hub}}, policy={"ignoreFunctions": ["Nightly*"]})
    body = first.json()
    body["policy"]["settleSeconds"] = 5
    second = await http.put(f"/api/apps/{app}", json=body, headers={"If-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json()["policy"] == {**first.json()["policy"], "settleSeconds": 5}
    unchanged = await http.put(f"/api/apps/{app}", json=second.json())
    assert unchanged.headers["etag"] == second.headers["etag"]


async def test_what_the_policy_ignores_does_not_block(http: httpx.AsyncClient, app: str, clock: ShiftedClock) -> None:
    one, two = new_hub(), new_hub()
    await put(http, app, policy={"ignoreFunctions": ["Nightly*"]})
    await swapped_out(http, app, one)
    await publish(http, event(one, "nightly", function="NightlySync"), event(one, "@counter@x", function="Counter"))
    await swapped_out(http, app, two)
    clock.turn(31)
    verdict = await staging(http, app)
    assert (verdict["ready"], verdict["hasRunning"], verdict["ignoredCount"]) == (True, False, 1)
    await put(http, app, policy={"ignoreFunctions": []})
    assert codes(await staging(http, app)) == ["InstancesActive"]


async def test_required_verification_without_a_probe_is_never_ready(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await swapped_out(http, app, hub, new_hub())
    await put(http, app, policy={"requireVerification": True})
    verdict = await staging(http, app)
    assert (codes(verdict), verdict["assurance"]) == (["VerificationRequired"], "events")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"provider": "azureTable", "connection": "DURABLE_STORAGE"}, "azureStorage"),
        ({"provider": "azureStorage", "connection": "NOT_SET"}, "the setting NOT_SET is not set on this server"),
        ({"provider": "azureStorage", "connection": "AccountKey=c2VjcmV0"}, "body.taskHubs.connection"),
        ({"provider": "scheduler", "connection": "NOT_SET"}, "NOT_SET"),
        ({"provider": "managementApi", "connection": "NOT_SET"}, "NOT_SET__endpoint"),
        ({"provider": "azureStorage", "connection": "DURABLE_STORAGE", "trackingPrefix": "T"}, "trackingConnection"),
        ({"provider": "scheduler", "connection": "X", "trackingConnection": "DURABLE_STORAGE"}, "azureStorage's"),
    ],
)
async def test_a_probe_that_cannot_work_is_refused(
    http: httpx.AsyncClient, app: str, source: dict[str, str], says: str
) -> None:
    told = problem(await put(http, app, taskHubs=source), 400, "InvalidRequest")
    assert says in told["detail"]
    problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


async def test_where_task_hubs_live_is_shown_changed_and_cleared(http: httpx.AsyncClient, app: str) -> None:
    plain = {"provider": "azureStorage", "connection": "DURABLE_STORAGE"}
    shown = (await put(http, app, taskHubs=plain)).json()["taskHubs"]
    assert shown == plain | {"trackingConnection": None, "trackingPrefix": None}
    tracked = plain | {"trackingConnection": "DURABLE_STORAGE", "trackingPrefix": "Shared"}
    assert (await put(http, app, taskHubs=tracked)).json()["taskHubs"] == tracked
    assert (await put(http, app)).json()["taskHubs"] == tracked
    assert (await put(http, app, taskHubs=None)).json()["taskHubs"] is None


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


async def test_twenty_stages_at_once_leave_one_winner_whom_all_others_know(http: httpx.AsyncClient, app: str) -> None:
    hubs = [new_hub() for _ in range(20)]
    answers = await asyncio.gather(*(stage(http, app, hub, run(n)) for n, hub in enumerate(hubs)))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    winner = winners[0].json()["deployment"]
    for answer in answers:
        if answer.status_code != 200:
            refused = problem(answer, 409, "DeploymentInProgress")
            assert refused["deployment"]["taskHub"] == winner["taskHub"]
            assert winner["by"] in refused["detail"]
    state = (await http.get(f"/api/apps/{app}")).json()
    assert (state["slots"]["staging"]["taskHub"], state["retired"]) == (winner["taskHub"], [])
    assert len((await http.get(f"/api/apps/{app}/history")).json()["history"]) == 1


async def test_two_apps_that_want_one_hub_name_at_once_get_it_once(http: httpx.AsyncClient, app: str, hub: str) -> None:
    answers = await asyncio.gather(*(stage(http, f"{app}-{n}", hub) for n in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9


async def test_eight_writers_of_one_instance_leave_the_right_record(
    storage: StorageSettings, server: StateServer, http: httpx.AsyncClient, hub: str
) -> None:
    servers = [StateServer(Settings(storage=storage)) for _ in range(8)]
    base = event(hub)["eventTime"][:20]
    events = [
        event(hub, "one", "Running" if n % 3 else "Completed", f"{base}{n:07d}Z", function=f"F{n}") for n in range(200)
    ]
    try:

        async def write(which: int) -> None:
            for one in events[which::8]:
                await servers[which].services.recorder.record([one], "webhook")

        await asyncio.gather(*(write(which) for which in range(8)))
    finally:
        for one in servers:
            await one.close()
    listed = (await http.get(f"/api/taskhubs/{hub}/instances")).json()["instances"]
    assert len(listed) == 1
    # The last event of all, 199, is a start, so exactly one active row must be left.
    assert (listed[0]["active"], listed[0]["startedAt"], listed[0]["functionName"]) == (True, f"{base}0000199Z", "F199")
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1
    await publish(http, event(hub, "one", "Failed", f"{base}0000200Z"))
    assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 0


async def test_an_ignored_function_that_never_rests_does_not_keep_the_hub_settling(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    old = new_hub()
    await put(http, app, slots={"staging": {"taskHub": old}}, policy={"ignoreFunctions": ["Monitor"]})
    await publish(http, event(old, "order", "Completed"))
    assert codes(await staging(http, app)) == ["Settling"]
    clock.turn(31)
    for status in ("Running", "Completed", "Running"):
        await publish(http, event(old, "monitor", status, function="Monitor"), event(old, "@counter@x"))
        assert (await staging(http, app))["ready"]
    await publish(http, event(old, "order-2", "Completed"))
    # By the test's clock the last write is half a minute old already; by the storage's it has just happened.
    clock.ahead = 0
    assert codes(await staging(http, app)) == ["Settling"]


@pytest.mark.parametrize("together", [True, False])
async def test_an_id_that_goes_over_to_an_ignored_function_does_not_hide_the_other(
    http: httpx.AsyncClient, app: str, together: bool
) -> None:
    old = new_hub()
    await put(http, app, slots={"staging": {"taskHub": old}}, policy={"ignoreFunctions": ["Monitor"]})
    events = [
        event(old, "x", time=at(-5)),
        event(old, "x", "Completed", time=at(-3)),
        event(old, "x", time=at(-1), function="Monitor"),
    ]
    for delivery in [events] if together else [[one] for one in events]:
        await publish(http, *delivery)
    assert codes(await staging(http, app)) == ["Settling"]


async def test_what_a_registration_leaves_out_stays(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await put(
        http,
        app,
        slots={"production": {"taskHub": hub, "version": "1.4.0"}},
        policy={"settleSeconds": 5, "retention": {"keepLast": 2, "keepForHours": 24}},
    )
    changed = await put(http, app, slots={"production": {"taskHub": hub}}, policy={"retention": {"keepLast": 3}})
    assert changed.json()["slots"]["production"]["version"] == "1.4.0"
    assert changed.json()["policy"]["settleSeconds"] == 5
    assert changed.json()["policy"]["retention"] == {"keepLast": 3, "keepForHours": 24}
    newest = (await http.get(f"/api/apps/{app}/history")).json()["history"][0]
    assert newest["details"] == {"policy": {"retention": {"keepLast": 3, "keepForHours": 24}}}


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
