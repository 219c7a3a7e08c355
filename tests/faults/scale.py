"""The scale of the fault tests: full, or the share in FAULT_SHARE. Continuous integration uses a small share,
which also leaves out the slowest parameters of the tests."""

import os

SCALE = float(os.environ.get("FAULT_SHARE", "1"))
IS_FULL_SCALE = SCALE >= 1


def scaled(full: int, minimum: int = 1) -> int:
    """The share of `full`, but at least `minimum`."""
    return max(round(full * min(SCALE, 1)), minimum)
