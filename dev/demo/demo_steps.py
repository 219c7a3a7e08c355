"""Steps that all demos share: releases, orders, and their approvals."""

from dev.demo.environment import DemoPlatform
from dev.demo.output import report
from dev.demo.pipeline import Release
from harness.processes import wait_until

# Version 4 reverts the change of version 2: the sample app has two versions of its code.
APP_VERSIONS = {1: "v1", 2: "v2", 3: "v2", 4: "v1"}
UNATTENDED_ORDER_IDS = {1: ("1001", "1002", "1003"), 2: ("2001", "2002")}
"""Orders that need no approval, by the version that starts them."""
APPROVAL_ORDER_IDS = {1: ("1004", "1005", "1006", "1007"), 2: ("2003",)}
"""Orders that wait for an approval, by the version that starts them."""


def build_release(number: int, task_hub: str = "") -> Release:
    """A version on its own task hub, or on `task_hub`."""
    return Release(number, APP_VERSIONS[number], task_hub or f"ordersv{number}")


def place_orders(platform: DemoPlatform, number: int) -> None:
    """Place the orders of this version in production. Returns when each has ended or waits for approval."""
    for order_id in UNATTENDED_ORDER_IDS[number]:
        platform.app.place_order(order_id)
    for order_id in APPROVAL_ORDER_IDS[number]:
        platform.app.place_order(order_id, approvalNeeded=True)
    task_hub = platform.app.get_slot_task_hubs()["production"]

    def has_settled() -> bool:
        """Whether the unattended orders have ended, and the others have ended or wait for their approval."""
        orders_by_id = {order.order_id: order for order in platform.orders.list_orders(task_hub)}
        unattended, waiting = (
            [orders_by_id[order_id] for order_id in orders[number]]
            for orders in (UNATTENDED_ORDER_IDS, APPROVAL_ORDER_IDS)
        )
        return all(order.is_ended for order in unattended) and all(
            order.is_ended or order.waits_for_approval for order in waiting
        )

    wait_until(has_settled, "the orders have ended, or wait for approval")
    report(
        f"    placed: {', '.join(UNATTENDED_ORDER_IDS[number])}; "
        f"waiting for approval: {', '.join(APPROVAL_ORDER_IDS[number])}"
    )


def approve_orders(platform: DemoPlatform, number: int) -> int:
    """Approve the orders of this version. Returns how many approvals a slot accepted."""
    accepted_count = 0
    for order_id in APPROVAL_ORDER_IDS[number]:
        accepted = platform.app.approve_order(order_id)
        accepted_count += accepted
        report(f"    order {order_id}: {'approved' if accepted else 'NOT approved: no slot has it as an active order'}")
    return accepted_count


def wait_until_finished(platform: DemoPlatform) -> None:
    """Wait until every order has ended that a slot can still finish."""
    wait_until(lambda: platform.count_orders().still_open == 0, "the orders have ended")
