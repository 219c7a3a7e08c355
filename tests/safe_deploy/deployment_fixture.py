"""A shop to deploy to: an app on a state server, its Function App at the stand-in for `az`, and `safe-deploy` as a
process that can be signalled, killed, and led to the server through a proxy."""

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from harness.processes import wait_until
from harness.state_server import HOST
from tests.conftest import new_hub_name
from tests.pipelines.fake_az import FakeAzure, install_fake_az
from tests.safe_deploy.processes import KEYS, CliResult, environment

RESOURCE_GROUP = "shop-rg"
STABILIZATION_SECONDS = 1
"""How long safe-deploy watches the platform after a swap that failed or was cut off."""

RUN = "https://ci.example/runs/1"
LIST_SETTINGS_COMMAND = "functionapp config appsettings list"
SWAP_COMMAND = "functionapp deployment slot swap"

# Has imported everything, and becomes a `safe-deploy` of its own for every line: where a test starts many of them, that
# saves half of the time. How a child ended is in a file that is named as its process.
_STARTER = """
import json, os, signal, sys
from pathlib import Path
from safe_deploy import client, slot_observer
from safe_deploy.cli import main
from tests.pipelines.fork_server import import_everything

exits = Path(sys.argv[1])
import_everything()

def reap(number, frame):
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        draft = exits / f"{pid}.draft"
        draft.write_text(str(os.waitstatus_to_exitcode(status)))
        draft.replace(exits / str(pid))

signal.signal(signal.SIGCHLD, reap)
for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["folder"])
        for number, (name, flags) in enumerate([("/dev/null", 0), (order["out"], 1), (order["err"], 1)]):
            opened = os.open(name, [os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC][flags], 0o600)
            os.dup2(opened, number)
            os.close(opened)
        if order["retry_for"] is not None:
            slot_observer.CONFIRMATION_INTERVAL_SECONDS = 0.05
            client.RETRY_SECONDS = order["retry_for"]
        sys.argv[1:] = order["arguments"]
        main()
    print(child, flush=True)
"""


