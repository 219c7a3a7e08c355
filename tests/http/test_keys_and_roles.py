"""Access keys: which requests they open, what each role may do, and that no response or log contains a key."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from state_api.app import StateServer
from state_api.settings import Settings, StorageSettings
from tests.builders import event
from tests.http.operations import assert_problem, fill_path
from tests.keys import key_entries

pytestmark = pytest.mark.anyio

KEYS = {role: f"key-of-the-{role}-0123456789" for role in ("reader", "router", "deployer", "publisher", "admin")}


@pytest.fixture
async def client_with_keys(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has one key for each role."""
    keys = key_entries(KEYS)
    server = StateServer(Settings.model_validate({"storage": storage, "keys": keys}))
    transport = httpx.ASGITransport(server.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://state") as client:
        yield client
    await server.close()


async def test_without_a_key_only_health_openapi_and_the_home_page_respond(
    client_with_keys: httpx.AsyncClient, app: str
) -> None:
    for path in ("/", "/api/health", "/api/health/ready", "/api/openapi.json"):
        assert (await client_with_keys.get(path)).status_code == 200
    for path in ("/api/apps", f"/api/apps/{app}", "/api/quarantine", "/api/nothing"):
        refused = await client_with_keys.get(path)
        assert_problem(refused, 401, "Unauthorized")
        assert "x-functions-key" in refused.headers["www-authenticate"]


@pytest.mark.parametrize("key", ["", "wrong", KEYS["admin"][:-1], KEYS["admin"] + "x", KEYS["admin"].upper(), "ü"])
async def test_a_wrong_key_is_refused(client_with_keys: httpx.AsyncClient, key: str) -> None:
    assert_problem(
        await client_with_keys.get("/api/apps", headers={b"x-functions-key": key.encode()}), 401, "Unauthorized"
    )
    assert_problem(await client_with_keys.get("/api/apps", params={"code": key}), 401, "Unauthorized")


async def test_a_key_can_be_sent_in_three_ways(client_with_keys: httpx.AsyncClient) -> None:
    assert (await client_with_keys.get("/api/apps", headers={"x-functions-key": KEYS["reader"]})).status_code == 200
    assert (await client_with_keys.get("/api/apps", params={"code": KEYS["reader"]})).status_code == 200
    sent = await client_with_keys.post("/api/events", json=[], headers={"aeg-sas-key": KEYS["publisher"]})
    assert sent.status_code == 200


OPERATIONS = [
    ("GET", "/api/apps", {"reader", "deployer", "admin"}),
    ("GET", "/api/apps/{app}", {"reader", "deployer", "admin"}),
    ("GET", "/api/apps/{app}/staging", {"reader", "deployer", "admin"}),
    ("GET", "/api/apps/{app}/history", {"reader", "deployer", "admin"}),
    ("GET", "/api/taskhubs/{hub}", {"reader", "deployer", "admin"}),
    ("GET", "/api/taskhubs/{hub}/instances", {"reader", "deployer", "admin"}),
    ("GET", "/api/taskhubs/{hub}/timeline", {"reader", "deployer", "admin"}),
    ("GET", "/api/taskhubs/{hub}/versions", {"reader", "deployer", "admin"}),
    ("GET", "/api/quarantine", {"admin"}),
    ("POST", "/api/apps/{app}/staging", {"deployer", "admin"}),
    ("DELETE", "/api/apps/{app}/staging", {"deployer", "admin"}),
    ("POST", "/api/apps/{app}/swap", {"deployer", "admin"}),
    ("GET", "/api/apps/{app}/releases", {"reader", "deployer", "admin"}),
    ("GET", "/api/apps/{app}/releases/{version}/status", {"reader", "deployer", "admin"}),
    ("POST", "/api/apps/{app}/releases", {"deployer", "admin"}),
    ("DELETE", "/api/apps/{app}/releases/{version}", {"deployer", "admin"}),
    ("GET", "/api/apps/{app}/routing", {"router", "deployer", "admin"}),
    ("PUT", "/api/apps/{app}/routing", {"deployer", "admin"}),
    ("PUT", "/api/apps/{app}/rollout", {"deployer", "admin"}),
    ("GET", "/api/apps/{app}/rollout", {"reader", "deployer", "admin"}),
    ("POST", "/api/apps/{app}/rollout/{action}", {"deployer", "admin"}),
    ("GET", "/api/apps/{app}/health", {"reader", "deployer", "admin"}),
    ("DELETE", "/api/apps/{app}/routers/{router}", {"admin"}),
    ("POST", "/api/apps/{app}/cleanup", {"deployer", "admin"}),
    ("POST", "/api/apps/{app}/waivers", {"deployer", "admin"}),
    ("DELETE", "/api/apps/{app}/waivers", {"deployer", "admin"}),
    ("PUT", "/api/apps/{app}", {"admin"}),
    ("DELETE", "/api/apps/{app}", {"admin"}),
    ("DELETE", "/api/taskhubs/{hub}", {"admin"}),
    ("DELETE", "/api/quarantine", {"admin"}),
    ("POST", "/api/events", {"publisher", "admin"}),
    ("OPTIONS", "/api/events", {"publisher", "admin"}),
]


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
async def test_each_role_may_call_its_own_operations_only(
    *, client_with_keys: httpx.AsyncClient, app: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    parameters = {"taskHub": hub, "instanceId": "1"} if path.endswith("waivers") else {"taskHub": hub}
    if path.endswith("{version}"):
        parameters = {"outcome": "Pending"}
    for role, key in KEYS.items():
        # The request is valid, but its app and task hub do not exist: a permitted role gets another error than 403.
        response = await client_with_keys.request(
            method,
            fill_path(path, app=app, hub=hub),
            params=parameters if method == "DELETE" else {},
            json={"taskHub": hub} if path.endswith(("staging", "swap")) and method == "POST" else None,
            headers={"x-functions-key": key, "WebHook-Request-Origin": "x"},
        )
        if role in roles:
            assert response.status_code not in (401, 403), response.text
        else:
            assert role in assert_problem(response, 403, "Forbidden")["detail"]


async def test_only_routers_and_admins_acknowledge_documents(client_with_keys: httpx.AsyncClient, app: str) -> None:
    """A deployer that acknowledges in the name of a router would have a release removed that still gets requests."""
    headers = {role: {"x-functions-key": key} for role, key in KEYS.items()}
    put = await client_with_keys.put(f"/api/apps/{app}", json={"model": "sideBySide"}, headers=headers["admin"])
    assert put.status_code == 200
    path = f"/api/apps/{app}/routing"
    assert (await client_with_keys.get(path, headers=headers["deployer"])).status_code == 200
    named = {"router": "envoy-1"}
    refused = await client_with_keys.get(path, params=named, headers=headers["deployer"])
    assert "router" in assert_problem(refused, 403, "Forbidden")["detail"]
    listed = await client_with_keys.get(f"/api/apps/{app}/releases", headers=headers["deployer"])
    assert listed.json()["routers"] == []
    for role in ("router", "admin"):
        assert (await client_with_keys.get(path, params=named, headers=headers[role])).status_code == 200


async def test_only_deployers_and_admins_see_why_an_instance_failed(
    client_with_keys: httpx.AsyncClient, hub: str
) -> None:
    """A reason is text that the app wrote, and can contain data of its customers."""
    failed = event(hub, status="Failed", reason="the card of Anna Example was declined")
    delivery = await client_with_keys.post("/api/events", json=[failed], headers={"aeg-sas-key": KEYS["publisher"]})
    assert delivery.json()["recorded"] == 1
    visible_reasons = {}
    for role in ("reader", "deployer", "admin"):
        listed = await client_with_keys.get(f"/api/taskhubs/{hub}/instances", headers={"x-functions-key": KEYS[role]})
        (visible_reasons[role],) = (instance["reason"] for instance in listed.json()["instances"])
    reason = "the card of Anna Example was declined"
    assert visible_reasons == {"reader": None, "deployer": reason, "admin": reason}


async def test_the_table_of_roles_lists_every_operation(client_with_keys: httpx.AsyncClient) -> None:
    document = (await client_with_keys.get("/api/openapi.json")).json()
    documented = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    anonymous = {("GET", "/api/health"), ("GET", "/api/health/ready"), ("GET", "/api/openapi.json")}
    assert documented - anonymous == {(method, path) for method, path, _ in OPERATIONS if method != "OPTIONS"}


async def test_the_audit_log_has_the_name_of_the_key_and_nothing_contains_its_value(
    client_with_keys: httpx.AsyncClient, app: str, hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = {"code": KEYS["deployer"]}
    staged = await client_with_keys.post(f"/api/apps/{app}/staging", json={"taskHub": hub}, params=key)
    assert staged.json()["updatedBy"] == "key the-deployer"
    history = await client_with_keys.get(f"/api/apps/{app}/history", params=key)
    assert history.json()["history"][0]["keyName"] == "the-deployer"
    await client_with_keys.post("/api/events", json=[event(hub)], params={"code": KEYS["publisher"]})
    await client_with_keys.get("/api/nothing", params={"code": KEYS["reader"]})
    responses = staged.text + history.text
    # httpx, the client of this test, logs URLs with their queries; the server's own log must not contain them.
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert f"POST /api/apps/{app}/staging 200" in logged
    assert not any(value in responses + logged for value in KEYS.values())
