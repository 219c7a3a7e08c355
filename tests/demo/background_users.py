"""Users of the sample app during deployments: customers who place orders all the time, and an operator who approves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import Queue

from dev.demo.environment import DemoPlatform

_ORDER_INTERVAL_SECONDS = 1


class BackgroundUsers:
    """Places and approves orders in threads until its block ends, then raises the errors of the threads."""

    def __init__(self, platform: DemoPlatform) -> None:
        self._platform = platform
        self._stopped = threading.Event()
        self._hubs_to_approve: Queue[str | None] = Queue()
        self._failures: list[Exception] = []

    def approve_orders_on(self, task_hub: str) -> None:
        """Let the operator approve the orders that wait on this task hub now."""
        self._hubs_to_approve.put(task_hub)

    @contextmanager
    def run_in_background(self) -> Iterator[None]:
        """Place and approve orders until the block ends. Raises the errors of the threads as a group."""
        threads = [threading.Thread(target=user) for user in (self._place_orders, self._approve_orders)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._hubs_to_approve.put(None)
            for thread in threads:
                thread.join()
            if self._failures:
                raise ExceptionGroup("orders could not be placed or approved", self._failures)

    def _place_orders(self) -> None:
        """Place orders that need no approval in production, one each second."""
        try:
            for number in count(1):
                if self._stopped.wait(_ORDER_INTERVAL_SECONDS):
                    return
                self._platform.app.place_order(f"quick-{number}")
        except Exception as error:  # noqa: BLE001  # raised at the end of the block
            self._failures.append(error)

    def _approve_orders(self) -> None:
        """Approve all orders that wait on each task hub of the queue."""
        try:
            while (hub := self._hubs_to_approve.get()) is not None:
                for order_id in self._platform.orders.list_waiting_order_ids(hub):
                    assert self._platform.app.approve_order(order_id), f"no slot takes the approval of {order_id}"
        except Exception as error:  # noqa: BLE001  # raised at the end of the block
            self._failures.append(error)
