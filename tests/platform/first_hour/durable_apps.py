"""The durable app of the guide: a worker of the real extension on each task hub that a slot has had."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyio.from_thread import BlockingPortal, start_blocking_portal

from harness.durable_host import DurableHost


class DurableApps:
    """Starts a worker for each task hub, as Azure does when a slot with its setting starts."""

    def __init__(self, portal: BlockingPortal, connection: str, folder: Path) -> None:
        self._portal = portal
        self._connection = connection
        self._folder = folder
        self._workers: dict[str, DurableHost] = {}
        self.topic: str | None = None
        """Where workers that start from now on publish lifecycle events."""

    def start(self, task_hub: str) -> None:
        """Start a worker on a task hub, unless there is one. It creates the task hub."""
        if task_hub not in self._workers:
            worker = DurableHost(task_hub, self._connection, self._folder, topic=self.topic)
            self._workers[task_hub] = worker
            self._portal.call(worker.start)

    def start_order(self, task_hub: str, order_id: str) -> None:
        """Start an orchestration that waits for an event, and wait until it runs."""
        worker = self._workers[task_hub]
        self._portal.call(worker.start_orchestration, "Wait", order_id)
        self._portal.call(worker.wait_for_status, order_id, "Running")

    def end_order(self, task_hub: str, order_id: str) -> None:
        """Raise the event, and wait until the orchestration has ended."""
        worker = self._workers[task_hub]
        self._portal.call(worker.raise_go_event, order_id)
        self._portal.call(worker.wait_for_status, order_id, "Completed")

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            self._portal.call(worker.close)


@contextmanager
def run_durable_apps(connection: str, folder: Path) -> Iterator[DurableApps]:
    """Workers on the task hubs of a storage account, until the block ends."""
    with start_blocking_portal() as portal:
        apps = DurableApps(portal, connection, folder)
        try:
            yield apps
        finally:
            apps.close()
