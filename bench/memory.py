"""Figure 5: whether the server keeps its size while events go through it."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.comparison import Aim, compare_rounds, round_significant
from bench.ingest import EVENTS_PER_DELIVERY, EventEntry, create_event_stream, open_event_entry
from bench.machine import resident_bytes
from bench.storage import run_emulator
from state_api.storage.group_commit import MAX_CACHED_ROWS
from state_api.storage.tables import instance_table_name

EVENTS = 80_000
EVENTS_PER_SAMPLE = 1_000
"""Events between two looks at the size."""
_EVENTS_PER_TASK_HUB = 5_000
"""The events are spread over task hubs, one after the other, as deployments do. The tables of those that are done with
are deleted: the emulator gets slower with every row that it holds."""
_EVENTS_UNTIL_CACHE_FULL = 2 * MAX_CACHED_ROWS
"""Events, a start and an end of each instance, until the server remembers as many rows as it ever will."""
_MEBIBYTE = 1024**2
GROWTH_AIM = Aim(maximum=1.05)

ReportLine = Callable[[str], None]


async def run(folder: Path, events: int = EVENTS, report_line: ReportLine = lambda line: None) -> dict[str, Any]:
    """Send so many events, each of them new, and look at the server's size in between."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        service = TableServiceClient.from_connection_string(storage.connection)
        await stack.enter_async_context(service)
        way_in = open_event_entry(stack, storage, folder, "memory0", EVENTS_PER_DELIVERY)
        pid = way_in.server.process.pid
        sizes = [(0, resident_bytes(pid))]
        for hub in range(events // _EVENTS_PER_TASK_HUB):
            way_in.stream = create_event_stream(f"memory{hub}", EVENTS_PER_DELIVERY, seed=hub)
            for _ in range(_EVENTS_PER_TASK_HUB // EVENTS_PER_SAMPLE):
                await _send_step(way_in)
                sizes.append((sizes[-1][0] + EVENTS_PER_SAMPLE, resident_bytes(pid)))
            await service.delete_table(instance_table_name(f"memory{hub}"))
            report_line(f"  {sizes[-1][0]:,} events: {sizes[-1][1] / _MEBIBYTE:.0f} MiB")
    return build_result(sizes)


async def _send_step(way_in: EventEntry) -> None:
    await way_in.send_events(EVENTS_PER_SAMPLE)


def build_result(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """`sizes` are pairs of events so far and bytes."""
    full = next((number for number, (at, _) in enumerate(sizes) if at >= _EVENTS_UNTIL_CACHE_FULL), len(sizes) // 2)
    window = max(len(sizes) // 10, 1)
    when_full = statistics.median(size for _, size in sizes[full : full + window])
    at_the_end = statistics.median(size for _, size in sizes[-window:])
    later = sizes[full:]
    slope = statistics.linear_regression([at for at, _ in later], [size for _, size in later]).slope
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
        "figures": [one.as_json() for one in figures],
        "events": sizes[-1][0],
        "mebibytes": [[at, round_significant(size / _MEBIBYTE, 4)] for at, size in downsample(sizes)],
        "bytesPerEventOnceFull": round_significant(slope),
    }


def downsample(sizes: Sequence[tuple[int, int]], max_points: int = 60) -> list[tuple[int, int]]:
    """A sample of these for a plot, with the last one."""
    step = -(-len(sizes) // max_points)
    return [*sizes[:-1:step], sizes[-1]]
