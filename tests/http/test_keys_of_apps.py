"""Keys that are bound to apps see and change these apps only."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import Connections, Settings, StorageSettings
from tests.builders import event
from tests.conftest import new_hub
from tests.http.client import problem
from tests.http.test_keys_and_roles import OPERATIONS
from tests.keys import key_entry

pytestmark = pytest.mark.anyio

FREE = {role: f"key-of-the-{role}-for-all-apps" for role in ("admin", "deployer", "reader", "publisher")}
BOUND = {role: f"key-of-the-{role}-for-one-app" for role in ("admin", "deployer", "reader")}
APP_OPERATIONS = [one for one in OPERATIONS if "{app}" in one[1]]
TASK_HUB_OPERATIONS = [one for one in OPERATIONS if "{hub}" in one[1] and one[0] == "GET"]


def own(role: str, keys: dict[str, str] = BOUND) -> dict[str, str]:
    return {"x-functions-key": keys[role]}


@pytest.fixture
def other(app: str) -> str:
    """An app that the bound keys are not for; its name begins with that of the app that they are for."""
    return f"{app}-2"


@pytest.fixture
async def server_of(storage: StorageSettings, app: str, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A server with keys for all apps and keys for `app` and one that does not exist."""
    keys = [key_entry(key, role, f"free-{role}") for role, key in FREE.items()]
    keys += [key_entry(key, role, f"bound-{role}", [app.upper(), "no-such-app"]) for role, key in BOUND.items()]
    assert storage.connection_string is not None
    connections = Connections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    server = StateServer(Settings.model_validate({"storage": storage, "keys": keys, "connections": connections}))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
        yield client
    await server.close()


async def put(client: httpx.AsyncClient, app: str, hub: str, keys: dict[str, str] = FREE) -> httpx.Response:
    """Register the app with this task hub in production."""
    body = {"slots": {"production": {"taskHub": hub}, "staging": None}}
    return await client.put(f"/api/apps/{app}", json=body, headers=own("admin", keys))


