"""`python -m bench`: all figures, written to docs/performance. With names of figures, only these, and only shown.

`python -m bench --full` has larger task hubs, too. `python -m bench memory --events 1000000` and
`python -m bench profile` take longer, or are no figures; each is written beside what was there.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import cold_start, ingest, memory, profiling, readiness, report, shards, visibility
from bench import polling as waiting
from bench.filled_task_hubs import FULL_SIZES, SIZES, BenchTaskHub, fill_task_hubs
from bench.machine import describe_machine

FIGURES = ("ingest", "visibility", "readiness", "waiting", "memory", "coldStart", "shards")
_TASK_HUB_FIGURES = {"readiness": readiness.run, "waiting": waiting.run}
_STANDALONE_FIGURES: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "ingest": ingest.run,
    "visibility": visibility.run,
    "memory": memory.run,
    "coldStart": cold_start.run,
    "shards": shards.run,
}
_QUICK_AMOUNTS = {"ingest": 1, "visibility": 1, "memory": 5_000, "coldStart": 1, "shards": 1}
"""Rounds, and events."""
PROFILE_SECTION = "profile"


_QUICK_SIZES = (100, 200, 1000)


async def measure(
    names: Sequence[str], folder: Path, quick: bool = False, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """These figures, one after the other: two at once would share the machine. `quick` is a round of each."""
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        hubs: list[BenchTaskHub] = []
        for name in names:
            began = time.monotonic()
            if name in _TASK_HUB_FIGURES:
                hubs = hubs or await stack.enter_async_context(fill_task_hubs(folder, _QUICK_SIZES if quick else sizes))
                results[name] = await _TASK_HUB_FIGURES[name](hubs, *([5] if quick else []))
            else:
                results[name] = await _STANDALONE_FIGURES[name](folder, *([_QUICK_AMOUNTS[name]] if quick else []))
            _print_section(name, results[name], time.monotonic() - began)
    return results


def _print_section(name: str, section: dict[str, Any], seconds: float) -> None:
    print(f"{name} ({seconds:.0f} s)")
    for one in section["figures"]:
        aim = f"  (aim {one['aim']}: {'met' if one['met'] else 'MISSED'})" if "aim" in one else ""
        print(f"  {one['ratio']:>8g}  {one['what']}  /  {one['against']}{aim}", flush=True)


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _merge_section(name: str, section: dict[str, Any]) -> None:
    """Put a section beside those of the last whole run, saying when it was measured itself."""
    results = report.read_results()
    results[name] = {**section, "at": _utc_now(), "revision": describe_machine()["revision"]}
    report.write_results(results)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = f"which of {', '.join(FIGURES)}, or {PROFILE_SECTION}; none means all figures, written to docs/performance"
    # An empty list is checked as one of the choices.
    parser.add_argument("figures", nargs="*", metavar="FIGURE", choices=[*FIGURES, PROFILE_SECTION, []], help=known)
    parser.add_argument("--events", type=int, help="with memory: the long run, of so many events")
    parser.add_argument(
        "--quick", action="store_true", help="one round on small task hubs, to see that all of it works"
    )
    parser.add_argument("--full", action="store_true", help="all figures, with task hubs of 50,000 finished instances")
    parser.add_argument("--show", action="store_true", help="also print all that is kept, as JSON")
    given = parser.parse_args(arguments)
    if given.events is not None and given.figures != ["memory"]:
        parser.error("--events goes with memory alone")
    if PROFILE_SECTION in given.figures and given.figures != [PROFILE_SECTION]:
        parser.error(f"{PROFILE_SECTION} goes alone")
    # As Ctrl-C does: by an exception, so that what was started is stopped too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.events is not None:
            found = asyncio.run(memory.run(folder, given.events, print))
            _print_section("memory", found, 0)
            _merge_section("memoryLong", found)
        elif PROFILE_SECTION in given.figures:
            found = asyncio.run(profiling.run(folder))
            print(profiling.format_shares(found))
            _merge_section(PROFILE_SECTION, found)
        elif given.figures or given.quick:
            found = asyncio.run(measure(given.figures or FIGURES, folder, given.quick))
        else:
            found = _run_all(folder, FULL_SIZES if given.full else SIZES)
    if given.show:
        print(json.dumps(found, indent=1))
    return 0


def _run_all(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    machine, began = describe_machine(), time.monotonic()
    found = asyncio.run(measure(FIGURES, folder, sizes=sizes))
    kept = report.read_results() if report.RESULTS_FILE.exists() else {}
    long = {name: kept[name] for name in report.KEPT_SECTIONS if name in kept}
    results = {"at": _utc_now(), "seconds": round(time.monotonic() - began), "machine": machine, **found, **long}
    report.write_results(results)
    print(f"{results['seconds']} s; written to {report.RESULTS_FILE} and {report.PAGE_FILE}")
    return results


if __name__ == "__main__":
    sys.exit(main())
