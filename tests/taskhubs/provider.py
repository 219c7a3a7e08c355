"""A task hub's tables as the Azure Storage provider writes them (docs/platform.md: Task hubs on Azure Storage)."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.data.tables import EdmType, EntityProperty, UpdateMode
from azure.data.tables.aio import TableServiceClient

from state_api.settings import StorageSettings
from state_api.storage.keys import escape

ACTIVE = ("Running", "Pending", "Suspended", "ContinuedAsNew")
OVER = ("Completed", "Failed", "Terminated", "Canceled")


def row(
    hub: str, instance_id: str, status: str | None, name: str = "ProcessOrder", version: str | None = None, **more: Any
) -> dict[str, Any]:
    """One row of `{Hub}Instances`."""
    now = datetime.now(UTC)
    properties: dict[str, Any] = {
        "PartitionKey": escape(instance_id),
        "RowKey": "",
        "ExecutionId": uuid.uuid4().hex,
        "Name": name,
        "Version": version or "",
        "Input": '"an input that nobody needs"',
        "CustomStatus": "null",
        "CreatedTime": now - timedelta(seconds=5),
        "LastUpdatedTime": now,
        "RuntimeStatus": status,
        "Generation": EntityProperty(0, EdmType.INT32),
        "TaskHubName": hub,
    }
    if status in OVER:
        properties |= {"CompletedTime": now, "Output": "null"}
    return {key: value for key, value in (properties | more).items() if value is not None}


class ProviderHub:
    """Writes the rows of one hub. Made with `create`, because a hub that was never started has no tables."""

    def __init__(self, storage: StorageSettings, hub: str, table: str | None = None) -> None:
        assert storage.connection_string is not None
        self.hub = hub
        self.name = table or f"{hub}Instances"
        self._service = TableServiceClient.from_connection_string(storage.connection_string.get_secret_value())
        self.table = self._service.get_table_client(self.name)

    async def __aenter__(self) -> "ProviderHub":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._service.close()

    async def create(self) -> "ProviderHub":
        await self._service.create_table_if_not_exists(self.name)
        return self

    async def delete(self) -> None:
        await self._service.delete_table(self.name)

    async def put(self, instance_id: str, status: str | None, **more: Any) -> None:
        """Write an instance's row, whole."""
        await self.table.upsert_entity(row(self.hub, instance_id, status, **more), mode=UpdateMode.REPLACE)

    async def put_many(self, instance_ids: Sequence[str], status: str) -> None:
        for instance_id in instance_ids:
            await self.put(instance_id, status)

    async def purge(self, instance_id: str) -> None:
        await self.table.delete_entity(escape(instance_id), "")
