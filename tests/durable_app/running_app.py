"""The sample app in its development host: an engine, one slot, a topic, and a view of the stored rows."""

from typing import Any

from azure.data.tables import TableServiceClient

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import StorageSettings
from tests.durable_app.host_processes import (
    EngineProcess,
    SlotProcess,
    Topic,
)


class RunningApp:
    """A task hub with one slot of version 1, and its storage and topic."""

    def __init__(self, topic: Topic, engine: EngineProcess, slot: SlotProcess, storage: StorageSettings) -> None:
        self.topic = topic
        self.engine = engine
        self.slot = slot
        self.storage = storage

    def read_row(self, instance_id: str) -> dict[str, Any]:
        """The instance's row in the storage account."""
        return read_row(self.storage, self.engine.task_hub, instance_id)

    async def observe_instance(self, instance_id: str) -> ObservedInstance | None:
        """The instance as the state server's probe reads it."""
        return await observe_instance(self.storage, self.engine.task_hub, instance_id)


def read_row(storage: StorageSettings, task_hub: str, instance_id: str) -> dict[str, Any]:
    """The instance's row in the storage account."""
    assert storage.connection_string is not None
    with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
        return dict(tables.get_table_client(f"{task_hub}Instances").get_entity(instance_id, ""))


async def observe_instance(storage: StorageSettings, task_hub: str, instance_id: str) -> ObservedInstance | None:
    """The instance as the state server's probe reads it."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    try:
        assert (await backend.read_queue_snapshot(task_hub)).message_count == 0
        return (await backend.find_instances(task_hub, [instance_id]))[instance_id]
    finally:
        await backend.close()
