"""The parts of the demo's story: orders that wait, a look at a staged release, switches of the traffic, retirement."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from dev.demo.output import report, require
from dev.demo_side_by_side.customers import Customer
from dev.demo_side_by_side.environment import Environment
from dev.demo_side_by_side.records import CustomerRecord, OrderRecord, VisitRecord
from dev.demo_side_by_side.release_commands import Release, ReleaseCommands
from dev.demo_side_by_side.results import Switch, measure_switch
from harness.processes import pause, wait_until

_APPROVAL_ORDERS = 2
"""Orders of every release that wait for approval."""
_CANDIDATE_SHARE = 50
_PROGRESS_SECONDS = 10
_POLL_SECONDS = 0.5
_RETIREMENT_SECONDS = 120
"""How long routers and events may keep a release that only waits for its orders. The server gives routers 60 s."""


@dataclass(slots=True)
class Story:
    """The story under way. Every step reports what it does, and raises UnexpectedResult if it does not succeed.

    `buyer` is the customer whose orders wait for approval. `customers` are the records of all who place orders."""

    environment: Environment
    commands: ReleaseCommands
    buyer: Customer
    pause_seconds: float
    customers: list[CustomerRecord]
    switches: list[Switch] = field(default_factory=list)
    split_end: float = 0
    retired_at: dict[str, float] = field(default_factory=dict)
    _waiting_orders: dict[str, Sequence[OrderRecord]] = field(default_factory=dict)

    def pause(self) -> None:
        """Let the customers go on for a while, and report what they have done."""
        pause(self.pause_seconds)
        self._report_progress()

    def place_approval_orders(self, release: Release) -> None:
        """Place the orders that wait for approval, and wait until they do. They must begin on this release."""
        orders = [self.buyer.place_order(needs_approval=True) for _ in range(_APPROVAL_ORDERS)]
        placed = [order for order in orders if order is not None and order.task_hub == release.task_hub]
        require(len(placed) == len(orders), f"the orders must begin on release {release.version}: {orders}")
        wait_until(
            lambda: all(self.buyer.waits_for_approval(order) for order in placed), "the orders wait for approval"
        )
        self._waiting_orders[release.version] = placed
        report(f"    waiting for approval on {release.version}: {', '.join(order.order_id for order in placed)}")

    def approve_orders(self, release: Release) -> None:
        """Approve the orders that wait on this release. Returns when they have ended."""
        for order in (orders := self._waiting_orders.pop(release.version)):
            self.buyer.approve(order)

        def have_ended() -> bool:
            """Whether all approved orders have ended."""
            self.buyer.follow_orders()
            return all(order.seen_status is not None for order in orders)

        wait_until(have_ended, "the approved orders have ended")
        for order in orders:
            report(f"    order {order.order_id} of {release.version}: approved, {order.seen_status}")

    def look_at(self, release: Release) -> None:
        """Look at a staged release, and place an order there, with its override token, which no customer knows."""
        document = self.environment.wait_for_router()
        header = document["override"]["header"]
        headers = {header: document["releases"][release.version]["overrideToken"]}
        report(f"    $ curl -H '{header}: …' {self.environment.router_url}/api/about")
        with closing(Customer(self.environment.router_url, f"staff-{release.run}", headers=headers)) as staff:
            self.customers.append(staff.record)
            seen, order = staff.visit(), staff.place_order()
            require(seen == release.task_hub, f"the token must lead to {release.task_hub}, not to {seen}")
            others = self.buyer.visit()
            require(others != release.task_hub, "no request without the token may reach a staged release")

            def has_ended() -> bool:
                """Whether the order of the staff has ended."""
                staff.follow_orders()
                return not staff.has_open_orders

            wait_until(has_ended, "the order of the staff has ended")
        require(order is not None and order.task_hub == seen, f"the order must be on {seen}")
        report(f"    staff sees {seen}, and an order there is {staff.record.orders[0].seen_status}")
        report(f"    customers still get {others}")

    def split(self, release: Release, before: Release) -> None:
        """Give a share of the visitors to a release. Customers with cookies are pinned to their part."""
        shares = {before.version: 100 - _CANDIDATE_SHARE, release.version: _CANDIDATE_SHARE}
        report(f'    PUT /api/apps/shop/routing {{"split": {shares}, "active": "{before.version}"}}'.replace("'", '"'))
        self.environment.split(shares, active=before.version, run=release.run)
        self.environment.watch.wait_for(shares)

    def end_split(self, release: Release, before: Release) -> None:
        """Promote the release that has a share."""
        self.split_end = time.monotonic()
        self.promote(release, before)

    def promote(self, release: Release, before: Release | None) -> None:
        """Promote a release. With `before`, which had the traffic, the switch is measured."""
        with self._measure(f"promote {release.version}", release, before):
            self.commands.promote(release)

    def roll_back(self, release: Release, to: Release) -> None:
        """Give the traffic back from a release to the one before."""
        with self._measure(f"rollback to {to.version}", to, release):
            self.commands.roll_back(release)

    @contextmanager
    def retiring(self, release: Release) -> Iterator[None]:
        """Start the command that retires a release, and begin the block when only orders keep the release. After the
        block, wait for the command."""
        retirement = self.commands.start_retirement(release)
        self._wait_until_only_orders_block(release)
        yield
        retirement.wait_for_exit()
        self.retired_at[release.version] = time.monotonic()

    def _wait_until_only_orders_block(self, release: Release) -> None:
        """Wait until active orders are the only reason for which the release may not be removed."""
        deadline = time.monotonic() + _RETIREMENT_SECONDS
        next_report = time.monotonic() + _PROGRESS_SECONDS
        while self.environment.read_blocking_reasons(release.version) != {"InstancesActive"}:
            require(time.monotonic() < deadline, f"something but its orders keeps release {release.version}")
            if time.monotonic() > next_report:
                self._report_progress()
                next_report += _PROGRESS_SECONDS
            pause(_POLL_SECONDS)

    def _report_progress(self) -> None:
        """Report how many requests and orders there were, and how many requests failed."""
        visits = self._list_visits()
        orders = sum(len(customer.orders) for customer in self.customers)
        failed = sum(visit.failure is not None for visit in visits)
        report(f"    customers so far: {len(visits)} requests, {failed} of them failed, {orders} orders")

    def _list_visits(self) -> list[VisitRecord]:
        """The visits so far of all customers."""
        return [visit for customer in self.customers for visit in list(customer.visits)]

    @contextmanager
    def _measure(self, name: str, to: Release, before: Release | None) -> Iterator[None]:
        """Wait after the block until the server gives `to` all traffic. Record the switch if `before` had traffic."""
        began_at = time.monotonic()
        yield
        change = self.environment.watch.wait_for({to.version: 100})
        if before is None:
            return
        switch = Switch(name, before.version, before.task_hub, began_at=began_at, changed_at=change.seen_at)
        self.switches.append(switch)
        result = measure_switch(switch, self._list_visits(), self.environment.watch.changes)
        report(f"    the last request to {before.version} was sent {result.seconds:.2f} s after the change")
