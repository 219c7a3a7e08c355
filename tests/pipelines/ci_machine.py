"""Runs the scripts of workflows and templates as a CI system would, on this machine: real shells, real `safe-deploy` in
forks of one process (`warm.py`), a real state server, and a stand-in for `az`. Knows what all CI systems share;
`github.py` and `agent.py` know what is theirs, and fail loudly on whatever they do not know.
"""

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
from tests.pipelines import fork_server as warm
from tests.pipelines.fake_az import FakeAzure, install_fake_az

RESOURCE_GROUP = "shop-rg"
KEYS = {role: f"key-of-the-{role}-0123456789" for role in ("deployer", "admin", "publisher")}
PIPELINES_FOLDER = ROOT / "pipelines"
STABILIZATION_SECONDS = "1"
"""For how many seconds Azure must show the old state after a swap that failed: nothing goes on in the stand-in."""

_PIP_CACHE = Path(os.environ.get("PIP_CACHE_DIR", Path.home() / ".cache" / "pip"))
"""What was downloaded once need not be downloaded by every installation."""

_SCRIPT_SECONDS = 120
_CANCEL_SECONDS = 10


def load_yaml(file: Path) -> Any:
    """A YAML file. `on` and its kin stay words, as CI systems read them."""
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return yaml.load(file.read_text(), loader)  # noqa: S506  # it is a SafeLoader


@dataclass(frozen=True)
class ScriptResult:
    """How a script ended, and all that it printed."""

    code: int
    log: str


class Cancelled(Exception):
    """Somebody cancelled the job while this step ran; what it had printed."""


@dataclass
class Machine:
    """What every job finds: tools on the PATH and nothing else of this process's environment."""

    folder: Path
    warm: Path
    """Where a process serves that has imported `safe_deploy`."""
    cancel_when: Callable[[], bool] | None = None
    """Cancels the running step once, as soon as this comes true."""
    _made: int = field(default=0)

    def __post_init__(self) -> None:
        # `az` is in a folder of its own: a job has it on its PATH only once it is logged in.
        install_fake_az(self.azure_cli_folder, self.folder / "cloud.json")
        self.fake_azure = FakeAzure(self.folder / "cloud.json")
        for name in ("python", "python3"):
            self._program(self.tools / name, f'exec {sys.executable} "$@"')
        warm.install_forking_program(self.preinstalled / "safe-deploy", self.warm)

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    @property
    def azure_cli_folder(self) -> Path:
        return self.folder / "azure"

    @property
    def preinstalled(self) -> Path:
        """`safe-deploy` of this checkout, for tests that are not about its installation."""
        return self.folder / "preinstalled"

    def create_folder(self, name: str) -> Path:
        self._made += 1
        folder = self.folder / "jobs" / f"{self._made:03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def environment(self, home: Path, logged_in: bool, first: Sequence[Path] = ()) -> dict[str, str]:
        path = [*first, self.tools, *([self.azure_cli_folder] if logged_in else []), Path("/usr/bin"), Path("/bin")]
        known = {"PATH": os.pathsep.join(map(str, path)), "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**known, "PIP_CACHE_DIR": str(_PIP_CACHE), "SAFE_DEPLOY_STABILIZATION_WINDOW": STABILIZATION_SECONDS}

    def run(self, command: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> ScriptResult:
        """Run a program to its end. Raises Cancelled if `cancel_when` came true meanwhile."""
        log = folder.parent / f"{folder.name}-{time.monotonic_ns()}.log"
        cancelled = False
        with log.open("wb") as sink:
            process = subprocess.Popen(
                list(command), env=dict(env), cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
            deadline = time.monotonic() + _SCRIPT_SECONDS
            while process.poll() is None:
                if self.cancel_when is not None and self.cancel_when():
                    # GitHub's runner and Azure's agent both begin with SIGINT to the step's own process.
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
    """A Function App with a staging slot, the state server's app of the same name, and who changes both."""

    name: str
    server: str
    fake_azure: FakeAzure
    admin: httpx.Client

    def register(self, production: str) -> None:
        """An app that has been in production before: on the server, and in Azure with its task hub."""
        self.put({"slots": {"production": {"taskHub": production}}})
        self.reset({"TASK_HUB": production}, {"TASK_HUB": production})

    def reset(self, production: dict[str, str], staging: dict[str, str]) -> None:
        slots = {
            "production": {"settings": dict(production), "package": "first.zip"},
            "staging": {"settings": dict(staging), "package": "first.zip"},
        }
        self.fake_azure.reset({self.name: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})

    def put(self, body: dict[str, Any]) -> None:
        # Nothing here is about the settle window.
        self.admin.put(f"/api/apps/{self.name}", json={"policy": {"settleSeconds": 0}, **body}).raise_for_status()

    def task_hubs(self) -> tuple[str | None, str | None]:
        """The task hubs of production and staging on the server; checks that Azure has the same."""
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
        """An orchestration of this hub publishes that it has this status."""
        answer = self.admin.post("/api/events", json=[event(hub, "order-1", status)])
        assert answer.raise_for_status().json()["recorded"] == 1

    @property
    def swap_count(self) -> int:
        """How often the platform was asked to swap."""
        return self.fake_azure.count_calls("functionapp deployment slot swap")


def write_sample_app(folder: Path) -> None:
    """The app's repository, as small as one can be that is built and tested."""
    (folder / "tests").mkdir(parents=True, exist_ok=True)
    (folder / "host.json").write_text('{"version": "2.0"}\n')
    (folder / "function_app.py").write_text("ANSWER = 42\n")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (folder / name).write_text("# nothing\n")
    (folder / "tests" / "test_app.py").write_text(
        "from function_app import ANSWER\n\n\ndef test_it_answers():\n    assert ANSWER == 42\n"
    )
