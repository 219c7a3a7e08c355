"""Figure 2: the time of one verdict, as a ratio to the status check that Microsoft documents, by finished instances.

The task hubs are measured with active instances, after these have ended, and after a purge of all finished ones."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import storage_cost
from bench.comparison import Aim, Figure, compare_rounds, round_significant, run_in_turns
from bench.filled_task_hubs import (
    CONTROL_QUEUE_COUNT,
    DELAY_SECONDS,
    SIZES,
    BenchTaskHub,
    VerdictCost,
    fill_task_hubs,
)
from bench.storage import RawTables

ROUNDS = 15
GROWTH_AIM = Aim(maximum=1.1)
_Query = Callable[[BenchTaskHub], Awaitable[VerdictCost]]
STATUS_CHECK = "status check"
VERDICTS: Mapping[str, _Query] = {
    "by events": BenchTaskHub.get_verdict_from_events,
    "verified, cached": BenchTaskHub.get_cached_verdict,
    "verified, fresh": BenchTaskHub.get_fresh_verdict,
}
_AIMS_AGAINST_STATUS_CHECK = {
    "by events": Aim(maximum=1.0),
    "verified, cached": Aim(maximum=2.0),
    "verified, fresh": Aim(maximum=2.0),
}
_BASELINES: Mapping[str, _Query] = {
    STATUS_CHECK: BenchTaskHub.run_status_check,
    "query of the extension's table": BenchTaskHub.query_provider_table,
    "query of the server's table": BenchTaskHub.query_empty_range,
}
_LABELS = {
    STATUS_CHECK: "the status check",
    "query of the extension's table": "the status check's query, straight to the storage",
    "query of the server's table": "one query of the server's table, straight to the storage",
}
_AGAINST_STATUS_CHECK = "the status check of the same hub"
ACTIVE, DRAINED = "active", "drained"
_PHASE_WORDS = {ACTIVE: "5 active", DRAINED: "none active"}

Costs = Mapping[tuple[str, int], Sequence[VerdictCost]]
"""The costs of a query and a number of finished instances, in the order of the rounds."""


async def run(folder: Path, rounds: int = ROUNDS, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Send every query to every task hub, in turns. Raises FileNotFoundError if `durable-host` is missing."""
    async with fill_task_hubs(folder, sizes) as hubs:
        costs = {ACTIVE: await _measure(hubs, {**VERDICTS, **_BASELINES}, rounds)}
        storage_section = await storage_cost.run(hubs)
        await asyncio.gather(*(hub.end_instances() for hub in hubs))
        costs[DRAINED] = await _measure(hubs, {**VERDICTS, STATUS_CHECK: BenchTaskHub.run_status_check}, rounds)
        async with RawTables(hubs[0].environment.storage.connection) as tables:
            await hubs[-1].purge_finished_instances(tables)
        purged = await _measure([hubs[0], hubs[-1]], _queries_of_purge(), rounds)
    figures = [
        *_against_status_check(costs, (sizes[0], sizes[-1])),
        *(figure for phase in (ACTIVE, DRAINED) for figure in _growth(costs[phase], phase, sizes)),
        *_growth_after_purge(purged, sizes[0], sizes[-1]),
    ]
    return {
        "figures": [figure.as_json() for figure in figures] + storage_section.pop("figures"),
        "delayMilliseconds": DELAY_SECONDS * 1000,
        "controlQueues": CONTROL_QUEUE_COUNT,
        "milliseconds": {phase: _table(own_costs, _median_milliseconds) for phase, own_costs in costs.items()},
        "purgedMilliseconds": _table(purged, _median_milliseconds),
        "requests": {phase: _table(own_costs, _median_requests) for phase, own_costs in costs.items()},
        **storage_section,
    }


async def _measure(hubs: Sequence[BenchTaskHub], queries: Mapping[str, _Query], rounds: int) -> Costs:
    """Send each query to each task hub once a round, after one that is not counted."""
    variants = {
        (name, hub.finished_count): partial(send_query, hub) for name, send_query in queries.items() for hub in hubs
    }
    for send_query in variants.values():
        await send_query()
    return await run_in_turns(rounds, variants)


def _queries_of_purge() -> dict[str, _Query]:
    """The queries that are measured while instances are purged: one verdict, and its baseline."""
    return {"verified, fresh": VERDICTS["verified, fresh"], STATUS_CHECK: _BASELINES[STATUS_CHECK]}


def _list_seconds(costs: Costs, name: str, size: int) -> list[float]:
    return [cost.seconds for cost in costs[name, size]]


def _describe_query(name: str) -> str:
    return _LABELS.get(name, f"GetStagingStatus {name}")


def _against_status_check(costs: Mapping[str, Costs], sizes: Sequence[int]) -> list[Figure]:
    """The time of each verdict as a ratio to that of the status check of the same task hub."""
    return [
        compare_rounds(
            f"{_describe_query(name)}, {size:,} finished, {_PHASE_WORDS[phase]}",
            _list_seconds(costs[phase], name, size),
            _AGAINST_STATUS_CHECK,
            _list_seconds(costs[phase], STATUS_CHECK, size),
            _AIMS_AGAINST_STATUS_CHECK[name],
        )
        for phase in (ACTIVE, DRAINED)
        for name in VERDICTS
        for size in sizes
    ]


def _growth(costs: Costs, phase: str, sizes: Sequence[int]) -> list[Figure]:
    """The time of each query on the larger task hubs, as a multiple of its time on the smallest."""
    names = dict.fromkeys(name for name, _ in costs)
    return [
        compare_rounds(
            f"{_describe_query(name)}, {size:,} finished, {_PHASE_WORDS[phase]}",
            _list_seconds(costs, name, size),
            f"the same with {sizes[0]:,} finished",
            _list_seconds(costs, name, sizes[0]),
            GROWTH_AIM if name in VERDICTS else None,
        )
        for name in names
        for size in sizes[1:]
    ]


def _growth_after_purge(costs: Costs, smallest: int, largest: int) -> list[Figure]:
    """The time with purged instances as a ratio to the time with few instances, of which none is purged."""
    return [
        compare_rounds(
            f"{_describe_query(name)}, {largest:,} finished and purged",
            _list_seconds(costs, name, largest),
            f"the same with {smallest:,} finished, none purged",
            _list_seconds(costs, name, smallest),
            GROWTH_AIM if name in VERDICTS else None,
        )
        for name in _queries_of_purge()
    ]


def _median_milliseconds(costs: Sequence[VerdictCost]) -> float:
    return round_significant(1000 * statistics.median(cost.seconds for cost in costs))


def _median_requests(costs: Sequence[VerdictCost]) -> float:
    """The median leaves out what the server's background work adds to single rounds."""
    return statistics.median(cost.requests for cost in costs)


def _table(costs: Costs, value: Callable[[Sequence[VerdictCost]], float]) -> dict[str, dict[str, float]]:
    """A value for each query and number of finished instances."""
    table: dict[str, dict[str, float]] = {}
    for (name, size), of_query in costs.items():
        table.setdefault(name, {})[str(size)] = value(of_query)
    return table
