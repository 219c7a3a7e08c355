"""Runs the benchmarks: `python -m bench` measures all groups of figures and writes them to docs/performance.

`python -m bench GROUP ...` measures only these groups and prints them."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.groups import GROUPS, Run, Scale, run_groups
from bench.machine import describe_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a group failed. A group whose program is missing is left out, which is no failure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    # argparse checks that an empty list is one of the choices.
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        choices=[*GROUPS, []],
        help=f"{', '.join(GROUPS)}; without one, all groups, written to docs/performance",
    )
    scales = parser.add_mutually_exclusive_group()
    scales.add_argument(
        "--quick", action="store_true", help="measure one small round of each group, to see that it works; print only"
    )
    scales.add_argument(
        "--full", action="store_true", help="include task hubs of 50,000 finished instances and a million events"
    )
    parser.add_argument("--show", action="store_true", help="also print the results as JSON")
    options = parser.parse_args(arguments)
    scale = Scale.QUICK if options.quick else Scale.FULL if options.full else Scale.NORMAL
    # Raises an exception, as Ctrl-C does, so that the processes of the benchmark are stopped too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory() as temporary:
        if options.groups or scale is Scale.QUICK:
            run = asyncio.run(run_groups(options.groups or list(GROUPS), Path(temporary), scale))
        else:
            run = _run_all(Path(temporary), scale)
    if options.show:
        print(json.dumps(run.sections, indent=1))
    return 1 if run.failures else 0


def _run_all(folder: Path, scale: Scale) -> Run:
    """Measure all groups, and write the results after each, so that an interrupted run loses only what is missing."""
    machine, began, at = describe_machine(), time.monotonic(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    earlier = report.read_results()

    def write_results_so_far(run: Run) -> None:
        this_run = {"at": at, "seconds": round(time.monotonic() - began), "machine": machine}
        report.write_results(report.merge_results(earlier, run, this_run))

    run = asyncio.run(run_groups(list(GROUPS), folder, scale, write_results_so_far))
    print(f"{time.monotonic() - began:.0f} s; written to {report.RESULTS_FILE} and {report.PAGE_FILE}")
    return run


if __name__ == "__main__":
    sys.exit(main())
