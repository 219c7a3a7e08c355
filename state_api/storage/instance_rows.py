"""The rows of an instance table: their keys and columns, and the conversions from and to instances.

- `0|…`, only in the first shard, are the task hub's state (`task_hub_state_rows.py`) and its probes (`probe_rows.py`).
- `i|<id>` holds an instance.
- `a|<since>|<id>` exists while the instance is active.
- `b|<schema>|<function>` is the activity stamp of a function: its Timestamp is when an event last changed an instance
  of that function in the shard.
- `b|<schema>|^c` holds the correction epoch: it changes when a probe ends an instance that no event has ended.
- `d|checks`, only in the first shard, holds the delivery checks (`delivery_checks.py`).
"""

import secrets
from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.task_hubs.lifecycle import (
    EvidenceSource,
    Finished,
    Instance,
    RuntimeStatus,
    Started,
)
from state_api.storage.instance_keys import escape_instance_id, instance_key, unescape_instance_id
from state_api.storage.schema import ACTIVITY_SCHEMA, INSTANCE_SCHEMA, RowSchema

HUB_ROWS_FROM = "0|"
"""The rows of the task hub sort before the active rows, so a query from here on returns everything that a verdict
needs. A reader pages through a shard in key order, so a stored probe result is always read before the records that
are compared with it. In the other order, an event could be missing in the records that was recorded before the probe
began."""
ACTIVE_FROM = "a|"
ACTIVE_TO = "a}"
STAMPS_FROM = "b|"
"""Stamps sort after the active rows. If a reader read an old stamp first, it could then miss an active row that an end
has just removed, and the stamp that the end has written."""
STAMPS_TO = "b}"
ACTIVITY_STAMP_PREFIX = f"{STAMPS_FROM}{ACTIVITY_SCHEMA.number}|"
"""Stamps are written without a condition, so their key has the schema number: a server with another number cannot
overwrite them, and finds them in the range that it reads."""
CORRECTION_EPOCH_KEY = f"{ACTIVITY_STAMP_PREFIX}^c"
"""No function's key is `^c`, because escaping a name never gives that."""


def instance_row_key(instance_id: str) -> str:
    return f"i|{instance_key(instance_id)}"


def active_row_key(instance: Instance) -> str:
    """The key of the row that exists only while the instance is active. Active rows are in order of their start."""
    assert instance.started is not None, "only a started instance is active"
    return f"{ACTIVE_FROM}{format_instant(instance.started.at)}|{instance_key(instance.instance_id)}"


def check_schema(row: Mapping[str, Any]) -> None:
    """Raises UnsupportedSchema unless this server knows the schema of this row of an instance table."""
    (ACTIVITY_SCHEMA if row["RowKey"].startswith(STAMPS_FROM) else INSTANCE_SCHEMA).check(row)


def _table_row(schema: RowSchema, partition: str, key: str, **properties: Any) -> dict[str, Any]:
    """A row with its keys, its schema number, and the properties that are not None."""
    present = {name: value for name, value in properties.items() if value is not None}
    return {"PartitionKey": partition, "RowKey": key, **schema.schema_property, **present}


def instance_row(shard: str, instance: Instance) -> dict[str, Any]:
    """The row that holds what is recorded of an instance. Its id is escaped: no column may have a control character."""
    started, finished = instance.started, instance.finished
    return _table_row(
        INSTANCE_SCHEMA,
        shard,
        instance_row_key(instance.instance_id),
        InstanceId=escape_instance_id(instance.instance_id),
        Active=instance.active,
        RuntimeStatus=instance.runtime_status.value,
        StartedAt=format_instant(started.at) if started else None,
        StartedStatus=started.runtime_status.value if started else None,
        StartedFunctionName=started.function_name if started else None,
        StartedSource=started.source.value if started else None,
        ConfirmedBackend=(started.confirmed_backend or None) if started else None,
        FinishedAt=format_instant(finished.at) if finished else None,
        Outcome=finished.outcome.value if finished else None,
        Reason=finished.reason if finished else None,
        FinishedFunctionName=finished.function_name if finished else None,
        FinishedSource=finished.source.value if finished else None,
    )


def instance_from_row(row: Mapping[str, Any]) -> Instance:
    """The instance in a row that `instance_row` has made. Raises UnsupportedSchema."""
    check_schema(row)
    started = finished = None
    if "StartedAt" in row:
        started = Started(
            parse_instant(row["StartedAt"]),
            RuntimeStatus(row["StartedStatus"]),
            row["StartedFunctionName"],
            EvidenceSource(row["StartedSource"]),
            row.get("ConfirmedBackend", ""),
        )
    if "FinishedAt" in row:
        finished = Finished(
            parse_instant(row["FinishedAt"]),
            RuntimeStatus(row["Outcome"]),
            row["Reason"],
            row["FinishedFunctionName"],
            EvidenceSource(row["FinishedSource"]),
        )
    return Instance(unescape_instance_id(row["InstanceId"]), started, finished)


def activity_stamp_key(function_name: str) -> str:
    return ACTIVITY_STAMP_PREFIX + instance_key(function_name)


def activity_stamp_row(shard: str, function_name: str, last_event_at: Instant) -> dict[str, Any]:
    """The row that shows when an event last changed an instance of this function in the shard."""
    return _table_row(
        ACTIVITY_SCHEMA,
        shard,
        activity_stamp_key(function_name),
        FunctionName=function_name,
        LastEventAt=format_instant(last_event_at),
    )


def correction_epoch_row(shard: str) -> dict[str, Any]:
    """The row of a new correction epoch, which differs from all others: a probe has ended an instance."""
    return _table_row(ACTIVITY_SCHEMA, shard, CORRECTION_EPOCH_KEY, Epoch=secrets.token_hex(8))


def active_row(shard: str, key: str, instance: Instance) -> dict[str, Any]:
    """The row that exists while an instance is active. `key` comes from `active_row_key`."""
    assert instance.started is not None, "only a started instance is active"
    return _table_row(
        INSTANCE_SCHEMA,
        shard,
        key,
        InstanceId=escape_instance_id(instance.instance_id),
        FunctionName=instance.function_name,
        RuntimeStatus=instance.runtime_status.value,
        StartedAt=format_instant(instance.started.at),
        Source=instance.source.value,
    )


def active_instance_from_row(row: Mapping[str, Any]) -> Instance:
    """The instance in a row that `active_row` has made, without the end of an earlier generation.

    Raises UnsupportedSchema."""
    check_schema(row)
    started = Started(
        parse_instant(row["StartedAt"]),
        RuntimeStatus(row["RuntimeStatus"]),
        row["FunctionName"],
        EvidenceSource(row["Source"]),
    )
    return Instance(unescape_instance_id(row["InstanceId"]), started)
