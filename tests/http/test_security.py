"""What surrounds every operation: no way around the keys, comparison that tells nothing by its time, headers on every
answer, no other origins, and what somebody can do who has nothing but a publisher's key."""

import hmac
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dev.local import free_port
from state_api.app import StateServer
from state_api.http.middleware import SECURITY_HEADERS, LocalOnly
from state_api.settings import Settings, StorageSettings, emulator_connection, sha256_of
from tests.builders import at, event
from tests.conftest import ShiftedClock
from tests.http.client import codes, problem, publish, put, stage, staging
from tests.http.test_keys_and_roles import KEYS, OPERATIONS, guarded
from tests.taskhubs.provider import ProviderHub

__all__ = ["guarded"]  # a fixture

pytestmark = pytest.mark.anyio

EVIL = "https://evil.example"


def key_of(role: str) -> dict[str, str]:
    return {"x-functions-key": KEYS[role]}


# Keys


@pytest.mark.parametrize(("method", "path", "roles"), OPERATIONS)
async def test_no_operation_answers_without_a_key_that_is_known(
    guarded: httpx.AsyncClient, app: str, hub: str, method: str, path: str, roles: set[str]
) -> None:
    address = path.format(app=app, hub=hub)
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
        problem(await guarded.request(method, address, **attempt), 401, "Unauthorized")


@pytest.mark.parametrize("role", ["reader", "router", "deployer", "publisher"])
async def test_what_is_refused_changes_nothing(guarded: httpx.AsyncClient, app: str, hub: str, role: str) -> None:
    body = {"slots": {"production": {"taskHub": hub}}}
    assert (await guarded.put(f"/api/apps/{app}", json=body, headers=key_of("admin"))).status_code == 200
    before = await guarded.get(f"/api/apps/{app}", headers=key_of("reader"))
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
            address = path.format(app=app, hub=hub)
            refused = await guarded.request(method, address, json=bodies.get(path, {}), headers=key_of(role))
            problem(refused, 403, "Forbidden")
    after = await guarded.get(f"/api/apps/{app}", headers=key_of("reader"))
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])
    instances = await guarded.get(f"/api/taskhubs/{hub}/instances", headers=key_of("reader"))
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
async def test_an_address_that_looks_anonymous_is_not(guarded: httpx.AsyncClient, path: str) -> None:
    problem(await guarded.get(path), 401, "Unauthorized")


async def test_two_keys_in_one_request_give_no_more_than_one_of_them(guarded: httpx.AsyncClient, app: str) -> None:
    both = {"headers": key_of("reader"), "params": {"code": KEYS["publisher"]}}
    problem(await guarded.put(f"/api/apps/{app}", json={}, **both), 403, "Forbidden")  # type: ignore[arg-type]


async def test_a_key_is_compared_in_constant_time_with_every_key_there_is(
    guarded: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever matches, and if none does: the comparison that the standard library has for it, as often as there are
    keys, with no early end. Time itself is too noisy to test."""
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def noted(one: str, other: str) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    for value in (*KEYS.values(), "wrong", KEYS["reader"][:-1], "x" * 8000):
        compared.clear()
        await guarded.get("/api/apps", headers={"x-functions-key": value})
        assert compared == [(sha256_of(value), sha256_of(key)) for key in KEYS.values()]


# Headers


def assert_secured(answer: httpx.Response) -> None:
    assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS, answer.url
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_every_answer_carries_the_security_headers(
    guarded: httpx.AsyncClient, app: str, hub: str, storage: StorageSettings
) -> None:
    admin = key_of("admin")
    answers = [
        await guarded.get("/api/health"),
        await guarded.get("/api/openapi.json"),
        await guarded.get("/api/apps"),
        await guarded.put(f"/api/apps/{app}", headers=key_of("reader"), json={}),
        await guarded.get("/api/apps/x_y", headers=admin),
        await guarded.get(f"/api/apps/{app}", headers=admin),
        await guarded.get("/api/nothing", headers=admin),
        await guarded.patch("/api/apps", headers=admin),
        await guarded.post(f"/api/apps/{app}/staging", headers=admin, content="x" * 70_000),
        await guarded.post(f"/api/apps/{app}/staging", headers=admin, content="x"),
        await guarded.post(f"/api/apps/{app}/staging", headers=admin, json={"taskHub": hub}),
        await guarded.post(f"/api/apps/{app}/swap", headers=admin, json={"taskHub": "another1"}),
        await guarded.post(f"/api/apps/{app}/cleanup", headers={**admin, "If-Match": '"99"'}),
        await guarded.post("/api/events", headers=admin, json=[event(hub)]),
        await guarded.options("/api/events", headers={**admin, "WebHook-Request-Origin": "eventgrid.azure.net"}),
    ]
    statuses = [200, 200, 401, 403, 400, 404, 404, 405, 413, 415, 200, 409, 412, 200, 200]
    assert [answer.status_code for answer in answers] == statuses
    for answer in answers:
        assert_secured(answer)


async def test_the_answers_to_trouble_carry_them_too(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = StorageSettings.model_validate({"connection_string": emulator_connection("127.0.0.1", free_port())})
    server = StateServer(Settings(storage=nowhere))
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=60) as client:
        unavailable = await client.get("/api/health/ready")
        problem(unavailable, 503, "StorageUnavailable")
        monkeypatch.setattr(server.services.inspection, "check_storage", None)
        unforeseen = await client.get("/api/health/ready")
        problem(unforeseen, 500, "InternalError")
    await server.close()
    assert_secured(unavailable)
    assert_secured(unforeseen)


async def test_browsers_are_bound_to_https_where_the_server_is_reached_by_it(server: StateServer) -> None:
    transport = httpx.ASGITransport(server.application)
    for scheme, said in (("https", "max-age=31536000"), ("http", None)):
        async with httpx.AsyncClient(transport=transport, base_url=f"{scheme}://state") as client:
            for path in ("/api/health", "/api/nothing"):
                assert (await client.get(path)).headers.get("strict-transport-security") == said


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/api/docs", "/api/redoc", "/openapi.json", "/docs/oauth2-redirect"]
)
async def test_there_is_no_page_that_would_load_scripts_from_elsewhere(http: httpx.AsyncClient, path: str) -> None:
    problem(await http.get(path), 404, "NotFound")


# Other origins


@pytest.fixture
async def local(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A server without keys, as it is on a developer's machine."""
    transport = httpx.ASGITransport(LocalOnly(server.application))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7071") as client:
        yield client


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in OPERATIONS if method != "OPTIONS"])
async def test_a_preflight_from_another_origin_gets_nothing_that_allows_it(
    guarded: httpx.AsyncClient, local: httpx.AsyncClient, app: str, hub: str, method: str, path: str
) -> None:
    asked = {
        "Origin": EVIL,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type, x-functions-key",
        "Access-Control-Request-Private-Network": "true",
    }
    for client, expected in ((guarded, 401), (local, 403)):
        answer = await client.options(path.format(app=app, hub=hub), headers=asked)
        assert answer.status_code == expected
        assert_secured(answer)
    # Not even with a key, which a browser's preflight never carries.
    answer = await guarded.options(path.format(app=app, hub=hub), headers={**asked, **key_of("admin")})
    assert answer.status_code in (400, 405)
    assert_secured(answer)


