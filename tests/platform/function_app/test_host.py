"""Responses of the Functions host in the app's place, as docs/http-api.md describes them under "In Azure Functions"."""

import json
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from harness.functions_host import EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY, FunctionsHost
from harness.processes import wait_until
from state_api.http.home import HOME_PAGE, HOME_PAGE_HEADERS
from state_api.http.middleware import security_headers
from tests.builders import event
from tests.http.operations import assert_problem
from tests.platform.function_app.server_keys import KEYS_BY_ROLE, key_header
from tests.platform.function_app.test_event_grid import FUNCTION, list_recorded_ids


def send_raw_path(host: FunctionsHost, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Send a path unchanged, which httpx would normalize. Return the status and the body."""
    connection = HTTPConnection(urlsplit(host.url).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/apps"),
        ("POST", "/api/health"),
        ("HEAD", "/api/health"),
        ("HEAD", "/api/apps"),
        ("OPTIONS", "/api/apps"),
        ("GET", "/api/events"),
        ("GET", "/api"),
        ("GET", "/api/"),
        ("GET", "/api/nothing"),
        ("GET", "/nothing"),
        ("GET", "/robots.txt"),
    ],
)
def test_a_wrong_method_or_an_unknown_path_is_answered_with_404_and_no_body(
    admin: httpx.Client, anonymous: httpx.Client, method: str, path: str
) -> None:
    for client in (admin, anonymous):
        response = client.request(method, path)
        assert (response.status_code, response.content) == (404, b"")
        assert not {"content-type", "cache-control", "allow", "x-content-type-options"} & set(response.headers)


def test_the_home_page_is_the_servers_own(admin: httpx.Client, anonymous: httpx.Client) -> None:
    for client in (admin, anonymous):
        response = client.get("/")
        assert (response.status_code, response.text) == (200, HOME_PAGE)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        for name, value in (security_headers("http") | HOME_PAGE_HEADERS).items():
            assert response.headers[name] == value


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_other_methods_of_the_home_page_are_answered_by_the_host(anonymous: httpx.Client, method: str) -> None:
    """With the setting AzureWebJobsDisableHomepage, the host answers them with 204 in place of a page of its own."""
    response = anonymous.request(method, "/")
    assert (response.status_code, response.content) == (204, b"")


def test_the_hosts_own_api_accepts_only_the_master_key(anonymous: httpx.Client) -> None:
    for key in ("not-a-key", *KEYS_BY_ROLE.values()):
        refused = anonymous.get("/admin/host/status", headers=key_header(key))
        assert (refused.status_code, refused.content) == (401, b"")
    assert anonymous.get("/admin/host/status", headers=key_header(MASTER_KEY)).status_code == 200


def test_the_master_key_permits_publishing_through_the_trigger_and_reading_its_key(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    """docs/security.md: the master key makes its holder a publisher, and opens no operation."""
    master = key_header(MASTER_KEY)
    system_keys = anonymous.get("/admin/host/systemkeys", headers=master).json()["keys"]
    assert EVENT_GRID_KEY in [key["value"] for key in system_keys]
    body = {"input": json.dumps(event(hub))}
    assert anonymous.post(f"/admin/functions/{FUNCTION}", json=body, headers=master).status_code == 202
    wait_until(lambda: list_recorded_ids(admin, hub) == ["order-1"], "the event is recorded")
    refused = anonymous.post(f"/admin/functions/{FUNCTION}", json=body, headers=key_header(FUNCTION_KEY))
    assert (refused.status_code, refused.content) == (403, b"")


@pytest.mark.parametrize("path", ["/API/health", "/api/HEALTH", "/api/health/", "/api/APPS", "/api/apps/"])
def test_a_path_in_another_case_or_with_a_final_slash_reaches_the_app(
    admin: httpx.Client, anonymous: httpx.Client, path: str
) -> None:
    assert_problem(anonymous.get(path), 401, "Unauthorized")
    assert assert_problem(admin.get(path), 404, "NotFound")["detail"] == f"there is nothing at {path}"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/apps/no%2541pp", 404, "AppNotFound"),
        ("/api/apps/no%41pp", 404, "AppNotFound"),
        ("/api/apps/shop%2Fhistory", 404, "NotFound"),
        ("/api/apps/shop%252Fhistory", 404, "NotFound"),
        ("/api/apps/shop%25252Fhistory", 400, "InvalidRequest"),
        ("/api/apps/%FF", 400, "InvalidRequest"),
    ],
)
def test_a_path_is_decoded_twice(host: FunctionsHost, path: str, status: int, code: str) -> None:
    """An escaped name leads to the app with the decoded name, and to no other operation."""
    actual_status, body = send_raw_path(host, "GET", path, key_header(KEYS_BY_ROLE["admin"]))
    problem = json.loads(body)
    assert (actual_status, problem["code"]) == (status, code)
    if code == "AppNotFound":
        assert problem["app"] == "noApp"


def test_a_path_with_a_null_character_is_refused_by_the_host(host: FunctionsHost) -> None:
    assert send_raw_path(host, "GET", "/api/apps/shop%00", key_header(KEYS_BY_ROLE["admin"])) == (400, b"")


def test_a_problem_document_of_the_app_keeps_its_type_and_headers_on_the_host(admin: httpx.Client, app: str) -> None:
    response = admin.get(f"/api/apps/{app}")
    assert_problem(response, 404, "AppNotFound")
    assert (response.headers["cache-control"], response.headers["x-content-type-options"]) == ("no-store", "nosniff")
    refused = httpx.get(admin.base_url.join("/api/apps"))
    assert "x-functions-key" in refused.headers["www-authenticate"]
