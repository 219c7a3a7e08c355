"""API keys that are bound to apps can read and change only these apps."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from tests.builders import event
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, fill_path
from tests.http.test_keys_and_roles import OPERATIONS
from tests.keys import key_entry

pytestmark = pytest.mark.anyio

UNBOUND_KEYS = {role: f"key-of-the-{role}-for-all-apps" for role in ("admin", "deployer", "reader", "publisher")}
BOUND_KEYS = {role: f"key-of-the-{role}-for-one-app" for role in ("admin", "deployer", "reader")}
APP_OPERATIONS = [operation for operation in OPERATIONS if "{app}" in operation[1]]
TASK_HUB_OPERATIONS = [operation for operation in OPERATIONS if "{hub}" in operation[1] and operation[0] == "GET"]


def key_header(role: str, keys: dict[str, str] = BOUND_KEYS) -> dict[str, str]:
    return {"x-functions-key": keys[role]}


@pytest.fixture
def other_app(app: str) -> str:
    """An app that the bound keys may not access. Its name begins with the name of an app that they may access."""
    return f"{app}-2"


@pytest.fixture
async def client_with_bound_keys(
    storage: StorageSettings, app: str, anyio_backend: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A server with keys for all apps, and with keys that are bound to `app` and to an app that does not exist."""
    keys = [key_entry(key, role, f"free-{role}") for role, key in UNBOUND_KEYS.items()]
    keys += [key_entry(key, role, f"bound-{role}", [app.upper(), "no-such-app"]) for role, key in BOUND_KEYS.items()]
    assert storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": storage.connection_string.get_secret_value()})
    server = StateServer(Settings.model_validate({"storage": storage, "keys": keys, "connections": connections}))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
        yield client
    await server.close()


async def register_app(
    client: httpx.AsyncClient, app: str, hub: str, keys: dict[str, str] = UNBOUND_KEYS
) -> httpx.Response:
    """Register the app with this task hub in production."""
    body = {"slots": {"production": {"taskHub": hub}, "staging": None}}
    return await client.put(f"/api/apps/{app}", json=body, headers=key_header("admin", keys))


@pytest.mark.parametrize(("method", "path", "roles"), APP_OPERATIONS)
async def test_a_bound_key_cannot_access_another_app_in_any_role(
    *,
    client_with_bound_keys: httpx.AsyncClient,
    app: str,
    other_app: str,
    hub: str,
    method: str,
    path: str,
    roles: set[str],
) -> None:
    await register_app(client_with_bound_keys, other_app, hub)
    for role in BOUND_KEYS:
        for stranger in (other_app, other_app.upper(), f"{app}x", "unknown-app"):
            address = fill_path(path, app=stranger)
            response = await client_with_bound_keys.request(
                method, address, headers=key_header(role), json={} if method == "POST" else None
            )
            detail = assert_problem(response, 403, "Forbidden")["detail"]
            if role in roles:
                assert detail == f"key bound-{role} is bound to other apps; use a key for app {stranger}"
    unchanged = await client_with_bound_keys.get(f"/api/apps/{other_app}", headers=key_header("reader", UNBOUND_KEYS))
    assert unchanged.headers["etag"] == '"1"'


