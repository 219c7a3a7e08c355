"""The main job, visibly, with real processes: `python -m dev.demo` deploys with the guard, `python -m dev.demo
--unguarded` without, and shows the numbers side by side. Ends with 0 only if every step went as it should."""

import argparse
import signal
import sys
import time

import httpx

from dev.story import guarded, unguarded
from dev.story.telling import Outcome, Unexpected, chapter, say, side_by_side

_STOPPED = 130


def all_ways() -> dict[str, Outcome]:
    """The same three versions and orders, in the two ways without the guard, and with it."""
    one_hub_each, one_hub = unguarded.play_hub_per_version(), unguarded.play_one_hub()
    chapter("WITH THE GUARD, the same orders and versions.")
    return {"hub per version": one_hub_each, "one hub": one_hub, "guarded": guarded.play(versions=3)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.demo")
    parser.add_argument("--unguarded", action="store_true", help="deploy without asking anybody, and compare")
    given = parser.parse_args()
    # Whoever ends it, what it has started ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    say("Starting the storage emulator and everything else that a story needs …")
    try:
        columns = all_ways() if given.unguarded else {"guarded": guarded.play(versions=4)}
    except (Unexpected, TimeoutError, RuntimeError, httpx.HTTPError) as error:
        say(f"\nNOT AS EXPECTED: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return _STOPPED
    say(f"\n{side_by_side(columns)}")
    say(f"\nEvery step went as it should ({time.monotonic() - began:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
