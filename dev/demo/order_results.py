"""The results of the orders, read from the instance rows of their task hubs."""

from collections.abc import Iterable
from dataclasses import dataclass

from azure.data.tables import TableServiceClient

_ENDED_STATUSES = ("Completed", "Failed", "Terminated")


@dataclass(frozen=True, slots=True)
class OrderResult:
    """The state of an order, from its instance row."""

    order_id: str
    task_hub: str
    status: str
    waits_for_approval: bool
    output: str

    @property
    def is_ended(self) -> bool:
        return self.status in _ENDED_STATUSES


@dataclass(frozen=True, slots=True)
class OrderCounts:
    """The number of orders by result.

    `orphaned` orders are active on a task hub that no slot uses, so they never end. `still_open` ones can still end."""

    started: int
    completed: int
    failed: int
    non_deterministic: int
    orphaned: int
    still_open: int


class OrderResults:
    """The orders of all task hubs in a storage account."""

    def __init__(self, storage: str) -> None:
        self._tables = TableServiceClient.from_connection_string(storage)

    def close(self) -> None:
        self._tables.close()

    def list_orders(self, task_hub: str) -> list[OrderResult]:
        """The orders of a task hub, sorted by id."""
        rows = self._tables.get_table_client(f"{task_hub}Instances").query_entities("Name eq 'ProcessOrder'")
        return sorted(
            (
                OrderResult(
                    row["PartitionKey"],
                    task_hub,
                    row["RuntimeStatus"],
                    row["RuntimeStatus"] not in _ENDED_STATUSES and row["CustomStatus"] == '"WaitingForApproval"',
                    row.get("Output", ""),
                )
                for row in rows
            ),
            key=lambda order: order.order_id,
        )

    def list_waiting_order_ids(self, task_hub: str) -> list[str]:
        """The ids of the orders of a task hub that wait for approval."""
        return [order.order_id for order in self.list_orders(task_hub) if order.waits_for_approval]

    def count_orders(self, task_hubs: Iterable[str], slot_task_hubs: Iterable[str]) -> OrderCounts:
        """Count the orders of all these task hubs. `slot_task_hubs` are the task hubs that a slot uses."""
        orders = [order for task_hub in task_hubs for order in self.list_orders(task_hub)]
        failed = [order for order in orders if order.is_ended and order.status != "Completed"]
        left = [order for order in orders if not order.is_ended]
        orphaned = [order for order in left if order.task_hub not in set(slot_task_hubs)]
        return OrderCounts(
            started=len(orders),
            completed=sum(order.status == "Completed" for order in orders),
            failed=len(failed),
            non_deterministic=sum("NonDeterminismError" in order.output for order in failed),
            orphaned=len(orphaned),
            still_open=len(left) - len(orphaned),
        )
