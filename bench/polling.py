"""Figure 3: storage requests and storage processor time of a pipeline that polls 60 times."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.comparison import Figure, compare_rounds, round_significant
from bench.filled_task_hubs import BenchTaskHub
from bench.machine import read_cpu_seconds
from harness.storage_proxy import no_delay

POLL_COUNT = 60
_QUERIES = {
    "by events": BenchTaskHub.get_verdict_from_events,
    "verified": BenchTaskHub.get_verified_verdict,
    "status check": BenchTaskHub.run_status_check,
}
_CPU_CLOCK_SECONDS = 0.02
"""The precision of a process's processor time is 0.01 s; twice that, so that no ratio divides by zero."""


async def run(hubs: Sequence[BenchTaskHub], polls: int = POLL_COUNT) -> dict[str, Any]:
    """Poll the smallest and the largest task hub with each query, without a pause and without the proxy's delay.

    Neither changes the cost for the storage."""
    hubs[0].environment.proxy.before_request = no_delay
    figures: list[Figure] = []
    requests: dict[str, dict[str, int]] = {query_name: {} for query_name in _QUERIES}
    cpu_seconds_by_query: dict[str, dict[str, float]] = {query_name: {} for query_name in _QUERIES}
    for hub in (hubs[0], hubs[-1]):
        size = str(hub.finished_count)
        for query_name, send_query in _QUERIES.items():
            before = read_cpu_seconds(hub.environment.storage.pid)
            request_counts = [(await send_query(hub)).requests for _ in range(polls)]
            cpu_seconds_by_query[query_name][size] = max(
                read_cpu_seconds(hub.environment.storage.pid) - before, _CPU_CLOCK_SECONDS
            )
            # The median leaves out storage requests of the server's background work.
            requests[query_name][size] = round(polls * statistics.median(request_counts))
        for query_name in ("by events", "verified"):
            description = f"{polls} times GetStagingStatus {query_name}, {hub.finished_count:,} finished"
            against = f"{polls} status checks of the same hub"
            figures += [
                compare_rounds(
                    f"{name} of {description}", [costs[query_name][size]], against, [costs["status check"][size]]
                )
                for name, costs in (
                    ("storage requests", requests),
                    ("processor time of the storage", cpu_seconds_by_query),
                )
            ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "requests": requests,
        "emulatorCpuSeconds": {
            query_name: {size: round_significant(seconds) for size, seconds in of.items()}
            for query_name, of in cpu_seconds_by_query.items()
        },
        "oneLongPoll": await _measure_long_poll(hubs[-1]),
    }


async def _measure_long_poll(hub: BenchTaskHub, wait_seconds: int = 5) -> dict[str, float]:
    """The cost of one long poll, with the query parameter `wait`."""
    began = time.perf_counter()
    costs = await hub.environment.request_verdict(f"/api/apps/{hub.app}/staging?wait={wait_seconds}")
    return {"seconds": round_significant(time.perf_counter() - began), "calls": 1, "requests": costs.requests}
