"""The hubs beneath a staged one over HTTP: they are judged together with it, and production can go back to them."""

import httpx
import pytest

from tests.builders import event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, run, stage, staging, swap, swapped_out

pytestmark = pytest.mark.anyio


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


async def test_production_goes_back_to_what_is_beneath_a_staged_hub_which_its_run_may_still_deploy(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    one, two, three, four = new_hub(), new_hub(), new_hub(), new_hub()
    await swapped_out(http, app, one, two)
    assert (await stage(http, app, three)).status_code == 200
    answer = await http.post(f"/api/apps/{app}/swap", json={"taskHub": one, "outcome": "Done", "rollback": True})
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert {name: held["taskHub"] for name, held in changed["slots"].items()} == {"production": one, "staging": two}
    assert [held["beneath"] for held in changed["slots"].values()] == [[], [three]]
    assert ([hub["taskHub"] for hub in changed["retired"]], changed["deployment"]) == ([three], None)
    await publish(http, event(one, "served"), event(two, "left-behind"), event(three, "deployed"))
    assert (await staging(http, app))["activeCount"] == 2
    await publish(http, event(two, "left-behind", "Completed"))
    clock.turn(31)
    told = problem(await stage(http, app, four), 409, "StagingNotReady")
    assert three in told["reasons"][0]["message"]
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(three, "InUse")]
    await publish(http, event(three, "deployed", "Completed"))
    clock.turn(31)
    problem(await stage(http, app, three), 409, "TaskHubAlreadyUsed")
    await swapped_out(http, app, four)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert {hub["taskHub"]: hub["outcome"] for hub in cleaned} == {two: "Removed", three: "Removed"}
