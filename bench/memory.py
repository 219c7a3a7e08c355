"""Figure 5: the server's memory after many events of many task hubs, as a ratio to its memory with full caches."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.comparison import Aim, compare_rounds, round_significant
from bench.event_stream import DeliveriesInTurns, EventStream, min_lag_events
from bench.ingest import EVENTS_PER_DELIVERY, open_event_entry
from bench.machine import read_resident_bytes
from bench.storage import run_emulator
from state_api.storage.instance_cache import MAX_CACHED_ROWS
from state_api.storage.tables import instance_table_name

EVENTS = 160_000
EVENTS_PER_SAMPLE = 1_000
"""Events between two readings of the memory."""
_EVENTS_PER_TASK_HUB = 1_000
"""Events of each task hub, so a million events need a thousand task hubs."""
_CONCURRENT_TASK_HUBS = 70
"""Task hubs whose deliveries take turns: more than the server keeps table clients for. They are followed by as many
others. The tables of earlier task hubs are deleted, because the emulator keeps all rows in memory."""
_EVENTS_UNTIL_CACHES_FULL = 4 * MAX_CACHED_ROWS
"""Events until the caches hold as much as they ever will. The row cache is full after a start and an end of each cached
instance. After as many again, each of its rows was replaced, and there were more task hubs than table clients are kept
for."""
_MEBIBYTE = 1024**2
_WINDOW_SAMPLES = 10
"""Readings whose median is one size, at most."""
GROWTH_AIM = Aim(maximum=1.02)
SECONDS = 480.0
"""How long events are sent at most. A slow machine then records fewer events, and the figure says how many."""

ReportLine = Callable[[str], None]


async def run(
    folder: Path, events: int = EVENTS, report_line: ReportLine = lambda line: None, seconds: float = SECONDS
) -> dict[str, Any]:
    """Send new events to ever new task hubs, and read the server's memory in between. No further task hubs begin after
    `seconds`. `report_line` gets a progress line for each group of task hubs."""
    deadline = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        service = TableServiceClient.from_connection_string(storage.connection)
        await stack.enter_async_context(service)
        entry = open_event_entry(stack, storage, folder, "memory", EVENTS_PER_DELIVERY)
        pid = entry.server.process.pid
        sizes = [(0, read_resident_bytes(pid))]
        task_hub_count = events // _EVENTS_PER_TASK_HUB
        for first in range(0, task_hub_count, _CONCURRENT_TASK_HUBS):
            if first > 0 and time.monotonic() > deadline:
                break
            numbers = range(first, min(first + _CONCURRENT_TASK_HUBS, task_hub_count))
            streams = [
                EventStream(f"memory{number}", number, lag=min_lag_events(EVENTS_PER_DELIVERY)) for number in numbers
            ]
            deliveries = DeliveriesInTurns(streams)
            for _ in range(len(numbers) * _EVENTS_PER_TASK_HUB // EVENTS_PER_SAMPLE):
                await entry.send_events(EVENTS_PER_SAMPLE, deliveries)
                sizes.append((sizes[-1][0] + EVENTS_PER_SAMPLE, read_resident_bytes(pid)))
            for stream in streams:
                await service.delete_table(instance_table_name(stream.hub))
            report_line(f"  {sizes[-1][0]:,} events: {sizes[-1][1] / _MEBIBYTE:.0f} MiB")
    recorded = sizes[-1][0]
    notes = [f"{recorded:,} of {events:,} events were recorded within {seconds:.0f} s."] if recorded < events else []
    return {**build_result(sizes), "taskHubs": recorded // _EVENTS_PER_TASK_HUB, "notes": notes}


def build_result(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The section of the results. `sizes` are pairs: events so far, bytes of memory."""
    full = next(
        (number for number, (events, _) in enumerate(sizes) if events >= _EVENTS_UNTIL_CACHES_FULL), len(sizes) // 2
    )
    window = min(max(len(sizes) // 10, 1), _WINDOW_SAMPLES)
    when_full = statistics.median(size for _, size in sizes[full : full + window])
    at_the_end = statistics.median(size for _, size in sizes[-window:])
    later = sizes[full:]
    slope = statistics.linear_regression([events for events, _ in later], [size for _, size in later]).slope
    total = f"{sizes[-1][0]:,}"
    figures = [
        compare_rounds(
            f"size of the server after {total} events",
            [at_the_end],
            f"its size after {sizes[full][0]:,}",
            [when_full],
            GROWTH_AIM,
        ),
        compare_rounds(
            f"size of the server after {total} events", [at_the_end], "its size before the first", [sizes[0][1]]
        ),
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "events": sizes[-1][0],
        "mebibytes": [[events, round_significant(size / _MEBIBYTE, 4)] for events, size in downsample(sizes)],
        "bytesPerEventOnceFull": round_significant(slope),
    }


def downsample(sizes: Sequence[tuple[int, int]], max_points: int = 60) -> list[tuple[int, int]]:
    """At most about `max_points` of the pairs for a plot, the last pair included."""
    step = -(-len(sizes) // max_points)
    return [*sizes[:-1:step], sizes[-1]]
