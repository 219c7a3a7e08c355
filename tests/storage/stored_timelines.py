"""Compares the counters in an instance table with the fold over its instances."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from state_api.app import StateServer
from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.task_hubs.timeline import (
    TIMELINE_MINUTES,
    CounterKey,
    Timeline,
    add_up_counts,
    count_instance,
    minute_of,
)
from state_api.storage.instance_rows import instance_from_row
from state_api.storage.timeline_rows import TIMELINE_FROM, counts_from_row
from tests.storage.stored_rows import stored_rows


def this_minute() -> int:
    """The present minute by this machine's clock, which the emulator shares."""
    return minute_of(Instant(int(time.time() * TICKS_PER_SECOND)))


def fold_rows(rows: Iterable[Mapping[str, Any]]) -> Timeline:
    """The timeline that the instances among these rows count."""
    return _add_up_recent(count_instance(instance_from_row(row)) for row in rows if row["RowKey"].startswith("i|"))


def add_up_rows(rows: Iterable[Mapping[str, Any]]) -> Timeline:
    """The sums of the counter rows among these rows."""
    return _add_up_recent(counts_from_row(row) for row in rows if row["RowKey"].startswith(TIMELINE_FROM))


def _add_up_recent(parts: Iterable[Mapping[CounterKey, int]]) -> Timeline:
    """The sums of the minutes that may be shown."""
    first_minute = this_minute() - TIMELINE_MINUTES
    return Timeline({key: count for key, count in add_up_counts(parts).counts.items() if key.minute >= first_minute})


async def check_timeline(server: StateServer, hub: str) -> Timeline:
    """The stored timeline of a task hub. It must be the fold over the stored instances."""
    rows = await stored_rows(server, hub, "")
    timeline = add_up_rows(rows)
    assert timeline == fold_rows(rows)
    assert timeline.is_consistent
    return timeline
