"""The numbers of the demo, computed from what the customers sent, the rows of the task hubs, and the history."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dev.demo.order_results import OrderResult
from dev.demo_rollout.order_stream import PlacedOrder
from dev.demo_rollout.rollout_record import RolloutRecord
from dev.demo_side_by_side.results import ROUTING_LIMIT_SECONDS
from durable_app.orders.payment import is_payment_defective

MAX_BAD_STEPS = 2
"""Within how many steps the bad version is stopped, in at least 96 of 100 runs (tests/demo/test_rollout_simulation.py).
"""


@dataclass(frozen=True, slots=True)
class DeployedVersion:
    """A version of the demo. It cannot charge `failure_percent` of all orders, chosen by their ids."""

    version: str
    task_hub: str
    failure_percent: float


@dataclass(frozen=True, slots=True)
class VersionResult:
    """The numbers of a version.

    - `orders`: how many it accepted.
    - `failed`: how many of them failed.
    - `failed_by_version`: how many of these the first version would have shipped.
    - `unexpected`: orders that did not end on this version as its defect says: not at all, otherwise, or elsewhere.
    """

    version: str
    orders: int
    failed: int
    failed_by_version: int
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """All numbers of the demo.

    - `versions`: the first version, the bad one and the good one, with the rollouts of the last two. A rollout that
      was never started is None.
    - `active`: the version that has all traffic at the end; None while there is a split.
    - `failed_requests`: orders that no release accepted.
    - `seconds_after_abort`: how long after the abort the last order went to the bad version; 0 if none did.
    - `unguarded`: the same orders, all on the bad version.
    """

    versions: tuple[VersionResult, VersionResult, VersionResult]
    bad_rollout: RolloutRecord
    good_rollout: RolloutRecord | None
    active: str | None
    order_count: int
    failed_requests: tuple[str, ...]
    seconds_after_abort: float
    unguarded: VersionResult

    @property
    def bad(self) -> VersionResult:
        return self.versions[1]

    @property
    def failed_by_bad_version(self) -> int:
        """The orders that failed with the rollout and that the first version would have shipped."""
        return sum(version.failed_by_version for version in self.versions)


def count_orders(
    version: DeployedVersion,
    first_version: DeployedVersion,
    order_ids: Collection[str],
    rows: Mapping[str, Sequence[OrderResult]],
) -> VersionResult:
    """The numbers of the orders that a version accepted. `rows` are the orders of every task hub."""
    rows_by_order: dict[str, list[OrderResult]] = {order_id: [] for order_id in order_ids}
    for row in (row for hub_rows in rows.values() for row in hub_rows):
        if row.order_id in rows_by_order:
            rows_by_order[row.order_id].append(row)
    failed = [order_id for order_id, hits in rows_by_order.items() if any(hit.status == "Failed" for hit in hits)]
    return VersionResult(
        version.version,
        orders=len(order_ids),
        failed=len(failed),
        failed_by_version=sum(not is_payment_defective(order_id, first_version.failure_percent) for order_id in failed),
        unexpected=tuple(
            order_id for order_id, hits in rows_by_order.items() if not _ended_as_expected(order_id, hits, version)
        ),
    )


def _ended_as_expected(order_id: str, rows: Sequence[OrderResult], version: DeployedVersion) -> bool:
    """Whether an order ran on this version alone, and ended as the version's defect says."""
    if len(rows) != 1 or rows[0].task_hub != version.task_hub:
        return False
    if is_payment_defective(order_id, version.failure_percent):
        return rows[0].status == "Failed"
    return rows[0].status == "Completed" and "Shipped" in rows[0].output


def measure_late_orders(placed: Sequence[PlacedOrder], task_hub: str, rollout: RolloutRecord) -> float:
    """How many seconds after the end of an aborted rollout the last order was sent that its version accepted."""
    if rollout.state != "Aborted":
        return 0
    last_sent_at = max((order.sent_at for order in placed if order.task_hub == task_hub), default=rollout.ended_at)
    return max(0, last_sent_at - rollout.ended_at)