@dataclass
class ForkServer:
    """Starts safe-deploy without the time that it takes to import everything."""

    process: subprocess.Popen[str]
    exit_code_directory: Path

    def start(self, **order: Any) -> int:
        """The process that was started."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def run_fork_server(folder: Path) -> Iterator[ForkServer]:
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
    """`safe-deploy` while it runs; what it prints is in files, so that nothing waits for a reader."""

    pid: int
    exit: Path
    out: Path
    err: Path

    def ended(self) -> bool:
        return self.exit.exists()

    def wait_for_result(self, seconds: float = 60) -> CliResult:
        try:
            wait_until(self.ended, "safe-deploy ends", seconds)
        except TimeoutError:
            self.send(signal.SIGKILL)
            raise
        code = int(self.exit.read_text())
        # The number may be given to another process.
        self.exit.unlink()
        return CliResult(code, self.out.read_text(), self.err.read_text())

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@dataclass
class DeploymentFixture:
    """The hubs are `old`, in production, and `new`, which a test may stage. `url` is where safe-deploy finds the
    server."""

    server: httpx.Client
    run_fork_server: ForkServer
    url: str
    app: str
    folder: Path
    fake_azure: FakeAzure
    old: str = field(default_factory=new_hub_name)
    new: str = field(default_factory=new_hub_name)
    calls: int = 0

    @property
    def az_swap(self) -> list[str]:
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
    def az_deploy(self) -> str:
        """Puts the new hub into the slot; to do it twice is as once."""
        app = f"--resource-group {RESOURCE_GROUP} --name {self.app} --slot staging"
        return f"az functionapp config appsettings set {app} --settings TASK_HUB=$SAFE_DEPLOY_TASK_HUB"

    @property
    def path(self) -> Path:
        return self.folder / "bin"

    def swap(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        return ["swap", "--task-hub", self.new, *options, "--", *(command or self.az_swap)]

    def rollback(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        return ["rollback", *options, "--", *(command or self.az_swap)]

    def deploy(self, *options: str, hub: str = "", by: str = "", swap: str = "") -> list[str]:
        commands = ["--deploy-command", by or self.az_deploy, "--swap-command", swap or shlex.join(self.az_swap)]
        return ["deploy", "--task-hub", hub or self.new, "--timeout", "20", "--interval", "1", *commands, *options]

    def start(
        self,
        arguments: Sequence[str],
        *,
        az: bool = True,
        retry_for: float | None = None,
        url: str = "",
        run_url: str | None = RUN,
        **given: str,
    ) -> RunningCli:
        """With `retry_for`, in seconds, requests are tried again only so long, and looks follow each other at once."""
        self.calls += 1
        out, err = (self.folder / f"{kind}-{self.calls}" for kind in ("out", "err"))
        for file in (out, err):
            file.touch()
        path = f"{self.path}:/usr/bin:/bin" if az else "/usr/bin:/bin"
        variables = {
            "PATH": path,
            "SAFE_DEPLOY_SERVER": url or self.url,
            "SAFE_DEPLOY_APP": self.app,
            "SAFE_DEPLOY_KEY": KEYS["deployer"],
            "SAFE_DEPLOY_RUN_URL": run_url or "",
            "SAFE_DEPLOY_STABILIZATION_WINDOW": str(STABILIZATION_SECONDS),
            "COLUMNS": "1000",
            **given,
        }
        pid = self.run_fork_server.start(
            arguments=list(arguments),
            env=environment(variables),
            folder=str(self.folder),
            out=str(out),
            err=str(err),
            retry_for=retry_for,
        )
        return RunningCli(pid, self.run_fork_server.exit_code_directory / str(pid), out, err)

    def run(self, arguments: Sequence[str], **how: Any) -> CliResult:
        """Run it to its end. No key is ever printed."""
        ended = self.start(arguments, **how).wait_for_result()
        assert "Traceback" not in ended.stderr, ended.stderr
        for key in KEYS.values():
            assert key not in ended.stdout + ended.stderr
        return ended

    def run_command_line(self, line: str) -> CliResult:
        """Run a line as it was printed for people."""
        words = shlex.split(line)
        assert words.pop(0) == "safe-deploy"
        return self.run(words)

    def stage(self, hub: str = "", run_url: str = RUN) -> None:
        """On the server and on the platform."""
        body = {"taskHub": hub or self.new}
        answer = self.server.post(f"/api/apps/{self.app}/staging", json=body, headers={"X-Run-Url": run_url})
        assert answer.status_code == 200, answer.text
        self.set_slot_task_hubs(staging=hub or self.new)

    def report_swap(self, hub: str, outcome: str, run_url: str | None = RUN) -> None:
        body = {"taskHub": hub, "outcome": outcome}
        headers = {"X-Run-Url": run_url} if run_url else {}
        answer = self.server.post(f"/api/apps/{self.app}/swap", json=body, headers=headers)
        assert answer.status_code == 200, answer.text

    def set_slot_task_hubs(self, **hubs: str | None) -> None:
        """Set the hubs that slots carry on the platform; all else of the stand-in begins anew."""
        now = {slot: self.fake_azure.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")}
        slots: dict[str, Any] = {
            slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in (now | hubs).items()
        }
        self.fake_azure.reset({self.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})

    def get_app(self) -> Any:
        answer = self.server.get(f"/api/apps/{self.app}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def recorded_hubs(self) -> tuple[str | None, str | None]:
        """The hubs of production and staging that the server has on record."""
        slots = self.get_app()["slots"]
        production, staging = ((slots.get(slot) or {}).get("taskHub") for slot in ("production", "staging"))
        return production, staging

    def pending_hub(self) -> str | None:
        """The hub of the pending swap."""
        pending_hub = self.get_app()["pendingSwap"]
        return str(pending_hub["taskHub"]) if pending_hub else None

    def open_deployment_hub(self) -> str | None:
        """The hub of the open deployment."""
        deployment = self.get_app()["deployment"]
        return str(deployment["taskHub"]) if deployment else None

    def azure_hubs(self) -> tuple[str | None, str | None]:
        """The hubs that production and staging carry on the platform."""
        production, staging = (
            self.fake_azure.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")
        )
        return production, staging

    def count_swaps(self) -> int:
        """How often the platform was told to swap."""
        return self.fake_azure.count_calls(SWAP_COMMAND)

    def reported_outcomes(self) -> list[str]:
        """The outcomes of swaps on record, oldest first."""
        history = self.server.get(f"/api/apps/{self.app}/history").json()["history"]
        return [one["details"]["outcome"] for one in reversed(history) if "outcome" in one["details"]]

    def is_swapped(self) -> bool:
        """Server and platform agree that the new hub is in production, and nothing is in doubt."""
        both = (self.new, self.old)
        return self.recorded_hubs() == both == self.azure_hubs() and self.pending_hub() is None

    def is_unswapped(self) -> bool:
        """Server and platform agree that the old hub is in production, and nothing is in doubt."""
        both = (self.old, self.new)
        return self.recorded_hubs() == both == self.azure_hubs() and self.pending_hub() is None


def create_deployment_fixture(
    server: httpx.Client, run_fork_server: ForkServer, folder: Path, app: str, url: str = ""
) -> DeploymentFixture:
    """A new app with an old hub in production, on the server and on the platform; its slot is empty."""
    install_fake_az(folder / "bin", folder / "cloud.json")
    deployment_fixture = DeploymentFixture(
        server, run_fork_server, url or str(server.base_url).rstrip("/"), app, folder, FakeAzure(folder / "cloud.json")
    )
    slots: dict[str, Any] = {
        "production": {"settings": {"TASK_HUB": deployment_fixture.old}},
        "staging": {"settings": {}},
    }
    deployment_fixture.fake_azure.reset({app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    answer = server.put(f"/api/apps/{app}", json={"slots": {"production": {"taskHub": deployment_fixture.old}}})
    assert answer.status_code in (200, 201), answer.text
    return deployment_fixture


def open_admin_client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"x-functions-key": KEYS["admin"]}, timeout=60)


def is_process_group_gone(group: int) -> bool:
    """Whether no process of a process group is left. What init has not reaped yet counts as gone."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status[2]) == group and status[0] != "Z":
                return False
    return True


