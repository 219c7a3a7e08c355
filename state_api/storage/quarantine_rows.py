"""The row of an event in quarantine: its key, its columns, and the conversions from and to an event.

Events that the server could not read share one partition. Events that wait for an app to claim their task hub are in a
partition of that task hub.
"""

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.names import hub_key
from state_api.services.ports import QuarantinedEvent
from state_api.storage.schema import QUARANTINE_SCHEMA
from state_api.storage.tables import join_property, split_property

QUARANTINE_PARTITION = "quarantine"
"""The partition of events that the server could not read. It sorts before the partitions of all task hubs."""
_TASK_HUB_PARTITION_PREFIX = "waiting|"
_KEY_ORIGIN = 10**20
"""Row keys count down from this number, so that a query in key order returns the newest event first."""
MAX_EVENT_CHARACTERS = 300_000
"""Characters of an event that are kept. In UTF-16 that is well below the 1 MiB limit of an entity."""


def quarantine_partition(task_hub: str | None) -> str:
    """The partition of events that wait for this task hub, or, for None, of those that could not be parsed."""
    return QUARANTINE_PARTITION if task_hub is None else f"{_TASK_HUB_PARTITION_PREFIX}{hub_key(task_hub)}"


def first_key_before(received_before: Instant) -> str:
    """The least row key of an event that arrived before this time. All keys have the same length, so text order is
    number order."""
    return f"{min(_KEY_ORIGIN - received_before + 1, _KEY_ORIGIN - 1):020d}"


def quarantine_row(event: QuarantinedEvent) -> dict[str, Any]:
    """The row that holds an event in quarantine. Its key counts down with the time, so that a query in key order
    returns the newest event first."""
    # The random part separates the rows of equal events that arrive in one request.
    digest = hashlib.sha256(event.event.encode()).hexdigest()[:16]
    return {
        "PartitionKey": quarantine_partition(event.task_hub),
        "RowKey": f"{_KEY_ORIGIN - event.received_at:020d}|{digest}|{secrets.token_hex(4)}",
        **QUARANTINE_SCHEMA.schema_property,
        "ReceivedAt": format_instant(event.received_at),
        "Code": event.code,
        "Message": event.message,
        "EndpointType": event.endpoint_type,
        "TaskHub": event.task_hub,
        "Truncated": event.truncated or len(event.event) > MAX_EVENT_CHARACTERS,
        **split_property("Event", event.event[:MAX_EVENT_CHARACTERS]),
    }


def quarantined_event_from_row(row: Mapping[str, Any]) -> QuarantinedEvent:
    """The event in a row of the quarantine. Raises UnsupportedSchema."""
    QUARANTINE_SCHEMA.check(row)
    return QuarantinedEvent(
        received_at=parse_instant(row["ReceivedAt"]),
        code=row["Code"],
        message=row["Message"],
        endpoint_type=row["EndpointType"],
        event=join_property("Event", row),
        truncated=row["Truncated"],
        task_hub=row.get("TaskHub"),
        key=row["RowKey"],
    )
