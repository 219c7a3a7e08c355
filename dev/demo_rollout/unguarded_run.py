"""The run without a rollout: every order goes to the version with the defect, as after a promotion of all orders at
once."""

from collections.abc import Sequence
from contextlib import closing

from dev.demo.app_processes import start_app, start_engine
from dev.demo.environment import open_processes, run_emulator
from dev.demo.order_results import OrderResult, OrderResults
from dev.demo.output import UnexpectedResult
from dev.demo_rollout.order_stream import OrderStream
from harness.processes import free_port, wait_until

TASK_HUB = "ordersunguarded"
_END_SECONDS = 300
"""How long to wait until all orders have ended. The app accepts orders more quickly than it works on them, so many of
them wait."""


def run_unguarded(order_ids: Sequence[str], code: str, settings: dict[str, str]) -> list[OrderResult]:
    """Place these orders, as quickly as the app takes them, on a version of the app with these settings.

    Returns how each ended. Raises UnexpectedResult if an order is not accepted, TimeoutError if one does not end."""
    with run_emulator() as storage, open_processes() as processes, closing(OrderResults(storage)) as orders:
        engine = start_engine(processes, TASK_HUB, storage, None)
        app = start_app(processes, "app", code, TASK_HUB, engine=engine, port=free_port(), settings=settings)
        stream = OrderStream(app.url, order_ids, 0)
        stream.start()
        try:
            stream.wait_until_all_sent()
        finally:
            stream.stop()
        if stream.failures:
            raise UnexpectedResult(f"{len(stream.failures)} orders were not accepted, the first: {stream.failures[0]}")
        return wait_for_ended_orders(orders, [TASK_HUB])[TASK_HUB]


def wait_for_ended_orders(orders: OrderResults, task_hubs: Sequence[str]) -> dict[str, list[OrderResult]]:
    """Wait until all orders of these task hubs have ended. Returns them. Raises TimeoutError."""
    results: dict[str, list[OrderResult]] = {}

    def have_ended() -> bool:
        """Whether all orders have ended, by their rows."""
        results.update({task_hub: orders.list_orders(task_hub) for task_hub in task_hubs})
        return all(order.is_ended for hub_orders in results.values() for order in hub_orders)

    wait_until(have_ended, "the orders have ended", _END_SECONDS)
    return results