async def test_what_another_origin_asks_for_is_not_for_it_to_read(guarded: httpx.AsyncClient) -> None:
    answer = await guarded.get("/api/apps", headers={"Origin": EVIL, **key_of("reader")})
    assert answer.status_code == 200
    assert_secured(answer)


async def test_the_handshake_of_deliveries_allows_no_browser_anything(guarded: httpx.AsyncClient) -> None:
    headers = {"WebHook-Request-Origin": EVIL, "Origin": EVIL, "Access-Control-Request-Method": "POST"}
    problem(await guarded.options("/api/events", headers=headers), 401, "Unauthorized")
    assert_secured(await guarded.options("/api/events", headers={**headers, **key_of("publisher")}))


# A publisher that lies


async def verified(http: httpx.AsyncClient, app: str, hub: str, **policy: Any) -> None:
    answer = await put(
        http,
        app,
        slots={"staging": {"taskHub": hub}},
        taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"},
        policy={"requireVerification": True, "settleSeconds": 1, **policy},
    )
    assert answer.status_code == 200, answer.text


async def test_forged_ends_do_not_make_a_verified_task_hub_ready(
    http: httpx.AsyncClient, clock: ShiftedClock, storage: StorageSettings, app: str, hub: str
) -> None:
    """Nor an end that is dated as far ahead as is let through, nor a function name that the policy ignores."""
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
        await provider.put("order-1", "Running")
        await verified(http, app, hub, ignoreFunctions=["Nightly*"])
        await publish(
            http,
            event(hub, "order-1", "Completed"),
            event(hub, "order-1", "Terminated", time=at(290)),
            event(hub, "order-1", "Running", time=at(290), function="NightlySync"),
        )
        clock.turn(40)
        verdict = await staging(http, app, verify="fresh")
        assert (verdict["ready"], codes(verdict)) == (False, ["InstancesActive"])
        assert [one["instanceId"] for one in verdict["active"]] == ["order-1"]
        problem(await stage(http, app, f"{hub}x"), 409, "StagingNotReady")


async def test_by_events_alone_a_forged_end_is_believed(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, hub: str
) -> None:
    """The reason why docs/security.md asks for verification."""
    await stage(http, app, hub)
    await publish(http, event(hub, "order-1"))
    clock.turn(40)
    assert "InstancesActive" in codes(await staging(http, app))
    await publish(http, event(hub, "order-1", "Completed"))
    clock.turn(40)
    assert "InstancesActive" not in codes(await staging(http, app))


async def test_a_forged_start_blocks_and_can_be_waived(
    http: httpx.AsyncClient, clock: ShiftedClock, app: str, hub: str
) -> None:
    await put(http, app, slots={"staging": {"taskHub": hub}})
    await publish(http, event(hub, "forged"))
    clock.turn(40)
    assert codes(await staging(http, app)) == ["InstancesActive"]
    body = {"taskHub": hub, "instanceId": "forged", "reason": "forged", "expiresAt": at(3600)}
    assert (await http.post(f"/api/apps/{app}/waivers", json=body)).status_code == 200
    assert (await staging(http, app))["ready"]


async def test_a_forged_event_burns_a_name_and_an_administrator_can_still_register_it(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    await publish(http, event(hub, "forged", "Completed"))
    problem(await stage(http, app, hub), 409, "TaskHubAlreadyUsed")
    assert (await put(http, app, slots={"staging": {"taskHub": hub}})).status_code == 200


async def test_a_publisher_reads_nothing_and_moves_no_slot(guarded: httpx.AsyncClient) -> None:
    may = {(method, path) for method, path, roles in OPERATIONS if "publisher" in roles}
    assert may == {("POST", "/api/events"), ("OPTIONS", "/api/events")}
