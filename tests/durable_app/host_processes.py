"""The development host as local processes: an engine, slots, and a topic that records events."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from harness.processes import free_port, stop_after, wait_until
from state_api.settings import StorageSettings

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"
KEY = "a-key-of-the-topic"
ENDED_STATUSES = ("Completed", "Failed", "Terminated")


@dataclass
class Topic:
    """An endpoint that records the events posted to it, as an Event Grid topic would receive them.

    `before_response` runs before each response and may return its HTTP status."""

    url: str
    events: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    before_response: Callable[[dict[str, Any]], int] = lambda _: 200

    def statuses(self, instance_id: str) -> list[str]:
        """The runtime statuses that were published for an instance, in order."""
        return [event["data"]["runtimeStatus"] for event in self.events if event["data"]["instanceId"] == instance_id]


@contextmanager
def run_topic(key: str | None = None) -> Iterator[Topic]:
    """Run a topic that accepts events with this key. Without a key, it accepts all events."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take one event as an Event Grid topic does: with the status that the test chooses, or 401 for a wrong
            key."""
            (event,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = topic.before_response(event) if key in (None, self.headers["aeg-sas-key"]) else 401
            if status == 200:
                topic.events.append(event)
                topic.keys.add(self.headers["aeg-sas-key"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Write no access log."""

    class Server(ThreadingHTTPServer):
        # A sender would have to retry if the backlog were full.
        request_queue_size = 128

    with Server((HOST, 0), Handler) as server:
        topic = Topic(f"http://{HOST}:{server.server_port}/api/events")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield topic
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _run_module(module: str, log: Path, options: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module as a process that writes its output to `log`. Waits until the output says that it serves."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    settings = {"PACKING_SECONDS": "0.1", "PAYMENT_RETRY_MILLISECONDS": "50", "LIFECYCLE_TOPIC_KEY": KEY}
    with log.open("ab") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | settings,
            stdout=log_stream,
            stderr=log_stream,
            cwd=ROOT,
        )
        with stop_after(process):
            wait_until(lambda: "at " in log.read_text() or process.poll() is not None, f"{module} serves")
            yield process


@dataclass
class EngineProcess:
    """A running engine, the task hub that it serves, and its log."""

    task_hub: str
    address: str
    log: Path


@contextmanager
def run_engine(task_hub: str, storage: StorageSettings, topic: Topic, folder: Path) -> Iterator[EngineProcess]:
    """Run an engine that keeps a task hub in the storage and publishes its lifecycle events to the topic."""
    assert storage.connection_string is not None
    connection, port = storage.connection_string.get_secret_value(), free_port()
    log = folder / f"engine-{port}.log"
    options = {"task-hub": task_hub, "port": str(port), "storage": connection, "topic-endpoint": topic.url}
    options["publish-retry-seconds"] = "0.01"
    with _run_module("durable_app.local.engine", log, options) as process:
        assert process.poll() is None, log.read_text()
        yield EngineProcess(task_hub, f"{HOST}:{port}", log)


class SlotProcess:
    """A running slot, with the requests of a customer and an operator to its HTTP functions."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
        """A running slot, a client of its HTTP functions, and its log."""
        self.process = process
        self.client = client
        self.log = log

    def place_order(self, order_id: str, *items: str, **members: Any) -> httpx.Response:
        """Order the items, by default an apple. The keyword arguments are further members of the request's body."""
        return self.client.post("/api/orders", json={"orderId": order_id, "items": items or ("apple",)} | members)

    def get_status(self, instance_id: str, kind: str = "orders") -> dict[str, Any]:
        """The status of an orchestration. `kind` is its part of the URL: `orders` or `monitor`."""
        response = self.client.get(f"/api/{kind}/{instance_id}")
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()
        return status

    def wait_until(
        self, instance_id: str, condition: Callable[[dict[str, Any]], bool], kind: str = "orders"
    ) -> dict[str, Any]:
        """Wait until the status of an orchestration meets the condition, and return the status."""
        description = f"{instance_id}: {self.get_status(instance_id, kind)}"
        wait_until(lambda: condition(self.get_status(instance_id, kind)), description, 30)
        return self.get_status(instance_id, kind)

    def wait_until_ended(self, instance_id: str, kind: str = "orders") -> dict[str, Any]:
        """Wait until an orchestration has ended, and return its status."""
        return self.wait_until(instance_id, lambda status: status["runtimeStatus"] in ENDED_STATUSES, kind)

    def wait_until_waiting_for_approval(self, order_id: str) -> dict[str, Any]:
        """Wait until an order waits for its approval, and return its status."""
        return self.wait_until(order_id, lambda status: status["customStatus"] == "WaitingForApproval")


@contextmanager
def run_slot(engine: EngineProcess, version: str, folder: Path) -> Iterator[SlotProcess]:
    """Run a slot with a version of the app, which gets its work from the engine."""
    port = free_port()
    log = folder / f"slot-{port}.log"
    options = {"task-hub": engine.task_hub, "version": version, "port": str(port), "engine": engine.address}
    with (
        _run_module("durable_app.local", log, options) as process,
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client,
    ):

        def responds_or_has_ended() -> bool:
            """Whether the slot answers, or its process has ended, so that waiting for it is useless."""
            try:
                return client.get("/api/about").status_code == 200
            except httpx.TransportError:
                return process.poll() is not None

        wait_until(responds_or_has_ended, "the slot responds")
        assert process.poll() is None, log.read_text()
        yield SlotProcess(process, client, log)
