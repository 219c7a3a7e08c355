"""Runs the demo with real processes: `python -m dev.demo` deploys with the guard.

`python -m dev.demo --unguarded` also deploys without it and prints the numbers side by side. The exit code is 0 only if
every step went as expected."""

import argparse
import signal
import sys
import time

import httpx

from dev.demo import guarded_demo as guarded
from dev.demo import unguarded_demo as unguarded
from dev.demo.output import DemoResult, UnexpectedResult, format_results, report, report_heading

_INTERRUPTED_EXIT_CODE = 130


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
    # Raises KeyboardInterrupt, so that the demo stops its processes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    report("Starting the storage emulator, the state server and the sample app …")
    try:
        columns = run_all_demos() if options.unguarded else {"guarded": guarded.run_guarded_demo(versions=4)}
    except (UnexpectedResult, TimeoutError, RuntimeError, httpx.HTTPError) as error:
        report(f"\nNOT AS EXPECTED: {error}")
        return 1
    except KeyboardInterrupt:
        report("\nstopped")
        return _INTERRUPTED_EXIT_CODE
    report(f"\n{format_results(columns)}")
    report(f"\nEvery step went as expected ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
