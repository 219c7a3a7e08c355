"""What every test of faults needs: a place for the numbers that it measured, and a seed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FIGURES_VARIABLE = "FAULT_FIGURES"
"""The environment variable that names the file for the numbers."""

SEED_VARIABLE = "FAULT_SEED"


@pytest.fixture
def record_figures(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Prints what a test measured, with how long it has taken, and adds it as a line of JSON to the file that
    FAULT_FIGURES names."""
    began = time.monotonic()

    def keep(**numbers: float | str | None) -> None:
        line = {"test": request.node.name, **numbers, "seconds": round(time.monotonic() - began, 1)}
        with capsys.disabled():
            print("\n" + "  ".join(f"{name} {value}" for name, value in line.items()))
        if path := os.environ.get(FIGURES_VARIABLE):
            with Path(path).open("a") as kept:
                kept.write(json.dumps(line) + "\n")

    return keep


@pytest.fixture
def seed() -> int:
    """What the faults of this run are drawn from: FAULT_SEED, or 1. Requests run side by side, so a seed repeats how
    much goes wrong, and not exactly where."""
    return int(os.environ.get(SEED_VARIABLE, "1"))
