"""What tests of the contract say to the server, in one line each."""

from typing import Any

import httpx


def run_headers(number: int) -> dict[str, str]:
    """The headers of a pipeline run."""
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
    response = await http.get(f"/api/apps/{app}/staging", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def post_events(http: httpx.AsyncClient, *events: Any) -> Any:
    response = await http.post("/api/events", json=list(events))
    assert response.status_code == 200, response.text
    return response.json()


def assert_problem(response: httpx.Response, status: int, code: str) -> Any:
    """The problem document that an answer must be."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), (
        response.text
    )
    content = response.json()
    assert (content["status"], content["code"]) == (status, code)
    assert content["type"] == f"urn:safe-deploy:problem:{code}"
    assert content["title"]
    assert content["detail"]
    return content


def reason_codes(verdict: Any) -> list[str]:
    return [reason["code"] for reason in verdict["reasons"]]


async def stage_and_swap(http: httpx.AsyncClient, app: str, *hubs: str) -> None:
    """Stage and swap these hubs in turn; the last is then in production, the one before it in the slot."""
    for hub in hubs:
        assert (await post_staging(http, app, hub)).status_code == 200
        assert (await post_swap(http, app, hub)).status_code == 200
