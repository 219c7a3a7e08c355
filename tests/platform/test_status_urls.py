"""Status URLs of a draining release, on the real Functions host behind a real Envoy. Clients follow them through the
router or straight to the release until the orchestration has completed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from harness.envoy import run_envoy
from harness.functions_host import DURABLE_TASK_KEY, run_functions_host, wait_until_ready
from harness.processes import free_port, wait_until
from state_api.settings import StorageSettings
from tests.backends.storage_account import connection_string_of
from tests.conftest import new_app_name, new_hub_name
from tests.durable_app.host_processes import KEY
from tests.platform.test_python_patterns import PATTERNS_FOLDER
from tests.routers.routed_app import RoutedApp
from tests.routers.upstreams import run_release
from tests.safe_deploy.processes import run_safe_deploy, state_server

ROUTER_NAME = "shop.example"
"""The name by which clients know the router."""

FOLLOWED = ("through-the-router", "straight-to-the-release")
UNFORWARDED = "started-by-the-sdk"
FORWARDED = "started-by-the-extension"

_USE_FORWARDED_HOST = {"AzureFunctionsJobHost__extensions__durableTask__httpSettings__useForwardedHost": "true"}
"""What `useForwardedHost` in host.json sets."""


@dataclass(frozen=True)
class DrainingRelease:
    """A release that drains, with instances that wait for the event `go`. `urls` has what their starts returned."""

    app: RoutedApp
    address: str
    urls: dict[str, dict[str, str]]

    def send_through_router(self, method: str, url: str) -> httpx.Response:
        """Send a request to the router, by path and query of this URL."""
        parts = urlsplit(url)
        target = f"http://127.0.0.1:{self.app.port}{parts.path}?{parts.query}"
        return httpx.request(method, target, headers={"Host": ROUTER_NAME}, json=True, timeout=60)

    def send_straight(self, method: str, url: str) -> httpx.Response:
        """Send a request to the host that the URL names."""
        return httpx.request(method, url, json=True, timeout=60)


@pytest.fixture(scope="module")
def draining(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrainingRelease]:
    """Release 1.4.0 is a durable app. Its instances are started through the router, and then release 1.5.0, a small
    server without task hub, is promoted."""
    folder = tmp_path_factory.mktemp("status-urls")
    (folder / "envoy").mkdir()
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(state_server(storage, folder))
        other = stack.enter_context(run_release("1.5.0"))
        addresses = {"1.4.0": f"http://127.0.0.1:{port}", "1.5.0": other}
        app = RoutedApp(new_app_name(), server.url, addresses, folder / "envoy", free_port())
        app.create()
        settings = {
            "AzureWebJobsStorage": connection_string_of(storage),
            "AzureWebJobsDisableHomepage": "true",
            "TASK_HUB": app.task_hubs["1.4.0"],
            "LIFECYCLE_TOPIC_ENDPOINT": f"{server.url}/api/events",
            "LIFECYCLE_TOPIC_KEY": KEY,
            **_USE_FORWARDED_HOST,
        }
        host = stack.enter_context(
            run_functions_host(PATTERNS_FOLDER, folder / "host", settings, port=port, wait_for_start=False)
        )
        app.write_once()
        stack.enter_context(run_envoy(app.folder, app.port))
        stack.enter_context(app.follow())
        wait_until_ready(host)
        release = DrainingRelease(app, addresses["1.4.0"], {})
        for instance_id in (*FOLLOWED, UNFORWARDED):
            release.urls[instance_id] = _start(release, f"/api/start/EventOnly/{instance_id}")
        orchestrators = "/runtime/webhooks/durabletask/orchestrators"
        release.urls[FORWARDED] = _start(release, f"{orchestrators}/EventOnly/{FORWARDED}?code={DURABLE_TASK_KEY}")
        app.wait_until_acknowledged(app.promote("1.5.0"))
        yield release


def _start(release: DrainingRelease, target: str) -> dict[str, str]:
    response = release.send_through_router("POST", target)
    assert response.status_code == 202, response.text
    urls: dict[str, str] = response.json()
    return urls


def _follow(send: Callable[[str, str], httpx.Response], urls: dict[str, str]) -> dict[str, Any]:
    """Poll the status URL until the instance has completed, and raise the event that it waits for. Returns its last
    status."""
    status_url = urls["statusQueryGetUri"]
    wait_until(lambda: send("GET", status_url).json()["customStatus"] == "Waits", "the instance waits for its event")
    assert send("GET", status_url).status_code == 202
    raised = send("POST", urls["sendEventPostUri"].replace("{eventName}", "go"))
    assert raised.status_code == 202, raised.text
    wait_until(lambda: send("GET", status_url).status_code == 200, "the instance has completed")
    status: dict[str, Any] = send("GET", status_url).json()
    return status


@pytest.mark.parametrize("instance_id", FOLLOWED)
def test_a_status_url_of_a_draining_release_is_followed_until_the_orchestration_has_completed(
    draining: DrainingRelease, instance_id: str
) -> None:
    assert httpx.get(f"http://127.0.0.1:{draining.app.port}/", timeout=60).json()["release"] == "1.5.0"
    send = draining.send_through_router if instance_id == FOLLOWED[0] else draining.send_straight
    status = _follow(send, draining.urls[instance_id])
    assert (status["instanceId"], status["runtimeStatus"]) == (instance_id, "Completed")


def test_an_older_sdk_builds_status_urls_from_the_releases_own_name(draining: DrainingRelease) -> None:
    """The router gives the release its own name as Host, which Azure requires. azure-functions-durable 1 ignores
    `useForwardedHost`."""
    url = urlsplit(draining.urls[UNFORWARDED]["statusQueryGetUri"])
    assert f"{url.scheme}://{url.netloc}" == draining.address


def test_with_use_forwarded_host_the_extension_builds_status_urls_from_the_routers_name(
    draining: DrainingRelease,
) -> None:
    """The extension answers starts under `orchestrators/` itself."""
    assert urlsplit(draining.urls[FORWARDED]["statusQueryGetUri"]).hostname == ROUTER_NAME


def test_doctor_says_which_name_the_app_returns(draining: DrainingRelease) -> None:
    own = draining.urls[UNFORWARDED]["statusQueryGetUri"].partition("&code=")[0]
    forwarded = urlsplit(draining.urls[FORWARDED]["statusQueryGetUri"].partition("&code=")[0])
    # The router has no name here that a resolver knows.
    through_the_router = f"http://127.0.0.1:{draining.app.port}{forwarded.path}?{forwarded.query}"
    statuses = []
    for url in (own, through_the_router):
        result = run_safe_deploy(
            "doctor", "--output", "json", "--status-url", url, variables=draining.app.variables(), seconds=120
        )
        statuses += [check["status"] for check in result.json() if check["check"] == "status URLs"]
    assert statuses == ["warning", "ok"]


def test_a_status_url_of_a_task_hub_without_a_release_is_gone(draining: DrainingRelease) -> None:
    url = draining.urls[UNFORWARDED]["statusQueryGetUri"]
    other = url.replace(draining.app.task_hubs["1.4.0"], new_hub_name())
    assert other != url
    assert draining.send_through_router("GET", other).status_code == 410
