"""An app with releases side by side, which `safe-deploy` deploys, promotes, rolls back and retires.

Its server is in this process, and its commands are processes that can receive signals and be killed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.builders import event
from tests.conftest import ShiftedClock, new_app_name, new_hub_name
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, RUN, DeploymentFixture, ForkServer, RunningCli
from tests.safe_deploy.processes import CliResult

SECONDS_UNTIL_ROUTERS_STOP = 61
"""How long after a change routers that ask under no name may send requests by the older document, and one second."""

SECONDS_UNTIL_REMOVAL_EXPIRES = 60 * 60 + 1
"""How long after its beginning another run may take over a removal, and one second."""


def name_of(version: str) -> str:
    """The name of a release's Function App."""
    return f"shop-{version.replace('.', '-')}"


def address_of(version: str) -> str:
    """The address of the release with this version."""
    return f"https://{name_of(version)}.azurewebsites.net"


@dataclass
class ReleaseFixture:
    """`cli` starts commands against `app`. `task_hubs` has those of all versions that were named."""

    cli: DeploymentFixture
    clock: ShiftedClock
    task_hubs: dict[str, str] = field(default_factory=dict)

    @property
    def app(self) -> str:
        return self.cli.app

    @property
    def command_log(self) -> Path:
        """A line for each run of the command of `record_command`: version, task hub and address."""
        return self.cli.folder / "command.log"

    @property
    def record_command(self) -> list[str]:
        """A command that writes the release in its environment to a file."""
        line = "$SAFE_DEPLOY_VERSION $SAFE_DEPLOY_TASK_HUB $SAFE_DEPLOY_ADDRESS"
        return ["sh", "-c", f'echo "{line}" >> {self.command_log}']

    def task_hub_of(self, version: str) -> str:
        """The task hub of the release with this version."""
        return self.task_hubs.setdefault(version, new_hub_name())

    def list_commands(self) -> list[list[str]]:
        """What `record_command` has written."""
        return [line.split() for line in self.command_log.read_text().splitlines()] if self.command_log.exists() else []

    # What a command is called with

    def release(self, version: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The arguments of `safe-deploy release`. By default the command is `record_command`."""
        names = ["--version", version, "--task-hub", self.task_hub_of(version), "--address", address_of(version)]
        return ["release", *names, *options, "--", *(command or self.record_command)]

    def retire(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The arguments of `safe-deploy retire`. By default the command is `record_command`."""
        return ["retire", *options, "--", *(command or self.record_command)]

    def start(self, arguments: Sequence[str]) -> RunningCli:
        """Start a command of the CLI against the app, without waiting for its end."""
        return self.cli.start(arguments)

    def run(self, arguments: Sequence[str], **options: Any) -> CliResult:
        """Run a command of the CLI against the app."""
        return self.cli.run(arguments, **options)

    # What happens without safe-deploy

    def request(
        self, method: str, path: str, *, run_url: str | None = RUN, etag: str | None = None, **options: Any
    ) -> Any:
        """Send a request of an administrator about the app, and return the JSON of the response."""
        headers = {"X-Actor": "test"} | ({"X-Run-Url": run_url} if run_url else {})
        headers |= {"If-Match": etag} if etag else {}
        response = self.cli.server.request(method, f"/api/apps/{self.app}{path}", headers=headers, **options)
        assert response.is_success, response.text
        return response.json()

    def end_removal(self, version: str, outcome: str, run_url: str) -> None:
        """Report the outcome of the pending removal of a release, as the run with this URL."""
        etag = self.cli.server.get(f"/api/apps/{self.app}").headers["ETag"]
        self.request("DELETE", f"/releases/{version}", params={"outcome": outcome}, run_url=run_url, etag=etag)

    def create(self, **members: Any) -> None:
        """Create the app. `members` are further members of PutApp."""
        self.request("PUT", "", json={"model": "sideBySide", "policy": {"settleSeconds": 0}, **members})

    def register(self, version: str, run_url: str | None = RUN) -> None:
        """Register a release without the CLI, as the run with this URL."""
        body = {"version": version, "taskHub": self.task_hub_of(version), "address": address_of(version)}
        self.request("POST", "/releases", json=body, run_url=run_url)

    def route(self, active: str, split: dict[str, int] | None = None) -> int:
        """Give traffic to releases. Returns the routing revision."""
        revision: int = self.request("PUT", "/routing", json={"active": active, "split": split})["revision"]
        return revision

    def register_and_promote(self, *versions: str) -> None:
        """Register and promote these releases, one after the other."""
        for version in versions:
            self.register(version)
            self.route(version)

    def let_routers_stop(self) -> None:
        """Advance the clock until no router may send requests by an older document."""
        self.clock.advance(SECONDS_UNTIL_ROUTERS_STOP)

    def acknowledge(self, router: str, revision: int) -> None:
        """A router says that it routes by this revision."""
        response = self.cli.server.get(
            f"/api/apps/{self.app}/routing", params={"router": router}, headers={"If-None-Match": f'"{revision}"'}
        )
        assert response.status_code in (200, 304), response.text

    def publish(self, version: str, instance: str, status: str) -> None:
        """Publish an event of an instance in the release's task hub."""
        response = self.cli.server.post("/api/events", json=[event(self.task_hub_of(version), instance, status)])
        assert response.json()["quarantined"] == 0, response.text

    def create_function_apps(self, *versions: str, **settings: str) -> None:
        """Create the Function Apps of these releases in Azure, with their own task hubs and further settings. Other
        Function Apps are removed."""
        self.cli.fake_azure.reset(
            {
                name_of(version): {
                    "resourceGroup": RESOURCE_GROUP,
                    "slots": {"production": {"settings": {"TASK_HUB": self.task_hub_of(version), **settings}}},
                }
                for version in versions
            }
        )

    def disabled_functions(self) -> dict[str, bool]:
        """Whether the function Nightly is disabled in Azure, by the version of the release."""
        setting = "AzureWebJobs.Nightly.Disabled"
        return {
            version: self.cli.fake_azure.settings(name_of(version)).get(setting) == "true" for version in self.task_hubs
        }

    # What is on record

    def get_app(self) -> Any:
        return self.cli.get_app()

    def states(self) -> dict[str, str]:
        """The state of each release, also of removed ones, by version."""
        app = self.get_app()
        removed = {release["version"]: release["state"] for release in app["removedReleases"]}
        return removed | {version: release["state"] for version, release in app["releases"].items()}

    def active(self) -> str | None:
        """The release that is active now; None before the first promotion."""
        active: str | None = self.get_app()["routing"]["active"]
        return active

    def history(self, operation: str) -> list[Any]:
        """The details of all changes by this operation, oldest first."""
        entries = self.request("GET", "/history", params={"top": 100})["history"]
        return [entry["details"] for entry in reversed(entries) if entry["operation"] == operation]

    def override_token(self, version: str) -> str:
        """The token by which people look at the release before its promotion."""
        token: str = self.request("GET", "/routing")["releases"][version]["overrideToken"]
        return token


def create_release_fixture(
    server: httpx.Client, fork_server: ForkServer, folder: Path, clock: ShiftedClock, *, url: str = ""
) -> ReleaseFixture:
    """Prepare an app with a new name, and a fake `az` without Function Apps. `url` is the server's URL for
    safe-deploy."""
    install_fake_az(folder / "bin", folder / "cloud.json")
    cli = DeploymentFixture(
        server,
        fork_server,
        url or str(server.base_url).rstrip("/"),
        new_app_name(),
        folder,
        FakeAzure(folder / "cloud.json"),
    )
    return ReleaseFixture(cli, clock)
