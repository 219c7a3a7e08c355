"""The control queues of a task hub on Azure Storage: how many messages they hold, and what those that can be peeked do
(PLATFORM: The Durable Functions extension, 5 to 7).

A start is a message there until the first checkpoint of its orchestration writes the row.
"""

import asyncio
import base64
import json
import logging
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError

from state_api.backends.protocols import ArtifactKind, BackendError, ReadFailure
from state_api.backends.storage_account import NOT_FOUND_CODES, StorageAccount
from state_api.domain.names import entity_name, hub_key, is_entity
from state_api.domain.readiness.messages import MAX_PEEKED_MESSAGES, MessageKind, QueueSnapshot, VisibleMessage
from state_api.storage.tables import error_code, is_table_missing

if TYPE_CHECKING:
    from azure.storage.queue import QueueMessage
    from azure.storage.queue.aio import QueueClient

log = logging.getLogger(__name__)

_MAX_PARTITIONS = 16
"""Control queues of a task hub, at most (PLATFORM: Task hubs on Azure Storage)."""

_MAX_BLOB_BYTES = 8 * 1024 * 1024
_MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Bytes of a large message, compressed and not, that are read to learn a function's name."""
_GZIP_WINDOW_BITS = 31
"""What zlib calls the format of gzip, with the largest window."""
_MAX_NAME_LENGTH = 256
"""Characters of an instance id or function name (PLATFORM: Task hubs on Azure Storage)."""

# DurableTask.Core.History.EventType, by number.
_EVENT_TYPES = (
    "ExecutionStarted",
    "ExecutionCompleted",
    "ExecutionFailed",
    "ExecutionTerminated",
    "TaskScheduled",
    "TaskCompleted",
    "TaskFailed",
    "SubOrchestrationInstanceCreated",
    "SubOrchestrationInstanceCompleted",
    "SubOrchestrationInstanceFailed",
    "TimerCreated",
    "TimerFired",
    "OrchestratorStarted",
    "OrchestratorCompleted",
    "EventSent",
    "EventRaised",
    "ContinueAsNew",
    "GenericEvent",
    "HistoryState",
    "ExecutionSuspended",
    "ExecutionResumed",
    "ExecutionRewound",
)

# Messages that do nothing to an instance that has ended. Every other type can start or revive an orchestration: a
# rewind sends a GenericEvent.
_NON_STARTING_EVENT_TYPES = frozenset(
    {
        "ExecutionTerminated",
        "TaskCompleted",
        "TaskFailed",
        "SubOrchestrationInstanceCompleted",
        "SubOrchestrationInstanceFailed",
        "TimerFired",
        "EventRaised",
        "ExecutionSuspended",
        "ExecutionResumed",
    }
)


