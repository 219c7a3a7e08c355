"""One release after another, as two Durable apps on real Functions hosts with a real Envoy in front.

The second one is promoted while orders run on the first. They end there, and then the first one is removed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

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
    is_stopped = Event()
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
        assert _refusal(shop, first) == "ReleaseInUse"
        shop.promote(second)

        # New orders begin on the second one. Management calls find both by the task hub.
        executor = stack.enter_context(ThreadPoolExecutor(1))
        stack.callback(is_stopped.set)
        first_ready = executor.submit(shop.wait_for_first_ready, first, is_stopped)
        assert shop.read_code() == "v2"
        assert shop.place_order("next") == second.task_hub
        assert shop.manage("GET", first, "next").status_code == 404
        assert shop.manage("GET", second, ORDERS[0]).status_code == 404
        assert shop.wait_until_completed(second, "next")["status"] == "Shipped"

        # The first one drains. The end of a rejected order is never published: only a probe finds it.
        shop.decide(first, "approved", is_approved=True)
        assert shop.wait_until_completed(first, "approved")["status"] == "Shipped"
        assert _refusal(shop, first) == "ReleaseNotDrained"
        assert not first_ready.done()
        shop.decide(first, "rejected", is_approved=False)
        assert shop.wait_until_completed(first, "rejected")["status"] == "Rejected"
        ready = first_ready.result(180)
        assert ready is not None
        assert ready.responded_at > shop.find_last_end(first)
        assert ready.verdict["assurance"] == "verified"

        # It is removed, and its status URLs are gone.
        assert shop.delete_release(first, "Pending").status_code == 200
        first_app.close()
        response = shop.delete_release(first, "Done")
        assert response.status_code == 200, response.text
        shop.app.wait_until_acknowledged(shop.app.request("GET", "/routing")["revision"])
        assert shop.manage("GET", first, "approved").status_code == 410
        assert shop.place_order("last") == second.task_hub
        assert shop.wait_until_completed(second, "last")["status"] == "Shipped"


def _refusal(shop: RoutedOrders, release: OrdersRelease) -> str:
    """The problem code with which the removal of a release is refused."""
    response = shop.delete_release(release, "Pending")
    assert response.status_code == 409, response.text
    return str(response.json()["code"])
