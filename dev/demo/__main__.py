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
    """The same three versions and orders, in the two ways without the guard, and with it."""
    one_hub_each, one_hub = unguarded.run_with_hub_per_version(), unguarded.run_with_one_hub()
    report_heading("WITH THE GUARD, the same orders and versions.")
    return {"hub per version": one_hub_each, "one hub": one_hub, "guarded": guarded.run_guarded_demo(versions=3)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.demo")
    parser.add_argument("--unguarded", action="store_true", help="deploy without asking anybody, and compare")
    given = parser.parse_args()
    # Whoever ends it, what it has started ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    report("Starting the storage emulator and everything else that a story needs …")
    try:
        columns = run_all_demos() if given.unguarded else {"guarded": guarded.run_guarded_demo(versions=4)}
    except (UnexpectedResult, TimeoutError, RuntimeError, httpx.HTTPError) as error:
        report(f"\nNOT AS EXPECTED: {error}")
        return 1
    except KeyboardInterrupt:
        report("\nstopped")
        return _INTERRUPTED_EXIT_CODE
    report(f"\n{format_results(columns)}")
    report(f"\nEvery step went as it should ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
