"""The operations on releases side by side as short helpers for tests."""

from typing import Any

import httpx

from tests.conftest import new_hub_name
from tests.http.operations import put_app

SECONDS_UNTIL_ROUTERS_STOP = 61
"""How long after a change routers that ask under no name may send requests by the older document, and one second."""


def address_of(version: str) -> str:
    """The address of the release with this version."""
    return f"https://shop-{version.replace('.', '-')}.example"


async def put_side_by_side_app(http: httpx.AsyncClient, app: str, **body: Any) -> None:
    """Create an app with releases side by side and without a settle window."""
    response = await put_app(http, app, model="sideBySide", **{"policy": {"settleSeconds": 0}, **body})
    assert response.status_code == 200, response.text


async def post_release(
    http: httpx.AsyncClient,
    app: str,
    version: str,
    hub: str | None = None,
    headers: dict[str, str] | None = None,
    **body: Any,
) -> httpx.Response:
    """Register a release, with a new task hub unless one is given."""
    release = {"version": version, "taskHub": hub or new_hub_name(), "address": address_of(version), **body}
    return await http.post(f"/api/apps/{app}/releases", json=release, headers=headers)


async def put_routing(
    http: httpx.AsyncClient,
    app: str,
    active: str,
    split: dict[str, int] | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Promote a release, or split the traffic between two."""
    body = {"active": active} if split is None else {"active": active, "split": split}
    return await http.put(f"/api/apps/{app}/routing", json=body, headers=headers)


async def delete_release(
    http: httpx.AsyncClient, app: str, version: str, outcome: str, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Report a step of the removal of a release."""
    return await http.delete(f"/api/apps/{app}/releases/{version}", params={"outcome": outcome}, headers=headers)


async def get_release_status(http: httpx.AsyncClient, app: str, version: str, **parameters: Any) -> Any:
    """The verdict that GetReleaseStatus returns."""
    response = await http.get(f"/api/apps/{app}/releases/{version}/status", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def get_routing(http: httpx.AsyncClient, app: str, etag: str | None = None, **parameters: Any) -> httpx.Response:
    """Get the routing document, as a router does that has the one with this ETag."""
    headers = {} if etag is None else {"If-None-Match": etag}
    return await http.get(f"/api/apps/{app}/routing", params=parameters, headers=headers)


async def list_releases(http: httpx.AsyncClient, app: str) -> Any:
    """What ListReleases returns, with the releases by version."""
    response = await http.get(f"/api/apps/{app}/releases")
    assert response.status_code == 200, response.text
    listed = response.json()
    return listed | {"releases": {release["version"]: release for release in listed["releases"]}}


async def register_and_promote(http: httpx.AsyncClient, app: str, *versions: str) -> dict[str, str]:
    """Register and promote these releases one after the other. Returns their task hubs by version."""
    task_hubs = {version: new_hub_name() for version in versions}
    for version, hub in task_hubs.items():
        assert (await post_release(http, app, version, hub)).status_code == 200
        assert (await put_routing(http, app, version)).status_code == 200
    return task_hubs