@pytest.mark.parametrize(("method", "path", "roles"), APP_OPERATIONS)
async def test_a_bound_key_can_access_its_app_as_its_role_allows(
    *, client_with_bound_keys: httpx.AsyncClient, app: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    for role in BOUND_KEYS:
        response = await client_with_bound_keys.request(
            method,
            fill_path(path, app=app),
            params={"taskHub": hub, "instanceId": "1", "outcome": "Pending"} if method == "DELETE" else {},
            json={"taskHub": hub} if path.endswith(("staging", "swap")) and method == "POST" else None,
            headers=key_header(role),
        )
        assert (response.status_code == 403) == (role not in roles), response.text


async def test_list_apps_returns_only_the_apps_of_a_bound_key(
    client_with_bound_keys: httpx.AsyncClient, app: str, other_app: str, hub: str
) -> None:
    await register_app(client_with_bound_keys, app, hub)
    await register_app(client_with_bound_keys, other_app, new_hub_name())
    for role in BOUND_KEYS:
        listed = (await client_with_bound_keys.get("/api/apps", headers=key_header(role))).json()
        assert ([listed_app["app"] for listed_app in listed["apps"]], listed["continuationToken"]) == ([app], None)


async def test_the_continuation_token_of_a_bound_key_names_no_other_app(
    client_with_bound_keys: httpx.AsyncClient, app: str, other_app: str, hub: str
) -> None:
    await register_app(client_with_bound_keys, app, hub)
    await register_app(client_with_bound_keys, other_app, new_hub_name())
    names, query = [], {"top": "1"}
    while True:
        page = (await client_with_bound_keys.get("/api/apps", headers=key_header("reader"), params=query)).json()
        names += [listed_app["app"] for listed_app in page["apps"]]
        if page["continuationToken"] is None:
            break
        assert other_app not in page["continuationToken"]
        query = {"top": "1", "continuationToken": page["continuationToken"]}
    assert names == [app]
    foreign = {"continuationToken": other_app}
    assert_problem(
        await client_with_bound_keys.get("/api/apps", headers=key_header("reader"), params=foreign),
        400,
        "InvalidRequest",
    )


@pytest.mark.parametrize(("method", "path", "roles"), TASK_HUB_OPERATIONS)
async def test_a_bound_key_can_read_only_task_hubs_that_its_apps_have_claimed(
    *,
    client_with_bound_keys: httpx.AsyncClient,
    app: str,
    other_app: str,
    hub: str,
    method: str,
    path: str,
    roles: set[str],
) -> None:
    foreign, unclaimed = new_hub_name(), new_hub_name()
    await register_app(client_with_bound_keys, app, hub)
    await register_app(client_with_bound_keys, other_app, foreign)
    sent = [event(task_hub) for task_hub in (hub, foreign, unclaimed)]
    assert (
        await client_with_bound_keys.post("/api/events", json=sent, headers=key_header("publisher", UNBOUND_KEYS))
    ).status_code == 200
    for role in BOUND_KEYS:
        for task_hub, status in ((foreign, 403), (unclaimed, 403), (new_hub_name(), 404)):
            refused = await client_with_bound_keys.request(method, path.format(hub=task_hub), headers=key_header(role))
            assert (refused.status_code, other_app in refused.text) == (status, False)
        response = await client_with_bound_keys.request(method, path.format(hub=hub.upper()), headers=key_header(role))
        assert response.status_code not in (401, 403, 404), response.text


async def test_a_bound_key_can_read_a_retired_task_hub_of_its_app(
    client_with_bound_keys: httpx.AsyncClient, app: str, hub: str
) -> None:
    await register_app(client_with_bound_keys, app, hub)
    assert (await register_app(client_with_bound_keys, app, new_hub_name())).status_code == 200
    response = await client_with_bound_keys.get(f"/api/taskhubs/{hub}", headers=key_header("reader"))
    assert (response.status_code, response.json()["app"]) == (200, app)


async def test_a_bound_key_can_neither_read_the_quarantine_nor_publish_events(
    client_with_bound_keys: httpx.AsyncClient, hub: str
) -> None:
    for role in BOUND_KEYS:
        detail = assert_problem(
            await client_with_bound_keys.get("/api/quarantine", headers=key_header(role)), 403, "Forbidden"
        )["detail"]
        assert detail == (
            "key bound-admin is bound to apps; this operation needs a key for all apps"
            if role == "admin"
            else f"key bound-{role} has the role {role}; this operation needs a key with the role admin"
        )
        sent = await client_with_bound_keys.post("/api/events", json=[event(hub)], headers=key_header(role))
        assert_problem(sent, 403, "Forbidden")
    assert_problem(
        await client_with_bound_keys.get(f"/api/taskhubs/{hub}", headers=key_header("reader", UNBOUND_KEYS)),
        404,
        "TaskHubNotFound",
    )


async def test_a_bound_key_can_remove_neither_unclaimed_task_hubs_nor_quarantined_events(
    client_with_bound_keys: httpx.AsyncClient, app: str, hub: str
) -> None:
    await register_app(client_with_bound_keys, app, hub)
    for path in (f"/api/taskhubs/{hub}", f"/api/taskhubs/{new_hub_name()}", "/api/quarantine?before=2020-01-01"):
        for role in BOUND_KEYS:
            assert_problem(await client_with_bound_keys.delete(path, headers=key_header(role)), 403, "Forbidden")


async def test_a_refusal_does_not_name_another_app_to_a_bound_key(
    client_with_bound_keys: httpx.AsyncClient, app: str, other_app: str, hub: str
) -> None:
    await register_app(client_with_bound_keys, other_app, hub)
    attempts: list[tuple[str, str, str, dict[str, Any]]] = [
        ("deployer", "POST", f"/api/apps/{app}/staging", {"taskHub": hub}),
        ("admin", "PUT", f"/api/apps/{app}", {"slots": {"production": {"taskHub": hub}}}),
    ]
    for role, method, path, body in attempts:
        refused = await client_with_bound_keys.request(method, path, json=body, headers=key_header(role))
        document = assert_problem(refused, 409, "TaskHubInUse")
        assert other_app not in refused.text
        assert document["taskHub"] == hub
        problem = await client_with_bound_keys.request(method, path, json=body, headers=key_header(role, UNBOUND_KEYS))
        assert problem.json()["app"] == other_app


async def test_the_audit_log_names_the_key(client_with_bound_keys: httpx.AsyncClient, app: str, hub: str) -> None:
    staged = await client_with_bound_keys.post(
        f"/api/apps/{app}/staging", json={"taskHub": hub}, headers=key_header("deployer")
    )
    assert staged.status_code == 200
    history = await client_with_bound_keys.get(f"/api/apps/{app}/history", headers=key_header("deployer"))
    assert history.json()["history"][0]["keyName"] == "bound-deployer"


async def test_a_router_with_a_bound_key_reads_the_routing_of_its_app_only(
    storage: StorageSettings, app: str, other_app: str
) -> None:
    keys = [key_entry("key-of-the-admin", "admin", "admin"), key_entry("key-of-the-router", "router", "router", [app])]
    server = StateServer(Settings.model_validate({"storage": storage, "keys": keys}))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
        for name in (app, other_app):
            body = {"model": "sideBySide"}
            put = await client.put(f"/api/apps/{name}", json=body, headers={"x-functions-key": "key-of-the-admin"})
            assert put.status_code == 200, put.text
        headers = {"x-functions-key": "key-of-the-router"}
        assert (await client.get(f"/api/apps/{app}/routing", headers=headers)).json()["app"] == app
        assert_problem(await client.get(f"/api/apps/{other_app}/routing", headers=headers), 403, "Forbidden")
        assert_problem(await client.get(f"/api/apps/{app}/releases", headers=headers), 403, "Forbidden")
    await server.close()
