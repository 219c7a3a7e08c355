"""Runs the demo of releases side by side with real processes: `python -m dev.demo_side_by_side`.

The exit code is 0 only if every step succeeded and no order or request failed. Each order must have ended on the
release it began on, and every change of the traffic must have been quick enough."""

import argparse
import signal
import sys
import time

import httpx

from dev.demo.output import UnexpectedResult, report
from dev.demo_side_by_side.demo import Pace, run_demo
from dev.demo_side_by_side.results import find_problems
from dev.demo_side_by_side.table import format_outcome

_INTERRUPTED_EXIT_CODE = 130


def main() -> int:
    """Run the demo and print its numbers. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo_side_by_side", description=__doc__)
    parser.parse_args()
    # Raises KeyboardInterrupt, so that the demo stops its processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began_at = time.monotonic()
    report("Starting the storage emulator, the state server and Envoy …")
    try:
        outcome = run_demo(Pace())
    except (UnexpectedResult, TimeoutError, RuntimeError, httpx.HTTPError) as error:
        report(f"\nNOT AS EXPECTED: {error}")
        return 1
    except KeyboardInterrupt:
        report("\nstopped")
        return _INTERRUPTED_EXIT_CODE
    report(f"\n{format_outcome(outcome, began_at)}")
    problems = find_problems(outcome)
    for problem in problems:
        report(f"\nNOT AS EXPECTED: {problem}")
    if not problems:
        report(f"\nEvery order ended on the release it began on ({time.monotonic() - began_at:.0f} s).")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
