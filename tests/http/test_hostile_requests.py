"""Invalid and hostile requests: each gets a clear 4xx response, and the server continues as before."""

import base64
import json
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from tests.builders import event
from tests.http.operations import assert_problem, get_staging, post_events, post_staging

pytestmark = pytest.mark.anyio

JSON_HEADERS = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "name",
    [
        "x' or PartitionKey ne '",
        "shop%27%20or%201%20eq%201",
        "-shop",
        "a",
        "s" * 61,
        "shop_1",
        "shöp",
        "shop%0a",
        "shop%00",
        "|apps",
    ],
)
async def test_an_invalid_app_name_is_refused_with_the_naming_rule(http: httpx.AsyncClient, name: str) -> None:
    for path in (f"/api/apps/{name}", f"/api/apps/{name}/staging", f"/api/apps/{name}/history"):
        refused = assert_problem(await http.get(path), 400, "InvalidRequest")
        assert "an app name has 2 to 60 letters" in refused["detail"]


@pytest.mark.parametrize("name", ["ab", "9hub", "h'or'1", "h" * 46, "hub-1", "hub%20", "hüb", "hub%0a"])
async def test_an_invalid_task_hub_name_is_refused_with_the_naming_rule(
    http: httpx.AsyncClient, app: str, name: str
) -> None:
    for path in (f"/api/taskhubs/{name}", f"/api/taskhubs/{name}/instances"):
        refused = assert_problem(await http.get(path), 400, "InvalidRequest")
        assert "3 to 45 letters and digits" in refused["detail"]
    refused = assert_problem(await post_staging(http, app, name), 400, "InvalidRequest")
    assert refused["errors"][0]["field"] == "body.taskHub"
    assert_problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"taskHub": null}',
        '{"taskHub": 7}',
        '{"taskHub": ["hub1"]}',
        '{"taskHub": "hub1", "force": "yes", "reason": "x"}',
        '{"taskHub": "hub1", "taskhub": "hub2"}',
        '{"taskHub": "hub1", "version": "' + "x" * 101 + '"}',
        '{"taskHub": "hub1", "version": "line\\nbreak"}',
        '{"taskHub": "hub1", "slot": "../production"}',
        '{"taskHub": "\\ud800"}',
        '{"taskHub": ' + "[" * 30_000 + "]" * 30_000 + "}",
        '{"taskHub": ' + "9" * 5000 + "}",
        "\x00",
    ],
)
async def test_an_invalid_staging_body_is_refused_and_nothing_is_written(
    http: httpx.AsyncClient, app: str, body: str
) -> None:
    assert_problem(
        await http.post(f"/api/apps/{app}/staging", content=body, headers=JSON_HEADERS), 400, "InvalidRequest"
    )
    assert_problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


@pytest.mark.parametrize(
    "body",
    [
        {"slots": {"production": "hub1"}},
        {"slots": {"../x": None}},
        {"slots": {"preview": None, "Preview": None}},
        {"slots": {"production": {"taskHub": "hubx1"}, "staging": {"taskHub": "HUBX1"}}},
        {"slots": {f"s{n}": None for n in range(21)}},
        {"policy": {"settleSeconds": -1}},
        {"policy": {"settleSeconds": 1e9}},
        {"policy": {"settleSeconds": True}},
        {"policy": {"deploymentTimeoutMinutes": 0}},
        {"policy": {"ignoreFunctions": "all"}},
        {"policy": {"ignoreFunctions": [""]}},
        {"policy": {"retention": {"keepLast": -1}}},
        {"policy": {"unknown": 1}},
        {"taskHubs": {"provider": "azureStorage"}},
        {"taskHubs": {"provider": "x", "connection": "DefaultEndpointsProtocol=https;AccountKey=secret"}},
        {"app": "another"},
        {"surprise": 1},
    ],
)
async def test_an_invalid_registration_is_refused_without_repeating_secrets(
    http: httpx.AsyncClient, app: str, body: dict[str, object]
) -> None:
    refused = assert_problem(await http.put(f"/api/apps/{app}", json=body), 400, "InvalidRequest")
    assert "secret" not in json.dumps(refused)
    assert_problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


