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
    first, second, third = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, second)
    assert (await post_staging(http, app, third, run_headers(1))).status_code == 200
    assert (await post_staging(http, app, third, run_headers(1))).status_code == 200
    await post_events(http, event(first, "late"))
    problem = assert_problem(await post_staging(http, app, third, run_headers(1)), 409, "StagingNotReady")
    assert problem["reasons"][0]["code"] == "InstancesActive"
    repeated = await post_staging(http, app, third, run_headers(1), force=True, reason="test data")
    assert repeated.status_code == 200


async def test_a_corrected_slot_may_still_carry_prior_task_hubs(http: httpx.AsyncClient, app: str) -> None:
    first, second, third = new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, second)
    await put_app(http, app, slots={"staging": {"taskHub": third}})
    await post_events(http, event(first, "late"))
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]


async def test_a_version_that_was_never_deployed_does_not_hide_what_runs_in_the_slot(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    first, second, third, fourth = new_hub_name(), new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first)
    await stage_and_swap(http, app, second)
    assert (await post_staging(http, app, third)).status_code == 200
    await http.delete(f"/api/apps/{app}/staging", params={"taskHub": third})
    # The deployment onto the third task hub failed, so the slot still has the code that runs on the first task hub.
    await post_events(http, event(first, "late"))
    verdict = await get_staging(http, app)
    assert (verdict["taskHub"], reason_codes(verdict), verdict["activeCount"]) == (third, ["InstancesActive"], 1)
    assert first in verdict["reasons"][0]["message"]
    assert_problem(await post_staging(http, app, fourth), 409, "StagingNotReady")
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(first, "InUse")]
    await post_events(http, event(first, "late", "Completed"))
    clock.advance(31)
    assert (await post_staging(http, app, fourth)).json()["slots"]["staging"]["priorTaskHubs"] == [third, first]
    swapped = await post_swap(http, app, fourth)
    assert swapped.json()["slots"]["production"]["priorTaskHubs"] == []
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(first, "Removed"), (third, "Removed")]


async def test_production_can_roll_back_to_a_prior_task_hub_under_a_staged_one(
    http: httpx.AsyncClient, app: str, clock: ShiftedClock
) -> None:
    first, second, third, fourth = new_hub_name(), new_hub_name(), new_hub_name(), new_hub_name()
    await stage_and_swap(http, app, first, second)
    assert (await post_staging(http, app, third)).status_code == 200
    response = await http.post(f"/api/apps/{app}/swap", json={"taskHub": first, "outcome": "Done", "rollback": True})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert {name: slot["taskHub"] for name, slot in changed["slots"].items()} == {
        "production": first,
        "staging": second,
    }
    assert [slot["priorTaskHubs"] for slot in changed["slots"].values()] == [[], [third]]
    assert ([hub["taskHub"] for hub in changed["retired"]], changed["deployment"]) == ([third], None)
    await post_events(http, event(first, "served"), event(second, "left-behind"), event(third, "deployed"))
    assert (await get_staging(http, app))["activeCount"] == 2
    await post_events(http, event(second, "left-behind", "Completed"))
    clock.advance(31)
    problem = assert_problem(await post_staging(http, app, fourth), 409, "StagingNotReady")
    assert third in problem["reasons"][0]["message"]
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert [(hub["taskHub"], hub["outcome"]) for hub in cleaned] == [(third, "InUse")]
    await post_events(http, event(third, "deployed", "Completed"))
    clock.advance(31)
    assert_problem(await post_staging(http, app, third), 409, "TaskHubAlreadyUsed")
    await stage_and_swap(http, app, fourth)
    cleaned = (await http.post(f"/api/apps/{app}/cleanup")).json()["taskHubs"]
    assert {hub["taskHub"]: hub["outcome"] for hub in cleaned} == {second: "Removed", third: "Removed"}
