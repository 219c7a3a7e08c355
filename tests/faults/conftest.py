"""Fixtures of all fault tests: a recorder of measurements, and the seed."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FIGURES_VARIABLE = "FAULT_FIGURES"
"""The environment variable with the path of the file for measurements."""

SEED_VARIABLE = "FAULT_SEED"


@pytest.fixture
def record_figures(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """A function that prints measurements of the test and its duration.

    It also appends them as a line of JSON to the file that FAULT_FIGURES names.
    """
    began_at = time.monotonic()

    def record_line(**numbers: float | str | None) -> None:
        """Print the figures of a test, and append them to the file that the environment names."""
        line = {"test": request.node.name, **numbers, "seconds": round(time.monotonic() - began_at, 1)}
        with capsys.disabled():
            print("\n" + "  ".join(f"{name} {value}" for name, value in line.items()))
        if path := os.environ.get(FIGURES_VARIABLE):
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return record_line


@pytest.fixture
def seed() -> int:
    """The seed of the random faults: FAULT_SEED, or 1.

    Requests run concurrently, so a seed determines how many requests fail, but not which.
    """
    return int(os.environ.get(SEED_VARIABLE, "1"))