def find_problems(outcome: DemoOutcome, expected_orders: int) -> list[str]:
    """What is not as claimed; empty if all that is claimed was seen."""
    return [
        *_find_order_problems(outcome, expected_orders),
        *_find_bad_rollout_problems(outcome),
        *find_late_orders(outcome),
        *_find_good_rollout_problems(outcome),
    ]


def find_late_orders(outcome: DemoOutcome) -> list[str]:
    """The problem that the bad version got orders for too long after the abort."""
    seconds = outcome.seconds_after_abort
    if seconds <= ROUTING_LIMIT_SECONDS:
        return []
    limit = f"the limit is {ROUTING_LIMIT_SECONDS} s"
    return [f"{outcome.bad.version} got orders for {seconds:.1f} s after the abort, and {limit}"]


def _find_order_problems(outcome: DemoOutcome, expected_orders: int) -> list[str]:
    """What is wrong with the orders of all versions."""
    problems = []
    if outcome.order_count < expected_orders:
        problems.append(f"{outcome.order_count} orders were placed, and not {expected_orders}")
    if outcome.failed_requests:
        problems.append(f"{len(outcome.failed_requests)} requests failed, the first: {outcome.failed_requests[0]}")
    for version, name in [
        *((version, f"release {version.version}") for version in outcome.versions),
        (outcome.unguarded, "the run without a rollout"),
    ]:
        if not version.orders:
            problems.append(f"{name} got no order")
        if version.unexpected:
            problems.append(
                f"{len(version.unexpected)} orders of {name} did not end there as the version ends them, "
                f"the first: {version.unexpected[0]}"
            )
    return problems


def _find_bad_rollout_problems(outcome: DemoOutcome) -> list[str]:
    """What is wrong with how the bad version was stopped."""
    rollout, problems = outcome.bad_rollout, []
    if rollout.state != "Aborted":
        problems.append(
            f"the rollout of {rollout.version} was not aborted, it is {rollout.state}. That happens in fewer than 4 of "
            f"100 runs, because chance decides which orders {rollout.version} gets; run the demo again"
        )
        return problems
    if (rollout.operation, rollout.code) != ("AdvanceRollout", "FailureRateHigher"):
        problems.append(
            f"the rollout of {rollout.version} was aborted by {rollout.operation} because of {rollout.code}, "
            "and not by the server because of FailureRateHigher"
        )
    if rollout.evidence.unhealthy < rollout.evidence.threshold:
        problems.append(
            f"the history says that {rollout.version} was aborted with evidence {rollout.evidence.unhealthy:.1f}, "
            f"below {rollout.evidence.threshold:.1f}"
        )
    if rollout.step > MAX_BAD_STEPS:
        problems.append(f"{rollout.version} was aborted in step {rollout.step}, and not within {MAX_BAD_STEPS} steps")
    if outcome.failed_by_bad_version >= outcome.unguarded.failed_by_version:
        problems.append(
            f"{outcome.failed_by_bad_version} orders failed because of {rollout.version} with the rollout, and "
            f"{outcome.unguarded.failed_by_version} without it"
        )
    return problems


def _find_good_rollout_problems(outcome: DemoOutcome) -> list[str]:
    """What is wrong with how the good version got through."""
    rollout = outcome.good_rollout
    if rollout is None:
        return ["the good version was not rolled out"]
    problems = []
    if (rollout.state, rollout.operation) != ("Finished", "AdvanceRollout"):
        problems.append(
            f"the rollout of {rollout.version} is {rollout.state} by {rollout.operation}: {rollout.message}"
        )
    if outcome.active != rollout.version:
        problems.append(f"release {outcome.active} has all traffic at the end, and not {rollout.version}")
    return problems
