"""The sample app with releases side by side: each on a Functions host of its own, and a real Envoy in front."""

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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
from harness.processes import free_port, stop_after, wait_until
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.backends.storage_account import connection_string_of
from tests.conftest import new_app_name, new_hub_name
from tests.durable_app.host_processes import KEY, ROOT
from tests.routers.routed_app import RoutedApp
from tests.safe_deploy.processes import build_command_line, run_safe_deploy, state_server

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
class PipelineCommand:
    """A command of `safe-deploy` as a process. Its own command creates the file `begun`, and ends with `done`."""

    process: subprocess.Popen[bytes]
    begun: Path
    done: Path
    log: Path

    def wait_until_begun(self) -> float:
        """Wait until its own command runs. Returns when that began, by this machine's clock."""
        wait_until(lambda: self.begun.exists() or self.process.poll() is not None, "the command begins", 300)
        assert self.begun.exists(), self.log.read_text()
        return self.begun.stat().st_mtime

    def complete(self) -> None:
        """End its own command, and wait until it succeeds."""
        self.done.touch()
        assert self.process.wait(300) == ExitCode.DONE, self.log.read_text()


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
        options = ("--task-hub", release.task_hub, "--address", release.address)
        with self._run_pipeline(release, "release", *options) as pipeline:
            pipeline.wait_until_begun()
            wait_until_ready(stack.enter_context(self.run_release(release)), ABOUT)
            pipeline.complete()

    def promote(self, release: OrdersRelease) -> None:
        """Run `safe-deploy promote`, which waits until Envoy routes by the change."""
        result = run_safe_deploy(
            *("promote", "--version", release.version, "--timeout", "300"),
            variables=self._variables(release),
            seconds=400,
        )
        assert result.code == ExitCode.DONE, result.stderr

    def retire(self, release: OrdersRelease) -> AbstractContextManager["PipelineCommand"]:
        """Run `safe-deploy retire --wait`. Its command begins when the Function App may be deleted."""
        return self._run_pipeline(release, "retire", "--wait")

    @contextmanager
    def _run_pipeline(self, release: OrdersRelease, name: str, *options: str) -> Iterator["PipelineCommand"]:
        """Run a command of `safe-deploy`, whose own command lasts until the test completes it."""
        begun, done, log = (self._folder / f"{name}-{release.version}-{part}" for part in ("begun", "done", "log"))
        command = ("sh", "-c", 'touch "$0"; until [ -e "$1" ]; do sleep 0.1; done', str(begun), str(done))
        arguments = build_command_line(name, "--version", release.version, *options, "--", *command)
        with log.open("ab") as sink:
            process = subprocess.Popen(arguments, env=self._variables(release), stdout=sink, stderr=sink)
        with stop_after(process):
            try:
                yield PipelineCommand(process, begun, done, log)
            finally:
                done.touch()

    def _variables(self, release: OrdersRelease) -> dict[str, str]:
        return self.app.variables() | {"SAFE_DEPLOY_RUN_URL": f"https://ci.example/runs/{release.version}"}

    def find_refusal(self, release: OrdersRelease) -> str:
        """The problem code with which the removal of a release is refused."""
        url = f"{self.app.server_url}/api/apps/{self.app.name}/releases/{release.version}"
        response = httpx.delete(url, params={"outcome": "Pending"}, timeout=150)
        assert response.status_code == 409, response.text
        return str(response.json()["code"])

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

    def read_orders(self, release: OrdersRelease) -> dict[str, dict[str, Any]]:
        """The rows of a release's orchestrations, by instance id. They are there after the release was removed too."""
        with TableServiceClient.from_connection_string(self._connection) as tables:
            rows = list(tables.get_table_client(f"{release.task_hub}Instances").list_entities())
        return {row["PartitionKey"]: dict(row) for row in rows if not row["PartitionKey"].startswith("@")}


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
