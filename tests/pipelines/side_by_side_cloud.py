"""What pipelines with releases side by side work on.

It is a state server with a clock that tests advance, a router, and a resource group of the fake Azure. The apps in it
create their task hubs when they start."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from durable_app.local.task_hub_storage import TaskHubStorageWriter
from harness.processes import wait_until
from harness.state_server import HOST, run_server
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.keys import key_entries
from tests.pipelines.ci_machine import KEYS, RESOURCE_GROUP, PipelineApp
from tests.pipelines.fake_cloud import locked_cloud
from tests.pipelines.shifted_clock_server import FILE_VARIABLE, SHIFTED_CLOCK_SERVER

SECONDS_UNTIL_ROUTERS_STOP = 61
"""After this time no router without a name sends requests by the routing before."""

DEPLOYMENT_TIMEOUT_SECONDS = 3600
"""After this time the open deployment of another run does not block a run, by the default of the policy."""

_CONNECTION_NAME = "STATE_TASKHUBS_SHOP"


@dataclass
class ShiftedServer:
    """A state server that decides by a clock of this test. `connection` leads to the account with the task hubs."""

    url: str
    connection: str
    clock_file: Path

    def advance_clock(self, seconds: float) -> None:
        """Let the server's clock go forward. The file is replaced, because the server may read it at any moment."""
        new_file = self.clock_file.with_suffix(".new")
        new_file.write_text(str(float(self.clock_file.read_text()) + seconds))
        new_file.replace(self.clock_file)


