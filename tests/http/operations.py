"""The operations of the API as short helpers for tests, and what tests of verification need with them."""

import asyncio
from typing import Any

import httpx

from state_api.domain.instants import TICKS_PER_SECOND
from state_api.domain.readiness.requirements import CLOCK_TOLERANCE
from tests.conftest import new_hub_name

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
"""An app's `taskHubs` member for a task hub in the storage account of the setting STATE_TASKHUBS_SHOP."""


def run_headers(number: int) -> dict[str, str]:
    """The headers of the pipeline run with this number."""
    return {"X-Actor": f"pipeline {number}", "X-Run-Url": f"https://ci.example/runs/{number}"}


async def put_app(http: httpx.AsyncClient, app: str, **body: Any) -> httpx.Response:
    """Create or change an app. The keyword arguments are the members of PutApp's request body."""
    return await http.put(f"/api/apps/{app}", json=body)


async def post_staging(
    http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    """Call PostStaging."""
    return await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub, **body}, headers=headers)


async def post_swap(
    http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Call PostSwap without an outcome: the swap is recorded in one step."""
    return await http.post(f"/api/apps/{app}/swap", json={"taskHub": hub}, headers=headers)


async def get_staging(http: httpx.AsyncClient, app: str, **parameters: Any) -> Any:
    """The verdict that GetStagingStatus returns. The keyword arguments are query parameters."""
    response = await http.get(f"/api/apps/{app}/staging", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def post_events(http: httpx.AsyncClient, *events: Any) -> Any:
    """Deliver these events; returns how many were recorded, unchanged and quarantined."""
    response = await http.post("/api/events", json=list(events))
    assert response.status_code == 200, response.text
    return response.json()


def fill_path(path: str, *, app: str, hub: str = "") -> str:
    """The path of an operation, with a release, a router and an action in place of their parameters too."""
    return path.format(app=app, hub=hub, version="1.5.0", router="envoy-1", action="pause")


def assert_problem(response: httpx.Response, status: int, code: str) -> Any:
    """Assert that the response is this problem document, and return its members."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:safe-deploy:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


async def list_instances(http: httpx.AsyncClient, hub: str) -> dict[str, Any]:
    """The recorded instances of a task hub, by instance id."""
    response = await http.get(f"/api/taskhubs/{hub}/instances")
    return {instance["instanceId"]: instance for instance in response.json()["instances"]}


async def wait_for_clock_tolerance() -> None:
    """Wait until the servers' estimates of the storage's time order what is done next after what was done before."""
    await asyncio.sleep(CLOCK_TOLERANCE / TICKS_PER_SECOND + 0.1)


def reason_codes(verdict: Any) -> list[str]:
    """The codes of the verdict's reasons, in the order of the response."""
    return [reason["code"] for reason in verdict["reasons"]]


async def stage_and_swap(http: httpx.AsyncClient, app: str, *hubs: str) -> None:
    """Stage and swap these task hubs one after the other. Afterwards production has the last one, and the
    staging slot has the one before."""
    for hub in hubs:
        assert (await post_staging(http, app, hub)).status_code == 200
        assert (await post_swap(http, app, hub)).status_code == 200


async def post_cleanup(http: httpx.AsyncClient, app: str, **fields: Any) -> list[Any]:
    """Run Cleanup with `deleteTaskHubs`, and return its result for each retired task hub.

    The keyword arguments are further members of the request's body.
    """
    response = await http.post(f"/api/apps/{app}/cleanup", json={"deleteTaskHubs": True, **fields})
    assert response.status_code == 200, response.text
    results: list[Any] = response.json()["taskHubs"]
    return results


async def get_proof(http: httpx.AsyncClient, hub: str) -> Any:
    """What proves that a task hub belongs to the app that claimed its name; None without a proof."""
    response = await http.get(f"/api/taskhubs/{hub}")
    assert response.status_code == 200, response.text
    return response.json()["proof"]


async def retire_task_hub(http: httpx.AsyncClient, app: str, hub: str) -> None:
    """Swap the staged task hub and two more versions, so that the task hub is retired and no slot may carry it."""
    assert (await post_swap(http, app, hub)).status_code == 200
    for later_hub in (new_hub_name(), new_hub_name()):
        assert (await post_staging(http, app, later_hub, force=True, reason="test")).status_code == 200
        assert (await post_swap(http, app, later_hub)).status_code == 200
    assert [retired["taskHub"] for retired in (await http.get(f"/api/apps/{app}")).json()["retired"]] == [hub]
