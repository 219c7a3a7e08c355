"""An app to deploy: its record on a state server, and its Function App at the fake `az`.

`safe-deploy` runs as a process that can receive signals, be killed, and reach the server through a proxy.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from harness.processes import wait_until
from tests.conftest import new_hub_name
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.processes import KEYS, CliResult, environment

RESOURCE_GROUP = "shop-rg"
STABILIZATION_SECONDS = 1
"""How long safe-deploy watches Azure after a failed or interrupted swap."""

RUN = "https://ci.example/runs/1"
LIST_SETTINGS_COMMAND = "functionapp config appsettings list"
SWAP_COMMAND = "functionapp deployment slot swap"

# This process imports everything once, and forks a `safe-deploy` for every line of JSON that it reads. That halves the
# time of the tests. The exit code of a child is written to a file named by its process id.
_STARTER = """
import json, os, signal, sys
from pathlib import Path
from safe_deploy import client, slot_observer
from safe_deploy.cli import main
from safe_deploy.rollouts import following, slot_share
from safe_deploy.side_by_side import function_apps, retirement
from tests.pipelines.fork_server import import_everything

exit_code_folder = Path(sys.argv[1])
import_everything()

def write_exit_codes(signal_number, frame):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        draft = exit_code_folder / f"{pid}.draft"
        draft.write_text(str(os.waitstatus_to_exitcode(status)))
        draft.replace(exit_code_folder / str(pid))

signal.signal(signal.SIGCHLD, write_exit_codes)
for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["folder"])
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        streams = [("/dev/null", os.O_RDONLY), (request["out"], write), (request["err"], write)]
        for descriptor, (file, flags) in enumerate(streams):
            opened = os.open(file, flags, 0o600)
            os.dup2(opened, descriptor)
            os.close(opened)
        if request["retry_seconds"] is not None:
            slot_observer.CONFIRMATION_INTERVAL_SECONDS = 0.05
            function_apps.DELETION_SECONDS = retirement.RESTART_SECONDS = 0
            following.POLL_SECONDS = 0.05
            slot_share.CLEARED_SECONDS = slot_share.READ_BACK_SECONDS = slot_share.AZURE_RETRY_SECONDS = 0.05
            client.RETRY_SECONDS = request["retry_seconds"]
        sys.argv[1:] = request["arguments"]
        main()
    print(child, flush=True)
"""


@dataclass
class ForkServer:
    """Starts safe-deploy by forking a process that has imported everything."""

    process: subprocess.Popen[str]
    exit_code_directory: Path

    def start(self, **request: Any) -> int:
        """Start a process. Returns its id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def run_fork_server(folder: Path) -> Iterator[ForkServer]:
    """Run a fork server until the block ends. It writes the exit codes of its children into this folder."""
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(folder)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield ForkServer(process, folder)


@dataclass
class RunningCli:
    """A running `safe-deploy`. It prints to files, so it never blocks on a full pipe."""

    pid: int
    exit_code_file: Path
    out: Path
    err: Path

    def has_ended(self) -> bool:
        """Whether the fork server has written the exit code."""
        return self.exit_code_file.exists()

    def wait_for_result(self, seconds: float = 60) -> CliResult:
        """Wait until safe-deploy has ended. Kills it and raises TimeoutError if it has not ended within `seconds`."""
        try:
            wait_until(self.has_ended, "safe-deploy ends", seconds)
        except TimeoutError:
            self.send(signal.SIGKILL)
            raise
        code = int(self.exit_code_file.read_text())
        # Process ids are reused.
        self.exit_code_file.unlink()
        return CliResult(code, self.out.read_text(), self.err.read_text())

    def send(self, sent_signal: signal.Signals) -> None:
        """Send a signal to the process of the CLI."""
        os.kill(self.pid, sent_signal)


