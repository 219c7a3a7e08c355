"""The control queues with every message that was recorded, and timers as the history of a Python app shows them."""

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
"""Python orchestrations that cancelled a timer before it was due."""


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    made = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield made
    await made.close()


async def test_every_recorded_message_is_understood(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    """They were left by a worker that was killed amid starts; one is an event for an instance."""
    assert storage.connection_string is not None
    messages = recordings.read_lines("messages")
    connection = storage.connection_string.get_secret_value()
    async with (
        provider.ProviderTaskHub(storage, hub) as made,
        QueueServiceClient.from_connection_string(connection) as queues,
    ):
        await made.create()
        for number, message in enumerate(messages):
            name = provider.control_queue_names(hub)[number % provider.CONTROL_QUEUE_COUNT]
            await queues.get_queue_client(name).send_message(message["content"])
    snapshot = await backend.read_queue_snapshot(hub)
    assert snapshot is not None
    assert (snapshot.message_count, snapshot.invisible, snapshot.more_visible) == (len(messages), 0, False)
    found = {message.instance_id: (message.kind, message.function_name) for message in snapshot.visible}
    assert found == {instance_id: kind_of(content) for instance_id, content in events_by_instance(messages).items()}
    assert [kind for kind, _ in found.values()].count(MessageKind.OTHER) == 1


def events_by_instance(messages: list[dict[str, Any]]) -> dict[str, Any]:
    tasks = [json.loads(message["content"])["TaskMessage"] for message in messages]
    return {task["OrchestrationInstance"]["InstanceId"]: task["Event"] for task in tasks}


def kind_of(event: Any) -> tuple[MessageKind, str]:
    starts = event["$type"] == "DurableTask.Core.History.ExecutionStartedEvent"
    return (MessageKind.START, event["Name"]) if starts else (MessageKind.OTHER, "")


async def test_a_made_message_has_the_members_of_a_recorded_one_that_are_read() -> None:
    recorded = json.loads(recordings.read_lines("messages")[0]["content"])
    made = json.loads(provider.control_message("l1", name="Launcher"))
    assert made["CompressedBlobName"] == recorded["CompressedBlobName"]
    for member in ("$type", "EventType", "Name"):
        assert made["TaskMessage"]["Event"][member] == recorded["TaskMessage"]["Event"][member]
    identity = "OrchestrationInstance"
    assert made["TaskMessage"][identity]["InstanceId"] == recorded["TaskMessage"][identity]["InstanceId"]


async def test_the_timers_that_python_orchestrations_cancelled_are_known_from_their_histories(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    assert storage.connection_string is not None
    due = datetime.now(UTC) + timedelta(days=2)
    connection = storage.connection_string.get_secret_value()
    async with (
        provider.ProviderTaskHub(storage, hub) as made,
        TableServiceClient.from_connection_string(connection) as tables,
    ):
        await made.create()
        history = await tables.create_table_if_not_exists(f"{hub}History")
        for row in recordings.read_lines("python-instances"):
            await made.table.create_entity(recordings.table_entity(row, TaskHubName=hub))
        for row in recordings.read_lines("python-history"):
            # As if the deadlines had been the day after tomorrow. The other timers have fired.
            cancelled = (
                row["PartitionKey"] in ORCHESTRATIONS_WITH_CANCELLED_TIMER and row.get("EventType") == "TimerCreated"
            )
            await history.create_entity(recordings.table_entity(row, **({"FireAt": due} if cancelled else {})))
    known = await backend.read_timers(hub, KnownTimers())
    while known.cursor is not None:
        known = await backend.read_timers(hub, known)
    assert known.count_pending(Instant(instant_from(due) - 1)) == len(ORCHESTRATIONS_WITH_CANCELLED_TIMER)
    assert known.count_pending(instant_from(due)) == 0
