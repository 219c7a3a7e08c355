"""Figure 2: the cost of one request for a verdict, by the number of finished instances on the task hub."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.comparison import Aim, Figure, compare_rounds, round_significant, run_in_turns
from bench.filled_task_hubs import DELAY_SECONDS, BenchTaskHub, VerdictCost

ROUNDS = 15
GROWTH_AIM = Aim(maximum=1.1)
_QUERIES = {
    "by events": BenchTaskHub.get_verdict_from_events,
    "verified": BenchTaskHub.get_verified_verdict,
    "status check": BenchTaskHub.run_status_check,
    "an empty range": BenchTaskHub.read_empty_range,
}
_LABELS = {"status check": "the status check", "an empty range": "one read of a range that holds nothing"}
"""Labels of the queries that are not requests to the server."""


async def run(hubs: Sequence[BenchTaskHub], rounds: int = ROUNDS) -> dict[str, Any]:
    """Send every query to every task hub, in turns."""
    variants = {
        (query_name, hub.finished_count): partial(send_query, hub)
        for query_name, send_query in _QUERIES.items()
        for hub in hubs
    }
    for send_query in variants.values():
        await send_query()
    samples = await run_in_turns(rounds, variants)
    seconds = {key: [cost.seconds for cost in of_variant] for key, of_variant in samples.items()}
    smallest_size, largest_size = hubs[0].finished_count, hubs[-1].finished_count
    figures = [
        _compare_with_smallest(query_name, seconds, smallest_size, size, None if query_name in _LABELS else GROWTH_AIM)
        for query_name in _QUERIES
        for size in (hub.finished_count for hub in hubs[1:])
    ]
    figures += [
        compare_rounds(
            f"GetStagingStatus {query_name}, {size:,} finished",
            seconds[query_name, size],
            "the status check of the same hub",
            seconds["status check", size],
        )
        for query_name in ("by events", "verified")
        for size in (smallest_size, largest_size)
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "delayMilliseconds": DELAY_SECONDS * 1000,
        "milliseconds": _build_table(
            samples, lambda costs: round_significant(1000 * statistics.median(cost.seconds for cost in costs))
        ),
        "requests": _build_table(samples, lambda costs: statistics.median(cost.requests for cost in costs)),
    }


def _compare_with_smallest(
    query_name: str, seconds: dict[tuple[str, int], list[float]], smallest_size: int, size: int, aim: Aim | None
) -> Figure:
    name = _LABELS.get(query_name, f"GetStagingStatus {query_name}")
    return compare_rounds(
        f"{name}, {size:,} finished",
        seconds[query_name, size],
        f"the same with {smallest_size:,} finished",
        seconds[query_name, smallest_size],
        aim,
    )


def _build_table(
    samples: dict[tuple[str, int], list[VerdictCost]], compute_value: Callable[[list[VerdictCost]], float]
) -> dict[str, dict[str, float]]:
    """`compute_value` of the costs of each query, by number of finished instances."""
    table: dict[str, dict[str, float]] = {}
    for (query_name, size), of_variant in samples.items():
        table.setdefault(query_name, {})[str(size)] = compute_value(of_variant)
    return table
