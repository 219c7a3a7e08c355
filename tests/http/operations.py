"""The operations of the API as one-line helpers for tests."""

from typing import Any

import httpx


def run_headers(number: int) -> dict[str, str]:
    """The headers of the pipeline run with this number."""
    return {"X-Actor": f"pipeline {number}", "X-Run-Url": f"https://ci.example/runs/{number}"}


async def put_app(http: httpx.AsyncClient, app: str, **body: Any) -> httpx.Response:
    return await http.put(f"/api/apps/{app}", json=body)


async def post_staging(
    http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub, **body}, headers=headers)


async def post_swap(
    http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    return await http.post(f"/api/apps/{app}/swap", json={"taskHub": hub}, headers=headers)


async def get_staging(http: httpx.AsyncClient, app: str, **parameters: Any) -> Any:
    """The verdict that GetStagingStatus returns."""
    response = await http.get(f"/api/apps/{app}/staging", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def post_events(http: httpx.AsyncClient, *events: Any) -> Any:
    """Deliver these events; returns how many were recorded, unchanged and quarantined."""
    response = await http.post("/api/events", json=list(events))
    assert response.status_code == 200, response.text
    return response.json()


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


def reason_codes(verdict: Any) -> list[str]:
    return [reason["code"] for reason in verdict["reasons"]]


async def stage_and_swap(http: httpx.AsyncClient, app: str, *hubs: str) -> None:
    """Stage and swap these task hubs one after the other. Production has the last one then, the slot the one before."""
    for hub in hubs:
        assert (await post_staging(http, app, hub)).status_code == 200
        assert (await post_swap(http, app, hub)).status_code == 200
