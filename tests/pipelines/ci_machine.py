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
KEYS = {role: f"key-of-the-{role}-0123456789" for role in ("deployer", "admin", "publisher")}
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


@dataclass
class Machine:
    """The environment of every job: tools on the PATH, and nothing else of this process's environment."""

    folder: Path
    fork_server_address: Path
    """The socket of the process that has imported `safe_deploy`."""
    cancel_when: Callable[[], bool] | None = None
    """Cancels the running step once, when this becomes true."""
    _folder_count: int = field(default=0)

    def __post_init__(self) -> None:
        # `az` has a folder of its own, because it is on a job's PATH only after the login.
        install_fake_az(self.azure_cli_folder, self.folder / "cloud.json")
        self.fake_azure = FakeAzure(self.folder / "cloud.json")
        for name in ("python", "python3"):
            self._program(self.tools / name, f'exec {sys.executable} "$@"')
        fork_server.install_forking_program(self.preinstalled / "safe-deploy", self.fork_server_address)

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    @property
    def azure_cli_folder(self) -> Path:
        return self.folder / "azure"

    @property
    def preinstalled(self) -> Path:
        """The folder with `safe-deploy` of this checkout, for tests that do not install it."""
        return self.folder / "preinstalled"

    def create_folder(self, name: str) -> Path:
        self._folder_count += 1
        folder = self.folder / "jobs" / f"{self._folder_count:03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def environment(self, home: Path, *, logged_in: bool, first: Sequence[Path] = ()) -> dict[str, str]:
        path = [*first, self.tools, *([self.azure_cli_folder] if logged_in else []), Path("/usr/bin"), Path("/bin")]
        known = {"PATH": os.pathsep.join(map(str, path)), "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**known, "PIP_CACHE_DIR": str(_PIP_CACHE), "SAFE_DEPLOY_STABILIZATION_WINDOW": STABILIZATION_SECONDS}

    def run(self, command: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> ScriptResult:
        """Run a program to its end. Raises Cancelled if `cancel_when` becomes true meanwhile."""
        log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        cancelled = False
        with log.open("wb") as sink:
            process = subprocess.Popen(
                list(command), env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
            deadline = time.monotonic() + _SCRIPT_SECONDS
            while process.poll() is None:
                if self.cancel_when is not None and self.cancel_when():
                    # GitHub's runner and Azure's agent both send SIGINT to the process of the step first.
                    self.cancel_when, cancelled = None, True
                    process.send_signal(signal.SIGINT)
                    deadline = min(deadline, time.monotonic() + _CANCEL_SECONDS)
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(0.02)
        text = log.read_text(errors="replace")
        for secret in KEYS.values():
            assert secret not in text, "a key is in the log"
        if cancelled:
            raise Cancelled(text)
        return ScriptResult(process.returncode, text)

    @staticmethod
    def _program(file: Path, line: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)


@dataclass
class PipelineApp:
    """A Function App with a staging slot, the state server's app of the same name, and clients of both."""

    name: str
    server: str
    fake_azure: FakeAzure
    admin: httpx.Client

    def register(self, production: str) -> None:
        """Register the app with a version in production, on the server and in Azure."""
        self.put({"slots": {"production": {"taskHub": production}}})
        self.reset({"TASK_HUB": production}, {"TASK_HUB": production})

    def reset(self, production: dict[str, str], staging: dict[str, str]) -> None:
        slots = {
            "production": {"settings": dict(production), "package": "first.zip"},
            "staging": {"settings": dict(staging), "package": "first.zip"},
        }
        self.fake_azure.reset({self.name: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})

    def put(self, body: dict[str, Any]) -> None:
        # The tests do not depend on the settle window.
        self.admin.put(f"/api/apps/{self.name}", json={"policy": {"settleSeconds": 0}, **body}).raise_for_status()

    def task_hubs(self) -> tuple[str | None, str | None]:
        """The task hubs of production and staging on the server. Fails unless Azure has the same ones."""
        slots = self.app()["slots"]
        production, staging = ((slots[slot] or {}).get("taskHub") for slot in ("production", "staging"))
        if self.app()["pendingSwap"] is None:
            assert self.fake_azure.settings(self.name).get("TASK_HUB") == production
        return production, staging

    def app(self) -> dict[str, Any]:
        app: dict[str, Any] = self.admin.get(f"/api/apps/{self.name}").raise_for_status().json()
        return app

    def history(self) -> list[dict[str, Any]]:
        """The audit log, newest first."""
        answer = self.admin.get(f"/api/apps/{self.name}/history", params={"top": 100}).raise_for_status()
        records: list[dict[str, Any]] = answer.json()["history"]
        return records

    def publish_event(self, hub: str, status: str) -> None:
        """Publish that an orchestration of a task hub has reached a status."""
        answer = self.admin.post("/api/events", json=[event(hub, "order-1", status)])
        assert answer.raise_for_status().json()["recorded"] == 1

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
        "from function_app import ANSWER\n\n\ndef test_it_answers():\n    assert ANSWER == 42\n"
    )
