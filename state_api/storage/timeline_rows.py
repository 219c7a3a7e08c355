"""The rows that hold the counters of a timeline: `t|<time>|<random>`, in the shards of the instance table. A row has
counters of ten minutes, and its random part identifies the worker's row. All rows are added up when they are read, so
a worker may begin another row at any time. The rows sort after everything that a verdict reads."""

from collections.abc import Iterable, Mapping
from typing import Any

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.task_hubs.timeline import CounterKey, Minute, instant_of_minute, minute_of
from state_api.storage.schema import TIMELINE_SCHEMA
from state_api.storage.stored_json import StoredModel
from state_api.storage.tables import join_property, split_property

BUCKET_MINUTES = 10
"""Minutes of one row. A transaction writes as many rows as the minutes that it counts are spread over. Longer rows are
larger, and are written as often."""
TIMELINE_FROM = "t|"
_KEY_TIME_LENGTH = len("2026-11-20T09:00")

RowCounts = dict[str, dict[str, dict[int, int]]]
"""The counts of a row by function, by counter, and by the minute within the row. A function's name and a counter's
name are stored once, because a row is written with every transaction."""


class StoredCounts(StoredModel):
    """What a counter row holds. The names of counters are those of the domain: renaming one changes the schema."""

    counts: RowCounts


def bucket_of(minute: Minute) -> Minute:
    """The first minute of the row that counts this minute."""
    return minute - minute % BUCKET_MINUTES


def timeline_key_from(minute: Minute) -> str:
    """The least key of the rows that begin in this minute or later."""
    return TIMELINE_FROM + format_instant(instant_of_minute(minute))[:_KEY_TIME_LENGTH]


def timeline_row_key(bucket: Minute, row_id: str) -> str:
    return f"{timeline_key_from(bucket)}|{row_id}"


def timeline_row(shard: str, key: str, counts_json: str) -> dict[str, Any]:
    """The row that holds counters as JSON text."""
    return {
        "PartitionKey": shard,
        "RowKey": key,
        **TIMELINE_SCHEMA.schema_property,
        **split_property("Counts", counts_json),
    }


def counts_from_row(row: Mapping[str, Any]) -> dict[CounterKey, int]:
    """The counters in a row that `timeline_row` has made. Raises UnsupportedSchema."""
    TIMELINE_SCHEMA.check(row)
    key_time = row["RowKey"].removeprefix(TIMELINE_FROM)[:_KEY_TIME_LENGTH]
    bucket = minute_of(parse_instant(f"{key_time}:00Z"))
    return {
        CounterKey(bucket + offset, function_name, counter): count
        for function_name, counters in StoredCounts.from_json(join_property("Counts", row)).counts.items()
        for counter, by_minute in counters.items()
        for offset, count in by_minute.items()
    }


def add_counts(counts: RowCounts, changes: Iterable[tuple[CounterKey, int]]) -> None:
    """Add changes of counters to the counts of the row that has their minutes."""
    for key, change in changes:
        by_minute = counts.setdefault(key.function_name, {}).setdefault(key.counter, {})
        offset = key.minute % BUCKET_MINUTES
        by_minute[offset] = by_minute.get(offset, 0) + change
