"""Runs the demo of a gradual rollout with real processes: `python -m dev.demo_rollout`.

The exit code is 0 only if the server aborted the rollout of the bad version within two steps, because its orders
failed, and completed the rollout of the good version. Each order must also end as expected of the version that accepted
it: only the defect of that version may make an order fail."""

import argparse
import time

from dev.demo.output import report, run_to_exit_code
from dev.demo_rollout.demo import Pace, run_demo
from dev.demo_rollout.results import find_problems
from dev.demo_rollout.table import format_outcome


def main() -> int:
    """Run the demo and print its numbers. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo_rollout", description=__doc__)
    parser.parse_args()
    return run_to_exit_code(_run)


def _run() -> int:
    """Run the demo and print its numbers. Returns 1 if they are not as expected."""
    began_at, pace = time.monotonic(), Pace()
    report("Starting the storage emulator, the state server and Envoy …")
    outcome = run_demo(pace)
    report(f"\n{format_outcome(outcome)}")
    problems = find_problems(outcome, pace.orders)
    for problem in problems:
        report(f"\nNOT AS EXPECTED: {problem}")
    if not problems:
        report(f"\nThe bad version was stopped, and the good one got through ({time.monotonic() - began_at:.0f} s).")
    return 1 if problems else 0
