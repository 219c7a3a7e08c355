"""What became of the orders: read from the rows of the task hubs, the same that a Durable Functions app leaves."""

from collections.abc import Iterable
from dataclasses import dataclass

from azure.data.tables import TableServiceClient

_ENDED_STATUSES = ("Completed", "Failed", "Terminated")


@dataclass(frozen=True, slots=True)
class OrderResult:
    """An order's row."""

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
    """What became of all orders. `orphaned`: of those that are not over, those that no slot can ever finish."""

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
        """Those on a task hub, by id."""
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
        """The ids of those that wait for an approval."""
        return [order.order_id for order in self.list_orders(task_hub) if order.waits_for_approval]

    def count_orders(self, task_hubs: Iterable[str], slot_task_hubs: Iterable[str]) -> OrderCounts:
        """Over all these task hubs, of which slots carry some."""
        found = [order for task_hub in task_hubs for order in self.list_orders(task_hub)]
        failed = [order for order in found if order.is_ended and order.status != "Completed"]
        left = [order for order in found if not order.is_ended]
        orphaned = [order for order in left if order.task_hub not in set(slot_task_hubs)]
        return OrderCounts(
            started=len(found),
            completed=sum(order.status == "Completed" for order in found),
            failed=len(failed),
            non_deterministic=sum("NonDeterminismError" in order.output for order in failed),
            orphaned=len(orphaned),
            still_open=len(left) - len(orphaned),
        )
