"""What an instance looks like in its hub's table: the keys, the columns, and back."""

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
    shorten_reason,
)
from state_api.storage.instance_keys import escape_instance_id, instance_key, unescape_instance_id
from state_api.storage.schema import ACTIVITY_SCHEMA, INSTANCE_SCHEMA, RowSchema

ACTIVE_FROM = "a|"
ACTIVE_TO = "a}"
# After the active rows: whoever reads in the order of the keys, page by page, must not read "quiet for long" first and
# then miss the row that an end has just taken away.
STAMPS_FROM = "b|"
# Stamps are written without a condition. With the schema number in the key, a server of another number cannot overwrite
# them, and finds them in the range that it reads.
ACTIVITY_STAMP_PREFIX = f"{STAMPS_FROM}{ACTIVITY_SCHEMA.number}|"
STAMPS_TO = "b}"
# Which look-up has closed instances last. No function's key has this escape; a server of a version that does not know
# it takes it for a beat, and settles.
CORRECTION_EPOCH_KEY = f"{ACTIVITY_STAMP_PREFIX}^c"


def instance_row_key(instance_id: str) -> str:
    return f"i|{instance_key(instance_id)}"


def active_row_key(instance: Instance) -> str:
    assert instance.started is not None, "only a started instance is active"
    return f"{ACTIVE_FROM}{format_instant(instance.started.at)}|{instance_key(instance.instance_id)}"


def check_schema(row: Mapping[str, Any]) -> None:
    """Raises UnsupportedSchema for a row of a hub's table that this server does not know."""
    (ACTIVITY_SCHEMA if row["RowKey"].startswith(STAMPS_FROM) else INSTANCE_SCHEMA).check(row)


def _table_row(schema: RowSchema, partition: str, key: str, **properties: Any) -> dict[str, Any]:
    present = {name: value for name, value in properties.items() if value is not None}
    return {"PartitionKey": partition, "RowKey": key, **schema.schema_property, **present}


def instance_row(shard: str, instance: Instance) -> dict[str, Any]:
    """The whole record. The id is kept escaped, so that no property ever holds a control character."""
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
            # Rows of earlier versions hold whole reasons.
            shorten_reason(row["Reason"]),
            row["FinishedFunctionName"],
            EvidenceSource(row["FinishedSource"]),
        )
    return Instance(unescape_instance_id(row["InstanceId"]), started, finished)


def activity_stamp_key(function_name: str) -> str:
    return ACTIVITY_STAMP_PREFIX + instance_key(function_name)


def activity_stamp_row(shard: str, function_name: str, last_event_at: Instant) -> dict[str, Any]:
    at = format_instant(last_event_at)
    return _table_row(
        ACTIVITY_SCHEMA, shard, activity_stamp_key(function_name), FunctionName=function_name, LastEventAt=at
    )


def correction_epoch_row(shard: str) -> dict[str, Any]:
    """A mark that no other closing has."""
    never, epoch = format_instant(Instant(0)), secrets.token_hex(8)
    return _table_row(ACTIVITY_SCHEMA, shard, CORRECTION_EPOCH_KEY, FunctionName="", LastEventAt=never, Epoch=epoch)


def active_row(shard: str, key: str, instance: Instance) -> dict[str, Any]:
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
    """An active instance without what is known of its earlier generations, which a list does not show."""
    check_schema(row)
    started = Started(
        parse_instant(row["StartedAt"]),
        RuntimeStatus(row["RuntimeStatus"]),
        row["FunctionName"],
        EvidenceSource(row["Source"]),
    )
    return Instance(unescape_instance_id(row["InstanceId"]), started)
