"""`safe-deploy router --target envoy` with a real server and a real Envoy."""

import json
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.envoy import run_envoy
from harness.processes import free_port, wait_until
from harness.state_server import ServerProcess
from state_api.settings import StorageSettings
from tests.routers.routed_app import RoutedApp, kill
from tests.routers.upstreams import run_releases, send
from tests.safe_deploy.processes import KEYS, state_server
from tests.safe_deploy.shifted_server import serve_with_shifted_clock

_VERSIONS = ("1.4.0", "1.5.0", "1.6.0")


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The addresses of running upstreams, one for each release."""
    with run_releases(_VERSIONS) as running:
        yield running


@pytest.fixture(scope="module")
def served(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A state server process."""
    with state_server(storage, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def routed_app(served: ServerProcess, addresses: dict[str, str], tmp_path: Path) -> RoutedApp:
    """An app with releases side by side on the state server, and a folder and port for its router."""
    app = RoutedApp(f"shop-{uuid.uuid4().hex[:12]}", served.url, dict(addresses), tmp_path, free_port())
    app.create()
    return app


def _wait_until_routed(app: RoutedApp, version: str) -> None:
    wait_until(lambda: send(app.port, "/").release == version, f"Envoy sends requests to {version}")


def test_once_writes_files_with_which_envoy_starts(routed_app: RoutedApp) -> None:
    result = routed_app.write_once()
    assert result.returncode == 0, result.stderr
    with run_envoy(routed_app.folder, routed_app.port):
        assert send(routed_app.port, "/").release == "1.4.0"
    assert routed_app.acknowledged_revision() is None


def test_envoy_starts_before_the_first_release_and_routes_to_it_later(
    served: ServerProcess, addresses: dict[str, str], tmp_path: Path
) -> None:
    app = RoutedApp(f"shop-{uuid.uuid4().hex[:12]}", served.url, dict(addresses), tmp_path, free_port())
    app.request("PUT", "", {"model": "sideBySide"})
    app.write_once()
    with run_envoy(app.folder, app.port), app.follow():
        assert send(app.port, "/").status == 503
        app.create()
        _wait_until_routed(app, "1.4.0")


def test_files_that_are_written_once_change_the_routing_of_a_running_envoy(routed_app: RoutedApp) -> None:
    routed_app.write_once()
    with run_envoy(routed_app.folder, routed_app.port):
        routed_app.promote("1.5.0")
        assert routed_app.write_once().returncode == 0
        assert send(routed_app.port, "/").release == "1.5.0"


def test_a_promotion_reaches_envoy_and_is_acknowledged(routed_app: RoutedApp) -> None:
    routed_app.write_once()
    with run_envoy(routed_app.folder, routed_app.port), routed_app.follow():
        revision = routed_app.promote("1.5.0")
        routed_app.wait_until_acknowledged(revision)
        # What is acknowledged is in use.
        assert send(routed_app.port, "/").release == "1.5.0"
        routed_app.promote("1.5.0", split={"1.5.0": 50, "1.6.0": 50})
        wait_until(lambda: bool(send(routed_app.port, "/").set_cookies), "Envoy sets cookies")
    assert f"revision {revision}: 1.5.0 100 %" in routed_app.read_follower_log()


def test_nothing_is_acknowledged_before_envoy_routes_by_it(routed_app: RoutedApp) -> None:
    with routed_app.follow():
        wait_until((routed_app.folder / "envoy.yaml").exists, "the follower has written the files")
        revision = routed_app.promote("1.5.0")
        wait_until(lambda: "1.5.0" in _active_versions(routed_app), "the follower has written the new routes")
        assert routed_app.acknowledged_revision() is None
        with run_envoy(routed_app.folder, routed_app.port):
            routed_app.wait_until_acknowledged(revision)
            assert send(routed_app.port, "/").release == "1.5.0"


def _active_versions(app: RoutedApp) -> set[str]:
    """The release that the last route of Envoy's file leads to: that of requests without a cookie."""
    routes = json.loads((app.folder / "routes.yaml").read_text())["resources"][0]["virtual_hosts"][0]["routes"]
    return {routes[-1]["route"]["cluster"]}


def test_no_request_fails_while_the_routing_flips(routed_app: RoutedApp) -> None:
    routed_app.write_once()
    statuses: list[int] = []
    releases: set[str | None] = set()
    is_done = threading.Event()

    def send_requests() -> None:
        """Send requests through Envoy until the test ends, and keep each status and release."""
        while not is_done.is_set():
            reply = send(routed_app.port, "/", method="POST")
            statuses.append(reply.status)
            releases.add(reply.release)

    with run_envoy(routed_app.folder, routed_app.port), routed_app.follow():
        visitors = threading.Thread(target=send_requests)
        visitors.start()
        try:
            for flip in range(50):
                routed_app.wait_until_acknowledged(routed_app.promote(_VERSIONS[(flip + 1) % 3]))
        finally:
            is_done.set()
            visitors.join()
    assert set(statuses) == {200}
    assert releases == set(_VERSIONS)


def test_visitors_leave_a_release_by_the_time_of_the_server_and_not_of_the_router(
    storage: StorageSettings, addresses: dict[str, str], tmp_path: Path
) -> None:
    """The machine of the router is an hour behind: by its clock, visitors stay for another hour."""
    with serve_with_shifted_clock(storage) as server:
        app = RoutedApp(f"shop-{uuid.uuid4().hex[:12]}", server.url, dict(addresses), tmp_path, free_port())
        app.key = KEYS["admin"]
        app.create(policy={"settleSeconds": 0, "stickyAfterPromotion": True})
        app.promote("1.5.0")
        old = app.request("GET", "/routing")["releases"]["1.5.0"]
        revision = app.promote("1.6.0")
        visit = [("Cookie", f"release={old['stickyToken']}.05")]
        app.write_once()
        with run_envoy(app.folder, app.port), app.follow():
            app.wait_until_acknowledged(revision)
            assert send(app.port, "/", visit).release == "1.5.0"
        server.clock.advance(3600)
        with run_envoy(app.folder, app.port), app.follow():
            wait_until(lambda: send(app.port, "/", visit).release == "1.6.0", "the visitor leaves the release")


def test_a_release_that_was_removed_leaves_envoy(routed_app: RoutedApp) -> None:
    def clusters() -> set[str]:
        """The clusters in Envoy's file."""
        resources = json.loads((routed_app.folder / "clusters.yaml").read_text())["resources"]
        return {cluster["name"] for cluster in resources}

    routed_app.write_once()
    with run_envoy(routed_app.folder, routed_app.port), routed_app.follow():
        routed_app.request("DELETE", "/releases/1.6.0?outcome=Pending")
        routed_app.request("DELETE", "/releases/1.6.0?outcome=Done")
        wait_until(lambda: clusters() == {"1.4.0", "1.5.0"}, "the cluster is dropped")
        hub = routed_app.task_hubs["1.6.0"]
        assert send(routed_app.port, f"/runtime/webhooks/durabletask/instances/a?taskHub={hub}").status == 410
        assert send(routed_app.port, "/").status == 200


def test_the_last_routes_are_served_while_the_server_is_down_and_the_follower_starts_again(
    storage: StorageSettings, addresses: dict[str, str], tmp_path: Path
) -> None:
    app = RoutedApp(f"shop-{uuid.uuid4().hex[:12]}", "", dict(addresses), tmp_path, free_port())
    port = free_port()
    with state_server(storage, tmp_path, port=port) as server:
        app.server_url = server.url
        app.create()
        app.write_once()
        with run_envoy(app.folder, app.port), app.follow() as follower:
            app.wait_until_acknowledged(app.promote("1.5.0"))
            server.stop(signal.SIGKILL)
            kill(follower)
            assert send(app.port, "/").release == "1.5.0"
            with app.follow():
                wait_until(lambda: "cannot be reached" in app.read_follower_log(), "the follower reports the failure")
                assert send(app.port, "/").release == "1.5.0"
                with state_server(storage, tmp_path, port=port):
                    app.wait_until_acknowledged(app.promote("1.6.0"))
                    assert send(app.port, "/").release == "1.6.0"


def test_envoy_and_follower_start_while_the_server_is_down(routed_app: RoutedApp) -> None:
    routed_app.write_once()
    for name in ("routes.yaml", "clusters.yaml", "envoy.yaml"):
        (routed_app.folder / name).unlink()
    routed_app.server_url = f"http://127.0.0.1:{free_port()}"
    with routed_app.follow():
        wait_until((routed_app.folder / "envoy.yaml").exists, "the follower has written the files")
        with run_envoy(routed_app.folder, routed_app.port):
            assert send(routed_app.port, "/").release == "1.4.0"


def test_an_app_that_does_not_exist_ends_the_first_start(routed_app: RoutedApp) -> None:
    routed_app.name = "no-such-app"
    result = routed_app.write_once()
    assert (result.returncode, "no-such-app" in result.stderr) == (1, True)
    assert not (routed_app.folder / "envoy.yaml").exists()


def test_the_document_with_its_tokens_is_readable_by_its_owner_only(routed_app: RoutedApp) -> None:
    routed_app.write_once()
    assert (routed_app.folder / "routing.json").stat().st_mode & 0o777 == 0o600
