"""Runs the benchmarks: `python -m bench` measures all figures and writes them to docs/performance.

`python -m bench FIGURE ...` measures only these figures and prints them. `python -m bench --full` adds larger hubs.
`python -m bench memory --events 1000000` and `python -m bench profile` add their section to the stored results.
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
"""Rounds of each figure; for memory, events."""
PROFILE_SECTION = "profile"


_QUICK_SIZES = (100, 200, 1000)


async def measure(
    names: Sequence[str], folder: Path, *, quick: bool = False, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """The sections of these figures by name. Measures one at a time, because two would share the machine.

    `quick` measures one round of each on small task hubs."""
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
    for figure in section["figures"]:
        aim = f"  (aim {figure['aim']}: {'met' if figure['met'] else 'MISSED'})" if "aim" in figure else ""
        print(f"  {figure['ratio']:>8g}  {figure['subject']}  /  {figure['baseline']}{aim}", flush=True)


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _merge_section(name: str, section: dict[str, Any]) -> None:
    """Add a section to the results of the last full run, with its own time and revision."""
    results = report.read_results()
    results[name] = {**section, "at": _utc_now(), "revision": describe_machine()["revision"]}
    report.write_results(results)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    figures_help = f"{', '.join(FIGURES)}, or {PROFILE_SECTION}; without one, all figures, written to docs/performance"
    # argparse checks that an empty list is one of the choices.
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", choices=[*FIGURES, PROFILE_SECTION, []], help=figures_help
    )
    parser.add_argument("--events", type=int, help="with memory: how many events the long run sends")
    parser.add_argument(
        "--quick", action="store_true", help="measure one round on small task hubs, to see that it works"
    )
    parser.add_argument("--full", action="store_true", help="all figures, with task hubs of 50,000 finished instances")
    parser.add_argument("--show", action="store_true", help="also print the results as JSON")
    options = parser.parse_args(arguments)
    if options.events is not None and options.figures != ["memory"]:
        parser.error("--events is an option of the figure memory alone")
    if PROFILE_SECTION in options.figures and options.figures != [PROFILE_SECTION]:
        parser.error(f"{PROFILE_SECTION} cannot be measured together with figures")
    # Raises an exception, as Ctrl-C does, so that the processes of the benchmark are stopped too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.events is not None:
            results = asyncio.run(memory.run(folder, options.events, print))
            _print_section("memory", results, 0)
            _merge_section("memoryLong", results)
        elif PROFILE_SECTION in options.figures:
            results = asyncio.run(profiling.run(folder))
            print(profiling.format_shares(results))
            _merge_section(PROFILE_SECTION, results)
        elif options.figures or options.quick:
            results = asyncio.run(measure(options.figures or FIGURES, folder, quick=options.quick))
        else:
            results = _run_all(folder, FULL_SIZES if options.full else SIZES)
    if options.show:
        print(json.dumps(results, indent=1))
    return 0


def _run_all(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    machine, began = describe_machine(), time.monotonic()
    sections = asyncio.run(measure(FIGURES, folder, sizes=sizes))
    kept = report.read_results() if report.RESULTS_FILE.exists() else {}
    long = {name: kept[name] for name in report.KEPT_SECTIONS if name in kept}
    results = {"at": _utc_now(), "seconds": round(time.monotonic() - began), "machine": machine, **sections, **long}
    report.write_results(results)
    print(f"{results['seconds']} s; written to {report.RESULTS_FILE} and {report.PAGE_FILE}")
    return results


if __name__ == "__main__":
    sys.exit(main())
