"""Figure 2: what one question costs whether a slot may be overwritten, by how much its task hub has finished."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.hubs import DELAY_SECONDS, Costs, Hub
from bench.rates import Aim, Figure, compared, in_turns, significant

ROUNDS = 15
FLAT = Aim(most=1.1)
_WAYS = {
    "by events": Hub.by_events,
    "verified": Hub.verified,
    "status check": Hub.status_check,
    "an empty range": Hub.empty_range,
}
_WORDS = {"status check": "the status check", "an empty range": "one read of a range that holds nothing"}
"""What is no question to the server."""


async def run(hubs: Sequence[Hub], rounds: int = ROUNDS) -> dict[str, Any]:
    """Every hub is asked in every way, by turns."""
    variants = {(way, hub.size): partial(ask, hub) for way, ask in _WAYS.items() for hub in hubs}
    for ask in variants.values():
        await ask()
    samples = await in_turns(rounds, variants)
    seconds = {key: [one.seconds for one in of_variant] for key, of_variant in samples.items()}
    small, large = hubs[0].size, hubs[-1].size
    figures = [
        _against_smallest(way, seconds, small, size, None if way in _WORDS else FLAT)
        for way in _WAYS
        for size in (hub.size for hub in hubs[1:])
    ]
    figures += [
        compared(
            f"GetStagingStatus {way}, {size:,} finished",
            seconds[way, size],
            "the status check of the same hub",
            seconds["status check", size],
        )
        for way in ("by events", "verified")
        for size in (small, large)
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "delayMilliseconds": DELAY_SECONDS * 1000,
        "milliseconds": _table(samples, lambda of: significant(1000 * statistics.median(one.seconds for one in of))),
        "requests": _table(samples, lambda of: statistics.median(one.requests for one in of)),
    }


def _against_smallest(
    way: str, seconds: dict[tuple[str, int], list[float]], small: int, size: int, aim: Aim | None
) -> Figure:
    name = _WORDS.get(way, f"GetStagingStatus {way}")
    return compared(
        f"{name}, {size:,} finished", seconds[way, size], f"the same with {small:,} finished", seconds[way, small], aim
    )


def _table(samples: dict[tuple[str, int], list[Costs]], value: Any) -> dict[str, dict[str, float]]:
    """By way and size."""
    table: dict[str, dict[str, float]] = {}
    for (way, size), of_variant in samples.items():
        table.setdefault(way, {})[str(size)] = value(of_variant)
    return table
