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

from bench import cold_start, ingest, memory, profiling, readiness, report, shards, visibility, waiting
from bench.hubs import FULL_SIZES, SIZES, Hub, filled_hubs
from bench.machine import describe

FIGURES = ("ingest", "visibility", "readiness", "waiting", "memory", "coldStart", "shards")
_FROM_HUBS = {"readiness": readiness.run, "waiting": waiting.run}
_ALONE: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "ingest": ingest.run,
    "visibility": visibility.run,
    "memory": memory.run,
    "coldStart": cold_start.run,
    "shards": shards.run,
}
_QUICK = {"ingest": 1, "visibility": 1, "memory": 5_000, "coldStart": 1, "shards": 1}
"""Rounds, and events."""
PROFILE = "profile"


_QUICK_SIZES = (100, 200, 1000)


async def measure(
    names: Sequence[str], folder: Path, quick: bool = False, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """These figures, one after the other: two at once would share the machine. `quick` is a round of each."""
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        hubs: list[Hub] = []
        for name in names:
            began = time.monotonic()
            if name in _FROM_HUBS:
                hubs = hubs or await stack.enter_async_context(filled_hubs(folder, _QUICK_SIZES if quick else sizes))
                results[name] = await _FROM_HUBS[name](hubs, *([5] if quick else []))
            else:
                results[name] = await _ALONE[name](folder, *([_QUICK[name]] if quick else []))
            _tell(name, results[name], time.monotonic() - began)
    return results


def _tell(name: str, section: dict[str, Any], seconds: float) -> None:
    print(f"{name} ({seconds:.0f} s)")
    for one in section["figures"]:
        aim = f"  (aim {one['aim']}: {'met' if one['met'] else 'MISSED'})" if "aim" in one else ""
        print(f"  {one['ratio']:>8g}  {one['what']}  /  {one['against']}{aim}", flush=True)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _beside(name: str, section: dict[str, Any]) -> None:
    """Put a section beside those of the last whole run, saying when it was measured itself."""
    results = report.read()
    results[name] = {**section, "at": _now(), "revision": describe()["revision"]}
    report.write(results)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = f"which of {', '.join(FIGURES)}, or {PROFILE}; none means all figures, written to docs/performance"
    # An empty list is checked as one of the choices.
    parser.add_argument("figures", nargs="*", metavar="FIGURE", choices=[*FIGURES, PROFILE, []], help=known)
    parser.add_argument("--events", type=int, help="with memory: the long run, of so many events")
    parser.add_argument(
        "--quick", action="store_true", help="one round on small task hubs, to see that all of it works"
    )
    parser.add_argument("--full", action="store_true", help="all figures, with task hubs of 50,000 finished instances")
    parser.add_argument("--show", action="store_true", help="also print all that is kept, as JSON")
    given = parser.parse_args(arguments)
    if given.events is not None and given.figures != ["memory"]:
        parser.error("--events goes with memory alone")
    if PROFILE in given.figures and given.figures != [PROFILE]:
        parser.error(f"{PROFILE} goes alone")
    # As Ctrl-C does: by an exception, so that what was started is stopped too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if given.events is not None:
            found = asyncio.run(memory.run(folder, given.events, print))
            _tell("memory", found, 0)
            _beside("memoryLong", found)
        elif PROFILE in given.figures:
            found = asyncio.run(profiling.run(folder))
            print(profiling.told(found))
            _beside(PROFILE, found)
        elif given.figures or given.quick:
            found = asyncio.run(measure(given.figures or FIGURES, folder, given.quick))
        else:
            found = _all(folder, FULL_SIZES if given.full else SIZES)
    if given.show:
        print(json.dumps(found, indent=1))
    return 0


def _all(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    machine, began = describe(), time.monotonic()
    found = asyncio.run(measure(FIGURES, folder, sizes=sizes))
    kept = report.read() if report.RESULTS.exists() else {}
    long = {name: kept[name] for name in report.LONG if name in kept}
    results = {"at": _now(), "seconds": round(time.monotonic() - began), "machine": machine, **found, **long}
    report.write(results)
    print(f"{results['seconds']} s; written to {report.RESULTS} and {report.PAGE}")
    return results


if __name__ == "__main__":
    sys.exit(main())
