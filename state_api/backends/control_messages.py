"""The format of messages in a task hub's control queues: parses a message and says whether it can start an
orchestration (docs/platform.md, The Durable Functions extension, 5 to 7)."""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from state_api.domain.names import entity_name, is_entity
from state_api.domain.readiness.messages import MessageKind, VisibleMessage

_MAX_LARGE_MESSAGE_BYTES = 32 * 1024 * 1024
"""How much of a large message is decompressed to learn the name of a function."""
_GZIP_WINDOW_BITS = 31
"""zlib's value for the format of gzip with the largest window (zlib manual, inflateInit2)."""
_MAX_NAME_LENGTH = 256
"""Characters of an instance id or function name (docs/platform.md, Task hubs on Azure Storage)."""

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
"""The members of the enumeration DurableTask.Core.History.EventType, each at the index of its number."""

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
"""Messages that do nothing to an instance that has ended. Every other type can start or revive an orchestration: a
rewind sends a GenericEvent."""

Envelope = Mapping[str, Any]
"""A parsed `DurableTask.AzureStorage.MessageData`."""


@dataclass(frozen=True, slots=True)
class QueueMessageId:
    """Identifies one delivery of a message. `dequeue_count` grows each time that a worker takes the message."""

    message_id: str
    dequeue_count: int


def parse_envelope(body: Any) -> Envelope | None:
    """Parse the body of a message: JSON, or JSON in Base64 from older extensions. Return None for anything else."""
    text = str(body)
    try:
        if not text.lstrip("\ufeff").startswith("{"):
            text = base64.b64decode(text, validate=True).decode()
        envelope = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return envelope if isinstance(envelope, dict) else None


def parse_large_message(compressed: bytes) -> Envelope | None:
    """Parse the blob of a message that is too large for a queue: an envelope, compressed with gzip. Return None if it
    is neither."""
    try:
        envelope_json = zlib.decompressobj(wbits=_GZIP_WINDOW_BITS).decompress(compressed, _MAX_LARGE_MESSAGE_BYTES)
        return parse_envelope(envelope_json.decode())
    except (ValueError, zlib.error):
        return None


def large_message_blob_name(envelope: Envelope | None) -> str | None:
    """Return the name of the blob that has the message's content; None if the message itself has it."""
    blob_name = envelope.get("CompressedBlobName") if envelope else None
    return blob_name if isinstance(blob_name, str) and blob_name else None


def classify_envelope(identity: QueueMessageId, envelope: Envelope | None) -> VisibleMessage:
    """Return what a message does. Its kind is UNREADABLE if the envelope lacks the members that show it."""
    try:
        assert envelope is not None
        event = envelope["TaskMessage"]["Event"]
        instance_id = envelope["TaskMessage"]["OrchestrationInstance"]["InstanceId"]
        number = event["EventType"]
        function_name = event.get("Name") or ""
    except (AssertionError, KeyError, TypeError, AttributeError):
        return VisibleMessage(identity.message_id, identity.dequeue_count, MessageKind.UNREADABLE)
    is_known = isinstance(number, int) and 0 <= number < len(_EVENT_TYPES)
    event_type = _EVENT_TYPES[number] if is_known else str(number)
    return _classify_event(identity, event_type, instance_id, function_name)


def classify_blob_name(identity: QueueMessageId, blob_name: str) -> VisibleMessage:
    """Return what a large message does, as far as its blob's name shows it: `{instance id}/message-{32 digits}-{event
    type}.json.gz` (DurableTask.AzureStorage, MessageManager.GetNewLargeMessageBlobName). The name of the function is
    in the blob only."""
    match = re.fullmatch(r"(?s)(.+)/message-[0-9a-fA-F]{32}-([A-Za-z]+)\.json\.gz", blob_name)
    if match is None:
        return VisibleMessage(identity.message_id, identity.dequeue_count, MessageKind.UNREADABLE)
    instance_id, event_type = match[1], match[2]
    return _classify_event(identity, event_type, instance_id, function_name="")


def _classify_event(identity: QueueMessageId, event_type: str, instance_id: Any, function_name: Any) -> VisibleMessage:
    """Say what an event does to the instance that it is for."""
    target = _to_storable_text(instance_id)
    message_id, dequeue_count = identity.message_id, identity.dequeue_count
    if is_entity(target):
        return VisibleMessage(message_id, dequeue_count, MessageKind.ENTITY, target, entity_name(target))
    if event_type in _NON_STARTING_EVENT_TYPES:
        return VisibleMessage(message_id, dequeue_count, MessageKind.OTHER, target)
    started_function = _to_storable_text(function_name) if event_type == "ExecutionStarted" else ""
    return VisibleMessage(message_id, dequeue_count, MessageKind.START, target, started_function)


def _to_storable_text(value: Any) -> str:
    """Replace halves of surrogate pairs, which can be neither stored nor sent, and limit the length."""
    return str(value).encode("utf-8", "replace").decode()[:_MAX_NAME_LENGTH]
