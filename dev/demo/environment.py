"""The demo's environment: storage emulator, state server, and a Function App with two slots, as local processes.

All processes listen on loopback and end with the block that starts them."""

import json
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from dev.demo.app_processes import TopicEndpoint
from dev.demo.control_server import run_control_server
from dev.demo.local_function_app import FunctionApp
from dev.demo.order_results import OrderCounts, OrderResults
from dev.demo.pipeline import Pipeline
from dev.demo.processes import HOST, LoggedProcess, Processes
from harness.processes import free_ports, wait_until
from state_api.emulator import EmulatorPorts, is_listening, storage_emulator
from state_api.settings import STATE_KEYS, STATE_STORAGE, sha256_of

APP = "shop"


@dataclass(frozen=True, slots=True)
class DemoPlatform:
    """A Function App and its orders. `variables` hold its address for the deploy and swap commands."""

    app: FunctionApp
    orders: OrderResults
    variables: dict[str, str]

    def count_orders(self) -> OrderCounts:
        """The orders by what became of them, over all task hubs that the app has had."""
        return self.orders.count_orders(self.app.task_hubs, self.app.get_slot_task_hubs().values())


@dataclass(frozen=True, slots=True)
class GuardedEnvironment:
    """A platform, and the pipeline that uses a state server. `topic` is the server's webhook for lifecycle events."""

    platform: DemoPlatform
    pipeline: Pipeline
    topic: TopicEndpoint


@contextmanager
def create_unguarded_environment() -> Iterator[DemoPlatform]:
    """Create a platform without a state server."""
    with (
        run_emulator() as storage,
        open_processes() as processes,
        _open_platform(processes, storage, None) as platform,
    ):
        yield platform


@contextmanager
def create_guarded_environment(settle_seconds: int) -> Iterator[GuardedEnvironment]:
    """Create a platform, and a state server that has the app's policy, but not yet its slots."""
    keys = {role: secrets.token_urlsafe(24) for role in ("admin", "deployer", "publisher")}
    with run_emulator() as storage, open_processes() as processes:
        url = start_server(processes, storage, keys)
        topic = TopicEndpoint(f"{url}/api/events", keys["publisher"])
        policy = {"policy": {"settleSeconds": settle_seconds, "requireVerification": True}}
        admin = {"x-functions-key": keys["admin"]}
        httpx.put(f"{url}/api/apps/{APP}", json=policy, headers=admin, timeout=60).raise_for_status()
        with (
            _open_platform(processes, storage, topic) as platform,
            closing(Pipeline(url, APP, keys, platform.variables)) as pipeline,
        ):
            yield GuardedEnvironment(platform, pipeline, topic)


@contextmanager
def run_emulator() -> Iterator[str]:
    """Start the storage emulator, in memory. Yields its connection string."""
    ports = EmulatorPorts(*free_ports(3))
    with storage_emulator(ports, None):
        yield ports.connection_string()


@contextmanager
def open_processes() -> Iterator[Processes]:
    """Processes with a folder for their files. Both end with the block."""
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        yield processes


@contextmanager
def _open_platform(processes: Processes, storage: str, topic: TopicEndpoint | None) -> Iterator[DemoPlatform]:
    """The parts of the demo apart from the state server: the Function App, the results of its orders, and the
    pipeline's access to both."""
    with (
        closing(FunctionApp(processes, storage, topic)) as app,
        closing(OrderResults(storage)) as orders,
        run_control_server(app.commands) as variables,
    ):
        yield DemoPlatform(app, orders, variables)


def start_server(processes: Processes, storage: str, keys: dict[str, str]) -> str:
    """Start `python -m state_api serve`. Returns its address. Raises RuntimeError if it ends."""
    (port,) = free_ports(1)
    key_entries = [{"name": f"the-{role}", "role": role, "sha256": sha256_of(key)} for role, key in keys.items()]
    settings = {STATE_STORAGE: storage, STATE_KEYS: json.dumps(key_entries)}
    process: LoggedProcess = processes.start("server", "state_api", "serve", "--port", str(port), **settings)
    wait_until(lambda: is_listening(HOST, port) or process.popen.poll() is not None, "the server listens")
    if process.popen.poll() is not None:
        raise RuntimeError(f"the server ended:\n{process.read_output()}")
    return f"http://{HOST}:{port}"
