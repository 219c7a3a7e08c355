"""One release after another, as two Durable apps on real Functions hosts with a real Envoy in front.

The second one is promoted while orders run on the first. They end there, and then the first one is removed."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from state_api.settings import StorageSettings
from tests.platform.routed_orders import OrdersRelease, RoutedOrders, run_routed_orders

ORDERS = ("approved", "rejected")


@pytest.fixture
def shop(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoutedOrders]:
    """An app with a router and a state server, and no release yet."""
    with run_routed_orders(storage, tmp_path_factory.mktemp("story")) as shop:
        yield shop


def test_a_release_drains_beside_the_next_one_and_is_removed_once_its_last_order_has_ended(shop: RoutedOrders) -> None:
    first, second = OrdersRelease("1.4.0", "v1"), OrdersRelease("1.5.0", "v2")
    with ExitStack() as stack:
        assert shop.send("GET", "/api/about").status_code == 503, "no release is active"

        # The first release, and orders that wait for people.
        first_app = stack.enter_context(ExitStack())
        shop.release(first, first_app)
        shop.promote(first)
        assert {shop.place_order(order_id, approvalNeeded=True) for order_id in ORDERS} == {first.task_hub}

        # The second release. Until its promotion only the override token leads to it.
        shop.release(second, stack)
        token = shop.app.request("GET", "/routing")["releases"][second.version]["overrideToken"]
        assert (shop.read_code(), shop.read_code(**{"X-Release-Override": token})) == ("v1", "v2")
        for order_id in ORDERS:
            shop.wait_until_waiting_for_approval(first, order_id)
        assert shop.find_refusal(first) == "ReleaseInUse"
        shop.promote(second)

        # New orders begin on the second one. Management calls find both by the task hub.
        assert shop.read_code() == "v2"
        assert shop.place_order("next") == second.task_hub
        assert shop.manage("GET", first, "next").status_code == 404
        assert shop.manage("GET", second, ORDERS[0]).status_code == 404
        assert shop.wait_until_completed(second, "next")["status"] == "Shipped"

        # The first one drains, and a pipeline waits until it may be deleted. The end of a rejected order is never
        # published: only a probe finds it.
        with shop.retire(first) as retirement:
            shop.decide(first, "approved", is_approved=True)
            assert shop.wait_until_completed(first, "approved")["status"] == "Shipped"
            assert shop.find_refusal(first) == "ReleaseNotDrained"
            assert not retirement.begun.exists()
            shop.decide(first, "rejected", is_approved=False)
            begun_at = retirement.wait_until_begun()
            orders = shop.read_orders(first)
            first_app.close()
            retirement.complete()
        assert {order["RuntimeStatus"] for order in orders.values()} == {"Completed"}
        assert begun_at > max(order["CompletedTime"].timestamp() for order in orders.values())
        assert '"Rejected"' in orders["rejected"]["Output"]

        # It is removed, and its status URLs are gone.
        shop.app.wait_until_acknowledged(shop.app.request("GET", "/routing")["revision"])
        assert shop.manage("GET", first, "approved").status_code == 410
        assert shop.place_order("last") == second.task_hub
        assert shop.wait_until_completed(second, "last")["status"] == "Shipped"
