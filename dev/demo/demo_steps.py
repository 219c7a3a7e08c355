"""What all stories have in common: the releases, the orders, and the people who approve them."""

from dev.demo.environment import DemoPlatform
from dev.demo.output import report
from dev.demo.pipeline import Release
from harness.processes import wait_until

# Version 4 takes the change back: the sample app has two versions of its code.
APP_VERSIONS = {1: "v1", 2: "v2", 3: "v2", 4: "v1"}
UNATTENDED_ORDER_IDS = {1: ("1001", "1002", "1003"), 2: ("2001", "2002")}
"""Orders that need nobody, by the version that takes them."""
APPROVAL_ORDER_IDS = {1: ("1004", "1005", "1006", "1007"), 2: ("2003",)}
"""Orders that wait until somebody approves them."""


def release(number: int, task_hub: str = "") -> Release:
    """A version, on a task hub of its own unless one is given."""
    return Release(number, APP_VERSIONS[number], task_hub or f"ordersv{number}")


def place_orders(platform: DemoPlatform, number: int) -> None:
    """Orders come in while this version is in production. Returns when each has ended, or waits for approval."""
    for order_id in UNATTENDED_ORDER_IDS[number]:
        platform.app.order(order_id)
    for order_id in APPROVAL_ORDER_IDS[number]:
        platform.app.order(order_id, approvalNeeded=True)
    task_hub = platform.app.slot_task_hubs()["production"]

    def settled() -> bool:
        found = {order.order_id: order for order in platform.orders.list_orders(task_hub)}
        quick, waiting = (
            [found[order_id] for order_id in orders[number]] for orders in (UNATTENDED_ORDER_IDS, APPROVAL_ORDER_IDS)
        )
        return all(order.is_ended for order in quick) and all(
            order.is_ended or order.waits_for_approval for order in waiting
        )

    wait_until(settled, "the orders have ended, or wait for approval")
    report(
        f"    placed: {', '.join(UNATTENDED_ORDER_IDS[number])}; "
        f"waiting for approval: {', '.join(APPROVAL_ORDER_IDS[number])}"
    )


def approve_orders(platform: DemoPlatform, number: int) -> int:
    """Approve the orders of this version; how many approvals a slot has taken."""
    taken = 0
    for order_id in APPROVAL_ORDER_IDS[number]:
        heard = platform.app.approve_order(order_id)
        taken += heard
        report(f"    order {order_id}: {'approved' if heard else 'NOT approved: no slot knows it as one that goes on'}")
    return taken


def wait_until_finished(platform: DemoPlatform) -> None:
    """Wait until every order is over that a slot can still finish."""
    wait_until(lambda: platform.count_orders().still_open == 0, "the orders are over")
