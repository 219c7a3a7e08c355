"""Group commit on the storage emulator: lifecycle events of one task hub, and a proxy that holds back transactions."""

import asyncio
from collections.abc import Sequence

from harness.storage_proxy import StorageProxy
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.task_hubs.lifecycle import LifecycleEvent, RuntimeStatus
from state_api.services.ports import TaskHubRecord
from state_api.storage.instances import InstanceStore

START = parse_instant("2026-11-20T09:00:00Z")


def lifecycle_event(
    hub: TaskHubRecord, instance_id: str, status: str = "Running", tick: int = 0, reason: str = ""
) -> LifecycleEvent:
    """An event of an order, `tick` ticks after the start of all of them."""
    return LifecycleEvent(hub.name, instance_id, "ProcessOrder", RuntimeStatus(status), reason, Instant(START + tick))


class TransactionGate:
    """Delays transactions while it is closed."""

    def __init__(self, proxy: StorageProxy) -> None:
        """Let transactions pass until the gate is closed."""
        self.held_count = 0
        self._open = asyncio.Event()
        self._open.set()
        proxy.before_request = self._pass

    async def _pass(self, method: str, path: str) -> None:
        """Delay a transaction while the gate is closed. The proxy calls this before each request."""
        if path.endswith("$batch") and not self._open.is_set():
            self.held_count += 1
            await self._open.wait()

    async def wait_until_held(self, count: int) -> None:
        """Wait until `count` transactions have been delayed."""
        async with asyncio.timeout(20):
            while self.held_count < count:
                await asyncio.sleep(0.01)

    def close(self) -> None:
        """Delay all further transactions until the gate is opened."""
        self._open.clear()

    def open(self) -> None:
        """Let the delayed transactions and all further ones pass."""
        self._open.set()


def count_transactions(proxy: StorageProxy) -> int:
    return sum(request.path.endswith("$batch") for request in proxy.forwarded)


def count_reads(proxy: StorageProxy) -> int:
    return sum(request.method == "GET" for request in proxy.forwarded)


async def record_first_event(store: InstanceStore, record: TaskHubRecord) -> None:
    """Make the store read the function's activity stamp, which it does once, before requests are counted."""
    await store.record(record, [lifecycle_event(record, "first")])


def record_concurrently(
    store: InstanceStore, record: TaskHubRecord, events: Sequence[LifecycleEvent]
) -> list[asyncio.Task[list[bool | None]]]:
    """Start recording each of these events in a delivery of its own."""
    return [asyncio.create_task(store.record(record, [event])) for event in events]
