"""What a task hub's own storage shows, read without any code of the server: rows and control queues."""

import asyncio
import json
from dataclasses import dataclass

from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from tests.platform.witness import ENDED_STATUSES, MAX_PEEKED, Row, StorageLook

_HARMLESS_EVENTS = frozenset(
    {
        *("TaskCompleted", "TaskFailed", "TimerFired", "EventRaised"),
        *("SubOrchestrationInstanceCompleted", "SubOrchestrationInstanceFailed"),
        *("ExecutionTerminated", "ExecutionSuspended", "ExecutionResumed"),
    }
)
"""What does nothing to an orchestration that has ended, by the names of DurableTask.Core.History."""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The control queues together. `count` includes invisible messages, `visible` is what can be peeked."""

    count: int
    visible: int

    @property
    def invisible(self) -> int:
        return self.count - self.visible


class TaskHubReader:
    """The storage of one task hub. Close it."""

    def __init__(self, connection: str, task_hub: str) -> None:
        self.task_hub = task_hub
        self._tables = TableServiceClient.from_connection_string(connection)
        self.queues = QueueServiceClient.from_connection_string(connection)

    async def close(self) -> None:
        await self._tables.close()
        await self.queues.close()

    async def list_control_queues(self) -> list[str]:
        beginning = f"{self.task_hub.lower()}-control-"
        return [queue.name async for queue in self.queues.list_queues(name_starts_with=beginning)]

    async def count_messages(self) -> MessageCounts:
        count = visible = 0
        for name in await self.list_control_queues():
            queue = self.queues.get_queue_client(name)
            # In this order: a message that comes in between is counted as invisible, which makes nobody hasty.
            visible += len(await queue.peek_messages(MAX_PEEKED))
            count += (await queue.get_queue_properties()).approximate_message_count or 0
        return MessageCounts(count, visible)

    async def look(self) -> StorageLook:
        """Rows and messages now."""
        table = self._tables.get_table_client(f"{self.task_hub}Instances")
        rows = {
            str(row["PartitionKey"]): Row(str(row["RuntimeStatus"]), str(row.metadata["etag"]))
            async for row in table.list_entities()
        }
        visible: dict[str, bool] = {}
        count, full = 0, False
        for name in await self.list_control_queues():
            queue = self.queues.get_queue_client(name)
            peeked = await queue.peek_messages(MAX_PEEKED)
            visible |= {str(message.id): _can_start(str(message.content)) for message in peeked}
            full = full or len(peeked) == MAX_PEEKED
            count += (await queue.get_queue_properties()).approximate_message_count or 0
        return StorageLook(rows, visible, count, full)

    async def read_statuses(self) -> dict[str, str]:
        """The runtime status of each orchestration that has a row, by instance id as the key shows it."""
        rows = self._tables.get_table_client(f"{self.task_hub}Instances").list_entities(
            select=["PartitionKey", "RuntimeStatus"]
        )
        return {row["PartitionKey"]: row["RuntimeStatus"] async for row in rows if row["PartitionKey"][0] != "@"}

    async def list_active(self) -> list[str]:
        return [
            instance_id for instance_id, status in (await self.read_statuses()).items() if status not in ENDED_STATUSES
        ]

    async def wait_until_no_messages(self, timeout_seconds: float = 150) -> None:
        """Wait until the control queues are empty, invisible messages included. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while (await self.count_messages()).count:
                await asyncio.sleep(0.1)

    async def describe(self) -> str:
        """Rows, messages and owners of partitions, for the message of a test that waits in vain."""
        peeked = [
            message.content
            for name in await self.list_control_queues()
            for message in await self.queues.get_queue_client(name).peek_messages(32)
        ]
        owners = self._tables.get_table_client(f"{self.task_hub}Partitions").list_entities()
        partitions = [dict(row) async for row in owners]
        return f"{await self.read_statuses()}, {await self.count_messages()}, {peeked}, {partitions}"


def _can_start(content: str) -> bool:
    """Whether a message starts an orchestration, or is for an entity, whose code can start one."""
    task_message = json.loads(content)["TaskMessage"]
    if task_message["OrchestrationInstance"]["InstanceId"].startswith("@"):
        return True
    event = task_message["Event"]["$type"].partition(",")[0].rpartition(".")[2].removesuffix("Event")
    return event not in _HARMLESS_EVENTS
