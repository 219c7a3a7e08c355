"""What an instance looks like in its hub's table: the keys, the columns, and back."""

import secrets
from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import Instant, format_instant, parse_instant
from state_api.domain.lifecycle import Finished, Instance, RuntimeStatus, Source, Started, short_reason
from state_api.storage.keys import escape, instance_key, unescape
from state_api.storage.schema import ACTIVITY, INSTANCE, RowSchema

ACTIVE_FROM = "a|"
ACTIVE_TO = "a}"
# After the active rows: whoever reads in the order of the keys, page by page, must not read "quiet for long" first and
# then miss the row that an end has just taken away.
STAMPS = "b|"
# Stamps are written without a condition. With the schema number in the key, a server of another number cannot overwrite
# them, and finds them in the range that it reads.
BEAT = f"{STAMPS}{ACTIVITY.number}|"
BEAT_TO = "b}"
# Which look-up has closed instances last. No function's key has this escape; a server of a version that does not know
# it takes it for a beat, and settles.
CLOSED = f"{BEAT}^c"


def instance_key_of(instance_id: str) -> str:
    return f"i|{instance_key(instance_id)}"


def active_key_of(instance: Instance) -> str:
    assert instance.started is not None, "only a started instance is active"
    return f"{ACTIVE_FROM}{format_instant(instance.started.at)}|{instance_key(instance.instance_id)}"


def check_schema(row: Mapping[str, Any]) -> None:
    """Raises UnsupportedSchema for a row of a hub's table that this server does not know."""
    (ACTIVITY if row["RowKey"].startswith(STAMPS) else INSTANCE).check(row)


def _table_row(schema: RowSchema, partition: str, key: str, **properties: Any) -> dict[str, Any]:
    present = {name: value for name, value in properties.items() if value is not None}
    return {"PartitionKey": partition, "RowKey": key, **schema.stamp, **present}


def instance_row(shard: str, instance: Instance) -> dict[str, Any]:
    """The whole record. The id is kept escaped, so that no property ever holds a control character."""
    started, finished = instance.started, instance.finished
    return _table_row(
        INSTANCE,
        shard,
        instance_key_of(instance.instance_id),
        InstanceId=escape(instance.instance_id),
        Active=instance.active,
        RuntimeStatus=instance.runtime_status.value,
        StartedAt=format_instant(started.at) if started else None,
        StartedStatus=started.status.value if started else None,
        StartedName=started.function_name if started else None,
        StartedSource=started.source.value if started else None,
        ConfirmedBackend=(started.confirmed_backend or None) if started else None,
        FinishedAt=format_instant(finished.at) if finished else None,
        Outcome=finished.outcome.value if finished else None,
        Reason=finished.reason if finished else None,
        FinishedName=finished.function_name if finished else None,
        FinishedSource=finished.source.value if finished else None,
    )


def instance_from(row: Mapping[str, Any]) -> Instance:
    check_schema(row)
    started = finished = None
    if "StartedAt" in row:
        started = Started(
            parse_instant(row["StartedAt"]),
            RuntimeStatus(row["StartedStatus"]),
            row["StartedName"],
            Source(row["StartedSource"]),
            row.get("ConfirmedBackend", ""),
        )
    if "FinishedAt" in row:
        finished = Finished(
            parse_instant(row["FinishedAt"]),
            RuntimeStatus(row["Outcome"]),
            # Rows of earlier versions hold whole reasons.
            short_reason(row["Reason"]),
            row["FinishedName"],
            Source(row["FinishedSource"]),
        )
    return Instance(unescape(row["InstanceId"]), started, finished)


def beat_key_of(function_name: str) -> str:
    return BEAT + instance_key(function_name)


def beat_row(shard: str, function_name: str, last_event_at: Instant) -> dict[str, Any]:
    at = format_instant(last_event_at)
    return _table_row(ACTIVITY, shard, beat_key_of(function_name), FunctionName=function_name, LastEventAt=at)


def closed_row(shard: str) -> dict[str, Any]:
    """A mark that no other closing has."""
    never, mark = format_instant(Instant(0)), secrets.token_hex(8)
    return _table_row(ACTIVITY, shard, CLOSED, FunctionName="", LastEventAt=never, Mark=mark)


def active_row(shard: str, key: str, instance: Instance) -> dict[str, Any]:
    assert instance.started is not None, "only a started instance is active"
    return _table_row(
        INSTANCE,
        shard,
        key,
        InstanceId=escape(instance.instance_id),
        FunctionName=instance.function_name,
        RuntimeStatus=instance.runtime_status.value,
        StartedAt=format_instant(instance.started.at),
        Source=instance.source.value,
    )


def active_from(row: Mapping[str, Any]) -> Instance:
    """An active instance without what is known of its earlier generations, which a list does not show."""
    check_schema(row)
    started = Started(
        parse_instant(row["StartedAt"]), RuntimeStatus(row["RuntimeStatus"]), row["FunctionName"], Source(row["Source"])
    )
    return Instance(unescape(row["InstanceId"]), started)
