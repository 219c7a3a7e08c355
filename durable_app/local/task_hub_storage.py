"""A task hub's artifacts in a storage account, as the Azure Storage provider creates them.

The engine writes the rows of `{Hub}Instances` as the provider does. Queues, History and Partitions exist and stay
empty, because the engine keeps their contents in memory."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.data.tables import EdmType, EntityProperty, TableServiceClient, UpdateMode
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient

DEVELOPMENT_STORAGE = "UseDevelopmentStorage=true"
# The emulator's published key. It is no secret.
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_EMULATOR_CONNECTION_STRING = (
    f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_EMULATOR_KEY};"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
    "TableEndpoint=http://127.0.0.1:10002/devstoreaccount1;"
)
# The emulator does not support the default version of the queue and blob libraries.
_API_VERSION = "2024-11-04"

_RETRY_TOTAL = 3

CONTROL_QUEUE_COUNT = 4

_ESCAPES = {"^": "^^", "/": "^0", "\\": "^1", "#": "^2", "?": "^3"}
_ESCAPED_CHARACTERS = re.compile(r"[\^/\\#?\x00-\x1f\x7f-\x9f]")
_CONTROL_OFFSET = 0xC0


def escape_instance_id(instance_id: str) -> str:
    """The instance id as a table key, escaped as the provider does it."""
    return _ESCAPED_CHARACTERS.sub(
        lambda match: _ESCAPES.get(match[0]) or "^" + chr(_CONTROL_OFFSET + ord(match[0])), instance_id
    )


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """The properties of an instance's row."""

    instance_id: str
    execution_id: str
    name: str
    runtime_status: str
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None = None
    version: str | None = None
    input_json: str | None = None
    output: str | None = None
    custom_status: str | None = None


def build_row(task_hub: str, instance: InstanceRow) -> dict[str, Any]:
    """The row with the provider's property names and types."""
    properties: dict[str, Any] = {
        "PartitionKey": escape_instance_id(instance.instance_id),
        "RowKey": "",
        "ExecutionId": instance.execution_id,
        "Name": instance.name,
        # The column does not exist if the app has no default version.
        "Version": instance.version or None,
        "Input": instance.input_json,
        "Output": instance.output,
        "CustomStatus": instance.custom_status or "null",
        "CreatedTime": instance.created_at,
        "LastUpdatedTime": instance.updated_at,
        "CompletedTime": instance.completed_at,
        "RuntimeStatus": instance.runtime_status,
        "Generation": EntityProperty(0, EdmType.INT32),
        "Tags": "null",
        "ParentInstanceId": "",
        "TaskHubName": task_hub,
    }
    return {name: value for name, value in properties.items() if value is not None}


class TaskHubStorageWriter:
    """Writes the artifacts of one task hub to a storage account."""

    def __init__(self, connection: str, task_hub: str) -> None:
        """Connect to the storage account in which the rows of this task hub are written."""
        connection_string = _EMULATOR_CONNECTION_STRING if connection == DEVELOPMENT_STORAGE else connection
        self._task_hub = task_hub
        self._tables = TableServiceClient.from_connection_string(connection_string, retry_total=_RETRY_TOTAL)
        self._queues = QueueServiceClient.from_connection_string(connection_string, api_version=_API_VERSION)
        self._blobs = BlobServiceClient.from_connection_string(connection_string, api_version=_API_VERSION)
        self._instances = self._tables.get_table_client(f"{task_hub}Instances")

    def create(self) -> None:
        """Create missing artifacts of the task hub, as the provider does when an app first starts on it."""
        for suffix in ("Instances", "History", "Partitions"):
            self._tables.create_table_if_not_exists(f"{self._task_hub}{suffix}")
        prefix = self._task_hub.lower()
        for suffix in (*(f"control-{number:02d}" for number in range(CONTROL_QUEUE_COUNT)), "workitems"):
            self._create_if_missing(self._queues.create_queue, f"{prefix}-{suffix}")
        for suffix in ("leases", "largemessages", "applease"):
            self._create_if_missing(self._blobs.create_container, f"{prefix}-{suffix}")
        now = datetime.now(UTC).isoformat()
        about = {"TaskHubName": self._task_hub, "CreatedAt": now, "PartitionCount": CONTROL_QUEUE_COUNT}
        blob = self._blobs.get_blob_client(f"{prefix}-leases", "taskhub.json")
        blob.upload_blob(json.dumps(about), overwrite=True)

    @staticmethod
    def _create_if_missing(create: Any, name: str) -> None:
        """Create a table, queue or container, unless an engine has created it before."""
        with suppress(ResourceExistsError):
            create(name)

    def upsert(self, instance: InstanceRow) -> None:
        """Write the row of an instance, as the Azure Storage provider keeps it."""
        self._instances.upsert_entity(build_row(self._task_hub, instance), mode=UpdateMode.REPLACE)

    def delete(self, instance_id: str) -> None:
        """Delete the row of a purged instance."""
        self._instances.delete_entity(escape_instance_id(instance_id), "")

    def close(self) -> None:
        for client in (self._tables, self._queues, self._blobs):
            client.close()
