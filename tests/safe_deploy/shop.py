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

from dev.local import until
from tests.conftest import new_hub
from tests.pipelines.standin import Cloud, install
from tests.safe_deploy.processes import KEYS, Ended, environment
from tests.server.processes import HOST

GROUP = "shop-rg"
SETTLE_SECONDS = 1
"""How long safe-deploy watches the platform after a swap that failed or was cut off."""

RUN = "https://ci.example/runs/1"
LOOK = "functionapp config appsettings list"
SWAP = "functionapp deployment slot swap"

# Has imported everything, and becomes a `safe-deploy` of its own for every line: where a test starts many of them, that
# saves half of the time. How a child ended is in a file that is named as its process.
_STARTER = """
import json, os, signal, sys
from pathlib import Path
from safe_deploy import promotion, session
from safe_deploy.cli import main
from tests.pipelines.warm import warm_up

exits = Path(sys.argv[1])
warm_up()

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
        if order["patience"] is not None:
            promotion._PAUSE_SECONDS = 0.05
            session.open_session.__defaults__ = (order["patience"],)
        sys.argv[1:] = order["arguments"]
        main()
    print(child, flush=True)
"""


@dataclass
class Starter:
    """Starts safe-deploy without the time that it takes to import everything."""

    process: subprocess.Popen[str]
    exits: Path

    def start(self, **order: Any) -> int:
        """The process that was started."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def starter(folder: Path) -> Iterator[Starter]:
    with subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(folder)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Starter(process, folder)


@dataclass
class Running:
    """`safe-deploy` while it runs; what it prints is in files, so that nothing waits for a reader."""

    pid: int
    exit: Path
    out: Path
    err: Path

    def ended(self) -> bool:
        return self.exit.exists()

    def end(self, seconds: float = 60) -> Ended:
        try:
            until(self.ended, "safe-deploy ends", seconds)
        except TimeoutError:
            self.send(signal.SIGKILL)
            raise
        code = int(self.exit.read_text())
        # The number may be given to another process.
        self.exit.unlink()
        return Ended(code, self.out.read_text(), self.err.read_text())

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@dataclass
class Shop:
    """The hubs are `old`, in production, and `new`, which a test may stage. `url` is where safe-deploy finds the
    server."""

    server: httpx.Client
    starter: Starter
    url: str
    app: str
    folder: Path
    cloud: Cloud
    old: str = field(default_factory=new_hub)
    new: str = field(default_factory=new_hub)
    calls: int = 0

    @property
    def az_swap(self) -> list[str]:
        return ["az", *SWAP.split(), "--resource-group", GROUP, "--name", self.app, "--slot", "staging"]

    @property
    def az_deploy(self) -> str:
        """Puts the new hub into the slot; to do it twice is as once."""
        app = f"--resource-group {GROUP} --name {self.app} --slot staging"
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
        patience: float | None = None,
        url: str = "",
        run_url: str | None = RUN,
        **given: str,
    ) -> Running:
        """With `patience`, in seconds, requests are tried again only so long, and looks follow each other at once."""
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
            "SAFE_DEPLOY_SETTLE": str(SETTLE_SECONDS),
            "COLUMNS": "1000",
            **given,
        }
        pid = self.starter.start(
            arguments=list(arguments),
            env=environment(variables),
            folder=str(self.folder),
            out=str(out),
            err=str(err),
            patience=patience,
        )
        return Running(pid, self.starter.exits / str(pid), out, err)

    def run(self, arguments: Sequence[str], **how: Any) -> Ended:
        """Run it to its end. No key is ever printed."""
        ended = self.start(arguments, **how).end()
        assert "Traceback" not in ended.stderr, ended.stderr
        for key in KEYS.values():
            assert key not in ended.stdout + ended.stderr
        return ended

    def type(self, line: str) -> Ended:
        """Run a line as it was printed for people."""
        words = shlex.split(line)
        assert words.pop(0) == "safe-deploy"
        return self.run(words)

    def stage(self, hub: str = "", run_url: str = RUN) -> None:
        """On the server and on the platform."""
        body = {"taskHub": hub or self.new}
        answer = self.server.post(f"/api/apps/{self.app}/staging", json=body, headers={"X-Run-Url": run_url})
        assert answer.status_code == 200, answer.text
        self.carry(staging=hub or self.new)

    def tell(self, hub: str, outcome: str, run_url: str | None = RUN) -> None:
        body = {"taskHub": hub, "outcome": outcome}
        headers = {"X-Run-Url": run_url} if run_url else {}
        answer = self.server.post(f"/api/apps/{self.app}/swap", json=body, headers=headers)
        assert answer.status_code == 200, answer.text

    def carry(self, **hubs: str | None) -> None:
        """Set the hubs that slots carry on the platform; all else of the stand-in begins anew."""
        now = {slot: self.cloud.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")}
        slots: dict[str, Any] = {
            slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in (now | hubs).items()
        }
        self.cloud.make({self.app: {"resourceGroup": GROUP, "slots": slots}})

    def record(self) -> Any:
        answer = self.server.get(f"/api/apps/{self.app}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def recorded(self) -> tuple[str | None, str | None]:
        """The hubs of production and staging that the server has on record."""
        slots = self.record()["slots"]
        production, staging = ((slots.get(slot) or {}).get("taskHub") for slot in ("production", "staging"))
        return production, staging

    def pending(self) -> str | None:
        """The hub of the pending swap."""
        pending = self.record()["pendingSwap"]
        return str(pending["taskHub"]) if pending else None

    def deploying(self) -> str | None:
        """The hub of the open deployment."""
        deployment = self.record()["deployment"]
        return str(deployment["taskHub"]) if deployment else None

    def carried(self) -> tuple[str | None, str | None]:
        """The hubs that production and staging carry on the platform."""
        production, staging = (
            self.cloud.settings(self.app, slot).get("TASK_HUB") for slot in ("production", "staging")
        )
        return production, staging

    def swaps(self) -> int:
        """How often the platform was told to swap."""
        return self.cloud.called(SWAP)

    def told(self) -> list[str]:
        """The outcomes of swaps on record, oldest first."""
        history = self.server.get(f"/api/apps/{self.app}/history").json()["history"]
        return [one["details"]["outcome"] for one in reversed(history) if "outcome" in one["details"]]

    def is_swapped(self) -> bool:
        """Server and platform agree that the new hub is in production, and nothing is in doubt."""
        both = (self.new, self.old)
        return self.recorded() == both == self.carried() and self.pending() is None

    def is_as_before(self) -> bool:
        """Server and platform agree that the old hub is in production, and nothing is in doubt."""
        both = (self.old, self.new)
        return self.recorded() == both == self.carried() and self.pending() is None


def open_shop(server: httpx.Client, starter: Starter, folder: Path, app: str, url: str = "") -> Shop:
    """A new app with an old hub in production, on the server and on the platform; its slot is empty."""
    install(folder / "bin", folder / "cloud.json")
    shop = Shop(server, starter, url or str(server.base_url).rstrip("/"), app, folder, Cloud(folder / "cloud.json"))
    slots: dict[str, Any] = {"production": {"settings": {"TASK_HUB": shop.old}}, "staging": {"settings": {}}}
    shop.cloud.make({app: {"resourceGroup": GROUP, "slots": slots}})
    answer = server.put(f"/api/apps/{app}", json={"slots": {"production": {"taskHub": shop.old}}})
    assert answer.status_code in (200, 201), answer.text
    return shop


def admin(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"x-functions-key": KEYS["admin"]}, timeout=60)


def is_gone(group: int) -> bool:
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
class Way:
    """The way to the server. `before` and `after` are called with the request's number, from 1, and the request, before
    it is passed on, and before its answer is: where they say so, the connection is cut."""

    url: str
    requests: list[Request] = field(default_factory=list)
    before: Callable[[int, Request], bool] = lambda number, request: False
    after: Callable[[int, Request], bool] = lambda number, request: False

    def clear(self) -> None:
        """As it was at first: everything passes."""
        self.requests.clear()
        self.before = self.after = lambda number, request: False


@contextmanager
def way_to(url: str) -> Iterator[Way]:
    parts = urlsplit(url)
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = (self.command, urlsplit(self.path).path)
            with turn:
                way.requests.append(request)
                number = len(way.requests)
            if way.before(number, request):
                return
            status, headers, body = self._forwarded(content)
            if way.after(number, request):
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
        way = Way(f"http://{HOST}:{listener.server_address[1]}")
        thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield way
        finally:
            listener.shutdown()
            thread.join()


def kill(running: Running) -> None:
    """SIGKILL to safe-deploy alone; what it has started goes on."""
    running.send(signal.SIGKILL)
    until(running.ended, "safe-deploy is dead")
