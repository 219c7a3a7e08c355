"""Figure 3: what it costs the storage when a pipeline waits through 60 polls."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench.hubs import Hub
from bench.machine import cpu_seconds
from bench.rates import Figure, compared, significant
from tests.proxy import at_once

POLLS = 60
_WAYS = {"by events": Hub.by_events, "verified": Hub.verified, "status check": Hub.status_check}
_TICK = 0.02
"""Seconds that the time of a process is exact to, with room."""


async def run(hubs: Sequence[Hub], polls: int = POLLS) -> dict[str, Any]:
    """All polls of one way after the other, on the smallest and on the largest hub. What they cost the storage does not
    depend on the time between them, nor on that to the storage: neither is spent."""
    hubs[0].place.proxy.before = at_once
    figures: list[Figure] = []
    requests: dict[str, dict[str, int]] = {way: {} for way in _WAYS}
    work: dict[str, dict[str, float]] = {way: {} for way in _WAYS}
    for hub in (hubs[0], hubs[-1]):
        size = str(hub.size)
        for way, ask in _WAYS.items():
            before = cpu_seconds(hub.place.storage.pid)
            asked = [(await ask(hub)).requests for _ in range(polls)]
            work[way][size] = max(cpu_seconds(hub.place.storage.pid) - before, _TICK)
            # What the server does in the background meanwhile is no part of a poll.
            requests[way][size] = round(polls * statistics.median(asked))
        for way in ("by events", "verified"):
            what = f"{polls} times GetStagingStatus {way}, {hub.size:,} finished"
            against = f"{polls} status checks of the same hub"
            figures += [
                compared(f"{name} of {what}", [of[way][size]], against, [of["status check"][size]])
                for name, of in (("storage requests", requests), ("processor time of the storage", work))
            ]
    return {
        "figures": [one.as_json() for one in figures],
        "requests": requests,
        "emulatorCpuSeconds": {way: {size: significant(one) for size, one in of.items()} for way, of in work.items()},
        "oneLongQuestion": await _held(hubs[-1]),
    }


async def _held(hub: Hub, seconds: int = 5) -> dict[str, float]:
    """A pipeline that lets the server wait instead, with `wait`."""
    began = time.perf_counter()
    costs = await hub.place.ask(f"/api/apps/{hub.app}/staging?wait={seconds}")
    return {"seconds": significant(time.perf_counter() - began), "calls": 1, "requests": costs.requests}
