"""Prior task hubs of a staged one: they are assessed together with it, and production can roll back to them."""

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


async def test_the_run_that_staged_may_not_deploy_over_a_prior_task_hub_that_has_become_active(
    http: httpx.AsyncClient, app: str
) -> None:
    first, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, two)
    assert (await post_staging(http, app, three, run_headers(1))).status_code == 200
    assert (await post_staging(http, app, three, run_headers(1))).status_code == 200
    await post_events(http, event(first, "late"))
    problem = assert_problem(await post_staging(http, app, three, run_headers(1)), 409, "StagingNotReady")
    assert problem["reasons"][0]["code"] == "InstancesActive"
    repeated = await post_staging(http, app, three, run_headers(1), force=True, reason="test data")
    assert repeated.status_code == 200


async def test_a_corrected_slot_may_still_carry_prior_task_hubs(http: httpx.AsyncClient, app: str) -> None:
    first, two, three = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, two)
    await put_app(http, app, slots={"staging": {"taskHub": three}})
    await post_events(http, event(first, "late"))
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_a_version_that_was_never_deployed_does_not_hide_what_runs_in_the_slot(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    first, two, three, four = new_hub_name(), new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first)
    await stage_and_swap(http, app, two)
    assert (await post_staging(http, app, three)).status_code == 200
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": three})
    # The deployment of three failed, so the slot still has the code that runs on one.
    await post_events(http, event(first, "late"))
    verdict = await get_staging(http, app)
    assert (verdict["taskHub"], reason_codes(verdict), verdict["activeCount"]) == (three, ["InstancesActive"], 1)
    assert first in verdict["reasons"][0]["message"]
    assert_problem(await post_staging(http, app, four), 409, "StagingNotReady")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(first, "InUse")]
    await post_events(http, event(first, "late", "Completed"))
    clock.advance(31)
    assert (await post_staging(http, app, four)).json()["slots"]["staging"]["priorTaskHubs"] == [three, first]
    swapped = await post_swap(http, app, four)
    assert swapped.json()["slots"]["production"]["priorTaskHubs"] == []
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(first, "Removed"), (three, "Removed")]


async def test_production_can_roll_back_to_a_prior_task_hub_under_a_staged_one(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    first, two, three, four = new_hub_name(), new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, two)
    assert (await post_staging(http, app, three)).status_code == 200
    response = await http.post(f"/api/apps/{app}/swap", json={"taskHub": first, "outcome": "Done", "rollback": True})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert {name: slot["taskHub"] for name, slot in changed["slots"].items()} == {"production": first, "staging": two}
    assert [slot["priorTaskHubs"] for slot in changed["slots"].values()] == [[], [three]]
    assert ([hub["taskHub"] for hub in changed["retired"]], changed["deployment"]) == ([three], None)
    await post_events(http, event(first, "served"), event(two, "left-behind"), event(three, "deployed"))
    assert (await get_staging(http, app))["activeCount"] == 2
    await post_events(http, event(two, "left-behind", "Completed"))
    clock.advance(31)
    problem = assert_problem(await post_staging(http, app, four), 409, "StagingNotReady")
    assert three in problem["reasons"][0]["message"]
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(three, "InUse")]
    await post_events(http, event(three, "deployed", "Completed"))
    clock.advance(31)
    assert_problem(await post_staging(http, app, three), 409, "TaskHubAlreadyUsed")
    await stage_and_swap(http, app, four)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert {hub["taskHub"]: hub["outcome"] for hub in cleaned} == {two: "Removed", three: "Removed"}
