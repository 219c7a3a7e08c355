"""Security of every operation. Access keys cannot be bypassed and are compared in constant time. Every response has
security headers. Other origins get nothing. A publisher's key cannot make a verified task hub Ready."""

import hmac
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from harness.processes import free_port
from state_api.app import StateServer
from state_api.http.middleware import SECURITY_HEADERS, LoopbackOnlyMiddleware
from state_api.settings import Settings, StorageSettings, emulator_connection_string, sha256_of
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock
from tests.http.operations import (
    assert_problem,
    fill_path,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
)
from tests.http.test_keys_and_roles import KEYS, OPERATIONS, client_with_keys

__all__ = ["client_with_keys"]  # a fixture

pytestmark = pytest.mark.anyio

HOSTILE_ORIGIN = "https://evil.example"


def key_header(role: str) -> dict[str, str]:
    return {"x-functions-key": KEYS[role]}


# Keys


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
async def test_every_operation_refuses_a_request_without_a_known_key(
    *, client_with_keys: httpx.AsyncClient, app: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    address = fill_path(path, app=app, hub=hub)
    attempts: list[dict[str, Any]] = [
        {},
        {"headers": {"x-functions-key": "not-a-key-of-this-server"}},
        {"headers": {"aeg-sas-key": "not-a-key-of-this-server"}},
        {"headers": {"authorization": f"Bearer {KEYS['admin']}"}},
        {"headers": {"x-ms-client-principal-name": "admin@example.com", "x-ms-client-principal-id": "1"}},
        {"params": {"code": "not-a-key-of-this-server"}},
        {"params": {"key": KEYS["admin"], "x-functions-key": KEYS["admin"]}},
        {"headers": {"cookie": f"x-functions-key={KEYS['admin']}"}},
    ]
    for attempt in attempts:
        assert_problem(await client_with_keys.request(method, address, **attempt), 401, "Unauthorized")


@pytest.mark.parametrize("role", ["reader", "router", "deployer", "publisher"])
async def test_a_refused_request_changes_nothing(
    client_with_keys: httpx.AsyncClient, app: str, hub: str, role: str
) -> None:
    body = {"slots": {"production": {"taskHub": hub}}}
    assert (await client_with_keys.put(f"/api/apps/{app}", json=body, headers=key_header("admin"))).status_code == 200
    before = await client_with_keys.get(f"/api/apps/{app}", headers=key_header("reader"))
    bodies: dict[str, Any] = {
        "/api/apps/{app}": {"policy": {"settleSeconds": 0}},
        "/api/apps/{app}/staging": {"taskHub": f"{hub}x"},
        "/api/apps/{app}/swap": {"taskHub": hub},
        "/api/apps/{app}/waivers": {
            "taskHub": hub,
            "instanceId": "1",
            "reason": "x",
            "expiresAt": "2099-01-01T00:00:00Z",
        },
        "/api/events": [event(hub)],
    }
    for method, path, roles in OPERATIONS:
        if method in ("POST", "PUT") and role not in roles:
            address = fill_path(path, app=app, hub=hub)
            refused = await client_with_keys.request(
                method, address, json=bodies.get(path, {}), headers=key_header(role)
            )
            assert_problem(refused, 403, "Forbidden")
    after = await client_with_keys.get(f"/api/apps/{app}", headers=key_header("reader"))
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])
    instances = await client_with_keys.get(f"/api/taskhubs/{hub}/instances", headers=key_header("reader"))
    assert instances.json().get("instances", []) == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/health/../apps",
        "/api/health/",
        "/api/health/ready/../../apps",
        "/api/health%2f..%2fapps",
        "/api/HEALTH",
        "//api/health",
        "/api//health",
        "/api/apps;/api/health",
        "/api/apps#/api/health",
        "/api/apps?/api/health",
        "/api/apps%23/api/health",
        "/api/openapi.json%00",
    ],
)
async def test_a_path_that_resembles_an_anonymous_one_needs_a_key(
    client_with_keys: httpx.AsyncClient, path: str
) -> None:
    assert_problem(await client_with_keys.get(path), 401, "Unauthorized")


async def test_two_keys_in_one_request_grant_no_more_than_one_of_them(
    client_with_keys: httpx.AsyncClient, app: str
) -> None:
    two_keys = {"headers": key_header("reader"), "params": {"code": KEYS["publisher"]}}
    assert_problem(await client_with_keys.put(f"/api/apps/{app}", json={}, **two_keys), 403, "Forbidden")  # type: ignore[arg-type]


