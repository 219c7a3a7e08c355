"""A CI machine: runs the scripts of workflows and templates with real shells, as every CI system does.

`safe-deploy` runs in forks of one process (`fork_server.py`), against a real state server and a fake `az`.
`github_actions_runner.py` and `azure_pipelines_runner.py` add what is specific to their systems."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from harness.state_server import ROOT
from tests.builders import event
from tests.pipelines import fork_server
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az

RESOURCE_GROUP = "shop-rg"
KEYS = {role: f"key-of-the-{role}-0123456789" for role in ("deployer", "admin", "publisher", "router")}
PIPELINES_FOLDER = ROOT / "pipelines"
STABILIZATION_SECONDS = "1"
"""The seconds for which Azure must show the old state after a failed swap. The fake `az` changes its state at once."""

_PIP_CACHE = Path(os.environ.get("PIP_CACHE_DIR", Path.home() / ".cache" / "pip"))
"""Installations share this cache, so that each package is downloaded once."""

_SCRIPT_SECONDS = 120
_CANCEL_SECONDS = 10


def load_yaml(file: Path) -> Any:
    """Load a YAML file. `on`, `yes` and the like stay strings, as CI systems read them."""
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(file.read_text(), loader)  # noqa: S506  # it is a SafeLoader


@dataclass(frozen=True)
class ScriptResult:
    """The exit code and the output of a script."""

    code: int
    log: str


class Cancelled(Exception):
    """The job was cancelled while a step ran, with the output of the step."""


class MachineLost(Exception):
    """All processes of the job were killed while a step ran, with the output of the step."""


@dataclass
class Machine:
    """The environment of every job: tools on the PATH, and nothing else of this process's environment."""

    folder: Path
    fork_server_address: Path
    """The socket of the process that has imported `safe_deploy`."""
    cancel_when: Callable[[], bool] | None = None
    """Cancels the running step once, when this becomes true."""
    kill_when: Callable[[], bool] | None = None
    """Kills all processes of the running job once, when this becomes true, as when its machine is lost."""
    _folder_count: int = field(default=0)

    def __post_init__(self) -> None:
        """Install the programs that a pipeline finds on the machine: the fake `az`, Python and safe-deploy."""
        install_fake_az(self.azure_cli_folder, self.folder / "cloud.json")
        self.fake_azure = FakeAzure(self.folder / "cloud.json")
        for name in ("python", "python3"):
            self._write_program(self.tools / name, f'exec {sys.executable} "$@"')
        fork_server.install_forking_program(self.preinstalled / "safe-deploy", self.fork_server_address)

    @property
    def tools(self) -> Path:
        """The folder on every script's PATH, with Python."""
        return self.folder / "tools"

    @property
    def azure_cli_folder(self) -> Path:
        """The folder with the fake `az`, which is on the PATH only after the login."""
        return self.folder / "azure"

    @property
    def preinstalled(self) -> Path:
        """The folder with `safe-deploy` of this checkout, for tests that do not install it."""
        return self.folder / "preinstalled"

    def create_folder(self, name: str) -> Path:
        """Create a new folder, such as a job's. Its number shows the order in which folders were created."""
        self._folder_count += 1
        folder = self.folder / "jobs" / f"{self._folder_count:03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def environment(self, home: Path, *, logged_in: bool, first_on_path: Sequence[Path] = ()) -> dict[str, str]:
        """The environment variables of a script. With `logged_in`, `az` is on the PATH."""
        path = [
            *first_on_path,
            self.tools,
            *([self.azure_cli_folder] if logged_in else []),
            Path("/usr/bin"),
            Path("/bin"),
        ]
        variables = {"PATH": os.pathsep.join(map(str, path)), "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {
            **variables,
            "PIP_CACHE_DIR": str(_PIP_CACHE),
            "SAFE_DEPLOY_STABILIZATION_WINDOW": STABILIZATION_SECONDS,
        }

    def run(self, command: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> ScriptResult:
        """Run a program to its end. Raises Cancelled if `cancel_when` becomes true meanwhile, and MachineLost if
        `kill_when` does. `folder` is the job's, or in it."""
        log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        cancelled = killed = False
        with log.open("wb") as log_stream:
            process = subprocess.Popen(
                list(command), env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=log_stream, stderr=log_stream
            )
            deadline = time.monotonic() + _SCRIPT_SECONDS
            while process.poll() is None:
                if self.cancel_when is not None and self.cancel_when():
                    # GitHub's runner and Azure's agent both send SIGINT to the process of the step first.
                    self.cancel_when, cancelled = None, True
                    process.send_signal(signal.SIGINT)
                    deadline = min(deadline, time.monotonic() + _CANCEL_SECONDS)
                if self.kill_when is not None and self.kill_when():
                    _kill_processes_in(folder)
                    self.kill_when, killed = None, True
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(0.02)
        text = log.read_text(errors="replace")
        for secret in KEYS.values():
            assert secret not in text, "a key is in the log"
        if killed:
            raise MachineLost(text)
        if cancelled:
            raise Cancelled(text)
        return ScriptResult(process.returncode, text)

    @staticmethod
    def _write_program(file: Path, line: str) -> None:
        """Write an executable shell script with this line."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)


def _kill_processes_in(folder: Path) -> None:
    """Kill all processes whose working directory is this folder. None of them sees the end of another one."""
    stopped: set[int] = set()
    while running := {pid for pid in _list_processes() if _find_working_directory(pid) == folder} - stopped:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= running
    for pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _list_processes() -> list[int]:
    """The ids of all processes of this machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _find_working_directory(pid: int) -> Path | None:
    """The working directory of a process; None if it has ended or belongs to another user."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None


@dataclass
class PipelineApp:
    """A Function App with a staging slot, the state server's app of the same name, and clients of both."""

    name: str
    server: str
    fake_azure: FakeAzure
    admin: httpx.Client

    def register(self, production: str) -> None:
        """Register the app with a version in production, on the server and in Azure."""
        self.put_app({"slots": {"production": {"taskHub": production}}})
        self.reset_azure({"TASK_HUB": production}, {"TASK_HUB": production})

    def reset_azure(self, production: dict[str, str], staging: dict[str, str]) -> None:
        """Give the Function App these app settings in its two slots, and forget all calls of `az`."""
        slots = {
            "production": {"settings": dict(production), "package": "first.zip"},
            "staging": {"settings": dict(staging), "package": "first.zip"},
        }
        self.fake_azure.reset({self.name: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})

    def put_app(self, body: dict[str, Any]) -> None:
        """Send PutApp. The app has no settle window, so that an ended orchestration does not delay a test."""
        self.admin.put(f"/api/apps/{self.name}", json={"policy": {"settleSeconds": 0}, **body}).raise_for_status()

    def task_hubs(self) -> tuple[str | None, str | None]:
        """The task hubs of production and staging on the server. Fails unless Azure has the same ones."""
        slots = self.get_app()["slots"]
        production, staging = ((slots[slot] or {}).get("taskHub") for slot in ("production", "staging"))
        if self.get_app()["pendingSwap"] is None:
            assert self.fake_azure.settings(self.name).get("TASK_HUB") == production
        return production, staging

    def get_app(self) -> dict[str, Any]:
        """The app as GetApp returns it."""
        app: dict[str, Any] = self.admin.get(f"/api/apps/{self.name}").raise_for_status().json()
        return app

    def history(self) -> list[dict[str, Any]]:
        """The audit log, newest first."""
        response = self.admin.get(f"/api/apps/{self.name}/history", params={"top": 100}).raise_for_status()
        records: list[dict[str, Any]] = response.json()["history"]
        return records

    def publish_event(self, hub: str, status: str) -> None:
        """Publish that an orchestration of a task hub has reached a status."""
        response = self.admin.post("/api/events", json=[event(hub, "order-1", status)])
        assert response.raise_for_status().json()["recorded"] == 1

    @property
    def swap_count(self) -> int:
        """The number of calls that swap the slots."""
        return self.fake_azure.count_calls("functionapp deployment slot swap")


def write_sample_app(folder: Path) -> None:
    """Write a minimal repository of an app that can be built and tested."""
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    (folder / "host.json").write_text('{"version": "2.0"}\n')
    (folder / "function_app.py").write_text("ANSWER = 42\n")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (folder / name).write_text("# nothing\n")
    (folder / "tests" / "test_app.py").write_text(
        "from function_app import ANSWER\n\n\ndef test_the_answer_is_right():\n    assert ANSWER == 42\n"
    )
