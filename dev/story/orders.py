"""What became of the orders: read from the rows of the task hubs, the same that a Durable Functions app leaves."""

from collections.abc import Iterable
from dataclasses import dataclass

from azure.data.tables import TableServiceClient

_OVER = ("Completed", "Failed", "Terminated")


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row."""

    order_id: str
    task_hub: str
    status: str
    waits: bool
    output: str

    @property
    def over(self) -> bool:
        return self.status in _OVER


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of all orders. `orphaned`: of those that are not over, those that no slot can ever finish."""

    started: int
    completed: int
    failed: int
    non_deterministic: int
    orphaned: int
    open: int


class Orders:
    """The orders of all task hubs in a storage account."""

    def __init__(self, storage: str) -> None:
        self._tables = TableServiceClient.from_connection_string(storage)

    def close(self) -> None:
        self._tables.close()

    def on(self, task_hub: str) -> list[Order]:
        """Those on a task hub, by id."""
        rows = self._tables.get_table_client(f"{task_hub}Instances").query_entities("Name eq 'ProcessOrder'")
        return sorted(
            (
                Order(
                    row["PartitionKey"],
                    task_hub,
                    row["RuntimeStatus"],
                    row["RuntimeStatus"] not in _OVER and row["CustomStatus"] == '"WaitingForApproval"',
                    row.get("Output", ""),
                )
                for row in rows
            ),
            key=lambda order: order.order_id,
        )

    def waiting(self, task_hub: str) -> list[str]:
        """The ids of those that wait for an approval."""
        return [order.order_id for order in self.on(task_hub) if order.waits]

    def counts(self, task_hubs: Iterable[str], carried: Iterable[str]) -> Counts:
        """Over all these task hubs, of which slots carry some."""
        found = [order for task_hub in task_hubs for order in self.on(task_hub)]
        failed = [order for order in found if order.over and order.status != "Completed"]
        left = [order for order in found if not order.over]
        orphaned = [order for order in left if order.task_hub not in set(carried)]
        return Counts(
            started=len(found),
            completed=sum(order.status == "Completed" for order in found),
            failed=len(failed),
            non_deterministic=sum("NonDeterminismError" in order.output for order in failed),
            orphaned=len(orphaned),
            open=len(left) - len(orphaned),
        )