async def test_a_key_is_compared_with_every_known_key_in_constant_time(
    client_with_keys: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request calls `hmac.compare_digest` once for every known key, whether or not a key matches. The duration
    itself is too noisy to test."""
    compared: list[tuple[str, str]] = []
    compare_digest = hmac.compare_digest

    def recording_compare_digest(left: str, right: str) -> bool:
        """Compare keys as the server does, and keep what was compared."""
        compared.append((left, right))
        return compare_digest(left, right)

    monkeypatch.setattr(hmac, "compare_digest", recording_compare_digest)
    for value in (*KEYS.values(), "wrong", KEYS["reader"][:-1], "x" * 8000):
        compared.clear()
        await client_with_keys.get("/api/apps", headers={"x-functions-key": value})
        assert compared == [(sha256_of(value), sha256_of(key)) for key in KEYS.values()]


# Headers


def assert_secured(response: httpx.Response) -> None:
    """Assert that a response has the security headers, does not name the server, and allows no other origin."""
    assert {name: response.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS, response.url
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "server" not in response.headers
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_every_response_has_the_security_headers(
    client_with_keys: httpx.AsyncClient, app: str, hub: str, storage: StorageSettings
) -> None:
    admin = key_header("admin")
    responses = [
        await client_with_keys.get("/api/health"),
        await client_with_keys.get("/api/openapi.json"),
        await client_with_keys.get("/api/apps"),
        await client_with_keys.put(f"/api/apps/{app}", headers=key_header("reader"), json={}),
        await client_with_keys.get("/api/apps/x_y", headers=admin),
        await client_with_keys.get(f"/api/apps/{app}", headers=admin),
        await client_with_keys.get("/api/nothing", headers=admin),
        await client_with_keys.patch("/api/apps", headers=admin),
        await client_with_keys.post(f"/api/apps/{app}/staging", headers=admin, content="x" * 70_000),
        await client_with_keys.post(f"/api/apps/{app}/staging", headers=admin, content="x"),
        await client_with_keys.post(f"/api/apps/{app}/staging", headers=admin, json={"taskHub": hub}),
        await client_with_keys.post(f"/api/apps/{app}/swap", headers=admin, json={"taskHub": "another1"}),
        await client_with_keys.post(f"/api/apps/{app}/cleanup", headers={**admin, "If-Match": '"99"'}),
        await client_with_keys.post("/api/events", headers=admin, json=[event(hub)]),
        await client_with_keys.options(
            "/api/events", headers={**admin, "WebHook-Request-Origin": "eventgrid.azure.net"}
        ),
    ]
    statuses = [200, 200, 401, 403, 400, 404, 404, 405, 413, 415, 200, 409, 412, 200, 200]
    assert [response.status_code for response in responses] == statuses
    for response in responses:
        assert_secured(response)


async def test_responses_to_server_errors_have_the_security_headers(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable_storage = StorageSettings.model_validate(
        {"connection_string": emulator_connection_string("127.0.0.1", free_port())}
    )
    server = StateServer(Settings(storage=unreachable_storage))
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as client:
        unavailable = await client.get("/api/health/ready")
        assert_problem(unavailable, 503, "StorageUnavailable")
        monkeypatch.setattr(server.services.task_hub_queries, "check_storage", None)
        unexpected = await client.get("/api/health/ready")
        assert_problem(unexpected, 500, "InternalError")
    await server.close()
    assert_secured(unavailable)
    assert_secured(unexpected)


async def test_strict_transport_security_is_sent_over_https_only(server: StateServer) -> None:
    transport = httpx.ASGITransport(server.application)
    for scheme, header in (("https", "max-age=31536000"), ("http", None)):
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://state") as client:
            for path in ("/api/health", "/api/nothing"):
                assert (await client.get(path)).headers.get("strict-transport-security") == header


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/api/docs", "/api/redoc", "/openapi.json", "/docs/oauth2-redirect"]
)
async def test_there_are_no_pages_for_the_api_documentation(http: httpx.AsyncClient, path: str) -> None:
    assert_problem(await http.get(path), 404, "NotFound")


# Other origins


@pytest.fixture
async def local_client(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server without keys, as on a developer's machine."""
    transport = httpx.ASGITransport(LoopbackOnlyMiddleware(server.application))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7071") as client:
        yield client


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in OPERATIONS if method != "OPTIONS"])
async def test_a_preflight_request_from_another_origin_is_refused(
    *, client_with_keys: httpx.AsyncClient, local_client: httpx.AsyncClient, app: str, hub: str, method: str, path: str
) -> None:
    preflight_headers = {
        "Origin": HOSTILE_ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type, x-functions-key",
        "Access-Control-Request-Private-Network": "true",
    }
    for client, expected in ((client_with_keys, 401), (local_client, 403)):
        response = await client.options(fill_path(path, app=app, hub=hub), headers=preflight_headers)
        assert response.status_code == expected
        assert_secured(response)
    # A key makes no difference. Browsers send none with a preflight request.
    response = await client_with_keys.options(
        fill_path(path, app=app, hub=hub), headers={**preflight_headers, **key_header("admin")}
    )
    assert response.status_code in (400, 405)
    assert_secured(response)