class ControlQueues:
    """Reads the control queues in one storage account. `shared_tables` says that the instances are in a tracking store
    of several task hubs. Every method raises BackendError."""

    def __init__(self, account: StorageAccount, *, shared_tables: bool = False) -> None:
        self._account = account
        self._shared_tables = shared_tables

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot:
        """The control queues now. Raises BackendError if one of them does not exist: then this is the storage
        of another
        app, or the task hub is being deleted."""
        names, owners = await self._read_partitions(task_hub)
        read = await asyncio.gather(*(self._read_queue(task_hub, name) for name in names))
        return QueueSnapshot(
            message_count=sum(queue.message_count for queue in read),
            visible=tuple(message for queue in read for message in queue.visible),
            peeked_twice=sum(queue.peeked_twice for queue in read),
            more_visible=any(queue.more_visible for queue in read),
            partition_owners=owners,
        )

    async def _read_partitions(self, task_hub: str) -> tuple[list[str], str]:
        """The names of all control queues, and a text that tells which workers own them.

        Table partition management, the default, has a row for each queue. The older lease management has the number of
        queues in `taskhub.json`.
        """
        rows: list[Mapping[str, Any]] = []
        async with self._account.translate_errors(ArtifactKind.TABLE, role="Reader"):
            try:
                table = self._account.table_service().get_table_client(f"{task_hub}Partitions")
                entities = table.list_entities(select=["RowKey", "CurrentOwner", "OwnedSince"])
                rows = [row async for row in entities]
            except HttpResponseError as error:
                if not is_table_missing(error):
                    raise
        if rows:
            owners = sorted(f"{row['RowKey']} {row.get('CurrentOwner')} {row.get('OwnedSince')}" for row in rows)
            return sorted(str(row["RowKey"]) for row in rows), "\n".join(owners)
        count = await self._read_partition_count(task_hub)
        return [f"{hub_key(task_hub)}-control-{number:02}" for number in range(count)], ""

    async def _read_partition_count(self, task_hub: str) -> int:
        container = f"{hub_key(task_hub)}-leases"
        async with self._account.translate_errors(ArtifactKind.CONTAINER, role="Reader"):
            try:
                blob = self._account.blob_service().get_blob_client(container, "taskhub.json")
                content = await (await blob.download_blob(0, 65_536)).readall()
            except HttpResponseError as error:
                if error_code(error) not in NOT_FOUND_CODES and error.status_code != 404:
                    raise
                raise BackendError(
                    # An instance table of its own shows that the task hub exists; a shared one does not.
                    ReadFailure.MISSING if self._shared_tables else ReadFailure.FAILED,
                    f"neither table {task_hub}Partitions nor container {container} says how many control queues there "
                    f"are: the task hub is being deleted, or the setting {self._account.setting_name} leads to "
                    f"another account",
                ) from None
        count = _parse_partition_count(content)
        if count is None:
            raise BackendError(ReadFailure.FAILED, f"taskhub.json in container {container} cannot be read")
        return count

    async def _read_queue(self, task_hub: str, name: str) -> QueueSnapshot:
        async with self._translate_errors():
            queue = self._account.queue_service().get_queue_client(name)
            try:
                count = await self._count_messages(queue)
                if not count:
                    return QueueSnapshot()
                before = await queue.peek_messages(max_messages=MAX_PEEKED_MESSAGES)
                if not before:
                    return QueueSnapshot(count)
                # A message that leaves the queue between the peek and the count must not hide an invisible one.
                count = await self._count_messages(queue)
                after = await queue.peek_messages(max_messages=MAX_PEEKED_MESSAGES)
            except HttpResponseError as error:
                if error_code(error) not in NOT_FOUND_CODES:
                    raise
                raise BackendError(
                    ReadFailure.FAILED,
                    f"task hub {task_hub} lacks the control queue {name}: either it is being deleted, or the setting "
                    f"{self._account.setting_name} leads to another account",
                ) from None
        times = {(message.id, message.dequeue_count) for message in before}
        seen = {message.id: message for message in (*before, *after)}
        return QueueSnapshot(
            message_count=count,
            visible=tuple([await self._parse_queue_message(task_hub, message) for message in seen.values()]),
            peeked_twice=sum((message.id, message.dequeue_count) in times for message in after),
            more_visible=MAX_PEEKED_MESSAGES in (len(before), len(after)),
        )

    async def _count_messages(self, queue: "QueueClient") -> int:
        """How many messages there are, invisible ones included: never fewer, by the service's documentation."""
        count = (await queue.get_queue_properties()).approximate_message_count
        if count is None:
            message = (
                f"the storage account of the setting {self._account.setting_name} does not say how many "
                f"messages there are"
            )
            raise BackendError(ReadFailure.FAILED, message)
        return count

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        try:
            async with self._account.translate_errors(ArtifactKind.QUEUE, role="Reader"):
                yield
        except BackendError as error:
            if error.failure is not ReadFailure.DENIED:
                raise
            message = f"{error.message}. To do without, set ignoreMessages in the app's policy"
            raise BackendError(error.failure, message) from None

    async def _parse_queue_message(self, task_hub: str, message: "QueueMessage") -> VisibleMessage:
        message_id, dequeue_count = str(message.id), message.dequeue_count or 0
        envelope = _parse_envelope(message.content)
        blob = envelope.get("CompressedBlobName") if envelope else None
        if not isinstance(blob, str) or not blob:
            return _classify_envelope(message_id, dequeue_count, envelope)
        named = _classify_blob_name(message_id, dequeue_count, blob)
        if named.kind is not MessageKind.START:
            return named
        # Only the blob has the name of the function, and only that may exempt a start.
        return _classify_envelope(
            message_id, dequeue_count, await self._read_large_message(task_hub, blob), fallback=named
        )

    async def _read_large_message(self, task_hub: str, name: str) -> Mapping[str, Any] | None:
        """A message that is too large for a queue. None if it cannot be read, which the right to read blobs allows."""
        try:
            async with self._account.translate_errors(ArtifactKind.CONTAINER, role="Reader"):
                blob = self._account.blob_service().get_blob_client(f"{hub_key(task_hub)}-largemessages", name)
                content = await (await blob.download_blob(0, _MAX_BLOB_BYTES)).readall()
        except BackendError as error:
            log.info("a message of task hub %s cannot be read: %s", task_hub, error.message)
            return None
        try:
            return _parse_envelope(
                zlib.decompressobj(wbits=_GZIP_WINDOW_BITS).decompress(content, _MAX_MESSAGE_BYTES).decode()
            )
        except (ValueError, zlib.error):
            return None


