"""Customers of the sample app: HTTP clients that look at the shop, place orders and follow them, through the router.

They repeat no request: each failure that a customer would see is recorded."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from dev.demo_side_by_side.records import CustomerRecord, OrderRecord, VisitRecord

STICKY_COOKIE = "release"
_RESPONSE_TIMEOUT_SECONDS = 30
_FOLLOW_SECONDS = 60
"""How long a customer follows an order after the last one was placed."""
_ENDED_STATUSES = ("Completed", "Failed", "Terminated", "Canceled")


@dataclass(frozen=True, slots=True)
class OpeningHours:
    """How long customers visit the shop: until `is_over`. After an error (`is_aborted`) they do not follow their orders
    either."""

    is_over: threading.Event = field(default_factory=threading.Event)
    is_aborted: threading.Event = field(default_factory=threading.Event)


class Customer:
    """A customer with or without cookies. `record` is complete when no method is running.

    `headers` are sent with every request."""

    def __init__(
        self, router_url: str, name: str, *, keeps_cookies: bool = False, headers: Mapping[str, str] | None = None
    ) -> None:
        self.record = CustomerRecord(name, keeps_cookies)
        self._client = httpx.Client(base_url=router_url, timeout=_RESPONSE_TIMEOUT_SECONDS, headers=headers)
        self._numbers = count(1)

    def close(self) -> None:
        """Close the customer's connections."""
        self._client.close()

    def visit(self) -> str | None:
        """Look at the shop. Returns the task hub of the release that answered; None after a failure."""
        return self._visit("GET", "/api/about", httpx.codes.OK)

    def place_order(self, *, needs_approval: bool = False) -> OrderRecord | None:
        """Place an order. None if no release has accepted it, which is recorded as a failure."""
        order_id = f"{self.record.name}-{next(self._numbers)}"
        order = {"orderId": order_id, "items": ["apple", "pear"], "approvalNeeded": needs_approval}
        task_hub = self._visit("POST", "/api/orders", httpx.codes.ACCEPTED, order)
        if task_hub is None:
            return None
        self.record.orders.append(placed := OrderRecord(order_id, task_hub))
        return placed

    def follow_orders(self) -> None:
        """Look up the status of each order that has not ended, by the task hub on which it began."""
        for order in self.record.orders:
            if order.seen_status is None:
                status = self._read_status(order)
                if status is not None and status["runtimeStatus"] in _ENDED_STATUSES:
                    order.seen_status = status["runtimeStatus"]

    @property
    def has_open_orders(self) -> bool:
        """Whether an order has not ended yet, as far as the customer has seen."""
        return any(order.seen_status is None for order in self.record.orders)

    def waits_for_approval(self, order: OrderRecord) -> bool:
        """Whether the order's status says that it waits for its approval."""
        status = self._read_status(order)
        return status is not None and status["customStatus"] == "WaitingForApproval"

    def approve(self, order: OrderRecord) -> None:
        """Approve an order as the shop's staff does: by the management API, with the task hub on which it began."""
        path = f"/runtime/webhooks/durabletask/instances/{order.order_id}/raiseEvent/Approval"
        self._call("POST", path, order, (httpx.codes.ACCEPTED,), json=True)

    def shop(self, opening: OpeningHours, *, visit_seconds: float, visits_per_order: int) -> None:
        """Visit the shop until it closes, with an order at every `visits_per_order`th visit. Then follow the orders
        until they have ended. An unexpected error is recorded as a failure."""
        try:
            for number in count(1):
                if number % visits_per_order:
                    self.visit()
                else:
                    self.place_order()
                self.follow_orders()
                if opening.is_over.wait(visit_seconds):
                    break
            deadline = time.monotonic() + _FOLLOW_SECONDS
            while self.has_open_orders and time.monotonic() < deadline and not opening.is_aborted.wait(visit_seconds):
                self.follow_orders()
        except Exception as error:  # noqa: BLE001  # recorded like a refused request
            self.record.failures.append(f"{self.record.name} stopped: {type(error).__name__} {error}")

    def _visit(self, method: str, path: str, expected: int, body: Any = None) -> str | None:
        """Send a request that may go to any release. Returns the task hub of the release that answered; None after a
        failure."""
        if not self.record.keeps_cookies:
            self._client.cookies.clear()
        was_pinned, sent_at = STICKY_COOKIE in self._client.cookies, time.monotonic()
        try:
            response = self._client.request(method, path, json=body)
            task_hub = str(response.json()["taskHub"]) if response.status_code == expected else None
            failure = None if task_hub is not None else f"{method} {path}: {response.status_code} {response.text[:200]}"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            task_hub, failure = None, f"{method} {path}: {type(error).__name__} {error}"
        self.record.visits.append(VisitRecord(sent_at, task_hub, failure, was_pinned))
        if self.record.keeps_cookies and task_hub is not None and STICKY_COOKIE in response.cookies:
            self.record.pinned_to = task_hub
        return task_hub

    def _read_status(self, order: OrderRecord) -> dict[str, Any] | None:
        """The status of an order, as its status URL has it. None after a failure."""
        path = f"/runtime/webhooks/durabletask/instances/{order.order_id}"
        response = self._call("GET", path, order, (httpx.codes.OK, httpx.codes.ACCEPTED))
        if response is None:
            return None
        status: dict[str, Any] = response.json()
        return status

    def _call(
        self, method: str, path: str, order: OrderRecord, expected: Sequence[int], **request_options: Any
    ) -> httpx.Response | None:
        """Send a management call for an order. None after a failure."""
        try:
            response = self._client.request(method, path, params={"taskHub": order.task_hub}, **request_options)
        except httpx.HTTPError as error:
            failure = f"{type(error).__name__} {error}"
        else:
            if response.status_code in expected:
                return response
            failure = f"{response.status_code} {response.text[:200]}"
        self.record.failures.append(f"{method} {path}?taskHub={order.task_hub}: {failure}")
        return None


@contextmanager
def customers_under_way(
    router_url: str, *, with_cookies: int, without_cookies: int, visit_seconds: float, visits_per_order: int
) -> Iterator[list[CustomerRecord]]:
    """Let customers visit the shop until the block ends. Yields their records, which are complete after it."""
    customers = [
        Customer(router_url, f"{kind}{number}", keeps_cookies=keeps_cookies)
        for kind, total, keeps_cookies in (("cookie", with_cookies, True), ("plain", without_cookies, False))
        for number in range(1, total + 1)
    ]
    opening = OpeningHours()
    threads = [
        threading.Thread(
            target=customer.shop,
            name=customer.record.name,
            args=(opening,),
            kwargs={"visit_seconds": visit_seconds, "visits_per_order": visits_per_order},
        )
        for customer in customers
    ]
    for thread in threads:
        thread.start()
    try:
        yield [customer.record for customer in customers]
    except BaseException:
        opening.is_aborted.set()
        raise
    finally:
        opening.is_over.set()
        for thread in threads:
            thread.join()
        for customer in customers:
            customer.close()
