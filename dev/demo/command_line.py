"""Runs the demo with real processes: `python -m dev.demo` deploys with the guard.

`python -m dev.demo --unguarded` also deploys without it and prints the numbers side by side. The exit code is 0 only if
every step went as expected."""

import argparse
import time

from dev.demo import guarded_demo as guarded
from dev.demo import unguarded_demo as unguarded
from dev.demo.output import DemoResult, format_results, report, report_heading, run_to_exit_code


def run_all_demos() -> dict[str, DemoResult]:
    """Deploy the same three versions with the same orders: twice without the guard, then with it."""
    hub_per_version, one_hub = unguarded.run_with_hub_per_version(), unguarded.run_with_one_hub()
    report_heading("WITH THE GUARD, the same orders and versions.")
    return {"hub per version": hub_per_version, "one hub": one_hub, "guarded": guarded.run_guarded_demo(versions=3)}


def main() -> int:
    """Run the demo. Returns the exit code: 0 if every step went as expected."""
    parser = argparse.ArgumentParser(prog="python -m dev.demo")
    parser.add_argument("--unguarded", action="store_true", help="also deploy without the guard, and compare")
    options = parser.parse_args()
    return run_to_exit_code(lambda: _run(unguarded_too=options.unguarded))


def _run(*, unguarded_too: bool) -> int:
    """Run the demo and print its numbers. Raises an error if a step does not go as expected."""
    began = time.monotonic()
    report("Starting the storage emulator, the state server and the sample app …")
    columns = run_all_demos() if unguarded_too else {"guarded": guarded.run_guarded_demo(versions=4)}
    report(f"\n{format_results(columns)}")
    report(f"\nEvery step went as expected ({time.monotonic() - began:.0f} s).")
    return 0
