"""An app with releases side by side on a real server, followed by the real command in a process of its own."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from harness.processes import stop_after, wait_until
from tests.conftest import new_hub_name
from tests.safe_deploy.processes import build_command_line, environment

_RUN_URL = "https://ci.example/runs/1"
"""The pipeline run that registers all releases, one after the other."""


@dataclass
class RoutedApp:
    """The app, the addresses of its releases, and the folder that its follower and Envoy share. `key`: a key of the
    server, if it has any."""

    name: str
    server_url: str
    addresses: dict[str, str]
    folder: Path
    port: int
    task_hubs: dict[str, str] = field(default_factory=dict)
    key: str | None = None

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request about the app to the state server. Returns the JSON of the response."""
        url = f"{self.server_url}/api/apps/{self.name}{path}"
        headers = {"X-Run-Url": _RUN_URL} | ({"x-functions-key": self.key} if self.key else {})
        # `verify=False`, because loading all certificates for each request would take longer than the request.
        response = httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False, verify=False)
        assert response.is_success, response.text
        return response.json()

    def create(self, **members: Any) -> None:
        """Create the app with the first release, which is active, and register the others. `members` are further ones
        of PutApp."""
        self.task_hubs = {version: new_hub_name() for version in self.addresses}
        first, *others = self.addresses
        adopted = {first: {"taskHub": self.task_hubs[first], "address": self.addresses[first]}}
        body = {"model": "sideBySide", "policy": {"settleSeconds": 0}, "releases": adopted, **members}
        self.request("PUT", "", body)
        self.promote(first)
        for version in others:
            release = {"version": version, "taskHub": self.task_hubs[version], "address": self.addresses[version]}
            self.request("POST", "/releases", release)

    def promote(self, version: str, **members: Any) -> int:
        """Give traffic to a release. Returns the revision."""
        revision: int = self.request("PUT", "/routing", {"active": version, **members})["revision"]
        return revision

    def acknowledged_revision(self) -> int | None:
        """What the router has acknowledged; None if it never asked under its name."""
        routers = self.request("GET", "/releases")["routers"]
        return next((router["revision"] for router in routers if router["router"] == "envoy"), None)

    def wait_until_acknowledged(self, revision: int) -> None:
        wait_until(lambda: self.acknowledged_revision() == revision, f"the router acknowledges revision {revision}")

    def variables(self) -> dict[str, str]:
        """The environment of the follower."""
        key = {"SAFE_DEPLOY_KEY": self.key} if self.key else {}
        return environment({"SAFE_DEPLOY_SERVER": self.server_url, "SAFE_DEPLOY_APP": self.name, **key})

    def command(self, *arguments: str) -> list[str]:
        """The command line of the follower for this app."""
        options = ("--target", "envoy", "--out", str(self.folder), "--listen", f"127.0.0.1:{self.port}")
        return build_command_line("router", *options, *arguments)

    def write_once(self) -> subprocess.CompletedProcess[str]:
        """Run the follower once: it writes Envoy's files and ends."""
        return subprocess.run(
            self.command("--once"), env=self.variables(), capture_output=True, text=True, check=False, timeout=60
        )

    @contextmanager
    def follow(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the follower until the end of the block."""
        with (self.folder / "follower.log").open("ab") as log:
            process = subprocess.Popen(self.command(), env=self.variables(), stdout=log, stderr=log)
        with stop_after(process):
            yield process

    def read_follower_log(self) -> str:
        return (self.folder / "follower.log").read_text()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with SIGKILL, as a crash does."""
    process.send_signal(signal.SIGKILL)
    process.wait()
