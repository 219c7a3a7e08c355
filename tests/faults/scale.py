"""How much the fault tests do: all of it, or the share of it that FAULT_SHARE says, as in continuous integration, where
it must not take long. The tests are the same; what takes longest of them is left out there."""

import os

SCALE = float(os.environ.get("FAULT_SHARE", "1"))
IS_FULL_SCALE = SCALE >= 1


def scaled(full: int, minimum: int = 1) -> int:
    """This share of so many, and at least so many."""
    return max(round(full * min(SCALE, 1)), minimum)
