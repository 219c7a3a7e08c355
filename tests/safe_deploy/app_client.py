"""An app on a state server, as tests of single commands need it."""

import uuid
from dataclasses import astuple, dataclass, field
from typing import Any

import httpx

from tests.conftest import new_hub_name
from tests.safe_deploy.in_process import run
from tests.safe_deploy.processes import KEYS, CliResult

RUN = "https://ci.example/runs/"


@dataclass(frozen=True)
class AppClient:
    """An app of its own on a server with keys: what is said to it over HTTP, and by the command line, in this process.
    No call may show a key."""

    url: str
    app: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")
    hub: str = field(default_factory=new_hub_name)
    """In production, once it is registered."""

    def given(self, role: str = "admin", **more: str) -> dict[str, str]:
        """The variables of a call with the key of this role."""
        return {"SAFE_DEPLOY_SERVER": self.url, "SAFE_DEPLOY_APP": self.app, "SAFE_DEPLOY_KEY": KEYS[role]} | more

    def run_cli(self, *arguments: str, role: str = "admin", **given: str) -> CliResult:
        ended = CliResult(*astuple(run(arguments, self.given(role, **given))))
        assert not any(key in ended.stdout + ended.stderr for key in KEYS.values())
        assert "Traceback" not in ended.stderr
        return ended

    def request_json(self, method: str, path: str = "", body: Any = None, run: int | None = None) -> Any:
        """Over HTTP, under the app's path or another one."""
        headers = {"x-functions-key": KEYS["admin"], "X-Actor": "test"}
        if run is not None:
            headers["X-Run-Url"] = f"{RUN}{run}"
        address = path if path.startswith("/api/") else f"/api/apps/{self.app}{path}"
        answer = httpx.request(method, f"{self.url}{address}", headers=headers, json=body, timeout=60, verify=False)
        assert answer.is_success, answer.text
        return answer.json()

    def register(self, **more: Any) -> Any:
        return self.request_json("PUT", "", {"slots": {"production": {"taskHub": self.hub, "version": "1"}}, **more})

    def stage(self, hub: str, run: int | None = None) -> str:
        """Stage a task hub; its name."""
        self.request_json("POST", "/staging", {"taskHub": hub}, run)
        return hub

    def swap(self, hub: str, run: int | None = None, outcome: str = "Done") -> str:
        self.request_json("POST", "/swap", {"taskHub": hub, "outcome": outcome}, run)
        return hub

    def publish(self, *events: Any) -> None:
        assert self.request_json("POST", "/api/events", list(events))["quarantined"] == 0

    def history(self) -> Any:
        return self.request_json("GET", "/history")["history"]
