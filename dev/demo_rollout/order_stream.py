"""Customers who place orders one after another, each as a new visitor: no cookie decides which release gets an order.

They repeat no request: each one that is refused is recorded."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from dev.demo.output import UnexpectedResult
from harness.processes import pause

_CUSTOMERS = 8
_RESPONSE_TIMEOUT_SECONDS = 30
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order that a release has accepted. `task_hub` is where it began. `sent_at` is in seconds of
    `time.monotonic`."""

    order_id: str
    task_hub: str
    sent_at: float


class OrderStream:
    """Sends the orders with these ids to an address, at most one each `interval_seconds`.

    `placed` and `failures` are complete when the customers have left."""

    def __init__(self, url: str, order_ids: Iterable[str], interval_seconds: float) -> None:
        self.placed: list[PlacedOrder] = []
        self.failures: list[str] = []
        self._url = url
        self._order_ids = iter(order_ids)
        self._interval_seconds = interval_seconds
        self._next_at = time.monotonic()
        self._choice = threading.Lock()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._place_orders, name=f"customer-{n}") for n in range(_CUSTOMERS)]

    def start(self) -> None:
        """Let the customers begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the customers leave, after the responses to what they have sent."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_until_all_sent(self) -> None:
        """Wait until the customers have sent all orders."""
        while any(thread.is_alive() for thread in self._threads):
            pause(_POLL_SECONDS)

    @property
    def sent_count(self) -> int:
        """How many orders have been answered or have failed so far."""
        return len(self.placed) + len(self.failures)

    def wait_until_sent(self, count: int) -> None:
        """Wait until this many orders were sent. Raises UnexpectedResult if the customers leave before."""
        while self.sent_count < count:
            if not any(thread.is_alive() for thread in self._threads):
                raise UnexpectedResult(f"the customers left after {self.sent_count} of {count} orders: {self.failures}")
            pause(_POLL_SECONDS)

    def _place_orders(self) -> None:
        """Place orders until the ids are used up or `stop` was called. An unexpected error is recorded."""
        try:
            with httpx.Client(base_url=self._url, timeout=_RESPONSE_TIMEOUT_SECONDS) as client:
                while (choice := self._choose_order()) is not None:
                    order_id, due_at = choice
                    if self._is_over.wait(max(0, due_at - time.monotonic())):
                        return
                    self._place_order(client, order_id)
        except Exception as error:  # noqa: BLE001  # recorded like a refused request
            self.failures.append(f"a customer stopped: {type(error).__name__} {error}")

    def _choose_order(self) -> tuple[str, float] | None:
        """The next order, and when it is due; None if there is none."""
        with self._choice:
            order_id = next(self._order_ids, None)
            if order_id is None:
                return None
            due_at = max(self._next_at, time.monotonic())
            self._next_at = due_at + self._interval_seconds
            return order_id, due_at

    def _place_order(self, client: httpx.Client, order_id: str) -> None:
        """Place an order as a visitor without a cookie."""
        client.cookies.clear()
        sent_at = time.monotonic()
        try:
            response = client.post("/api/orders", json={"orderId": order_id, "items": ["apple"]})
        except httpx.HTTPError as error:
            self.failures.append(f"order {order_id}: {type(error).__name__} {error}")
            return
        if response.status_code == httpx.codes.ACCEPTED:
            self.placed.append(PlacedOrder(order_id, response.json()["taskHub"], sent_at))
        else:
            self.failures.append(f"order {order_id}: {response.status_code} {response.text[:200]}")


@contextmanager
def customers_ordering(url: str, order_ids: Iterable[str], interval_seconds: float) -> Iterator[OrderStream]:
    """Let customers place orders until the block ends."""
    stream = OrderStream(url, order_ids, interval_seconds)
    stream.start()
    try:
        yield stream
    finally:
        stream.stop()
