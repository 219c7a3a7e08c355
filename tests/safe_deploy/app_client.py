"""An app on a state server, for tests of single commands."""

import uuid
from dataclasses import astuple, dataclass, field
from typing import Any

import httpx

from tests.conftest import new_hub_name
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import KEYS, CliResult

RUN = "https://ci.example/runs/"


@dataclass(frozen=True)
class AppClient:
    """A new app on a server with keys. Tests change it over HTTP, and run commands against it in this process."""

    url: str
    app: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")
    hub: str = field(default_factory=new_hub_name)
    """The task hub of production, once `register` was called."""

    def build_environment(self, role: str = "admin", **variables: str) -> dict[str, str]:
        """The variables of a command with the key of this role."""
        return {"SAFE_DEPLOY_SERVER": self.url, "SAFE_DEPLOY_APP": self.app, "SAFE_DEPLOY_KEY": KEYS[role]} | variables

    def run_cli(self, *arguments: str, role: str = "admin", **variables: str) -> CliResult:
        """Run a command. Fails if it prints a key or a traceback."""
        result = CliResult(*astuple(run_in_process(arguments, self.build_environment(role, **variables))))
        assert not any(key in result.stdout + result.stderr for key in KEYS.values())
        assert "Traceback" not in result.stderr
        return result

    def request_json(self, method: str, path: str = "", body: Any = None, run_number: int | None = None) -> Any:
        """Send a request over HTTP. A path that does not start with /api/ is relative to the app's path."""
        headers = {"x-functions-key": KEYS["admin"], "X-Actor": "test"}
        if run_number is not None:
            headers["X-Run-Url"] = f"{RUN}{run_number}"
        url_path = path if path.startswith("/api/") else f"/api/apps/{self.app}{path}"
        response = httpx.request(method, f"{self.url}{url_path}", headers=headers, json=body, timeout=60, verify=False)
        assert response.is_success, response.text
        return response.json()

    def register(self, **members: Any) -> Any:
        """Register the app with its task hub in production. `members` are further members of PutApp."""
        return self.request_json("PUT", "", {"slots": {"production": {"taskHub": self.hub, "version": "1"}}, **members})

    def stage(self, hub: str, run_number: int | None = None) -> str:
        """Stage a task hub. Returns its name."""
        self.request_json("POST", "/staging", {"taskHub": hub}, run_number)
        return hub

    def swap(self, hub: str, run_number: int | None = None, outcome: str = "Done") -> str:
        """Record a swap. Returns the name of the task hub."""
        self.request_json("POST", "/swap", {"taskHub": hub, "outcome": outcome}, run_number)
        return hub

    def publish(self, *events: Any) -> None:
        """Send events, all of which must be recorded."""
        assert self.request_json("POST", "/api/events", list(events))["quarantined"] == 0

    def history(self) -> Any:
        """The audit log of the app, newest first."""
        return self.request_json("GET", "/history")["history"]