async def test_bodies_over_the_limit_are_refused(http: httpx.AsyncClient, app: str) -> None:
    refused = assert_problem(await post_staging(http, app, "hub1", reason="x" * 70_000), 413, "PayloadTooLarge")
    assert refused["limit"] == 65_536
    assert_problem(
        await http.post("/api/events", content=b" " * (4 * 1024 * 1024 + 1), headers=JSON_HEADERS),
        413,
        "PayloadTooLarge",
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/apps", 200),
        ("HEAD", "/api/apps", 405),
        ("POST", "/api/health", 405),
        ("PUT", "/api/health/ready", 405),
        ("DELETE", "/api/openapi.json", 405),
    ],
)
async def test_an_operation_without_a_body_does_not_wait_for_one(
    server: StateServer, method: str, path: str, status: int
) -> None:
    sent: list[Any] = []

    async def fail_if_body_is_read() -> Any:
        pytest.fail("the server waits for a body")

    async def record_message(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-length", b"60000")],
    }
    await server.application(scope, fail_if_body_is_read, record_message)
    assert sent[0]["status"] == status


async def test_a_delivery_with_more_than_5000_events_is_refused(http: httpx.AsyncClient) -> None:
    refused = assert_problem(await http.post("/api/events", json=[{}] * 5001), 413, "PayloadTooLarge")
    assert refused["limit"] == 5000


@pytest.mark.parametrize("body", ["{", "", "5", "null", '"text"', "[" * 100_000, "\xff"])
async def test_a_delivery_that_is_not_json_is_refused(http: httpx.AsyncClient, body: str) -> None:
    response = await http.post("/api/events", content=body.encode("latin-1"), headers=JSON_HEADERS)
    assert_problem(response, 400, "InvalidRequest")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
async def test_a_body_with_another_media_type_is_refused(
    http: httpx.AsyncClient, app: str, hub: str, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    body = json.dumps({"taskHub": hub})
    assert_problem(await http.post("/api/events", content="[]", headers=headers), 415, "UnsupportedMediaType")
    for path in (f"/api/apps/{app}/staging", f"/api/apps/{app}/swap", f"/api/apps/{app}/cleanup"):
        assert_problem(await http.post(path, content=body, headers=headers), 415, "UnsupportedMediaType")
    assert_problem(await http.put(f"/api/apps/{app}", content="{}", headers=headers), 415, "UnsupportedMediaType")


@pytest.mark.parametrize(
    "token", ["x", "'", "AAAA", "eyJraW5kIjoiYXBwcyJ9", "e30", "W10", "bnVsbA", "%00", "é", "A" * 8000, "A" * 8001]
)
async def test_a_forged_continuation_token_is_refused(http: httpx.AsyncClient, app: str, hub: str, token: str) -> None:
    await post_staging(http, app, hub)
    await post_events(http, event(hub))
    for path in (f"/api/apps/{app}/history", f"/api/taskhubs/{hub}/instances", "/api/apps", "/api/quarantine"):
        response = await http.get(path, params={"continuationToken": token})
        assert_problem(response, 400, "InvalidRequest")


@pytest.mark.parametrize(
    "members",
    [
        {"kind": "active", "after": "a|\ud800"},
        {"kind": "active", "after": {"deep": 1}},
        {"kind": "active"},
        {"kind": "finished", "shard": True, "page": None},
        {"kind": "finished", "shard": 99, "page": None},
        {"kind": "finished", "shard": 0, "page": 7},
        {"kind": "history", "PartitionKey": "\ud800", "RowKey": "x"},
        {"kind": "apps", "PartitionKey": 1, "RowKey": "x"},
        {"kind": "quarantine", "PartitionKey": "x"},
    ],
)
async def test_a_continuation_token_with_invalid_members_is_refused(
    http: httpx.AsyncClient, app: str, hub: str, members: dict[str, Any]
) -> None:
    await post_staging(http, app, hub)
    await post_events(http, event(hub))
    token = base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")
    for path in (f"/api/apps/{app}/history", f"/api/taskhubs/{hub}/instances", "/api/apps", "/api/quarantine"):
        assert_problem(await http.get(path, params={"continuationToken": token}), 400, "InvalidRequest")


async def test_an_unknown_task_hub_is_not_found(http: httpx.AsyncClient, hub: str) -> None:
    for path in (f"/api/taskhubs/{hub}", f"/api/taskhubs/{hub}/instances"):
        assert assert_problem(await http.get(path), 404, "TaskHubNotFound")["taskHub"] == hub


@pytest.mark.parametrize("value", ["0", "1001", "-1", "ten", "1e3", ""])
async def test_a_page_size_outside_1_to_1000_is_refused(http: httpx.AsyncClient, value: str) -> None:
    for path in ("/api/apps", "/api/quarantine"):
        assert_problem(await http.get(path, params={"top": value}), 400, "InvalidRequest")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "ftp://x/y",
        "https://user:secret@ci.example/run",
        "https://",
        "nonsense",
        "http://[",
        "https://x/" + "y" * 2000,
    ],
)
async def test_an_unsafe_run_url_is_refused_without_repeating_its_credentials(
    http: httpx.AsyncClient, app: str, hub: str, url: str
) -> None:
    refused = assert_problem(await post_staging(http, app, hub, {"X-Run-Url": url}), 400, "InvalidRequest")
    assert "secret" not in json.dumps(refused)
    assert_problem(await http.get(f"/api/apps/{app}"), 404, "AppNotFound")


