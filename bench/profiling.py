"""Where the server's time goes: the same loads with the server under cProfile, its own time by part of the code."""

import pstats
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.ingest import BATCH, Door, door
from bench.machine import ROOT
from bench.profiled import FILE
from bench.storage import emulator

EVENTS = {BATCH: 3000, 1: 1000}
WORDS = {BATCH: "batches", 1: "single"}
_TOP = 12

Place = tuple[str, int, str]
"""How the profiler names a function: file, line, name."""

# The first that is found in a file's name is its part.
_PARTS = (
    ("/state_api/storage/", "own: rows and transactions"),
    ("/state_api/http/", "own: HTTP"),
    ("/state_api/", "own: parsing, merging, the rest"),
    ("/azure/data/tables/", "azure-data-tables"),
    ("/azure/core/", "azure-core"),
    ("/aiohttp/", "aiohttp, yarl, multidict"),
    ("/yarl/", "aiohttp, yarl, multidict"),
    ("/multidict/", "aiohttp, yarl, multidict"),
    ("/fastapi/", "fastapi, starlette, pydantic"),
    ("/starlette/", "fastapi, starlette, pydantic"),
    ("/pydantic", "fastapi, starlette, pydantic"),
    ("/uvicorn/", "uvicorn, h11"),
    ("/h11/", "uvicorn, h11"),
    ("/email/", "email (multipart bodies of azure-core)"),
    ("/json/", "json"),
    ("/asyncio/", "asyncio"),
    ("/logging/", "logging"),
)
_OTHER = "other"


async def run(folder: Path) -> dict[str, Any]:
    """Shares of the processor time of the server, by part and by function, for batches and for single events."""
    found: dict[str, Any] = {}
    for batch, events in EVENTS.items():
        file = folder / f"{WORDS[batch]}.profile"
        async with AsyncExitStack() as stack:
            storage = stack.enter_context(emulator())
            command = ("-m", "bench.profiled")
            way_in: Door = door(stack, storage, folder, "profiled", batch, command, {FILE: str(file)})
            sample = await way_in.take(events)
        parts, functions = shares(pstats.Stats(str(file)))
        found[WORDS[batch]] = {"parts": parts, "functions": functions, "coresUsed": sample.cpu}
    return found


def shares(stats: pstats.Stats) -> tuple[dict[str, float], list[list[Any]]]:
    """Own processor time as shares: by part, and the functions with the most. What is written in C counts
    for the part that calls it."""
    by_part: dict[str, float] = defaultdict(float)
    by_function: dict[Place, float] = defaultdict(float)
    entries: Mapping[Place, Any] = stats.stats  # type: ignore[attr-defined]  # its one way to get at the numbers
    for place, (_, _, own, _, callers) in entries.items():
        # Imports happen once, and are measured by themselves.
        if "importlib" in place[0] or "_bootstrap" in place[0]:
            continue
        by_function[place] += own
        if not _is_built_in(place):
            by_part[part_of(place[0])] += own
        else:
            for caller, (_, _, own_from_there, _) in callers.items():
                by_part[_OTHER if _is_built_in(caller) else part_of(caller[0])] += own_from_there
    total = sum(by_function.values())
    parts = {part: round(own / total, 3) for part, own in sorted(by_part.items(), key=lambda one: -one[1])}
    functions = sorted(by_function.items(), key=lambda one: -one[1])[:_TOP]
    return parts, [[_shown(place), round(own / total, 3)] for place, own in functions]


def _is_built_in(place: Place) -> bool:
    return place[0] == "~"


def part_of(file: str) -> str:
    """The part of the code that a file belongs to."""
    return next((part for piece, part in _PARTS if piece in file.replace("\\", "/")), _OTHER)


def _shown(place: Place) -> str:
    file, _, name = place
    if _is_built_in(place):
        return name
    parts = Path(file).parts
    inside = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:]
    return (
        f"{'/'.join(inside)}:{name}"
        if not file.startswith(str(ROOT / "state_api"))
        else (f"{Path(file).relative_to(ROOT)}:{name}")
    )


def told(found: Mapping[str, Any]) -> str:
    """The shares as text."""
    lines: list[str] = []
    for load, one in found.items():
        lines += [f"{load}:", *(f"  {share:6.1%}  {part}" for part, share in one["parts"].items() if share >= 0.005)]
        lines += ["  of these:", *(f"    {share:6.1%}  {function}" for function, share in one["functions"])]
    return "\n".join(lines)
