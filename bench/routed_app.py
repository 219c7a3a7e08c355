"""An app with releases side by side on real parts: a state server, a follower of its routing, Envoy, and a small server
in the place of each release."""

import asyncio
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from bench.load_generator import LoadError
from bench.machine import ROOT
from harness.envoy import BOOTSTRAP_FILE, run_envoy
from harness.http_server import HOST, run_http_server
from harness.processes import free_port, stop_after, wait_until
from harness.state_server import ServerProcess, build_server_environment, run_server
from state_api.settings import StorageSettings

ROUTER = "envoy"
"""The name under which the follower acknowledges."""
_RUN_URL = "https://ci.example/runs/1"
_POLL_SECONDS = 0.02
_TIMEOUT_SECONDS = 60
_UNREACHABLE = "no server listens at"
"""Part of the follower's message while the server is down."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the routing by PutRouting: when its response came, in seconds of `time.perf_counter`, the revision
    that it made, and how many seconds the response took."""

    at: float
    revision: int
    seconds: float


@dataclass(slots=True)
class RoutedApp:
    """The app at its server, and the parts that have to be stopped and started in a measurement."""

    storage: StorageSettings
    folder: Path
    client: httpx.AsyncClient
    server_port: int = field(default_factory=free_port)
    router_port: int = field(default_factory=free_port)
    name: str = field(default_factory=lambda: f"shop-{uuid.uuid4().hex[:12]}")

    @property
    def router_url(self) -> str:
        return f"http://{HOST}:{self.router_port}"

    @property
    def follower_log(self) -> Path:
        return self.folder / "follower.log"

    @contextmanager
    def run_server(self) -> Iterator[ServerProcess]:
        """Run the state server, always on the same port."""
        with run_server(self.storage, self.folder, port=self.server_port) as server:
            yield server

    @contextmanager
    def run_follower(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run `safe-deploy router` until the block ends. Its log replaces that of the one before."""
        variables = {"SAFE_DEPLOY_SERVER": f"http://{HOST}:{self.server_port}", "SAFE_DEPLOY_APP": self.name}
        options = ("--target", "envoy", "--out", str(self.folder), "--listen", f"{HOST}:{self.router_port}")
        with self.follower_log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "safe_deploy", "router", *options],
                env=build_server_environment(None) | variables,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        with stop_after(process):
            yield process

    async def create(self, addresses: Mapping[str, str]) -> None:
        """Create the app. The first release is active."""
        releases = {
            version: {"taskHub": f"h{uuid.uuid4().hex[:16]}", "address": address}
            for version, address in addresses.items()
        }
        first, *others = releases
        body = {"model": "sideBySide", "policy": {"settleSeconds": 0}, "releases": {first: releases[first]}}
        await self._request("PUT", "", body)
        await self.change_routing(first)
        for version in others:
            await self._request("POST", "/releases", {"version": version, **releases[version]})

    async def change_routing(self, active: str, split: Mapping[str, int] | None = None) -> Change:
        """Send PutRouting."""
        began = time.perf_counter()
        document = await self._request("PUT", "/routing", {"active": active, "split": split})
        at = time.perf_counter()
        return Change(at, document["revision"], at - began)

    async def wait_until_acknowledged(self, change: Change) -> float:
        """Wait until the router has acknowledged a change. Returns the seconds since the change."""
        while time.perf_counter() - change.at < _TIMEOUT_SECONDS:
            routers = (await self._request("GET", "/releases"))["routers"]
            if any(router["router"] == ROUTER and router["revision"] == change.revision for router in routers):
                return time.perf_counter() - change.at
            await asyncio.sleep(_POLL_SECONDS)
        raise LoadError(f"the router has not acknowledged revision {change.revision}: {self.follower_log.read_text()}")

    async def wait_until_unreachable(self) -> None:
        """Wait until the follower that was started last has reported that the server is down."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while _UNREACHABLE not in self.follower_log.read_text():
            if time.monotonic() > deadline:
                raise LoadError("the follower has not reported that the server is down")
            await asyncio.sleep(_POLL_SECONDS)

    async def _request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request about the app. Returns the JSON of the response. Raises LoadError if it is refused."""
        url = f"http://{HOST}:{self.server_port}/api/apps/{self.name}{path}"
        response = await self.client.request(method, url, json=body)
        if not response.is_success:
            raise LoadError(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response.json()


def open_client() -> httpx.AsyncClient:
    """A client of the state server, as a pipeline run. The server closes connections that were idle for 5 s."""
    return httpx.AsyncClient(
        headers={"X-Run-Url": _RUN_URL},
        timeout=_TIMEOUT_SECONDS,
        trust_env=False,
        limits=httpx.Limits(keepalive_expiry=2),
    )


@asynccontextmanager
async def run_releases(versions: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    """Run a server in the place of each release, which answers with its version. Yields the addresses."""

    async def run_release(stack: AsyncExitStack, version: str) -> str:
        """Run one of these servers. Returns its address."""

        async def respond(request: web.Request) -> web.Response:
            return web.Response(text=version)

        (port,) = await stack.enter_async_context(run_http_server(respond))
        return f"http://{HOST}:{port}"

    async with AsyncExitStack() as stack:
        yield {version: await run_release(stack, version) for version in versions}


async def start_router(stack: AsyncExitStack, app: RoutedApp) -> subprocess.Popen[bytes]:
    """Run the follower and Envoy until the stack closes. Returns the follower's process."""
    follower = stack.enter_context(app.run_follower())

    def run_both() -> None:
        """Start Envoy when its files exist."""
        wait_until((app.folder / BOOTSTRAP_FILE).exists, "the follower has written Envoy's files")
        stack.enter_context(run_envoy(app.folder, app.router_port))

    # In a thread, because the releases answer Envoy in the event loop.
    await asyncio.to_thread(run_both)
    return follower


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process with SIGKILL, as a crash does."""
    process.send_signal(signal.SIGKILL)
    process.wait()
