"""What tests of the contract say to the server, in one line each."""

from typing import Any

import httpx


def run(number: int) -> dict[str, str]:
    """The headers of a pipeline run."""
    return {"X-Actor": f"pipeline {number}", "X-Run-Url": f"https://ci.example/runs/{number}"}


async def put(http: httpx.AsyncClient, app: str, **body: Any) -> httpx.Response:
    return await http.put(f"/api/apps/{app}", json=body)


async def stage(
    http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub, **body}, headers=headers)


async def swap(http: httpx.AsyncClient, app: str, hub: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return await http.post(f"/api/apps/{app}/swap", json={"taskHub": hub}, headers=headers)


async def staging(http: httpx.AsyncClient, app: str, **parameters: Any) -> Any:
    answer = await http.get(f"/api/apps/{app}/staging", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def publish(http: httpx.AsyncClient, *events: Any) -> Any:
    answer = await http.post("/api/events", json=list(events))
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: httpx.Response, status: int, code: str) -> Any:
    """The problem document that an answer must be."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    content = answer.json()
    assert (content["status"], content["code"]) == (status, code)
    assert content["type"] == f"urn:safe-deploy:problem:{code}"
    assert content["title"]
    assert content["detail"]
    return content


def codes(verdict: Any) -> list[str]:
    return [reason["code"] for reason in verdict["reasons"]]


async def swapped_out(http: httpx.AsyncClient, app: str, *hubs: str) -> None:
    """Stage and swap these hubs in turn; the last is then in production, the one before it in the slot."""
    for hub in hubs:
        assert (await stage(http, app, hub)).status_code == 200
        assert (await swap(http, app, hub)).status_code == 200