async def test_another_origin_may_not_read_a_response(client_with_keys: httpx.AsyncClient) -> None:
    response = await client_with_keys.get("/api/apps", headers={"Origin": HOSTILE_ORIGIN, **key_header("reader")})
    assert response.status_code == 200
    assert_secured(response)


async def test_the_webhook_handshake_grants_other_origins_nothing(client_with_keys: httpx.AsyncClient) -> None:
    headers = {
        "WebHook-Request-Origin": HOSTILE_ORIGIN,
        "Origin": HOSTILE_ORIGIN,
        "Access-Control-Request-Method": "POST",
    }
    assert_problem(await client_with_keys.options("/api/events", headers=headers), 401, "Unauthorized")
    assert_secured(await client_with_keys.options("/api/events", headers={**headers, **key_header("publisher")}))


# A publisher that sends false events


async def register_verified_app(http: httpx.AsyncClient, app: str, hub: str, **policy: Any) -> None:
    """Register an app whose verdicts need a probe."""
    response = await put_app(
        http,
        app,
        slots={"staging": {"taskHub": hub}},
        taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"},
        policy={"requireVerification": True, "settleSeconds": 1, **policy},
    )
    assert response.status_code == 200, response.text


async def test_forged_completions_do_not_make_a_verified_task_hub_ready(
    http: httpx.AsyncClient, clock: ShiftedClock, storage: StorageSettings, app: str, hub: str
) -> None:
    """Nor does a completion as far in the future as the server accepts, or a function name that the policy ignores."""
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await provider.put("order-1", "Running")
        await register_verified_app(http, app, hub, ignoreFunctions=["Nightly*"])
        await post_events(
            http,
            event(hub, "order-1", "Completed"),
            event(hub, "order-1", "Terminated", time=timestamp(290)),
            event(hub, "order-1", "Running", time=timestamp(290), function="NightlySync"),
        )
        clock.advance(40)
        verdict = await get_staging(http, app, verify="fresh")
        assert (verdict["ready"], reason_codes(verdict)) == (False, ["InstancesActive"])
        assert [instance["instanceId"] for instance in verdict["active"]] == ["order-1"]
        assert_problem(await post_staging(http, app, f"{hub}x"), 409, "StagingNotReady")


async def test_without_verification_a_forged_completion_is_accepted(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, hub: str
) -> None:
    """This is why docs/security.md recommends verification."""
    await post_staging(http, app, hub)
    await post_events(http, event(hub, "order-1"))
    clock.advance(40)
    assert "InstancesActive" in reason_codes(await get_staging(http, app))
    await post_events(http, event(hub, "order-1", "Completed"))
    clock.advance(40)
    assert "InstancesActive" not in reason_codes(await get_staging(http, app))


async def test_a_forged_start_blocks_and_can_be_waived(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, hub: str
) -> None:
    await put_app(http, app, slots={"staging": {"taskHub": hub}})
    await post_events(http, event(hub, "forged"))
    clock.advance(40)
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    body = {"taskHub": hub, "instanceId": "forged", "reason": "forged", "expiresAt": timestamp(3600)}
    assert (await http.post(f"/api/apps/{app}/waivers", json=body)).status_code == 200
    assert (await get_staging(http, app))["ready"]


async def test_an_administrator_can_register_a_task_hub_name_that_a_forged_event_used(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await post_events(http, event(hub, "forged", "Completed"))
    assert_problem(await post_staging(http, app, hub), 409, "TaskHubAlreadyUsed")
    assert (await put_app(http, app, slots={"staging": {"taskHub": hub}})).status_code == 200


async def test_a_publisher_may_only_deliver_events(client_with_keys: httpx.AsyncClient) -> None:
    permitted = {(method, path) for method, path, roles in OPERATIONS if "publisher" in roles}
    assert permitted == {("POST", "/api/events"), ("OPTIONS", "/api/events")}
