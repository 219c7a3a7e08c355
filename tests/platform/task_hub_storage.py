"""Reads a task hub's own storage, its rows and control queues, without any code of the state server."""

import asyncio
import json
from dataclasses import dataclass

from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from tests.platform.storage_snapshots import ENDED_STATUSES, MAX_PEEKED_MESSAGES, InstanceRow, StorageSnapshot

_NON_STARTING_EVENTS = frozenset(
    {
        *("TaskCompleted", "TaskFailed", "TimerFired", "EventRaised"),
        *("SubOrchestrationInstanceCompleted", "SubOrchestrationInstanceFailed"),
        *("ExecutionTerminated", "ExecutionSuspended", "ExecutionResumed"),
    }
)
"""Events that do nothing to an orchestration that has ended, by their names in DurableTask.Core.History."""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The messages of all control queues together. `count` includes invisible messages; `visible` can be peeked."""

    count: int
    visible: int

    @property
    def invisible(self) -> int:
        return self.count - self.visible


class TaskHubReader:
    """Reads the storage of one task hub, until it is closed."""

    def __init__(self, connection: str, task_hub: str) -> None:
        self.task_hub = task_hub
        self._tables = TableServiceClient.from_connection_string(connection)
        self.queues = QueueServiceClient.from_connection_string(connection)

    async def close(self) -> None:
        await self._tables.close()
        await self.queues.close()

    async def list_control_queues(self) -> list[str]:
        """The names of the control queues of the task hub."""
        prefix = f"{self.task_hub.lower()}-control-"
        return [queue.name async for queue in self.queues.list_queues(name_starts_with=prefix)]

    async def count_messages(self) -> MessageCounts:
        """Count the messages in all control queues, and those of them that can be peeked."""
        count = visible = 0
        for name in await self.list_control_queues():
            queue = self.queues.get_queue_client(name)
            # Peek before counting: a message that arrives in between counts as invisible, which is the safe side.
            visible += len(await queue.peek_messages(MAX_PEEKED_MESSAGES))
            count += (await queue.get_queue_properties()).approximate_message_count or 0
        return MessageCounts(count, visible)

    async def read_snapshot(self) -> StorageSnapshot:
        """Read the rows, and then the control queues one by one."""
        table = self._tables.get_table_client(f"{self.task_hub}Instances")
        rows = {
            str(row["PartitionKey"]): InstanceRow(str(row["RuntimeStatus"]), str(row.metadata["etag"]))
            async for row in table.list_entities()
        }
        visible: dict[str, bool] = {}
        message_count, more_visible = 0, False
        for name in await self.list_control_queues():
            queue = self.queues.get_queue_client(name)
            peeked = await queue.peek_messages(MAX_PEEKED_MESSAGES)
            visible |= {str(message.id): _can_start(str(message.content)) for message in peeked}
            more_visible = more_visible or len(peeked) == MAX_PEEKED_MESSAGES
            message_count += (await queue.get_queue_properties()).approximate_message_count or 0
        return StorageSnapshot(rows, visible, message_count, more_visible)

    async def read_statuses(self) -> dict[str, str]:
        """Return the runtime status of each orchestration that has a row, by its partition key."""
        rows = self._tables.get_table_client(f"{self.task_hub}Instances").list_entities(
            select=["PartitionKey", "RuntimeStatus"]
        )
        return {row["PartitionKey"]: row["RuntimeStatus"] async for row in rows if row["PartitionKey"][0] != "@"}

    async def list_active(self) -> list[str]:
        """Return the orchestrations whose rows show them as active."""
        return [
            instance_id for instance_id, status in (await self.read_statuses()).items() if status not in ENDED_STATUSES
        ]

    async def wait_until_no_messages(self, timeout_seconds: float = 150) -> None:
        """Wait until the control queues are empty, invisible messages included. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while (await self.count_messages()).count:
                await asyncio.sleep(0.1)

    async def describe(self) -> str:
        """Describe rows, messages and owners of partitions, for the message of a test that has waited too long."""
        peeked = [
            message.content
            for name in await self.list_control_queues()
            for message in await self.queues.get_queue_client(name).peek_messages(MAX_PEEKED_MESSAGES)
        ]
        owners = self._tables.get_table_client(f"{self.task_hub}Partitions").list_entities()
        partitions = [dict(row) async for row in owners]
        return f"{await self.read_statuses()}, {await self.count_messages()}, {peeked}, {partitions}"


def _can_start(message_text: str) -> bool:
    """Return whether a message starts an orchestration, or is for an entity, whose code can start one."""
    task_message = json.loads(message_text)["TaskMessage"]
    if task_message["OrchestrationInstance"]["InstanceId"].startswith("@"):
        return True
    event = task_message["Event"]["$type"].partition(",")[0].rpartition(".")[2].removesuffix("Event")
    return event not in _NON_STARTING_EVENTS
