"""Runs the demo of releases side by side with real processes: `python -m dev.demo_side_by_side`.

The exit code is 0 only if every step succeeded and no order or request failed. Each order must have ended on the
release it began on, and every change of the traffic must have been quick enough."""

import argparse
import time

from dev.demo.output import report, run_to_exit_code
from dev.demo_side_by_side.demo import Pace, run_demo
from dev.demo_side_by_side.results import find_problems
from dev.demo_side_by_side.table import format_outcome


def main() -> int:
    """Run the demo and print its numbers. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo_side_by_side", description=__doc__)
    parser.parse_args()
    return run_to_exit_code(_run)


def _run() -> int:
    """Run the demo and print its numbers. Returns 1 if they are not as expected."""
    began_at = time.monotonic()
    report("Starting the storage emulator, the state server and Envoy …")
    outcome = run_demo(Pace())
    report(f"\n{format_outcome(outcome, began_at)}")
    problems = find_problems(outcome)
    for problem in problems:
        report(f"\nNOT AS EXPECTED: {problem}")
    if not problems:
        report(f"\nEvery order ended on the release it began on ({time.monotonic() - began_at:.0f} s).")
    return 1 if problems else 0
