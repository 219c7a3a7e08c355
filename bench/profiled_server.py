"""Runs the server under cProfile: `python -m bench.profiled_server serve …`. BENCH_PROFILE names the file to write."""

import cProfile
import os
import sys
import time

from state_api.__main__ import main

PROFILE_FILE_VARIABLE = "BENCH_PROFILE"

if __name__ == "__main__":
    # Processor time: neither waiting for the storage nor for a busy machine is work.
    profiler = cProfile.Profile(time.process_time)
    try:
        code = profiler.runcall(main)
    finally:
        profiler.dump_stats(os.environ[PROFILE_FILE_VARIABLE])
    sys.exit(code)
