"""Control queues with every recorded message, and the timers in the recorded history of a Python app."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.instants import Instant, instant_from
from state_api.domain.readiness.messages import KnownTimers, MessageKind
from state_api.settings import StorageSettings
from tests import recordings
from tests.backends import azure_storage_task_hub as provider

pytestmark = pytest.mark.anyio

ORCHESTRATIONS_WITH_CANCELLED_TIMER = (
    "ActivityOrTimerCancel",
    "EventOrTimerCancel",
    "EventOrTimerCancelThenActivity",
    "EventOrTimerCancelThenFail",
)
"""Recorded Python orchestrations that cancelled a timer before it fired."""


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    """The backend that reads task hubs in the emulator."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield backend
    await backend.close()


async def test_every_recorded_message_is_parsed(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    """A worker that was killed during starts left these messages. One of them is an event for an instance."""
    assert storage.connection_string is not None
    messages = recordings.read_lines("messages")
    connection = storage.connection_string.get_secret_value()
    async with (
        provider.ProviderTaskHub(storage, hub) as task_hub,
        QueueServiceClient.from_connection_string(connection) as queues,
    ):
        await task_hub.create()
        for number, message in enumerate(messages):
            name = provider.control_queue_names(hub)[number % provider.CONTROL_QUEUE_COUNT]
            await queues.get_queue_client(name).send_message(message["content"])
    snapshot = await backend.read_queue_snapshot(hub)
    assert snapshot is not None
    assert (snapshot.message_count, snapshot.invisible, snapshot.more_visible) == (len(messages), 0, False)
    read_events = {message.instance_id: (message.kind, message.function_name) for message in snapshot.visible}
    assert read_events == {
        instance_id: classify_message(event) for instance_id, event in group_events_by_instance(messages).items()
    }
    assert [kind for kind, _ in read_events.values()].count(MessageKind.OTHER) == 1


def group_events_by_instance(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The history event in each recorded message, by the instance that it is for."""
    tasks = [json.loads(message["content"])["TaskMessage"] for message in messages]
    return {task["OrchestrationInstance"]["InstanceId"]: task["Event"] for task in tasks}


def classify_message(event: Any) -> tuple[MessageKind, str]:
    """The kind that the server must find for a message with this history event, and the function that it starts."""
    starts = event["$type"] == "DurableTask.Core.History.ExecutionStartedEvent"
    return (MessageKind.START, event["Name"]) if starts else (MessageKind.OTHER, "")


async def test_a_generated_message_has_the_members_that_the_backend_reads() -> None:
    recorded = json.loads(recordings.read_lines("messages")[0]["content"])
    generated = json.loads(provider.control_message("l1", name="Launcher"))
    assert generated["CompressedBlobName"] == recorded["CompressedBlobName"]
    for member in ("$type", "EventType", "Name"):
        assert generated["TaskMessage"]["Event"][member] == recorded["TaskMessage"]["Event"][member]
    instance = "OrchestrationInstance"
    assert generated["TaskMessage"][instance]["InstanceId"] == recorded["TaskMessage"][instance]["InstanceId"]


async def test_the_cancelled_timers_of_python_orchestrations_are_read_from_their_histories(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    assert storage.connection_string is not None
    due = datetime.now(UTC) + timedelta(days=2)
    connection = storage.connection_string.get_secret_value()
    async with (
        provider.ProviderTaskHub(storage, hub) as task_hub,
        TableServiceClient.from_connection_string(connection) as tables,
    ):
        await task_hub.create()
        history = await tables.create_table_if_not_exists(f"{hub}History")
        for row in recordings.read_lines("python-instances"):
            await task_hub.table.create_entity(recordings.to_table_entity(row, TaskHubName=hub))
        for row in recordings.read_lines("python-history"):
            # The cancelled timers get a time in the future. The others have fired.
            cancelled = (
                row["PartitionKey"] in ORCHESTRATIONS_WITH_CANCELLED_TIMER and row.get("EventType") == "TimerCreated"
            )
            await history.create_entity(recordings.to_table_entity(row, **({"FireAt": due} if cancelled else {})))
    known = await backend.read_timers(hub, KnownTimers())
    while known.cursor is not None:
        known = await backend.read_timers(hub, known)
    assert known.count_pending(Instant(instant_from(due) - 1)) == len(ORCHESTRATIONS_WITH_CANCELLED_TIMER)
    assert known.count_pending(instant_from(due)) == 0