def _parse_partition_count(content: bytes) -> int | None:
    try:
        count = json.loads(content)["PartitionCount"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return count if isinstance(count, int) and 1 <= count <= _MAX_PARTITIONS else None


def _parse_envelope(content: Any) -> Mapping[str, Any] | None:
    """The envelope of a message, `DurableTask.AzureStorage.MessageData`: JSON, or JSON in Base64 from older extensions.
    None if it is neither."""
    text = str(content)
    try:
        if not text.lstrip("\ufeff").startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        envelope = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return envelope if isinstance(envelope, dict) else None


def _classify_envelope(
    message_id: str, dequeue_count: int, envelope: Mapping[str, Any] | None, fallback: VisibleMessage | None = None
) -> VisibleMessage:
    """What a message does. `fallback` is the answer where the envelope cannot be read."""
    try:
        assert envelope is not None
        event = envelope["TaskMessage"]["Event"]
        instance_id = envelope["TaskMessage"]["OrchestrationInstance"]["InstanceId"]
        number = event["EventType"]
        name = event.get("Name") or ""
    except (AssertionError, KeyError, TypeError, AttributeError):
        return fallback or VisibleMessage(message_id, dequeue_count, MessageKind.UNREADABLE)
    known = isinstance(number, int) and 0 <= number < len(_EVENT_TYPES)
    return _classify_message(
        message_id, dequeue_count, _EVENT_TYPES[number] if known else str(number), instance_id, name
    )


def _classify_blob_name(message_id: str, dequeue_count: int, blob: str) -> VisibleMessage:
    """What the name of a large message's blob tells: `{instance id}/message-{32 digits}-{event type}.json.gz`
    (DurableTask.AzureStorage, MessageManager.GetNewLargeMessageBlobName)."""
    found = re.fullmatch(r"(?s)(.+)/message-[0-9a-fA-F]{32}-([A-Za-z]+)\.json\.gz", blob)
    if found is None:
        return VisibleMessage(message_id, dequeue_count, MessageKind.UNREADABLE)
    return _classify_message(message_id, dequeue_count, found[2], found[1], "")


def _classify_message(
    message_id: str, dequeue_count: int, event_type: str, instance_id: Any, name: Any
) -> VisibleMessage:
    target = _to_storable_text(instance_id)
    if is_entity(target):
        return VisibleMessage(message_id, dequeue_count, MessageKind.ENTITY, target, entity_name(target))
    if event_type in _NON_STARTING_EVENT_TYPES:
        return VisibleMessage(message_id, dequeue_count, MessageKind.OTHER, target)
    function_name = _to_storable_text(name) if event_type == "ExecutionStarted" else ""
    return VisibleMessage(message_id, dequeue_count, MessageKind.START, target, function_name)


def _to_storable_text(value: Any) -> str:
    """A name that can be stored and answered: half a surrogate pair cannot."""
    return str(value).encode("utf-8", "replace").decode()[:_MAX_NAME_LENGTH]
