"""Random histories of the platform against the real server: never Ready while something is active, always in the end.

SIMULATOR_HISTORIES says how many. A complaint tells how to replay its history.
"""

import os

import pytest

from state_api.settings import StorageSettings
from tests.simulator.judge import Stuck, Wrong
from tests.simulator.numbers import Results
from tests.simulator.runs import simulate

pytestmark = pytest.mark.anyio

HISTORIES = int(os.environ.get("SIMULATOR_HISTORIES", "40"))
_ENOUGH = 40
"""Histories in which everything that is simulated happens at least once."""


def told(results: Results) -> str:
    return "\n".join(map(str, [results.line(), *results.complaints]))


async def test_ready_is_never_wrong_and_always_comes(
    storage: StorageSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    results = await simulate(storage, range(1, HISTORIES + 1))
    with capsys.disabled():
        print(f"\n{results.line()}")
    assert not results.of(Wrong), told(results)
    assert not results.of(Stuck), told(results)
    assert results.tally["histories"] == HISTORIES
    if HISTORIES >= _ENOUGH:
        # What never happens proves nothing; and histories that events alone would judge rightly are too easy.
        assert not results.missing(), told(results)