async def test_an_actor_is_limited_to_200_characters_without_control_characters(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    headers = {b"X-Actor": ("evil\x85" + "x" * 500).encode("latin-1")}
    response = await http.post(f"/api/apps/{app}/staging", json={"taskHub": hub}, headers=headers)
    assert response.json()["updatedBy"] == "evil" + "x" * 196


async def test_the_identity_header_of_azure_is_ignored_outside_azure(
    http: httpx.AsyncClient, app: str, hub: str
) -> None:
    headers = {"x-ms-client-principal-name": "admin@example.com", "X-Actor": "someone"}
    assert (await post_staging(http, app, hub, headers)).json()["updatedBy"] == "someone"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/apps", {"GET"}),
        ("PATCH", "/api/apps/shop", {"GET", "PUT", "DELETE"}),
        ("PUT", "/api/apps/shop/staging", {"GET", "POST", "DELETE"}),
        ("GET", "/api/apps/shop/swap", {"POST"}),
        ("GET", "/api/events", {"POST", "OPTIONS"}),
        ("DELETE", "/api/health", {"GET"}),
        ("POST", "/api/openapi.json", {"GET"}),
    ],
)
async def test_a_wrong_method_is_refused_with_the_allowed_ones(
    http: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    response = await http.request(method, path)
    assert_problem(response, 405, "MethodNotAllowed")
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/api/apps/", "/docs", "/api/apps/shop/staging/"])
async def test_an_unknown_address_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    assert_problem(await http.get(path), 404, "NotFound")


async def test_the_server_still_works_after_these_requests(http: httpx.AsyncClient, app: str, hub: str) -> None:
    await post_staging(http, app, hub)
    await post_events(http, event(hub))
    assert (await get_staging(http, app))["activeCount"] == 1


async def test_a_validation_code_that_is_no_text_is_refused(http: httpx.AsyncClient) -> None:
    """The response could not contain it."""
    delivery = (
        r'[{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "\ud800"}}]'
    )
    assert_problem(await http.post("/api/events", content=delivery, headers=JSON_HEADERS), 400, "InvalidRequest")
