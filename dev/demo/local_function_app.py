"""A local Function App: a production and a staging slot, each a process of the sample app.

Every task hub that was ever deployed has an engine process, which runs until the end of the demo."""

import logging
import threading
from typing import Any

import httpx
from durabletask.client import TaskHubGrpcClient

from dev.demo.app_processes import DeployedApp, TopicEndpoint, start_app, start_engine
from dev.demo.control_server import ControlCommand
from dev.demo.processes import Processes
from harness.processes import free_port

log = logging.getLogger(__name__)

SLOTS = ("production", "staging")


class FunctionApp:
    """A Function App with two slots, in place of Azure. Without a `topic`, it publishes no lifecycle events."""

    def __init__(self, processes: Processes, storage: str, topic: TopicEndpoint | None) -> None:
        """Create the app without any slot. Its processes publish events to `topic`, if there is one."""
        self.topic = topic
        self.task_hub_by_order: dict[str, str] = {}
        """The task hub on which each order was started."""
        self._processes = processes
        self._storage = storage
        self._slots: dict[str, DeployedApp] = {}
        self._engines: dict[str, str] = {}
        self._client = httpx.Client(timeout=30)
        # A swap waits until no request is in progress.
        self._routing = threading.Lock()

    def close(self) -> None:
        self._client.close()

    # Operations of a pipeline.

    @property
    def commands(self) -> dict[str, ControlCommand]:
        """The commands of `python -m dev.demo.slot_command`."""

        def deploy(body: dict[str, Any]) -> str:
            """Deploy into a slot, and return what the slots have then."""
            self.deploy(body["slot"], body["code"], body["taskHub"])
            return self._describe_slots()

        def swap(_: dict[str, Any]) -> str:
            """Swap the slots, and return what they have then."""
            self.swap()
            return self._describe_slots()

        return {"deploy": deploy, "swap": swap}

    def deploy(self, slot: str, app_version: str, task_hub: str) -> None:
        """Replace the code and the task hub of a slot. The old process ends before the new one starts.

        Raises ValueError for an unknown slot, RuntimeError if the new process ends."""
        if slot not in SLOTS:
            raise ValueError(f"there is no slot {slot}")
        before = self._slots.pop(slot, None)
        if before is not None:
            before.process.popen.terminate()
        engine = self._start_engine(task_hub)
        if before is not None:
            self._processes.stop(before.process)
        self._slots[slot] = start_app(self._processes, slot, app_version, task_hub, engine=engine, port=free_port())

    def swap(self) -> None:
        """Swap production and staging without stopping their processes. Raises ValueError if a slot is empty."""
        if len(self._slots) < len(SLOTS):
            raise ValueError("a slot is empty")
        with self._routing:
            self._slots = dict(zip(SLOTS, (self._slots["staging"], self._slots["production"]), strict=True))

    # Operations of customers and approvers.

    def place_order(self, order_id: str, **order_fields: Any) -> None:
        """Place an order in production."""
        with self._routing:
            production = self._slots["production"]
            order = {"orderId": order_id, "items": ["apple", "pear"]} | order_fields
            self._client.post(f"{production.url}/api/orders", json=order).raise_for_status()
            self.task_hub_by_order[order_id] = production.task_hub

    def approve_order(self, order_id: str) -> bool:
        """Approve an order in the slot that has it as an active order. False if no slot has it."""
        for deployed in list(self._slots.values()):
            response = self._client.post(f"{deployed.url}/api/orders/{order_id}/approve")
            if response.status_code == httpx.codes.ACCEPTED:
                return True
            if response.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
                response.raise_for_status()
        return False

    def raise_approval_event(self, order_id: str) -> None:
        """Raise the approval event on the order's task hub directly, as an operator can with the management API."""
        with TaskHubGrpcClient(host_address=self._engines[self.task_hub_by_order[order_id]], logger=log) as client:
            client.raise_orchestration_event(order_id, "Approval", data=True)

    # State.

    def get_slot_task_hubs(self) -> dict[str, str]:
        """The task hub of every slot that is not empty."""
        return {slot: deployed.task_hub for slot, deployed in self._slots.items()}

    @property
    def task_hubs(self) -> list[str]:
        """All task hubs that were ever deployed, oldest first."""
        return list(self._engines)

    def _describe_slots(self) -> str:
        """The task hub of every slot, for the output of a command."""
        return ", ".join(f"{slot} {hub}" for slot, hub in self.get_slot_task_hubs().items())

    def _start_engine(self, task_hub: str) -> str:
        """Start the task hub's engine at its first use. Returns its address."""
        if task_hub not in self._engines:
            self._engines[task_hub] = start_engine(self._processes, task_hub, self._storage, self.topic)
        return self._engines[task_hub]