# --- between safe-deploy and the server ---

Request = tuple[str, str]
"""Method and path."""


@dataclass
class ConnectionProxy:
    """The way to the server. `cut_before_request` and `cut_before_response` are called with the request's
    number, from 1, and the request, before
    it is passed on, and before its answer is: where they say so, the connection is cut."""

    url: str
    requests: list[Request] = field(default_factory=list)
    cut_before_request: Callable[[int, Request], bool] = lambda number, request: False
    cut_before_response: Callable[[int, Request], bool] = lambda number, request: False

    def clear(self) -> None:
        """As it was at first: everything passes."""
        self.requests.clear()
        self.cut_before_request = self.cut_before_response = lambda number, request: False


@contextmanager
def run_connection_proxy(url: str) -> Iterator[ConnectionProxy]:
    parts = urlsplit(url)
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = (self.command, urlsplit(self.path).path)
            with turn:
                connection_proxy.requests.append(request)
                number = len(connection_proxy.requests)
            if connection_proxy.cut_before_request(number, request):
                return
            status, headers, body = self._forwarded(content)
            if connection_proxy.cut_before_response(number, request):
                return
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # so the standard library calls them

        def _forwarded(self, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
            connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=60)
            try:
                kept = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, content, kept)
                answer = connection.getresponse()
                body = answer.read()
                dropped = {"connection", "transfer-encoding", "keep-alive"}
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
                return answer.status, headers, body
            finally:
                connection.close()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            """Nothing is logged."""

    with ThreadingHTTPServer((HOST, 0), Handler) as listener:
        connection_proxy = ConnectionProxy(f"http://{HOST}:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield connection_proxy
        finally:
            listener.shutdown()
            thread.join()


def kill_cli(running: RunningCli) -> None:
    """SIGKILL to safe-deploy alone; what it has started goes on."""
    running.send(signal.SIGKILL)
    wait_until(running.ended, "safe-deploy is dead")