@pytest.mark.parametrize(("method", "path", "roles"), APP_OPERATIONS)
async def test_another_app_is_forbidden_whatever_the_role(
    server_of: httpx.AsyncClient, app: str, other: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    await put(server_of, other, hub)
    for role in BOUND:
        for stranger in (other, other.upper(), f"{app}x", "unknown-app"):
            address = path.format(app=stranger)
            answer = await server_of.request(method, address, headers=own(role), json={} if method == "POST" else None)
            detail = problem(answer, 403, "Forbidden")["detail"]
            if role in roles:
                assert detail == f"key bound-{role} is bound to other apps; this needs a key for app {stranger}"
    unchanged = await server_of.get(f"/api/apps/{other}", headers=own("reader", FREE))
    assert unchanged.headers["etag"] == '"1"'


@pytest.mark.parametrize(("method", "path", "roles"), APP_OPERATIONS)
async def test_its_own_app_is_open_to_a_key_as_its_role_says(
    server_of: httpx.AsyncClient, app: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    for role in BOUND:
        answer = await server_of.request(
            method,
            path.format(app=app),
            params={"taskHub": hub, "instanceId": "1"} if method == "DELETE" else {},
            json={"taskHub": hub} if path.endswith(("staging", "swap")) and method == "POST" else None,
            headers=own(role),
        )
        assert (answer.status_code == 403) == (role not in roles), answer.text


async def test_a_list_holds_the_apps_of_the_key_alone(
    server_of: httpx.AsyncClient, app: str, other: str, hub: str
) -> None:
    await put(server_of, app, hub)
    await put(server_of, other, new_hub())
    for role in BOUND:
        listed = (await server_of.get("/api/apps", headers=own(role))).json()
        assert ([one["app"] for one in listed["apps"]], listed["continuationToken"]) == ([app], None)


async def test_a_short_page_of_the_list_goes_on_and_its_token_shows_no_other_app(
    server_of: httpx.AsyncClient, app: str, other: str, hub: str
) -> None:
    await put(server_of, app, hub)
    await put(server_of, other, new_hub())
    found, query = [], {"top": "1"}
    while True:
        page = (await server_of.get("/api/apps", headers=own("reader"), params=query)).json()
        found += [one["app"] for one in page["apps"]]
        if page["continuationToken"] is None:
            break
        assert other not in page["continuationToken"]
        query = {"top": "1", "continuationToken": page["continuationToken"]}
    assert found == [app]
    foreign = {"continuationToken": other}
    problem(await server_of.get("/api/apps", headers=own("reader"), params=foreign), 400, "InvalidRequest")


@pytest.mark.parametrize(("method", "path", "roles"), TASK_HUB_OPERATIONS)
async def test_a_task_hub_is_shown_only_if_one_of_the_keys_apps_has_claimed_it(
    server_of: httpx.AsyncClient, app: str, other: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    foreign, unclaimed = new_hub(), new_hub()
    await put(server_of, app, hub)
    await put(server_of, other, foreign)
    sent = [event(one) for one in (hub, foreign, unclaimed)]
    assert (await server_of.post("/api/events", json=sent, headers=own("publisher", FREE))).status_code == 200
    for role in BOUND:
        for task_hub, status in ((foreign, 403), (unclaimed, 403), (new_hub(), 404)):
            refused = await server_of.request(method, path.format(hub=task_hub), headers=own(role))
            assert (refused.status_code, other in refused.text) == (status, False)
        shown = await server_of.request(method, path.format(hub=hub.upper()), headers=own(role))
        assert shown.status_code not in (401, 403, 404), shown.text


async def test_a_task_hub_that_the_app_has_retired_is_still_shown(
    server_of: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put(server_of, app, hub)
    assert (await put(server_of, app, new_hub())).status_code == 200
    shown = await server_of.get(f"/api/taskhubs/{hub}", headers=own("reader"))
    assert (shown.status_code, shown.json()["app"]) == (200, app)


async def test_the_quarantine_and_events_are_closed_to_keys_of_apps(server_of: httpx.AsyncClient, hub: str) -> None:
    for role in BOUND:
        detail = problem(await server_of.get("/api/quarantine", headers=own(role)), 403, "Forbidden")["detail"]
        assert detail == (
            "key bound-admin is bound to apps; this needs a key that is bound to none"
            if role == "admin"
            else f"key bound-{role} has the role {role}; this needs admin"
        )
        sent = await server_of.post("/api/events", json=[event(hub)], headers=own(role))
        problem(sent, 403, "Forbidden")
    problem(await server_of.get(f"/api/taskhubs/{hub}", headers=own("reader", FREE)), 404, "TaskHubNotFound")


async def test_what_removes_records_of_nobodys_task_hubs_is_closed_to_keys_of_apps(
    server_of: httpx.AsyncClient, app: str, hub: str
) -> None:
    await put(server_of, app, hub)
    for path in (f"/api/taskhubs/{hub}", f"/api/taskhubs/{new_hub()}", "/api/quarantine?before=2020-01-01"):
        for role in BOUND:
            problem(await server_of.delete(path, headers=own(role)), 403, "Forbidden")


async def test_a_refusal_does_not_name_the_other_app_that_has_the_task_hub(
    server_of: httpx.AsyncClient, app: str, other: str, hub: str
) -> None:
    await put(server_of, other, hub)
    attempts: list[tuple[str, str, str, dict[str, Any]]] = [
        ("deployer", "POST", f"/api/apps/{app}/staging", {"taskHub": hub}),
        ("admin", "PUT", f"/api/apps/{app}", {"slots": {"production": {"taskHub": hub}}}),
    ]
    for role, method, path, body in attempts:
        refused = await server_of.request(method, path, json=body, headers=own(role))
        document = problem(refused, 409, "TaskHubInUse")
        assert other not in refused.text
        assert document["taskHub"] == hub
        told = await server_of.request(method, path, json=body, headers=own(role, FREE))
        assert told.json()["app"] == other


async def test_the_audit_log_names_the_key(server_of: httpx.AsyncClient, app: str, hub: str) -> None:
    staged = await server_of.post(f"/api/apps/{app}/staging", json={"taskHub": hub}, headers=own("deployer"))
    assert staged.status_code == 200
    history = await server_of.get(f"/api/apps/{app}/history", headers=own("deployer"))
    assert history.json()["history"][0]["keyName"] == "bound-deployer"