@contextmanager
def run_shifted_server(storage: StorageSettings, folder: Path) -> Iterator[ShiftedServer]:
    """Run a server until the block ends, which reads task hubs in the emulator."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    clock_file = folder / "clock"
    clock_file.write_text("0")
    settings = {_CONNECTION_NAME: connection, FILE_VARIABLE: str(clock_file)}
    with run_server(storage, folder, key_entries(KEYS), settings, SHIFTED_CLOCK_SERVER) as served:
        yield ShiftedServer(served.url, connection, clock_file)


def create_task_hub(connection: str, name: str) -> None:
    """Create a task hub, as an app does when it starts."""
    writer = TaskHubStorageWriter(connection, name)
    writer.create()
    writer.close()


@contextmanager
def run_app_starter(connection: str) -> Iterator[int]:
    """Create the task hub of each Function App that the fake Azure starts, until the block ends. Yields the port."""

    class Starter(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that http.server calls
            """Create the task hub that the path names, as an app does when it starts."""
            create_task_hub(connection, self.path.removeprefix("/"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the base class
            """Write no log."""

    with http.server.ThreadingHTTPServer((HOST, 0), Starter) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield listener.server_address[1]
        finally:
            listener.shutdown()
            thread.join()


@contextmanager
def run_router(server: str, app: str) -> Iterator[None]:
    """Acknowledge each routing document of an app, as a router does, until the block ends."""
    stopping = threading.Event()

    def follow() -> None:
        """Ask for the routing again and again, and confirm each document, as a router does."""
        etag: dict[str, str] = {}
        parameters: dict[str, str | int] = {"router": "envoy-1", "wait": 1}
        with httpx.Client(base_url=server, headers={"x-functions-key": KEYS["router"]}, timeout=30) as client:
            while not stopping.is_set():
                response = client.get(f"/api/apps/{app}/routing", params=parameters, headers=etag)
                if response.status_code == httpx.codes.OK:
                    etag = {"If-None-Match": response.headers["ETag"]}

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


@dataclass
class SideBySideCloud:
    """An app with releases side by side on the state server, and its resource group at the fake Azure."""

    pipeline_app: PipelineApp
    server: ShiftedServer

    def create(self, starter_port: int) -> None:
        """Create the app without releases, and an empty resource group."""
        self.pipeline_app.put_app(
            {"model": "sideBySide", "taskHubs": {"provider": "azureStorage", "connection": _CONNECTION_NAME}}
        )
        self.pipeline_app.fake_azure.reset({})
        with locked_cloud(self.pipeline_app.fake_azure.path) as state:
            state["groups"] = [RESOURCE_GROUP]
            state["starterPort"] = starter_port

    def add_active_release(self) -> str:
        """Add a release, with its resources, that gets all traffic, without a pipeline. Returns its version, which is
        also its name."""
        name = new_hub_name()
        with locked_cloud(self.pipeline_app.fake_azure.path) as state:
            state.setdefault("plans", {})[f"ASP-{name}"] = {"resourceGroup": RESOURCE_GROUP, "tier": "FlexConsumption"}
            state.setdefault("containers", []).append(f"shopreleases/{name}")
            settings = {"TASK_HUB": {"value": name, "slotSetting": False}}
            slots = {"production": {"settings": settings, "package": "app.zip"}}
            state["apps"][name] = {"resourceGroup": RESOURCE_GROUP, "plan": f"ASP-{name}", "slots": slots}
        path = f"/api/apps/{self.pipeline_app.name}"
        body = {"version": name, "taskHub": name, "address": f"https://{name}.azurewebsites.net"}
        self.pipeline_app.admin.post(f"{path}/releases", json=body).raise_for_status()
        create_task_hub(self.server.connection, name)
        self.pipeline_app.admin.put(f"{path}/routing", json={"active": name}).raise_for_status()
        return name

    def add_drained_release(self) -> str:
        """Add a release that had traffic, and another one that has it now. Returns the version of the first one."""
        name = self.add_active_release()
        self.add_active_release()
        self.pass_time()
        return name

    def releases(self) -> dict[str, str]:
        """The state of each release that is not removed, by its version."""
        return {version: release["state"] for version, release in self.pipeline_app.get_app()["releases"].items()}

    def removed_versions(self) -> list[str]:
        """The versions of the releases that were removed."""
        return [release["version"] for release in self.pipeline_app.get_app()["removedReleases"]]

    def active_version(self) -> str | None:
        """The release that is active now; None before the first promotion."""
        active: str | None = self.pipeline_app.get_app()["routing"]["active"]
        return active

    def resources(self) -> dict[str, Any]:
        """What is in the resource group: each Function App with what was deployed, and the numbers of plans and
        containers."""
        with locked_cloud(self.pipeline_app.fake_azure.path) as state:
            apps = {name: _summarize(app) for name, app in state["apps"].items()}
            return {
                "apps": apps,
                "plans": len(state.get("plans", {})),
                "containers": sorted(state.get("containers", [])),
            }

    def is_disabled(self, function_app: str, function: str) -> bool:
        """Whether an app setting disables the function."""
        settings = self.pipeline_app.fake_azure.settings(function_app)
        return settings.get(f"AzureWebJobs.{function}.Disabled") == "true"

    def add_plan_without_app(self) -> None:
        """Add what an interrupted `az functionapp create` leaves."""
        with locked_cloud(self.pipeline_app.fake_azure.path) as state:
            state.setdefault("plans", {})["ASP-left"] = {"resourceGroup": RESOURCE_GROUP, "tier": "FlexConsumption"}

    def pass_time(self) -> None:
        """Let so much time pass that no router sends requests by the routing before."""
        self.server.advance_clock(SECONDS_UNTIL_ROUTERS_STOP)

    @contextmanager
    def pass_time_during_removal(self) -> Iterator[None]:
        """Let that time pass when the removal of a release has begun, which must be before the block ends."""
        passing = threading.Thread(target=self._pass_time_when_removing)
        passing.start()
        yield
        passing.join()

    def _pass_time_when_removing(self) -> None:
        """Let the clock go forward once a removal has begun, so that its last verdict can be Ready."""
        wait_until(lambda: "Removing" in self.releases().values(), "the removal begins")
        self.pass_time()


def deployed_app(name: str) -> dict[str, object]:
    """A Function App in `resources` that has all of a release, once."""
    return {"taskHub": name, "package": "app.zip", "accessRestrictions": ["router"]}


def _summarize(app: dict[str, Any]) -> dict[str, Any]:
    """What a test compares of a Function App: its task hub, its package and who may reach it."""
    production = app["slots"]["production"]
    return {
        "taskHub": production["settings"].get("TASK_HUB", {}).get("value"),
        "package": production.get("package"),
        "accessRestrictions": [rule["name"] for rule in app.get("accessRestrictions", [])],
    }
