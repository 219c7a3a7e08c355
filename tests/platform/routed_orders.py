"""The sample app with releases side by side: each on a Functions host of its own, and a real Envoy in front."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import httpx
from azure.data.tables import TableServiceClient

from harness.envoy import run_envoy
from harness.functions_host import (
    DURABLE_TASK_KEY,
    FUNCTION_KEY,
    FunctionsHost,
    copy_deployed_app,
    run_functions_host,
    wait_until_ready,
)
from harness.processes import free_port, wait_until
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.backends.storage_account import connection_string_of
from tests.conftest import new_app_name, new_hub_name
from tests.durable_app.host_processes import KEY, ROOT
from tests.routers.routed_app import RoutedApp
from tests.safe_deploy.processes import run_safe_deploy, state_server

CONNECTION_SETTING = "STATE_TASKHUBS_ORDERS"
"""The state server's setting that leads to the storage account of the task hubs."""

ABOUT = f"/api/about?code={FUNCTION_KEY}"


@dataclass
class OrdersRelease:
    """A release of the sample app. `code` is the version of the orchestrator."""

    version: str
    code: str
    port: int = field(default_factory=free_port)
    task_hub: str = field(default_factory=new_hub_name)

    @property
    def address(self) -> str:
        """Where the Functions host of the release listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class FirstReady:
    """The first Ready on a release, with the time by this machine's clock at which its response arrived."""

    responded_at: float
    verdict: dict[str, Any]


