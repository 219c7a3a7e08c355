"""What all stories have in common: the releases, the orders, and the people who approve them."""

from dev.local import until
from dev.story.pipeline import Release
from dev.story.stage import Platform
from dev.story.telling import say

# Version 4 takes the change back: the sample app has two versions of its code.
CODE = {1: "v1", 2: "v2", 3: "v2", 4: "v1"}
QUICK = {1: ("1001", "1002", "1003"), 2: ("2001", "2002")}
"""Orders that need nobody, by the version that takes them."""
WAITING = {1: ("1004", "1005", "1006", "1007"), 2: ("2003",)}
"""Orders that wait until somebody approves them."""


def release(number: int, task_hub: str = "") -> Release:
    """A version, on a task hub of its own unless one is given."""
    return Release(number, CODE[number], task_hub or f"ordersv{number}")


def place_orders(platform: Platform, number: int) -> None:
    """Orders come in while this version is in production. Returns when each has ended, or waits for approval."""
    for order_id in QUICK[number]:
        platform.app.order(order_id)
    for order_id in WAITING[number]:
        platform.app.order(order_id, approvalNeeded=True)
    task_hub = platform.app.carries()["production"]

    def settled() -> bool:
        found = {order.order_id: order for order in platform.orders.on(task_hub)}
        quick, waiting = ([found[order_id] for order_id in orders[number]] for orders in (QUICK, WAITING))
        return all(order.over for order in quick) and all(order.over or order.waits for order in waiting)

    until(settled, "the orders have ended, or wait for approval")
    say(f"    placed: {', '.join(QUICK[number])}, and with a need for approval {', '.join(WAITING[number])}")


def approve(platform: Platform, number: int) -> int:
    """Approve the orders of this version; how many approvals a slot has taken."""
    taken = 0
    for order_id in WAITING[number]:
        heard = platform.app.approve(order_id)
        taken += heard
        say(f"    order {order_id}: {'approved' if heard else 'NOT approved: no slot knows it as one that goes on'}")
    return taken


def finish(platform: Platform) -> None:
    """Wait until every order is over that a slot can still finish."""
    until(lambda: platform.counts().open == 0, "the orders are over")
