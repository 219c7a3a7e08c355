"""The simulated task hubs' own storage: tables and control queues of the emulator, as the provider uses them."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from state_api.settings import StorageSettings
from state_api.storage.instance_keys import escape_instance_id
from tests.backends.azure_storage_task_hub import control_message, provider_row


class SimulatedAccount:
    """Creates the task hubs in one storage account."""

    def __init__(self, storage: StorageSettings) -> None:
        """Connect to the emulator in which all histories keep their task hubs."""
        assert storage.connection_string is not None
        connection = storage.connection_string.get_secret_value()
        self.tables = TableServiceClient.from_connection_string(connection)
        # The version that the emulator knows.
        self.queues = QueueServiceClient.from_connection_string(connection, api_version="2024-11-04")
        self.writes = 0

    async def __aenter__(self) -> "SimulatedAccount":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.tables.close()
        await self.queues.close()

    async def create_hub(self, hub: str) -> "TaskHubStorage":
        """Create the tables and queues of a new task hub."""
        store = TaskHubStorage(self, hub)
        await store.create()
        return store


class TaskHubStorage:
    """One task hub, with one control queue."""

    def __init__(self, stores: SimulatedAccount, hub: str) -> None:
        """Connect to the tables and the queue of one task hub."""
        self._stores = stores
        self.hub = hub
        self.table = stores.tables.get_table_client(f"{hub}Instances")
        self._queue = stores.queues.get_queue_client(f"{hub.lower()}-control-00")
        self._partitions = stores.tables.get_table_client(f"{hub}Partitions")
        self._messages: dict[str, Any] = {}

    async def create(self) -> None:
        """Create the tables and the control queue of an app that has started."""
        await self.table.create_table()
        await self._partitions.create_table()
        await self._queue.create_queue()
        await self._partitions.upsert_entity({"PartitionKey": "", "RowKey": self._queue.queue_name})

    async def write_row(self, instance_id: str, status: str, name: str, created: datetime) -> None:
        """Write the row of an instance, as a worker does at a checkpoint."""
        self._stores.writes += 1
        entity = provider_row(self.hub, instance_id, status, name=name, CreatedTime=created)
        await self.table.upsert_entity(entity, mode=UpdateMode.REPLACE)

    async def delete_row(self, instance_id: str) -> None:
        """Delete the row of an instance, as a purge does."""
        self._stores.writes += 1
        await self.table.delete_entity(escape_instance_id(instance_id), "")

    async def send_start_message(self, instance_id: str, function: str) -> None:
        """Send the message that starts an instance."""
        self._stores.writes += 1
        self._messages[instance_id] = await self._queue.send_message(control_message(instance_id, name=function))

    async def delete_start_message(self, instance_id: str) -> None:
        """Delete the message once the row of the instance is written."""
        self._stores.writes += 1
        await self._queue.delete_message(self._messages.pop(instance_id))

    async def delete(self) -> None:
        """Delete everything, because the emulator keeps it in memory."""
        for table in (self.table, self._partitions):
            with suppress(ResourceNotFoundError):
                await self._stores.tables.delete_table(table.table_name)
        await self._queue.delete_queue()
