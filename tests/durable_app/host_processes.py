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
    """Run a topic that accepts events with this key, or with any key."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (event,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = topic.before_response(event) if key in (None, self.headers["aeg-sas-key"]) else 401
            if status == 200:
                topic.events.append(event)
                topic.keys.add(self.headers["aeg-sas-key"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        # With a full backlog the sender would need a retry.
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
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    quick = {"PACKING_SECONDS": "0.1", "PAYMENT_RETRY_MILLISECONDS": "50", "LIFECYCLE_TOPIC_KEY": KEY}
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | quick,
            stdout=sink,
            stderr=sink,
            cwd=ROOT,
        )
        with stop_after(process):
            wait_until(lambda: "at " in log.read_text() or process.poll() is not None, f"{module} is up")
            yield process


@dataclass
class EngineProcess:
    task_hub: str
    address: str
    log: Path


@contextmanager
def run_engine(task_hub: str, storage: StorageSettings, to: Topic, folder: Path) -> Iterator[EngineProcess]:
    assert storage.connection_string is not None
    connection, port = storage.connection_string.get_secret_value(), free_port()
    log = folder / f"engine-{port}.log"
    options = {"task-hub": task_hub, "port": str(port), "storage": connection, "topic-endpoint": to.url}
    options["publish-retry-seconds"] = "0.01"
    with _run_module("durable_app.local.engine", log, options) as process:
        assert process.poll() is None, log.read_text()
        yield EngineProcess(task_hub, f"{HOST}:{port}", log)


class SlotProcess:
    """A running slot, with the requests of a customer and an operator to its HTTP functions."""

    def __init__(self, process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
        self.process = process
        self.client = client
        self.log = log

    def place_order(self, order_id: str, *items: str, **more: Any) -> httpx.Response:
        return self.client.post("/api/orders", json={"orderId": order_id, "items": items or ("apple",)} | more)

    def status(self, order_id: str, kind: str = "orders") -> dict[str, Any]:
        answer = self.client.get(f"/api/{kind}/{order_id}")
        assert answer.status_code == 200, answer.text
        status: dict[str, Any] = answer.json()
        return status

    def wait_until(
        self, order_id: str, condition: Callable[[dict[str, Any]], bool], kind: str = "orders"
    ) -> dict[str, Any]:
        wait_until(lambda: condition(self.status(order_id, kind)), f"{order_id}: {self.status(order_id, kind)}", 30)
        return self.status(order_id, kind)

    def wait_until_ended(self, order_id: str, kind: str = "orders") -> dict[str, Any]:
        return self.wait_until(order_id, lambda status: status["runtimeStatus"] in ENDED_STATUSES, kind)

    def wait_for_approval(self, order_id: str) -> dict[str, Any]:
        return self.wait_until(order_id, lambda status: status["customStatus"] == "WaitingForApproval")


@contextmanager
def run_slot(to: EngineProcess, version: str, folder: Path) -> Iterator[SlotProcess]:
    port = free_port()
    log = folder / f"slot-{port}.log"
    options = {"task-hub": to.task_hub, "version": version, "port": str(port), "engine": to.address}
    with (
        _run_module("durable_app.local", log, options) as process,
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=30) as client,
    ):

        def answers() -> bool:
            try:
                return client.get("/api/about").status_code == 200
            except httpx.TransportError:
                return process.poll() is not None

        wait_until(answers, "the slot answers")
        assert process.poll() is None, log.read_text()
        yield SlotProcess(process, client, log)
