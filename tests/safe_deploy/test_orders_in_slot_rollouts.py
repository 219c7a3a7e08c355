"""Rollouts into a slot while visitors place orders: a version that fails too many of them is stopped, and a good one is
swapped. The visitors come by the rules of the fake `az`, and which orders fail is decided by their numbers, so every
run is the same."""

from collections import Counter
from dataclasses import dataclass, field

from durable_app.orders.payment import is_payment_defective
from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.connection_proxy import Request
from tests.safe_deploy.deployment_fixture import RunningCli
from tests.safe_deploy.slot_rollout_fixture import SlotRolloutFixture
from tests.safe_deploy.slot_visitors import FRONT_END_SECONDS, SlotVisitors, Visitor

_STEPS = "20@3m,50@3m"
_ORDERS_PER_MINUTE = 80
_MINUTES = 12
"""More than both steps take, because the share is set and confirmed between them."""
_USUAL_PERCENT = 2
"""How many orders the version in production fails, and the good version."""
_BAD_PERCENT = 15


@dataclass
class _Orders:
    """The orders of new visitors. The version in production fails 2 % of its orders, that in the slot its own
    percentage."""

    rollout: SlotRolloutFixture
    slot_percent: float
    placed: dict[str, list[str]] = field(default_factory=dict)
    """The ids of the orders by task hub."""
    visitors: SlotVisitors = field(init=False)
    _polls: int = 0

    def __post_init__(self) -> None:
        self.visitors = SlotVisitors(self.rollout.cli.fake_azure, self.rollout.app, self.rollout.now_seconds)
        self.rollout.proxy.cut_before_request = self._count_poll

    def place_until_ended(self, running: RunningCli) -> None:
        """Let a minute pass again and again, with its orders, until safe-deploy has ended the rollout."""
        for _ in range(_MINUTES):
            self._place_orders_of_a_minute()
            self.rollout.clock.advance(60)
            self._wait_until_asked_again(running)
            if running.has_ended():
                return

    def count_failed(self, task_hub: str, percent: float) -> int:
        """How many orders of a task hub a version with this percentage fails."""
        return sum(is_payment_defective(order_id, percent) for order_id in self.placed.get(task_hub, []))

    def _place_orders_of_a_minute(self) -> None:
        """Let new visitors place orders, which end a second later."""
        placed: dict[str, list[str]] = {}
        first = sum(map(len, self.placed.values()))
        for number in range(first, first + _ORDERS_PER_MINUTE):
            task_hub = self.visitors.send_request(Visitor())
            assert task_hub is not None
            placed.setdefault(task_hub, []).append(f"order-{number}")
        now = self.rollout.clock.now()
        for task_hub, order_ids in placed.items():
            percent = self.slot_percent if task_hub == self.rollout.cli.new else _USUAL_PERCENT
            failed = Counter(is_payment_defective(order_id, percent) for order_id in order_ids)
            self.rollout.publish_ends(task_hub, completed=failed[False], failed=failed[True], started_at=now)
            self.placed.setdefault(task_hub, []).extend(order_ids)

    def _wait_until_asked_again(self, running: RunningCli) -> None:
        """Wait until safe-deploy has asked after this moment whether the step is over, or has ended."""
        # One question may be under way already.
        awaited_polls = self._polls + 2
        wait_until(lambda: self._polls >= awaited_polls or running.has_ended(), "safe-deploy asks again")

    def _count_poll(self, number: int, request: Request) -> bool:
        """Count how often safe-deploy asks whether the step is over. No request is cut."""
        self._polls += request[1].endswith("/rollout/advance")
        return False


def test_a_version_that_fails_too_many_orders_is_stopped_within_two_steps(slot_rollout: SlotRolloutFixture) -> None:
    orders = _Orders(slot_rollout, slot_percent=_BAD_PERCENT)
    running = slot_rollout.start(slot_rollout.start_arguments(steps=_STEPS))
    orders.place_until_ended(running)
    assert_exit(running.wait_for_result(), ExitCode.FAILURE, "was aborted")
    rollout = slot_rollout.get_rollout()
    assert rollout["state"] == "Aborted"
    assert rollout["step"] <= 2
    assert slot_rollout.cli.is_unswapped()

    (decision,) = (
        record
        for record in slot_rollout.request("GET", "/history")["history"]
        if record["operation"] == "AdvanceRollout" and record["details"]["action"] == "Abort"
    )
    health = decision["details"]["health"]
    assert decision["details"]["code"] == "FailureRateHigher"
    assert health["evidence"]["unhealthy"] >= health["evidence"]["threshold"]
    new = slot_rollout.cli.new
    assert health["candidate"]["started"] == len(orders.placed[new])

    because_of_release = orders.count_failed(new, _BAD_PERCENT) - orders.count_failed(new, _USUAL_PERCENT)
    assert health["candidate"]["failed"] == orders.count_failed(new, _BAD_PERCENT)
    unguarded = sum(
        orders.count_failed(task_hub, _BAD_PERCENT) - orders.count_failed(task_hub, _USUAL_PERCENT)
        for task_hub in orders.placed
    )
    assert 0 < because_of_release < unguarded / 2

    # The front ends learn of the change when a visitor comes, and obey it after this time.
    orders.visitors.send_new_visitors(1)
    slot_rollout.clock.advance(FRONT_END_SECONDS)
    assert orders.visitors.send_new_visitors(100) == []
    assert "RolloutInProgress" in slot_rollout.slot_reasons()


def test_a_good_version_gets_all_orders(slot_rollout: SlotRolloutFixture) -> None:
    orders = _Orders(slot_rollout, slot_percent=_USUAL_PERCENT)
    running = slot_rollout.start(slot_rollout.start_arguments(steps=_STEPS))
    orders.place_until_ended(running)
    assert_exit(running.wait_for_result(), ExitCode.DONE, "step 1 of 2", "step 2 of 2")
    assert slot_rollout.state() == "Finished"
    assert slot_rollout.cli.is_swapped()
    assert slot_rollout.shares() == {}
    assert len(orders.placed[slot_rollout.cli.new]) > _ORDERS_PER_MINUTE
