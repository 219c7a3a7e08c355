"""The control queues of a task hub on Azure Storage: reads how many messages there are, and peeks at them
(docs/platform.md, The Durable Functions extension, 5 to 7). Hides queues, partitions and the blobs of large messages.

An orchestration's start is a message there until the first checkpoint of the orchestration writes its row.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError

from state_api.backends.control_messages import (
    Envelope,
    QueueMessageId,
    classify_blob_name,
    classify_envelope,
    large_message_blob_name,
    parse_envelope,
    parse_large_message,
)
from state_api.backends.protocols import ArtifactKind, BackendError, ReadFailure
from state_api.backends.storage_account import StorageAccount
from state_api.backends.storage_errors import NOT_FOUND_CODES
from state_api.domain.names import HubKey, hub_key
from state_api.domain.readiness.messages import MAX_PEEKED_MESSAGES, MessageKind, QueueSnapshot, VisibleMessage
from state_api.storage.tables import error_code, is_table_missing

if TYPE_CHECKING:
    from azure.storage.queue import QueueMessage
    from azure.storage.queue.aio import QueueClient

log = logging.getLogger(__name__)

_MAX_PARTITIONS = 16
"""Control queues of a task hub, at most (docs/platform.md, Task hubs on Azure Storage)."""

_MAX_TASK_HUB_JSON_BYTES = 64 * 1024
_MAX_LARGE_MESSAGE_BLOB_BYTES = 8 * 1024 * 1024
_MAX_REMEMBERED_TASK_HUBS = 1000
"""Task hubs whose queue names are remembered. When there are more, all are forgotten, which costs each a round trip."""


class ControlQueues:
    """Reads the control queues in one storage account.

    `shared_tables` says that the instances are in a tracking store of several task hubs. Every method raises
    BackendError.
    """

    def __init__(self, account: StorageAccount, *, shared_tables: bool = False) -> None:
        self._account = account
        self._shared_tables = shared_tables
        self._queue_names: dict[HubKey, list[str]] = {}
        """The control queues that were read last, by task hub."""

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot:
        """Read all control queues. Raises BackendError if one of them does not exist: then the account is another
        app's, or the task hub is being deleted.

        The queues that were read last time are read while the list of queues is, to save a round trip. If the list has
        changed, all queues on the list are read again. So the owners of the partitions can be a moment younger than
        the counts. The time rule has a reserve of 30 seconds for that (docs/correctness.md, Messages that nothing
        explains).
        """
        key = hub_key(task_hub)
        remembered_names = self._queue_names.get(key, [])
        partitions, remembered_queues = await asyncio.gather(
            self._read_partitions(task_hub), self._read_queues(task_hub, remembered_names), return_exceptions=True
        )
        if isinstance(partitions, BaseException):
            raise partitions
        queue_names, owners = partitions
        if queue_names != remembered_names:
            self._remember_queues(key, queue_names)
            queues = await self._read_queues(task_hub, queue_names)
        elif isinstance(remembered_queues, BaseException):
            raise remembered_queues
        else:
            queues = remembered_queues
        return QueueSnapshot(
            message_count=sum(queue.message_count for queue in queues),
            visible=tuple(message for queue in queues for message in queue.visible),
            peeked_twice=sum(queue.peeked_twice for queue in queues),
            more_visible=any(queue.more_visible for queue in queues),
            partition_owners=owners,
        )

    def _remember_queues(self, key: HubKey, queue_names: list[str]) -> None:
        """Keep the names of a task hub's queues for the next read. All names are forgotten when there are too many."""
        if len(self._queue_names) >= _MAX_REMEMBERED_TASK_HUBS:
            self._queue_names.clear()
        self._queue_names[key] = queue_names

    async def _read_queues(self, task_hub: str, queue_names: Sequence[str]) -> list[QueueSnapshot]:
        """Read all control queues of the task hub at the same time."""
        return await asyncio.gather(*(self._read_queue(task_hub, name) for name in queue_names))

    async def _read_partitions(self, task_hub: str) -> tuple[list[str], str]:
        """Return the names of all control queues, and a text that changes when another worker takes one over.

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
        """The number of control queues that the blob taskhub.json states. Raises BackendError."""
        container = f"{hub_key(task_hub)}-leases"
        async with self._account.translate_errors(ArtifactKind.CONTAINER, role="Reader"):
            try:
                blob = self._account.blob_service().get_blob_client(container, "taskhub.json")
                blob_bytes = await (await blob.download_blob(0, _MAX_TASK_HUB_JSON_BYTES)).readall()
            except HttpResponseError as error:
                if error_code(error) not in NOT_FOUND_CODES and error.status_code != 404:
                    raise
                raise BackendError(
                    # An instance table of its own shows that the task hub exists. A shared one does not.
                    ReadFailure.MISSING if self._shared_tables else ReadFailure.FAILED,
                    f"neither table {task_hub}Partitions nor container {container} says how many control queues task "
                    f"hub {task_hub} has: either it is being deleted, or the setting {self._account.setting_name} "
                    "leads to another account",
                ) from None
        count = _parse_partition_count(blob_bytes)
        if count is None:
            raise BackendError(
                ReadFailure.FAILED,
                f"the blob taskhub.json in container {container} does not say how many control queues task hub "
                f"{task_hub} has",
            )
        return count

    async def _read_queue(self, task_hub: str, name: str) -> QueueSnapshot:
        """The messages of one control queue. Raises BackendError if there is no such queue."""
        async with self._translate_errors():
            queue = self._account.queue_service().get_queue_client(name)
            try:
                count = await self._count_messages(queue)
                if not count:
                    return QueueSnapshot()
                first_peek = await queue.peek_messages(max_messages=MAX_PEEKED_MESSAGES)
                if not first_peek:
                    return QueueSnapshot(count)
                # Count again between two peeks: only a message that both peeks show is certainly in the count. Without
                # the second peek, a message that leaves before the count could hide an invisible one.
                count = await self._count_messages(queue)
                second_peek = await queue.peek_messages(max_messages=MAX_PEEKED_MESSAGES)
            except HttpResponseError as error:
                if error_code(error) not in NOT_FOUND_CODES:
                    raise
                raise BackendError(
                    ReadFailure.FAILED,
                    f"task hub {task_hub} has no control queue {name}: either it is being deleted, or the setting "
                    f"{self._account.setting_name} leads to another account",
                ) from None
        return QueueSnapshot(
            message_count=count,
            visible=await self._parse_messages(task_hub, (*first_peek, *second_peek)),
            peeked_twice=len(_list_deliveries(first_peek) & _list_deliveries(second_peek)),
            more_visible=MAX_PEEKED_MESSAGES in (len(first_peek), len(second_peek)),
        )

    async def _count_messages(self, queue: "QueueClient") -> int:
        """Return the number of messages, invisible ones included. It is never too low (Azure Queue storage, Get Queue
        Metadata)."""
        count = (await queue.get_queue_properties()).approximate_message_count
        if count is None:
            raise BackendError(
                ReadFailure.FAILED,
                f"the storage account of the setting {self._account.setting_name} does not say how many messages its "
                "queues contain",
            )
        return count

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        """Turn the library's errors into BackendError. A refusal also says how to verify without messages."""
        try:
            async with self._account.translate_errors(ArtifactKind.QUEUE, role="Reader"):
                yield
        except BackendError as error:
            if error.failure is not ReadFailure.DENIED:
                raise
            message = f"{error.message}. To verify without messages, set ignoreMessages in the app's policy"
            raise BackendError(error.failure, message) from None

    async def _parse_messages(self, task_hub: str, messages: Sequence["QueueMessage"]) -> tuple[VisibleMessage, ...]:
        """Parse each message once, as it was peeked last."""
        latest = {message.id: message for message in messages}
        return tuple([await self._parse_message(task_hub, message) for message in latest.values()])

    async def _parse_message(self, task_hub: str, message: "QueueMessage") -> VisibleMessage:
        """What a message is for. The content of a large message is in a blob, which is read only if the message may be
        a start."""
        identity = QueueMessageId(str(message.id), message.dequeue_count or 0)
        envelope = parse_envelope(message.content)
        blob_name = large_message_blob_name(envelope)
        if blob_name is None:
            return classify_envelope(identity, envelope)
        by_name = classify_blob_name(identity, blob_name)
        if by_name.kind is not MessageKind.START:
            return by_name
        # The blob has the name of the function, by which a policy can exempt the start.
        by_content = classify_envelope(identity, await self._read_large_message(task_hub, blob_name))
        return by_name if by_content.kind is MessageKind.UNREADABLE else by_content

    async def _read_large_message(self, task_hub: str, blob_name: str) -> Envelope | None:
        """Return None if the message cannot be read, for example because this server may not read blobs."""
        try:
            async with self._account.translate_errors(ArtifactKind.CONTAINER, role="Reader"):
                blob = self._account.blob_service().get_blob_client(f"{hub_key(task_hub)}-largemessages", blob_name)
                compressed = await (await blob.download_blob(0, _MAX_LARGE_MESSAGE_BLOB_BYTES)).readall()
        except BackendError as error:
            log.info("a large message of task hub %s cannot be read: %s", task_hub, error.message)
            return None
        return parse_large_message(compressed)


def _list_deliveries(messages: Sequence["QueueMessage"]) -> set[tuple[str | None, int | None]]:
    """Identify each message by its id and dequeue count: a message that a worker took and gave back in between counts
    as another."""
    return {(message.id, message.dequeue_count) for message in messages}


def _parse_partition_count(blob_bytes: bytes) -> int | None:
    """Return the number of control queues that `taskhub.json` contains; None if it contains none."""
    try:
        count = json.loads(blob_bytes)["PartitionCount"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return count if isinstance(count, int) and 1 <= count <= _MAX_PARTITIONS else None