@dataclass
class DeploymentFixture:
    """`old` is the task hub in production, `new` the one that a test may stage. `url` is the server's URL for
    safe-deploy."""

    server: httpx.Client
    fork_server: ForkServer
    url: str
    app: str
    folder: Path
    fake_azure: FakeAzure
    old: str = field(default_factory=new_hub_name)
    new: str = field(default_factory=new_hub_name)
    start_count: int = 0
    """How often safe-deploy was started. It numbers the files of its output."""

    @property
    def az_swap_command(self) -> list[str]:
        """The command that exchanges production and staging in Azure."""
        return [
            "az",
            *SWAP_COMMAND.split(),
            "--resource-group",
            RESOURCE_GROUP,
            "--name",
            self.app,
            "--slot",
            "staging",
        ]

    @property
    def az_deploy_command(self) -> str:
        """The command that sets the task hub of the slot staging in Azure, as a deployment does."""
        app = f"--resource-group {RESOURCE_GROUP} --name {self.app} --slot staging"
        return f"az functionapp config appsettings set {app} --settings TASK_HUB=$SAFE_DEPLOY_TASK_HUB"

    @property
    def bin_folder(self) -> Path:
        """The folder of the fake `az`."""
        return self.folder / "bin"

    def swap(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The arguments of `safe-deploy swap` for `new`. By default it runs the command `az` that swaps."""
        return ["swap", "--task-hub", self.new, *options, "--", *(command or self.az_swap_command)]

    def rollback(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The arguments of `safe-deploy rollback`. By default it runs the command `az` that swaps."""
        return ["rollback", *options, "--", *(command or self.az_swap_command)]

    def deploy(self, *options: str, hub: str = "", deploy_command: str = "", swap_command: str = "") -> list[str]:
        """The arguments of `safe-deploy deploy`. By default it stages `new`, and deploys and swaps with `az`."""
        commands = ["--deploy-command", deploy_command or self.az_deploy_command]
        commands += ["--swap-command", swap_command or shlex.join(self.az_swap_command)]
        return ["deploy", "--task-hub", hub or self.new, "--timeout", "20", "--interval", "1", *commands, *options]

    def start(
        self,
        arguments: Sequence[str],
        *,
        az_on_path: bool = True,
        retry_seconds: float | None = None,
        url: str = "",
        run_url: str | None = RUN,
        **variables: str,
    ) -> RunningCli:
        """Start safe-deploy. `retry_seconds` limits the retries of a request, and shortens the pauses between
        observations. Without `az_on_path`, the fake `az` is not on the PATH."""
        self.start_count += 1
        out, err = (self.folder / f"{kind}-{self.start_count}" for kind in ("out", "err"))
        for file in (out, err):
            file.touch()
        all_variables = self.build_environment(az_on_path=az_on_path, url=url, run_url=run_url) | variables
        pid = self.fork_server.start(
            arguments=list(arguments),
            env=environment(all_variables),
            folder=str(self.folder),
            out=str(out),
            err=str(err),
            retry_seconds=retry_seconds,
        )
        return RunningCli(pid, self.fork_server.exit_code_directory / str(pid), out, err)

    def build_environment(self, *, az_on_path: bool = True, url: str = "", run_url: str | None = RUN) -> dict[str, str]:
        """The variables with which a pipeline runs safe-deploy."""
        return {
            "PATH": f"{self.bin_folder}:/usr/bin:/bin" if az_on_path else "/usr/bin:/bin",
            "SAFE_DEPLOY_SERVER": url or self.url,
            "SAFE_DEPLOY_APP": self.app,
            "SAFE_DEPLOY_KEY": KEYS["deployer"],
            "SAFE_DEPLOY_RUN_URL": run_url or "",
            "SAFE_DEPLOY_STABILIZATION_WINDOW": str(STABILIZATION_SECONDS),
            "COLUMNS": "1000",
        }

    def run(self, arguments: Sequence[str], **options: Any) -> CliResult:
        """Run safe-deploy to its end. Fails if it prints a key or a traceback."""
        result = self.start(arguments, **options).wait_for_result()
        assert "Traceback" not in result.stderr, result.stderr
        for key in KEYS.values():
            assert key not in result.stdout + result.stderr
        return result

    def run_command_line(self, line: str, **options: Any) -> CliResult:
        """Run a command that a message has printed."""
        words = shlex.split(line)
        assert words.pop(0) == "safe-deploy"
        return self.run(words, **options)

    def stage(self, hub: str = "", run_url: str = RUN) -> None:
        """Stage a task hub on the server, and set it in Azure's slot."""
        body = {"taskHub": hub or self.new}
        response = self.server.post(f"/api/apps/{self.app}/staging", json=body, headers={"X-Run-Url": run_url})
        assert response.status_code == 200, response.text
        self.set_slot_task_hubs(staging=hub or self.new)

    def report_swap(self, hub: str, outcome: str, run_url: str | None = RUN) -> None:
        """Report `Pending`, `Done` or `Failed` to the server, for the app as it is now and without a swap in Azure."""
        body = {"taskHub": hub, "outcome": outcome}
        headers = {"If-Match": self.server.get(f"/api/apps/{self.app}").headers["ETag"]}
        headers |= {"X-Run-Url": run_url} if run_url else {}
        response = self.server.post(f"/api/apps/{self.app}/swap", json=body, headers=headers)
        assert response.status_code == 200, response.text

    def set_slot_task_hubs(self, **hubs: str | None) -> None:
        """Set the task hubs of slots in Azure. Everything else of the fake `az` is reset."""
        current_hubs = {
            slot: self.fake_azure.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")
        }
        slots: dict[str, Any] = {
            slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in (current_hubs | hubs).items()
        }
        self.fake_azure.reset({self.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})

    def get_app(self) -> Any:
        """The response of GetApp."""
        response = self.server.get(f"/api/apps/{self.app}")
        assert response.status_code == 200, response.text
        return response.json()

    def recorded_hubs(self) -> tuple[str | None, str | None]:
        """The task hubs of production and staging on record."""
        slots = self.get_app()["slots"]
        production, staging = ((slots.get(slot) or {}).get("taskHub") for slot in ("production", "staging"))
        return production, staging

    def pending_hub(self) -> str | None:
        """The task hub of the pending swap."""
        pending_swap = self.get_app()["pendingSwap"]
        return str(pending_swap["taskHub"]) if pending_swap else None

    def open_deployment_hub(self) -> str | None:
        """The task hub of the open deployment."""
        deployment = self.get_app()["deployment"]
        return str(deployment["taskHub"]) if deployment else None

    def azure_hubs(self) -> tuple[str | None, str | None]:
        """The task hubs of production and staging in Azure."""
        production, staging = (
            self.fake_azure.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")
        )
        return production, staging

    def count_swaps(self) -> int:
        """How often Azure was asked to swap."""
        return self.fake_azure.count_calls(SWAP_COMMAND)

    def reported_outcomes(self) -> list[str]:
        """The outcomes of swaps on record, oldest first."""
        history = self.server.get(f"/api/apps/{self.app}/history").json()["history"]
        return [entry["details"]["outcome"] for entry in reversed(history) if "outcome" in entry["details"]]

    def is_swapped(self) -> bool:
        """Whether server and Azure have the new task hub in production, and no swap is pending."""
        expected_hubs = (self.new, self.old)
        return self.recorded_hubs() == expected_hubs == self.azure_hubs() and self.pending_hub() is None

    def is_unswapped(self) -> bool:
        """Whether server and Azure have the old task hub in production, and no swap is pending."""
        expected_hubs = (self.old, self.new)
        return self.recorded_hubs() == expected_hubs == self.azure_hubs() and self.pending_hub() is None


def create_deployment_fixture(
    server: httpx.Client, fork_server: ForkServer, folder: Path, app: str, url: str = ""
) -> DeploymentFixture:
    """Create an app with a task hub in production and an empty slot, on the server and in Azure."""
    install_fake_az(folder / "bin", folder / "cloud.json")
    deployment_fixture = DeploymentFixture(
        server, fork_server, url or str(server.base_url).rstrip("/"), app, folder, FakeAzure(folder / "cloud.json")
    )
    slots: dict[str, Any] = {
        "production": {"settings": {"TASK_HUB": deployment_fixture.old}},
        "staging": {"settings": {}},
    }
    deployment_fixture.fake_azure.reset({app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    response = server.put(f"/api/apps/{app}", json={"slots": {"production": {"taskHub": deployment_fixture.old}}})
    assert response.status_code in (200, 201), response.text
    return deployment_fixture


def open_admin_client(url: str) -> httpx.Client:
    """An HTTP client with the key of an administrator."""
    return httpx.Client(base_url=url, headers={"x-functions-key": KEYS["admin"]}, timeout=60)


def is_process_group_gone(group_id: int) -> bool:
    """Whether no process of a process group is left. A zombie counts as gone."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, group_text, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(group_text) == group_id and state != "Z":
                return False
    return True


def kill_cli(running: RunningCli) -> None:
    """Send SIGKILL to safe-deploy, but not to the processes that it has started."""
    running.send(signal.SIGKILL)
    wait_until(running.has_ended, "safe-deploy is dead")
