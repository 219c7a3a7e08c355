"""Everything that a story needs, as processes on free ports of loopback: the storage emulator, the state server, and a
Function App with two slots. All of it ends with its block."""

import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.local import free_ports, until
from dev.story.control import controlled
from dev.story.function_app import FunctionApp, Topic
from dev.story.orders import Counts, Orders
from dev.story.pipeline import Pipeline
from dev.story.processes import HOST, Process, Processes
from state_api.emulator import EmulatorPorts, answers, storage_emulator
from state_api.settings import KEYS, STORAGE, sha256_of

APP = "shop"


@dataclass(frozen=True, slots=True)
class Platform:
    """A Function App and its orders; `variables` lead the deploy and the swap command to it."""

    app: FunctionApp
    orders: Orders
    variables: dict[str, str]

    def counts(self) -> Counts:
        return self.orders.counts(self.app.task_hubs, self.app.carries().values())


@dataclass(frozen=True, slots=True)
class Guarded:
    """A platform, the state server beside it, and the pipeline that asks it."""

    platform: Platform
    pipeline: Pipeline
    topic: Topic


@contextmanager
def unguarded_stage() -> Iterator[Platform]:
    """A platform, and nobody to ask."""
    with _emulator() as storage, _processes() as processes, _platform(processes, storage, None) as platform:
        yield platform


@contextmanager
def guarded_stage(settle_seconds: int) -> Iterator[Guarded]:
    """A platform and a state server that knows the app's policy, and nothing of its slots yet."""
    keys = {role: secrets.token_urlsafe(24) for role in ("admin", "deployer", "publisher")}
    with _emulator() as storage, _processes() as processes:
        url = _server(processes, storage, keys)
        topic = Topic(f"{url}/api/events", keys["publisher"])
        policy = {"policy": {"settleSeconds": settle_seconds, "requireVerification": True}}
        admin = {"x-functions-key": keys["admin"]}
        httpx.put(f"{url}/api/apps/{APP}", json=policy, headers=admin, timeout=60).raise_for_status()
        with (
            _platform(processes, storage, topic) as platform,
            closing(Pipeline(url, APP, keys, platform.variables)) as pipeline,
        ):
            yield Guarded(platform, pipeline, topic)


@contextmanager
def _emulator() -> Iterator[str]:
    """A storage account, in memory; yields its connection string."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield ports.connection()


@contextmanager
def _processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        yield processes


@contextmanager
def _platform(processes: Processes, storage: str, topic: Topic | None) -> Iterator[Platform]:
    with (
        closing(FunctionApp(processes, storage, topic)) as app,
        closing(Orders(storage)) as orders,
        controlled(app) as variables,
    ):
        yield Platform(app, orders, variables)


def _server(processes: Processes, storage: str, keys: dict[str, str]) -> str:
    """`python -m state_api serve`; its address."""
    (port,) = free_ports(1)
    known = [{"name": f"the-{role}", "role": role, "sha256": sha256_of(key)} for role, key in keys.items()]
    settings = {STORAGE: storage, KEYS: json.dumps(known)}
    process: Process = processes.start("server", "state_api", "serve", "--port", str(port), **settings)
    until(lambda: answers(HOST, port) or process.popen.poll() is not None, "the server listens")
    if process.popen.poll() is not None:
        raise RuntimeError(f"the server has ended:\n{process.printed()}")
    return f"http://{HOST}:{port}"