class RoutedOrders:
    """The app on the state server, and what customers, approvers and pipelines do."""

    def __init__(self, app: RoutedApp, connection: str, folder: Path) -> None:
        self.app = app
        self._connection = connection
        self._folder = folder
        self._package = copy_deployed_app(ROOT / "durable_app", folder / "orders")

    # Releases

    def run_release(self, release: OrdersRelease) -> AbstractContextManager[FunctionsHost]:
        """Run the Function App of a release, without waiting until it is ready."""
        settings = {
            "AzureWebJobsStorage": self._connection,
            "TASK_HUB": release.task_hub,
            "ORDERS_VERSION": release.code,
            "LIFECYCLE_TOPIC_ENDPOINT": f"{self.app.server_url}/api/events",
            "LIFECYCLE_TOPIC_KEY": KEY,
            "PACKING_SECONDS": "1",
        }
        state = self._folder / f"host-{release.version}"
        return run_functions_host(self._package, state, settings, port=release.port, wait_for_start=False)

    def release(self, release: OrdersRelease, stack: ExitStack) -> None:
        """Run `safe-deploy release`, whose command deploys the release: its Function App runs until the stack is
        closed."""

        def deploy() -> None:
            """Start the Function App of the release, and wait until it answers."""
            host = stack.enter_context(self.run_release(release))
            wait_until_ready(host, ABOUT)

        options = ("--version", release.version, "--task-hub", release.task_hub, "--address", release.address)
        self._run_pipeline(release, ("release", *options), deploy)

    def promote(self, release: OrdersRelease) -> None:
        """Run `safe-deploy promote`, which waits until Envoy routes by the change."""
        self._run_cli(release, "promote", "--version", release.version, "--timeout", "300")

    def _run_pipeline(self, release: OrdersRelease, arguments: Sequence[str], action: Callable[[], None]) -> None:
        """Run a command of `safe-deploy` whose own command lasts as long as this action takes."""
        begun, done = (self._folder / f"{arguments[0]}-{release.version}-{name}" for name in ("begun", "done"))
        wait_for_action = 'touch "$0"; until [ -e "$1" ]; do sleep 0.1; done'
        command = ("sh", "-c", wait_for_action, str(begun), str(done))
        with ThreadPoolExecutor(1) as executor:
            try:
                run = executor.submit(self._run_cli, release, *arguments, "--", *command)
                wait_until(lambda: begun.exists() or run.done(), f"{arguments[0]} runs its command", 120)
                if begun.exists():
                    action()
            finally:
                done.touch()
            run.result()

    def _run_cli(self, release: OrdersRelease, *arguments: str) -> None:
        """Run a command of safe-deploy as a pipeline of this release, and check that it succeeds."""
        variables = self.app.variables() | {"SAFE_DEPLOY_RUN_URL": f"https://ci.example/runs/{release.version}"}
        result = run_safe_deploy(*arguments, variables=variables, seconds=600)
        assert result.code == ExitCode.DONE, result.stderr

    def delete_release(self, release: OrdersRelease, outcome: str) -> httpx.Response:
        """Report a step of the removal of the release. Its response may be a refusal."""
        return httpx.delete(self._release_url(release), params={"outcome": outcome}, timeout=150)

    def get_status(self, release: OrdersRelease, *, wait_seconds: int = 0) -> dict[str, Any]:
        """The verdict on the removal of a release, verified now."""
        url = f"{self._release_url(release)}/status?verify=fresh&wait={wait_seconds}"
        response = httpx.get(url, timeout=150)
        assert response.status_code == 200, response.text
        verdict: dict[str, Any] = response.json()
        return verdict

    def wait_for_first_ready(self, release: OrdersRelease, is_stopped: Event) -> FirstReady | None:
        """Ask again and again until the release may be removed. None if it is stopped before."""
        while not is_stopped.is_set():
            # The server responds at once when the verdict turns Ready.
            verdict = self.get_status(release, wait_seconds=5)
            if verdict["ready"]:
                return FirstReady(time.time(), verdict)
        return None

    def _release_url(self, release: OrdersRelease) -> str:
        """The release in the API of the state server."""
        return f"{self.app.server_url}/api/apps/{self.app.name}/releases/{release.version}"

    # Requests through the router

    def send(self, method: str, target: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send a request through the router, as a client does that knows its public name only."""
        url = f"http://127.0.0.1:{self.app.port}{target}"
        return httpx.request(method, url, json=body, headers={"Host": "shop.example"} | headers, timeout=60)

    def read_code(self, **headers: str) -> str:
        """The version of the orchestrator that new orders get."""
        response = self.send("GET", ABOUT, **headers)
        assert response.status_code == 200, response.text
        return str(response.json()["version"])

    def place_order(self, order_id: str, **members: Any) -> str:
        """Order an apple. Returns the task hub of the order."""
        order = {"orderId": order_id, "items": ["apple"], **members}
        response = self.send("POST", f"/api/orders?code={FUNCTION_KEY}", order)
        assert response.status_code == 202, response.text
        return str(response.json()["taskHub"])

    def manage(self, method: str, release: OrdersRelease, path: str, body: Any = None) -> httpx.Response:
        """Call the management API with the task hub of a release."""
        query = f"taskHub={release.task_hub}&connection=Storage&code={DURABLE_TASK_KEY}"
        return self.send(method, f"/runtime/webhooks/durabletask/instances/{path}?{query}", body)

    def decide(self, release: OrdersRelease, order_id: str, *, is_approved: bool) -> None:
        """Approve or reject an order by an event of the management API."""
        response = self.manage("POST", release, f"{order_id}/raiseEvent/Approval", is_approved)
        assert response.status_code == 202, response.text

    def wait_until_waiting_for_approval(self, release: OrdersRelease, order_id: str) -> None:
        """Wait until the order waits for its approval."""
        wait_until(
            lambda: self._get_instance(release, order_id)["customStatus"] == "WaitingForApproval",
            f"order {order_id} waits for its approval",
            120,
        )

    def wait_until_completed(self, release: OrdersRelease, order_id: str) -> dict[str, Any]:
        """Wait until an order has completed, and return its output."""
        wait_until(
            lambda: self._get_instance(release, order_id)["runtimeStatus"] == "Completed",
            f"order {order_id} has completed",
            120,
        )
        output: dict[str, Any] = self._get_instance(release, order_id)["output"]
        return output

    def _get_instance(self, release: OrdersRelease, order_id: str) -> dict[str, Any]:
        """The status of an instance by the management API, whose response is 202 while it is active."""
        response = self.manage("GET", release, order_id)
        assert response.status_code in (200, 202), response.text
        status: dict[str, Any] = response.json()
        return status

    # The storage

    def find_last_end(self, release: OrdersRelease) -> float:
        """When the last orchestration of a release has ended, as its task hub shows. Fails if one is active."""
        with TableServiceClient.from_connection_string(self._connection) as tables:
            rows = list(tables.get_table_client(f"{release.task_hub}Instances").list_entities())
        ends = [row["CompletedTime"] for row in rows if not row["PartitionKey"].startswith("@")]
        return float(max(end.timestamp() for end in ends))


@contextmanager
def run_routed_orders(storage: StorageSettings, folder: Path) -> Iterator[RoutedOrders]:
    """Run a state server with an app that has no release yet, and Envoy with its follower."""
    connection = connection_string_of(storage)
    (folder / "envoy").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(state_server(storage, folder, STATE_TASKHUBS_ORDERS=connection))
        app = RoutedApp(new_app_name(), server.url, {}, folder / "envoy", free_port())
        body = {
            "model": "sideBySide",
            "taskHubs": {"provider": "azureStorage", "connection": CONNECTION_SETTING},
            "policy": {"settleSeconds": 1, "requireVerification": True},
        }
        app.request("PUT", "", body)
        app.write_once()
        stack.enter_context(run_envoy(app.folder, app.port))
        stack.enter_context(app.follow())
        yield RoutedOrders(app, connection, folder)
