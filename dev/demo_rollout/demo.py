"""The demo from beginning to end: a bad version, a good one, customers who never stop, and the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from dev.demo.order_results import OrderResult
from dev.demo.output import report_heading
from dev.demo_rollout.order_stream import PlacedOrder, customers_ordering
from dev.demo_rollout.results import (
    DemoOutcome,
    DeployedVersion,
    VersionResult,
    count_orders,
    measure_late_orders,
)
from dev.demo_rollout.rollout_record import RolloutRecord
from dev.demo_rollout.story import Story, build_settings
from dev.demo_rollout.unguarded_run import TASK_HUB as UNGUARDED_TASK_HUB
from dev.demo_rollout.unguarded_run import run_unguarded, wait_for_ended_orders
from dev.demo_side_by_side.environment import run_environment
from dev.demo_side_by_side.release_commands import ReleaseCommands

FIRST = DeployedVersion("1.0.0", "orders100", failure_percent=2)
BAD = DeployedVersion("2.0.0", "orders200", failure_percent=15)
GOOD = DeployedVersion("3.0.0", "orders300", failure_percent=2)
_CODE = {FIRST.version: "v1", BAD.version: "v2", GOOD.version: "v2"}
"""The code of the sample app by version."""
WARM_UP_ORDERS = 20
_ORDERS_AFTER_ROLLOUT = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How many orders there are at least, how quickly they come, and the steps of both rollouts.

    - `bad_percent`: how many of its orders the bad version fails. The good ones fail 2 %.
    - `seed`: which orders fail. Each order's id begins with it.
    - `advance_seconds`: how often the demo itself asks the server to decide; None leaves it to the server's own timer.
    """

    orders: int = 600
    orders_per_second: float = 5
    bad_steps: str = "15@40s,50@40s"
    good_steps: str = "25@15s,50@15s"
    bad_percent: float = BAD.failure_percent
    seed: int = 18
    advance_seconds: float | None = None

    @property
    def bad_version(self) -> DeployedVersion:
        """The version with the defect."""
        return replace(BAD, failure_percent=self.bad_percent)


@dataclass(frozen=True, slots=True)
class _GuardedRun:
    """What was seen with the rollouts. `good` is None if the good version was not rolled out."""

    bad: RolloutRecord
    good: RolloutRecord | None
    placed: Sequence[PlacedOrder]
    failures: Sequence[str]
    rows: Mapping[str, Sequence[OrderResult]]
    active: str | None

    def count_orders(self, version: DeployedVersion) -> VersionResult:
        """The numbers of the orders that a version accepted."""
        order_ids = [order.order_id for order in self.placed if order.task_hub == version.task_hub]
        return count_orders(version, FIRST, order_ids, self.rows)


def build_order_id(seed: int, number: int) -> str:
    """The id of an order. It decides on which versions the order fails."""
    return f"order-{seed}-{number:04}"


def run_demo(pace: Pace) -> DemoOutcome:
    """Run all steps. Raises UnexpectedResult for a step that does not succeed."""
    run, bad = _run_guarded(pace), pace.bad_version
    order_ids = sorted(order.order_id for order in run.placed)
    report_heading(f"The same {len(order_ids)} orders without a rollout: version {bad.version} gets all of them.")
    unguarded_rows = run_unguarded(order_ids, _CODE[bad.version], build_settings(bad))
    unguarded = replace(bad, task_hub=UNGUARDED_TASK_HUB)
    return DemoOutcome(
        versions=(run.count_orders(FIRST), run.count_orders(bad), run.count_orders(GOOD)),
        bad_rollout=run.bad,
        good_rollout=run.good,
        active=run.active,
        order_count=len(order_ids),
        failed_requests=tuple(run.failures),
        seconds_after_abort=measure_late_orders(run.placed, bad.task_hub, run.bad),
        unguarded=count_orders(unguarded, FIRST, order_ids, {UNGUARDED_TASK_HUB: unguarded_rows}),
    )


def _run_guarded(pace: Pace) -> _GuardedRun:
    """Roll out the bad version and, if it was stopped, the good one, while customers place orders."""
    with run_environment() as environment:
        story = Story(environment, pace.advance_seconds)
        report_heading(f"Release {FIRST.version} is active. {FIRST.failure_percent} % of its orders fail.")
        first = story.deploy(1, FIRST, _CODE[FIRST.version])
        ReleaseCommands(environment.pipeline).promote(first)
        report_heading(f"Release {BAD.version} has a defect: {pace.bad_percent} % of its orders fail.")
        bad = story.deploy(2, pace.bad_version, _CODE[BAD.version])
        task_hubs, good_record = [FIRST.task_hub, BAD.task_hub], None
        order_ids = (build_order_id(pace.seed, number) for number in count(1))
        with customers_ordering(environment.router_url, order_ids, 1 / pace.orders_per_second) as customers:
            customers.wait_until_sent(WARM_UP_ORDERS)
            report_heading(f"Customers place orders, each a new visitor. The rollout of {BAD.version} begins.")
            bad_record = story.roll_out(bad, FIRST.version, pace.bad_steps, customers)
            if bad_record.state == "Aborted":
                report_heading(f"Release {GOOD.version} has no such defect: {GOOD.failure_percent} % of orders fail.")
                good = story.deploy(3, GOOD, _CODE[GOOD.version])
                task_hubs.append(GOOD.task_hub)
                good_record = story.roll_out(good, FIRST.version, pace.good_steps, customers)
            customers.wait_until_sent(max(pace.orders, customers.sent_count + _ORDERS_AFTER_ROLLOUT))
        report_heading("The customers leave. Their orders end.")
        return _GuardedRun(
            bad_record,
            good_record,
            customers.placed,
            customers.failures,
            wait_for_ended_orders(environment.orders, task_hubs),
            environment.watch.changes[-1].active if len(environment.watch.changes[-1].shares) == 1 else None,
        )
