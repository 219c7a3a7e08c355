"""Those who have nothing to do with deployments: customers who order all the time, and an operator who approves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import Queue

from dev.demo.environment import DemoPlatform

_ORDER_INTERVAL_SECONDS = 1


class BackgroundUsers:
    """Works in threads of its own until its block ends; what goes wrong there is raised at the end."""

    def __init__(self, platform: DemoPlatform) -> None:
        self._platform = platform
        self._stopped = threading.Event()
        self._hubs_to_approve: Queue[str | None] = Queue()
        self._failures: list[Exception] = []

    def approve_orders_on(self, task_hub: str) -> None:
        """The operator approves what waits on this task hub now."""
        self._hubs_to_approve.put(task_hub)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=work) for work in (self._place_orders, self._approve_orders)]
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
                raise ExceptionGroup("the people could not do their work", self._failures)

    def _place_orders(self) -> None:
        """Orders that need no approval, one after the other, into whatever is in production."""
        try:
            for number in count(1):
                if self._stopped.wait(_ORDER_INTERVAL_SECONDS):
                    return
                self._platform.app.order(f"quick-{number}")
        except Exception as error:  # noqa: BLE001  # it is raised where the test sees it
            self._failures.append(error)

    def _approve_orders(self) -> None:
        """All that waits on a task hub, once it is released."""
        try:
            while (hub := self._hubs_to_approve.get()) is not None:
                for order_id in self._platform.orders.list_waiting_order_ids(hub):
                    assert self._platform.app.approve_order(order_id), f"no slot takes the approval of {order_id}"
        except Exception as error:  # noqa: BLE001  # as above
            self._failures.append(error)
