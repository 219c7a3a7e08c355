"""The environment of the demo: storage emulator, state server, Envoy with `safe-deploy router`, and the releases.

All processes listen on loopback and end with the block that starts them."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from dev.demo.app_processes import TopicEndpoint
from dev.demo.control_server import run_control_server
from dev.demo.environment import open_processes, run_emulator, start_server
from dev.demo.order_results import OrderResults
from dev.demo.pipeline import Pipeline, build_run_url
from dev.demo.processes import HOST, Processes
from dev.demo_side_by_side.release_apps import ReleaseApps
from dev.demo_side_by_side.routing_watch import RoutingWatch, watch_routing
from harness.envoy import BOOTSTRAP_FILE, run_envoy
from harness.processes import free_port, wait_until

APP = "shop"
SETTLE_SECONDS = 1
_ROLES = ("admin", "deployer", "publisher", "router")


@dataclass(frozen=True, slots=True)
class Environment:
    """The running parts. `router_url` is where customers send their requests. `server` is a client of the app's
    operations."""

    pipeline: Pipeline
    apps: ReleaseApps
    orders: OrderResults
    watch: RoutingWatch
    router_url: str
    server: httpx.Client

    def split(self, shares: Mapping[str, int], *, active: str, run: int) -> None:
        """Divide the requests between two releases, in percents by version."""
        body = {"active": active, "split": dict(shares)}
        self.server.put("routing", json=body, headers={"X-Run-Url": build_run_url(run)}).raise_for_status()

    def read_blocking_reasons(self, version: str) -> set[str]:
        """The codes of the reasons for which a release may not be removed yet."""
        response = self.server.get(f"releases/{version}/status").raise_for_status()
        return {reason["code"] for reason in response.json()["reasons"]}

    def wait_for_router(self) -> dict[str, Any]:
        """Wait until Envoy routes by the latest routing document. Returns that document."""
        wait_until(self._is_router_up_to_date, "Envoy routes by the latest document")
        return self.watch.document

    def _is_router_up_to_date(self) -> bool:
        """Whether Envoy and the watch both have the server's latest routing document."""
        app = self.server.get("releases").raise_for_status().json()
        revision = app["routing"]["revision"]
        routers = [router["revision"] for router in app["routers"]]
        return bool(routers) and min(routers) >= revision == self.watch.document.get("revision")


@contextmanager
def run_environment() -> Iterator[Environment]:
    """Start all parts but the releases. The app is registered with the model `sideBySide`."""
    keys = {role: secrets.token_urlsafe(24) for role in _ROLES}
    with run_emulator() as storage, open_processes() as processes:
        url = start_server(processes, storage, keys)
        _register_app(url, keys["admin"])
        apps = ReleaseApps(processes, storage, TopicEndpoint(f"{url}/api/events", keys["publisher"]))
        with (
            _run_router(processes, url, keys["router"]) as router_url,
            run_control_server(apps.commands) as variables,
            closing(Pipeline(url, APP, keys, variables)) as pipeline,
            closing(OrderResults(storage)) as orders,
            watch_routing(url, APP, keys["router"]) as watch,
            httpx.Client(
                base_url=f"{url}/api/apps/{APP}", headers={"x-functions-key": keys["deployer"]}, timeout=60
            ) as server,
        ):
            yield Environment(pipeline, apps, orders, watch, router_url, server)


def _register_app(url: str, admin_key: str) -> None:
    """Register the app without a release. Its verdicts need a probe of the task hub."""
    body = {
        "model": "sideBySide",
        "taskHubs": {"provider": "azureStorage", "connection": "STATE_STORAGE"},
        "policy": {"settleSeconds": SETTLE_SECONDS, "requireVerification": True},
    }
    response = httpx.put(f"{url}/api/apps/{APP}", json=body, headers={"x-functions-key": admin_key}, timeout=60)
    response.raise_for_status()


@contextmanager
def _run_router(processes: Processes, server_url: str, key: str) -> Iterator[str]:
    """Run Envoy and the command that follows the routing. Yields the address for customers."""
    folder, port = processes.folder / "envoy", free_port()
    options = ["--target", "envoy", "--out", str(folder), "--listen", f"{HOST}:{port}"]
    settings = {"SAFE_DEPLOY_SERVER": server_url, "SAFE_DEPLOY_APP": APP, "SAFE_DEPLOY_KEY": key}
    follower = processes.start("router", "safe_deploy", "router", *options, **settings)
    wait_until(
        lambda: (folder / BOOTSTRAP_FILE).exists() or follower.popen.poll() is not None, "Envoy's files are written"
    )
    if follower.popen.poll() is not None:
        raise RuntimeError(f"safe-deploy router ended:\n{follower.read_output()}")
    with run_envoy(folder, port):
        yield f"http://{HOST}:{port}"
