"""How much the fault tests do: all of it, or the share of it that FAULT_SHARE says, as in continuous integration, where
it must not take long. The tests are the same; what takes longest of them is left out there."""

import os

SHARE = float(os.environ.get("FAULT_SHARE", "1"))
WHOLE = SHARE >= 1


def part(whole: int, least: int = 1) -> int:
    """This share of so many, and at least so many."""
    return max(round(whole * min(SHARE, 1)), least)
