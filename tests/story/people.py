"""Those who have nothing to do with deployments: customers who order all the time, and an operator who approves."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from queue import Queue

from dev.story.stage import Platform

_BETWEEN_ORDERS_SECONDS = 1


class People:
    """Works in threads of its own until its block ends; what goes wrong there is raised at the end."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._gone = threading.Event()
        self._released: Queue[str | None] = Queue()
        self._trouble: list[Exception] = []

    def release(self, task_hub: str) -> None:
        """The operator approves what waits on this task hub now."""
        self._released.put(task_hub)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=work) for work in (self._order, self._approve)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._gone.set()
            self._released.put(None)
            for thread in threads:
                thread.join()
            if self._trouble:
                raise ExceptionGroup("the people could not do their work", self._trouble)

    def _order(self) -> None:
        """Orders that need no approval, one after the other, into whatever is in production."""
        try:
            for number in count(1):
                if self._gone.wait(_BETWEEN_ORDERS_SECONDS):
                    return
                self._platform.app.order(f"quick-{number}")
        except Exception as error:  # noqa: BLE001  # it is raised where the test sees it
            self._trouble.append(error)

    def _approve(self) -> None:
        """All that waits on a task hub, once it is released."""
        try:
            while (hub := self._released.get()) is not None:
                for order_id in self._platform.orders.waiting(hub):
                    assert self._platform.app.approve(order_id), f"no slot takes the approval of {order_id}"
        except Exception as error:  # noqa: BLE001  # as above
            self._trouble.append(error)
