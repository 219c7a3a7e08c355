"""A Function App on this machine: a production and a staging slot, each a process of the sample app, and a task hub
engine for every task hub that was ever deployed."""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import httpx
from durabletask.client import TaskHubGrpcClient

from dev.demo.processes import HOST, LoggedProcess, Processes
from harness.processes import free_port, wait_until

log = logging.getLogger(__name__)

SLOTS = ("production", "staging")
# Orders are quick, so that a story is not long.
_SHORT_DURATIONS = {"PACKING_SECONDS": "0.2", "PAYMENT_RETRY_MILLISECONDS": "50"}


@dataclass(frozen=True, slots=True)
class TopicEndpoint:
    """Where lifecycle events go, and the key for it."""

    endpoint: str
    key: str


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """What a slot carries: code, on a task hub, in a process at an address."""

    app_version: str
    task_hub: str
    url: str
    process: LoggedProcess


class FunctionApp:
    """The platform's side of a story. `topic` may be None: then nothing is published."""

    def __init__(self, processes: Processes, storage: str, topic: TopicEndpoint | None) -> None:
        self.topic = topic
        self.task_hub_by_order: dict[str, str] = {}
        """The orders, each with the task hub on which it was started."""
        self._processes = processes
        self._storage = storage
        self._slots: dict[str, SlotRequest] = {}
        self._engines: dict[str, str] = {}
        self._client = httpx.Client(timeout=30)
        # A swap comes between two requests, never in the middle of one.
        self._routing = threading.Lock()

    def close(self) -> None:
        self._client.close()

    # What a pipeline does.

    def deploy(self, slot: str, app_version: str, task_hub: str) -> None:
        """Put this code on this task hub into the slot. What ran there has ended before the new code starts."""
        if slot not in SLOTS:
            raise ValueError(f"there is no slot {slot}")
        before = self._slots.pop(slot, None)
        if before is not None:
            before.process.popen.terminate()
        engine, port = self._start_engine(task_hub), free_port()
        if before is not None:
            self._processes.stop(before.process)
        options = ["--task-hub", task_hub, "--version", app_version, "--port", str(port), "--engine", engine]
        process = self._processes.start(
            f"{slot}-{app_version}-{task_hub}", "durable_app.local", *options, **_SHORT_DURATIONS
        )
        carried = SlotRequest(app_version, task_hub, f"http://{HOST}:{port}", process)
        wait_until(lambda: self._is_healthy(carried) or process.popen.poll() is not None, f"slot {slot} answers")
        if process.popen.poll() is not None:
            raise RuntimeError(f"slot {slot} has ended:\n{process.read_output()}")
        self._slots[slot] = carried

    def swap(self) -> None:
        """Production and staging exchange what they carry; nothing that runs is stopped."""
        if len(self._slots) < len(SLOTS):
            raise ValueError("a slot is empty")
        with self._routing:
            self._slots = dict(zip(SLOTS, (self._slots["staging"], self._slots["production"]), strict=True))

    # What customers and those who approve do.

    def order(self, order_id: str, **order_fields: Any) -> None:
        """Place an order in production."""
        with self._routing:
            production = self._slots["production"]
            order = {"orderId": order_id, "items": ["apple", "pear"]} | order_fields
            self._client.post(f"{production.url}/api/orders", json=order).raise_for_status()
            self.task_hub_by_order[order_id] = production.task_hub

    def approve_order(self, order_id: str) -> bool:
        """Approve an order in whichever slot knows it as one that goes on. False if neither does."""
        for carried in list(self._slots.values()):
            answer = self._client.post(f"{carried.url}/api/orders/{order_id}/approve")
            if answer.status_code == httpx.codes.ACCEPTED:
                return True
            if answer.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
                answer.raise_for_status()
        return False

    def raise_approval_event(self, order_id: str) -> None:
        """Put an approval into the order's task hub itself, past all slots, as an operator can with the durable client
        or the management API."""
        with TaskHubGrpcClient(host_address=self._engines[self.task_hub_by_order[order_id]], logger=log) as client:
            client.raise_orchestration_event(order_id, "Approval", data=True)

    # What can be seen.

    def slot_task_hubs(self) -> dict[str, str]:
        """The task hub of every slot that is not empty."""
        return {slot: carried.task_hub for slot, carried in self._slots.items()}

    @property
    def task_hubs(self) -> list[str]:
        """All that were ever deployed, oldest first."""
        return list(self._engines)

    def _start_engine(self, task_hub: str) -> str:
        """The address of the task hub's engine, which is started with its first use and stays until the end."""
        if task_hub not in self._engines:
            address = f"{HOST}:{(port := free_port())}"
            options = ["--task-hub", task_hub, "--port", str(port), "--storage", self._storage]
            key = {}
            if self.topic is not None:
                options += ["--topic-endpoint", self.topic.endpoint, "--publish-retry-seconds", "0.01"]
                key = {"LIFECYCLE_TOPIC_KEY": self.topic.key}
            # Not waited for: the slot does that.
            self._processes.start(f"engine-{task_hub}", "durable_app.local.engine", *options, **key)
            self._engines[task_hub] = address
        return self._engines[task_hub]

    def _is_healthy(self, carried: SlotRequest) -> bool:
        try:
            about = self._client.get(f"{carried.url}/api/about")
        except httpx.TransportError:
            return False
        return bool(about.json() == {"version": carried.app_version, "taskHub": carried.task_hub})
