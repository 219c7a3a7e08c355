"""Figure 3: what it costs the storage when a pipeline waits through 60 polls."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.comparison import Figure, compare_rounds, round_significant
from bench.filled_task_hubs import BenchTaskHub
from bench.machine import cpu_seconds
from harness.storage_proxy import no_delay

POLL_COUNT = 60
_QUERIES = {
    "by events": BenchTaskHub.get_verdict_from_events,
    "verified": BenchTaskHub.get_verified_verdict,
    "status check": BenchTaskHub.run_status_check,
}
_CPU_CLOCK_SECONDS = 0.02
"""Seconds that the time of a process is exact to, with room."""


async def run(hubs: Sequence[BenchTaskHub], polls: int = POLL_COUNT) -> dict[str, Any]:
    """All polls of one way after the other, on the smallest and on the largest hub. What they cost the storage does not
    depend on the time between them, nor on that to the storage: neither is spent."""
    hubs[0].environment.proxy.before_request = no_delay
    figures: list[Figure] = []
    requests: dict[str, dict[str, int]] = {way: {} for way in _QUERIES}
    work: dict[str, dict[str, float]] = {way: {} for way in _QUERIES}
    for hub in (hubs[0], hubs[-1]):
        size = str(hub.finished_count)
        for way, ask in _QUERIES.items():
            before = cpu_seconds(hub.environment.storage.pid)
            asked = [(await ask(hub)).requests for _ in range(polls)]
            work[way][size] = max(cpu_seconds(hub.environment.storage.pid) - before, _CPU_CLOCK_SECONDS)
            # What the server does in the background meanwhile is no part of a poll.
            requests[way][size] = round(polls * statistics.median(asked))
        for way in ("by events", "verified"):
            what = f"{polls} times GetStagingStatus {way}, {hub.finished_count:,} finished"
            against = f"{polls} status checks of the same hub"
            figures += [
                compare_rounds(f"{name} of {what}", [of[way][size]], against, [of["status check"][size]])
                for name, of in (("storage requests", requests), ("processor time of the storage", work))
            ]
    return {
        "figures": [one.as_json() for one in figures],
        "requests": requests,
        "emulatorCpuSeconds": {
            way: {size: round_significant(one) for size, one in of.items()} for way, of in work.items()
        },
        "oneLongPoll": await _measure_long_poll(hubs[-1]),
    }


async def _measure_long_poll(hub: BenchTaskHub, wait_seconds: int = 5) -> dict[str, float]:
    """A pipeline that lets the server wait instead, with `wait`."""
    began = time.perf_counter()
    costs = await hub.environment.ask(f"/api/apps/{hub.app}/staging?wait={wait_seconds}")
    return {"seconds": round_significant(time.perf_counter() - began), "calls": 1, "requests": costs.requests}
