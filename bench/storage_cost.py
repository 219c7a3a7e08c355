"""The storage's processor time for a verdict, as a ratio to that for the status check. A part of figure 2."""

from collections.abc import Sequence
from typing import Any

from bench.comparison import Figure, compare_rounds, round_significant
from bench.filled_task_hubs import BenchTaskHub, delay_request
from bench.machine import read_cpu_seconds
from harness.storage_proxy import no_delay

QUERY_COUNT = 30
_QUERIES = {
    "by events": BenchTaskHub.get_verdict_from_events,
    "verified, fresh": BenchTaskHub.get_fresh_verdict,
    "status check": BenchTaskHub.run_status_check,
}
_CPU_CLOCK_SECONDS = 0.02
"""The precision of a process's processor time is 0.01 s; twice that, so that no ratio divides by zero."""


async def run(hubs: Sequence[BenchTaskHub], queries: int = QUERY_COUNT) -> dict[str, Any]:
    """Measure the processor time of the storage emulator for each query to the smallest and the largest task hub. The
    proxies add no delays meanwhile."""
    proxies = (hubs[0].environment.proxy, hubs[0].worker_proxy)
    for proxy in proxies:
        proxy.before_request = no_delay
    figures: list[Figure] = []
    seconds_by_query: dict[str, dict[str, float]] = {name: {} for name in _QUERIES}
    for hub in (hubs[0], hubs[-1]):
        size = str(hub.finished_count)
        for name, send_query in _QUERIES.items():
            before = read_cpu_seconds(hub.environment.storage.pid)
            for _ in range(queries):
                await send_query(hub)
            seconds_by_query[name][size] = max(
                read_cpu_seconds(hub.environment.storage.pid) - before, _CPU_CLOCK_SECONDS
            )
        figures += [
            compare_rounds(
                f"processor time of the storage, GetStagingStatus {name}, {hub.finished_count:,} finished, 5 active",
                [seconds_by_query[name][size]],
                "its processor time for the status check",
                [seconds_by_query["status check"][size]],
            )
            for name in ("by events", "verified, fresh")
        ]
    for proxy in proxies:
        proxy.before_request = delay_request
    return {
        "figures": [figure.as_json() for figure in figures],
        "emulatorCpuMilliseconds": {
            name: {size: round_significant(1000 * seconds / queries) for size, seconds in seconds_by_size.items()}
            for name, seconds_by_size in seconds_by_query.items()
        },
    }
