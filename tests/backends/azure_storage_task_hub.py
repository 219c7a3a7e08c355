"""A task hub in a storage account as the Azure Storage provider creates and writes it (docs/platform.md, Task hubs on
Azure Storage)."""

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.data.tables import EdmType, EntityProperty, UpdateMode
from azure.data.tables.aio import TableServiceClient
from azure.storage.blob.aio import BlobServiceClient
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from state_api.settings import StorageSettings
from state_api.storage.instance_keys import escape_instance_id

_EVENT_TYPES = {
    "ExecutionStarted": 0,
    "ExecutionTerminated": 3,
    "TaskCompleted": 5,
    "TimerFired": 11,
    "EventRaised": 15,
    "GenericEvent": 17,
    "ExecutionRewound": 21,
    "FromTheFuture": 99,
}
"""Numbers of DurableTask.Core.History.EventType, and one that no version has."""

ACTIVE_STATUSES = ("Running", "Pending", "Suspended", "ContinuedAsNew")
ENDED_STATUS_NAMES = ("Completed", "Failed", "Terminated", "Canceled")
CONTROL_QUEUE_COUNT = 4
"""Control queues of a task hub, unless host.json sets another number."""
CONTAINER_SUFFIXES = ("leases", "largemessages", "applease")


def provider_row(
    hub: str,
    instance_id: str,
    status: str | None,
    *,
    name: str = "ProcessOrder",
    version: str | None = None,
    **other_columns: Any,
) -> dict[str, Any]:
    """A row of `{Hub}Instances`. Columns whose value is None are left out."""
    now = datetime.now(UTC)
    columns: dict[str, Any] = {
        "PartitionKey": escape_instance_id(instance_id),
        "RowKey": "",
        "ExecutionId": uuid.uuid4().hex,
        "Name": name,
        # Without a default version the provider writes no such column.
        "Version": version or None,
        "Input": '"an input"',
        "CustomStatus": "null",
        "CreatedTime": now - timedelta(seconds=5),
        "LastUpdatedTime": now,
        "RuntimeStatus": status,
        "Generation": EntityProperty(0, EdmType.INT32),
        "Tags": "null",
        "ParentInstanceId": "",
        "TaskHubName": hub,
    }
    if status in ENDED_STATUS_NAMES:
        columns |= {"CompletedTime": now, "Output": "null"}
    return {name: value for name, value in (columns | other_columns).items() if value is not None}


class ProviderTaskHub:
    """Writes the rows of one task hub, which has no tables or queues before `create`. `row_task_hub` is the name in its
    rows, if that is spelt differently."""

    def __init__(
        self, storage: StorageSettings, hub: str, table: str | None = None, *, row_task_hub: str | None = None
    ) -> None:
        """Connect to a task hub as the provider lays it out. `table` and `row_task_hub` are those of a shared tracking
        store."""
        assert storage.connection_string is not None
        self.storage = storage
        self.hub = hub
        self._row_task_hub = row_task_hub or hub
        self.name = table or f"{hub}Instances"
        connection = storage.connection_string.get_secret_value()
        self._service = TableServiceClient.from_connection_string(connection)
        self._queues = QueueServiceClient.from_connection_string(connection)
        self.table = self._service.get_table_client(self.name)

    async def __aenter__(self) -> "ProviderTaskHub":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._service.close()
        await self._queues.close()

    async def create(self, queue_count: int = CONTROL_QUEUE_COUNT) -> "ProviderTaskHub":
        """Create the tables and control queues that an app creates when it starts."""
        await self._service.create_table_if_not_exists(self.name)
        partitions = await self._service.create_table_if_not_exists(f"{self.hub}Partitions")
        for name in control_queue_names(self.hub, queue_count):
            with suppress(ResourceExistsError):
                await self._queues.create_queue(name)
            await partitions.upsert_entity({"PartitionKey": "", "RowKey": name, "CurrentOwner": "worker-1"})
        return self

    async def delete(self) -> None:
        await self._service.delete_table(self.name)

    async def put(self, instance_id: str, status: str | None, **columns: Any) -> None:
        """Write an instance's row and replace the one that is there."""
        row = provider_row(self._row_task_hub, instance_id, status, **columns)
        await self.table.upsert_entity(row, mode=UpdateMode.REPLACE)

    async def put_many(self, instance_ids: Sequence[str], status: str) -> None:
        for instance_id in instance_ids:
            await self.put(instance_id, status)

    async def purge(self, instance_id: str) -> None:
        """Delete an instance's row."""
        await self.table.delete_entity(escape_instance_id(instance_id), "")


def control_message(instance_id: str, event_type: str = "ExecutionStarted", name: str | None = "ProcessOrder") -> str:
    """The content of a control queue message as the provider writes it (tests/recordings, messages.jsonl)."""
    instance = {"$type": "DurableTask.Core.OrchestrationInstance", "InstanceId": instance_id, "ExecutionId": "e1"}
    event: dict[str, Any] = {
        "$type": f"DurableTask.Core.History.{event_type}Event",
        "EventType": _EVENT_TYPES[event_type],
        "EventId": -1,
        "Timestamp": "2026-11-27T01:02:20.1213776Z",
    }
    if name is not None:
        event["Name"] = name
    task = {"$type": "DurableTask.Core.TaskMessage", "Event": event, "OrchestrationInstance": instance}
    return json.dumps(
        {"$type": "DurableTask.AzureStorage.MessageData", "TaskMessage": task, "CompressedBlobName": None}
    )


