"""The server's processor time by part of the code, measured with cProfile under the loads of the ingest figure."""

import pstats
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.ingest import EVENTS_PER_DELIVERY, EventEntry, open_event_entry
from bench.machine import ROOT
from bench.profiled_server import PROFILE_FILE_VARIABLE
from bench.storage import run_emulator

EVENTS_PER_LOAD = {EVENTS_PER_DELIVERY: 3000, 1: 1000}
LOAD_NAMES = {EVENTS_PER_DELIVERY: "batches", 1: "single"}
_LISTED_FUNCTIONS = 12

ProfiledFunction = tuple[str, int, str]
"""How the profiler names a function: file, line, name."""

# A file belongs to the first entry whose path is a part of its own.
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
_OTHER_PART = "other"


async def run(folder: Path) -> dict[str, Any]:
    """Shares of the server's processor time, by part and by function, for batches and for single events."""
    shares_by_load: dict[str, Any] = {}
    for batch_size, events in EVENTS_PER_LOAD.items():
        file = folder / f"{LOAD_NAMES[batch_size]}.profile"
        async with AsyncExitStack() as stack:
            storage = stack.enter_context(run_emulator())
            command = ("-m", "bench.profiled_server")
            entry: EventEntry = open_event_entry(
                stack,
                storage,
                folder,
                "profiled",
                batch_size,
                command=command,
                extra_settings={PROFILE_FILE_VARIABLE: str(file)},
            )
            sample = await entry.send_events(events)
        parts, functions = profile_shares(pstats.Stats(str(file)))
        shares_by_load[LOAD_NAMES[batch_size]] = {
            "parts": parts,
            "functions": functions,
            "coresUsed": sample.cores_used,
        }
    return shares_by_load


def profile_shares(stats: pstats.Stats) -> tuple[dict[str, float], list[list[Any]]]:
    """Shares of the processor time: of each part, and of the functions with the most.

    The time of a built-in function counts for the part that calls it."""
    by_part: dict[str, float] = defaultdict(float)
    by_function: dict[ProfiledFunction, float] = defaultdict(float)
    entries: Mapping[ProfiledFunction, Any] = stats.stats  # type: ignore[attr-defined]  # pstats has no public access to its numbers
    for function, (_, _, own, _, callers) in entries.items():
        # The cold start figure measures imports.
        if "importlib" in function[0] or "_bootstrap" in function[0]:
            continue
        by_function[function] += own
        if not _is_built_in(function):
            by_part[find_part(function[0])] += own
        else:
            for caller, (_, _, own_from_there, _) in callers.items():
                by_part[_OTHER_PART if _is_built_in(caller) else find_part(caller[0])] += own_from_there
    total = sum(by_function.values())
    parts = {part: round(own / total, 3) for part, own in sorted(by_part.items(), key=lambda entry: -entry[1])}
    functions = sorted(by_function.items(), key=lambda entry: -entry[1])[:_LISTED_FUNCTIONS]
    return parts, [[_format_function(function), round(own / total, 3)] for function, own in functions]


def _is_built_in(function: ProfiledFunction) -> bool:
    """Whether a function of the profile is built into Python: cProfile gives such functions the file name `~`."""
    return function[0] == "~"


def find_part(file: str) -> str:
    """The part of the code that a file belongs to."""
    return next((part for path_piece, part in _PARTS if path_piece in file.replace("\\", "/")), _OTHER_PART)


def _format_function(function: ProfiledFunction) -> str:
    """The name of a function, with its file relative to the repository or to the installed packages."""
    file, _, name = function
    if _is_built_in(function):
        return name
    parts = Path(file).parts
    inside = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:]
    return (
        f"{'/'.join(inside)}:{name}"
        if not file.startswith(str(ROOT / "state_api"))
        else (f"{Path(file).relative_to(ROOT)}:{name}")
    )


def format_shares(shares_by_load: Mapping[str, Any]) -> str:
    """The shares as text. Parts below half a percent are left out."""
    lines: list[str] = []
    for load, shares in shares_by_load.items():
        lines += [f"{load}:", *(f"  {share:6.1%}  {part}" for part, share in shares["parts"].items() if share >= 0.005)]
        lines += ["  of these:", *(f"    {share:6.1%}  {function}" for function, share in shares["functions"])]
    return "\n".join(lines)
