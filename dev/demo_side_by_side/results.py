"""The outcome of the demo: the numbers of each release and the times of each switch, computed from the customers'
records and from the rows of the task hubs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dev.demo.order_results import OrderResult
from dev.demo_side_by_side.records import CustomerRecord, VisitRecord
from dev.demo_side_by_side.routing_watch import RoutingChange

ROUTING_LIMIT_SECONDS = 5
"""How long a change of the traffic may take until no request goes to the old release (docs/side-by-side.md, Envoy)."""


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The numbers of a release.

    - `ended`: orders that began on it and ended on it, shipped.
    - `ended_elsewhere`: orders that began on it, and that another task hub has too, or instead.
    - `failed`: orders that began on it and ended in another way, or did not end.
    - `pinned_customers`: customers whose sticky cookie names it.
    - `traffic`: when it got and when it lost traffic; the last end is None while it has some.
    - `retired_at`: when its Function App was deleted.
    """

    version: str
    started: int
    ended: int
    ended_elsewhere: int
    failed: int
    pinned_customers: int
    traffic: tuple[tuple[float, float | None], ...]
    retired_at: float | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A change that takes all traffic from a release.

    - `began_at`: when the command was started.
    - `changed_at`: when the state server had the change.
    """

    name: str
    from_version: str
    from_task_hub: str
    began_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class SwitchResult:
    """How long requests still went to the old release, in seconds: since the change, and since the command began."""

    name: str
    from_version: str
    seconds: float
    seconds_since_command: float


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """All numbers of the demo. `moved_customers`: customers that left the release to which their cookie had pinned them
    while the split was unchanged. `failed_requests`: what customers saw fail."""

    releases: tuple[ReleaseResult, ...]
    switches: tuple[SwitchResult, ...]
    requests: int
    failed_requests: tuple[str, ...]
    moved_customers: tuple[str, ...]


def measure_switch(switch: Switch, visits: Iterable[VisitRecord], changes: Sequence[RoutingChange]) -> SwitchResult:
    """Find the last request that the old release got after this change, and before the next one."""
    end = min((change.seen_at for change in changes if change.seen_at > switch.changed_at), default=math.inf)
    late = [
        visit.sent_at
        for visit in visits
        if visit.task_hub == switch.from_task_hub and switch.changed_at <= visit.sent_at < end
    ]
    last = max(late, default=switch.changed_at)
    return SwitchResult(switch.name, switch.from_version, last - switch.changed_at, last - switch.began_at)


def count_orders(
    version: str, task_hub: str, customers: Sequence[CustomerRecord], rows: Mapping[str, Sequence[OrderResult]]
) -> ReleaseResult:
    """The numbers of the orders that began on a release. `rows` are the orders of every task hub."""
    orders = {
        order.order_id: order for customer in customers for order in customer.orders if order.task_hub == task_hub
    }
    rows_by_order = {order_id: list[OrderResult]() for order_id in orders}
    for row in (row for hub_rows in rows.values() for row in hub_rows):
        if row.order_id in rows_by_order:
            rows_by_order[row.order_id].append(row)
    elsewhere = {order_id for order_id, hits in rows_by_order.items() if any(hit.task_hub != task_hub for hit in hits)}
    ended = {
        order_id
        for order_id, order in orders.items()
        if order.seen_status == "Completed"
        and order_id not in elsewhere
        and [(row.status, "Shipped" in row.output) for row in rows_by_order[order_id]] == [("Completed", True)]
    }
    return ReleaseResult(
        version,
        started=len(orders),
        ended=len(ended),
        ended_elsewhere=len(elsewhere),
        failed=len(orders.keys() - ended - elsewhere),
        pinned_customers=sum(customer.pinned_to == task_hub for customer in customers),
        traffic=(),
    )


def find_traffic(version: str, changes: Sequence[RoutingChange]) -> tuple[tuple[float, float | None], ...]:
    """When a release got and lost traffic."""
    periods: list[tuple[float, float | None]] = []
    for change in changes:
        has_traffic = version in change.shares
        is_open = bool(periods) and periods[-1][1] is None
        if has_traffic and not is_open:
            periods.append((change.seen_at, None))
        elif not has_traffic and is_open:
            periods[-1] = (periods[-1][0], change.seen_at)
    return tuple(periods)


def find_moved_customers(customers: Iterable[CustomerRecord], split_end: float) -> tuple[str, ...]:
    """The customers who were pinned and then got another release, before the split was ended by a command."""
    return tuple(
        customer.name
        for customer in customers
        if any(
            visit.was_pinned and visit.task_hub not in (None, customer.pinned_to) and visit.sent_at < split_end
            for visit in customer.visits
        )
    )


def build_outcome(
    task_hubs: Mapping[str, str],
    customers: Sequence[CustomerRecord],
    rows: Mapping[str, Sequence[OrderResult]],
    changes: Sequence[RoutingChange],
    switches: Sequence[Switch],
    *,
    split_end: float,
    retired_at: Mapping[str, float],
) -> DemoOutcome:
    """All numbers. `task_hubs` are those of the releases, by version."""
    visits = [visit for customer in customers for visit in customer.visits]
    releases = [
        replace(
            count_orders(version, task_hub, customers, rows),
            traffic=find_traffic(version, changes),
            retired_at=retired_at.get(version),
        )
        for version, task_hub in task_hubs.items()
    ]
    failures = [visit.failure for visit in visits if visit.failure is not None]
    failures += [failure for customer in customers for failure in customer.failures]
    return DemoOutcome(
        tuple(releases),
        tuple(measure_switch(switch, visits, changes) for switch in switches),
        requests=len(visits),
        failed_requests=tuple(failures),
        moved_customers=find_moved_customers(customers, split_end),
    )


def find_problems(outcome: DemoOutcome) -> list[str]:
    """What is not as promised; empty if every promise was kept."""
    problems = []
    for release in outcome.releases:
        if not release.started:
            problems.append(f"no order began on release {release.version}")
        if release.failed:
            problems.append(f"{release.failed} orders that began on release {release.version} failed or did not end")
        if release.ended_elsewhere:
            problems.append(f"{release.ended_elsewhere} orders that began on release {release.version} ran elsewhere")
    if outcome.failed_requests:
        problems.append(f"{len(outcome.failed_requests)} requests failed, the first: {outcome.failed_requests[0]}")
    if outcome.moved_customers:
        problems.append(f"customers with a cookie were sent to another release: {', '.join(outcome.moved_customers)}")
    if outcome.releases[0].retired_at is None:
        problems.append(f"release {outcome.releases[0].version} was not retired")
    return problems + find_slow_switches(outcome)


def find_slow_switches(outcome: DemoOutcome) -> list[str]:
    """The switches after which the old release got requests for too long."""
    return [
        f"{switch.name}: release {switch.from_version} got requests for {switch.seconds:.1f} s more, and the limit is "
        f"{ROUTING_LIMIT_SECONDS} s"
        for switch in outcome.switches
        if switch.seconds > ROUTING_LIMIT_SECONDS
    ]