def large_control_message(blob_name: str) -> str:
    """The content of a message whose event is in a blob of the container `{hub}-largemessages`."""
    return json.dumps(
        {"$type": "DurableTask.AzureStorage.MessageData", "TaskMessage": None, "CompressedBlobName": blob_name}
    )


def control_queue_names(hub: str, queue_count: int = CONTROL_QUEUE_COUNT) -> list[str]:
    """The names that the provider gives to the control queues of a task hub."""
    return [f"{hub.lower()}-control-{number:02d}" for number in range(queue_count)]


def timer_created_row(instance_id: str, due_in_seconds: float) -> dict[str, Any]:
    """A row of `{Hub}History`: an instance has created a timer, which has not fired."""
    return {
        "PartitionKey": escape_instance_id(instance_id),
        "RowKey": "0000000000000002",
        "EventType": "TimerCreated",
        "EventId": 0,
        "ExecutionId": "e1",
        "FireAt": datetime.now(UTC) + timedelta(seconds=due_in_seconds),
    }


def artifacts_of(hub: str, *, containers: bool = True, queues: bool = True, tables: bool = True) -> list[str]:
    """The artifacts that a task hub has at its provider, sorted by name."""
    names = [f"container {hub}-{name}" for name in CONTAINER_SUFFIXES if containers]
    names += [f"queue {hub}-control-{number:02d}" for number in range(CONTROL_QUEUE_COUNT) if queues]
    names += [f"queue {hub}-workitems"] if queues else []
    names += [f"table {hub}{name}" for name in ("History", "Instances", "Partitions") if tables]
    return sorted(names)


class ControlQueue:
    """One of the control queues of a task hub that has been created. Its messages are deleted when the block ends."""

    def __init__(self, hub: ProviderTaskHub) -> None:
        """Connect to the second control queue of the task hub."""
        assert hub.storage.connection_string is not None
        connection = hub.storage.connection_string.get_secret_value()
        self._queue = QueueClient.from_connection_string(connection, f"{hub.hub.lower()}-control-01")

    async def __aenter__(self) -> "ControlQueue":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._queue.clear_messages()
        await self._queue.close()

    async def send(self, text: str) -> QueueMessage:
        return await self._queue.send_message(text)

    async def delete(self, message: QueueMessage) -> None:
        await self._queue.delete_message(message)


class ProviderAccount:
    """The app's storage account. Creates whole task hubs as the provider does, and lists what exists."""

    def __init__(self, storage: StorageSettings) -> None:
        assert storage.connection_string is not None
        connection = storage.connection_string.get_secret_value()
        self._storage = storage
        self._tables = TableServiceClient.from_connection_string(connection)
        self._queues = QueueServiceClient.from_connection_string(connection)
        self._blobs = BlobServiceClient.from_connection_string(connection)

    async def __aenter__(self) -> "ProviderAccount":
        return self

    async def __aexit__(self, *exception: object) -> None:
        for client in (self._tables, self._queues, self._blobs):
            await client.close()

    async def add_task_hub(self, hub: str, *instances: tuple[str, str]) -> None:
        """Create everything that a task hub consists of, with these instances and their statuses."""
        await self._tables.create_table(f"{hub}History")
        async with ProviderTaskHub(self._storage, hub) as provider:
            await provider.create()
            for instance_id, status in instances:
                await provider.put(instance_id, status)
        await self._queues.create_queue(f"{hub.lower()}-workitems")
        for name in CONTAINER_SUFFIXES:
            await self._blobs.create_container(f"{hub.lower()}-{name}")
        await self._blobs.get_blob_client(f"{hub.lower()}-leases", "taskhub.json").upload_blob(b"{}")

    async def add_queue(self, queue: str) -> None:
        """Create a queue that belongs to no task hub."""
        await self._queues.create_queue(queue)

    async def delete_task_hub(self, hub: str) -> None:
        """Delete every artifact of a task hub."""
        for artifact in await self.list_artifacts(hub):
            kind, _, name = artifact.partition(" ")
            match kind:
                case "table":
                    await self._tables.delete_table(name)
                case "queue":
                    await self._queues.delete_queue(name)
                case _:
                    await self._blobs.delete_container(name)

    async def list_artifacts(self, prefix: str) -> list[str]:
        """List every table, queue and container whose name begins with `prefix`, as Cleanup names them."""
        tables = [f"table {table.name}" async for table in self._tables.list_tables()]
        queues = [f"queue {queue.name}" async for queue in self._queues.list_queues()]
        containers = [f"container {container.name}" async for container in self._blobs.list_containers()]
        return sorted(
            artifact
            for artifact in (*tables, *queues, *containers)
            if artifact.partition(" ")[2].lower().startswith(prefix.lower())
        )
