"""The server with a clock that a test can advance: `python -m tests.pipelines.shifted_clock_server serve …`, with the
path of the file that has the seconds in SHIFTED_CLOCK_FILE."""

import os
import sys
from pathlib import Path

from state_api.__main__ import main
from state_api.domain.instants import Instant, seconds
from state_api.storage.storage_clock import StorageClock

FILE_VARIABLE = "SHIFTED_CLOCK_FILE"
SHIFTED_CLOCK_SERVER = ("-m", "tests.pipelines.shifted_clock_server")


def shift_clock(file: Path) -> None:
    """Add the seconds in the file to the time of the storage's clock, by which the server decides."""
    unshifted, unshifted_bound = StorageClock.now, StorageClock.upper_bound

    def shift(instant: Instant) -> Instant:
        """Add the seconds that the file holds."""
        return Instant(instant + seconds(float(file.read_text())))

    StorageClock.now = lambda self: shift(unshifted(self))  # type: ignore[method-assign]
    StorageClock.upper_bound = lambda self: shift(unshifted_bound(self))  # type: ignore[method-assign]


if __name__ == "__main__":
    shift_clock(Path(os.environ[FILE_VARIABLE]))
    sys.exit(main())
