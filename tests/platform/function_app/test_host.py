"""What the Functions host answers in the app's place: docs/http-api.md says so under "In Azure Functions"."""

import json
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from harness.processes import wait_until
from tests.builders import event
from tests.http.operations import assert_problem
from tests.platform.function_app.server_keys import KEYS, key_header
from tests.platform.function_app.test_event_grid import FUNCTION, recorded
from tests.platform.functions_host import EVENT_GRID_KEY, FUNCTION_KEY, MASTER_KEY, FunctionsHost


def ask(host: FunctionsHost, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body for a path that is sent as it is; httpx would normalise it."""
    connection = HTTPConnection(urlsplit(host.url).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


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
def test_a_wrong_method_and_an_unknown_path_get_404_without_a_body_whatever_the_key(
    admin: httpx.Client, anonymous: httpx.Client, method: str, path: str
) -> None:
    for client in (admin, anonymous):
        answer = client.request(method, path)
        assert (answer.status_code, answer.content) == (404, b"")
        assert not {"content-type", "cache-control", "allow", "x-content-type-options"} & set(answer.headers)


def test_the_homepage_is_empty_where_the_setting_says_so(anonymous: httpx.Client) -> None:
    answer = anonymous.get("/")
    assert (answer.status_code, answer.content) == (204, b"")


def test_the_hosts_own_api_takes_the_master_key_alone(anonymous: httpx.Client) -> None:
    for key in ("not-a-key", *KEYS.values()):
        refused = anonymous.get("/admin/host/status", headers=key_header(key))
        assert (refused.status_code, refused.content) == (401, b"")
    assert anonymous.get("/admin/host/status", headers=key_header(MASTER_KEY)).status_code == 200


def test_with_the_master_key_somebody_can_publish_through_the_trigger_and_read_its_key(
    admin: httpx.Client, anonymous: httpx.Client, hub: str
) -> None:
    """As docs/security.md says: whoever has that key is a publisher, and calls no operation."""
    master = key_header(MASTER_KEY)
    shown = anonymous.get("/admin/host/systemkeys", headers=master).json()
    assert EVENT_GRID_KEY in [key["value"] for key in shown["keys"]]
    body = {"input": json.dumps(event(hub))}
    assert anonymous.post(f"/admin/functions/{FUNCTION}", json=body, headers=master).status_code == 202
    wait_until(lambda: recorded(admin, hub) == ["order-1"], "the event is recorded")
    refused = anonymous.post(f"/admin/functions/{FUNCTION}", json=body, headers=key_header(FUNCTION_KEY))
    assert (refused.status_code, refused.content) == (403, b"")


@pytest.mark.parametrize("path", ["/API/health", "/api/HEALTH", "/api/health/", "/api/APPS", "/api/apps/"])
def test_a_path_in_another_case_or_with_a_slash_at_its_end_reaches_the_app_which_has_nothing_there(
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
    """An app that is reached by an escaped name is the one that its decoded name says, and no other operation."""
    answered, body = ask(host, "GET", path, key_header(KEYS["admin"]))
    content = json.loads(body)
    assert (answered, content["code"]) == (status, code)
    if code == "AppNotFound":
        assert content["app"] == "noApp"


def test_a_path_with_a_null_character_is_refused_by_the_host(host: FunctionsHost) -> None:
    assert ask(host, "GET", "/api/apps/shop%00", key_header(KEYS["admin"])) == (400, b"")


def test_a_problem_document_of_the_app_keeps_its_type_and_headers_on_the_host(admin: httpx.Client, app: str) -> None:
    answer = admin.get(f"/api/apps/{app}")
    assert_problem(answer, 404, "AppNotFound")
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    refused = httpx.get(admin.base_url.join("/api/apps"))
    assert "x-functions-key" in refused.headers["www-authenticate"]
