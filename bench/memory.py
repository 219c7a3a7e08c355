"""Figure 5: whether the server keeps its size while events go through it."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.ingest import BATCH, Door, door, stream
from bench.machine import resident_bytes
from bench.rates import Aim, compared, significant
from bench.storage import emulator
from state_api.storage.commits import REMEMBERED
from state_api.storage.tables import instance_table

EVENTS = 80_000
STEP = 1_000
"""Events between two looks at the size."""
_EVENTS_A_HUB = 5_000
"""The events are spread over task hubs, one after the other, as deployments do. The tables of those that are done with
are deleted: the emulator gets slower with every row that it holds."""
_FULL = 2 * REMEMBERED
"""Events, a start and an end of each instance, until the server remembers as many rows as it ever will."""
_MEBIBYTE = 1024**2
FLAT = Aim(most=1.05)

Tell = Callable[[str], None]


async def run(folder: Path, events: int = EVENTS, tell: Tell = lambda line: None) -> dict[str, Any]:
    """Send so many events, each of them new, and look at the server's size in between."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(emulator())
        service = TableServiceClient.from_connection_string(storage.connection)
        await stack.enter_async_context(service)
        way_in = door(stack, storage, folder, "memory0", BATCH)
        pid = way_in.server.process.pid
        sizes = [(0, resident_bytes(pid))]
        for hub in range(events // _EVENTS_A_HUB):
            way_in.stream = stream(f"memory{hub}", BATCH, seed=hub)
            for _ in range(_EVENTS_A_HUB // STEP):
                await _send(way_in)
                sizes.append((sizes[-1][0] + STEP, resident_bytes(pid)))
            await service.delete_table(instance_table(f"memory{hub}"))
            tell(f"  {sizes[-1][0]:,} events: {sizes[-1][1] / _MEBIBYTE:.0f} MiB")
    return result(sizes)


async def _send(way_in: Door) -> None:
    await way_in.take(STEP)


def result(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """`sizes` are pairs of events so far and bytes."""
    full = next((number for number, (at, _) in enumerate(sizes) if at >= _FULL), len(sizes) // 2)
    window = max(len(sizes) // 10, 1)
    when_full = statistics.median(size for _, size in sizes[full : full + window])
    at_the_end = statistics.median(size for _, size in sizes[-window:])
    later = sizes[full:]
    slope = statistics.linear_regression([at for at, _ in later], [size for _, size in later]).slope
    total = f"{sizes[-1][0]:,}"
    figures = [
        compared(
            f"size of the server after {total} events",
            [at_the_end],
            f"its size after {sizes[full][0]:,}",
            [when_full],
            FLAT,
        ),
        compared(f"size of the server after {total} events", [at_the_end], "its size before the first", [sizes[0][1]]),
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "events": sizes[-1][0],
        "mebibytes": [[at, significant(size / _MEBIBYTE, 4)] for at, size in thinned(sizes)],
        "bytesAnEventFromThenOn": significant(slope),
    }


def thinned(sizes: Sequence[tuple[int, int]], most: int = 60) -> list[tuple[int, int]]:
    """A sample of these for a plot, with the last one."""
    step = -(-len(sizes) // most)
    return [*sizes[:-1:step], sizes[-1]]
