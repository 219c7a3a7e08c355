"""Random histories of the platform against the real server: never Ready while something is active, always in the end.

SIMULATOR_HISTORIES is the number of histories. The message of a failure says how to replay its history.
"""

import os

import pytest

from state_api.settings import StorageSettings
from tests.simulator.results import SimulationResults
from tests.simulator.runner import run_simulations
from tests.simulator.verdict_checker import NeverReady, WrongVerdict

pytestmark = pytest.mark.anyio

HISTORIES = int(os.environ.get("SIMULATOR_HISTORIES", "40"))
_HISTORIES_THAT_COVER_ALL = 40
"""Number of histories in which every simulated case occurs at least once."""


def describe_results(results: SimulationResults) -> str:
    """The summary of a run and its failures, for the message of a failed test."""
    return "\n".join(map(str, [results.summary_line(), *results.failures]))


async def test_ready_is_never_wrong_and_always_comes(
    storage: StorageSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    results = await run_simulations(storage, range(1, HISTORIES + 1))
    with capsys.disabled():
        print(f"\n{results.summary_line()}")
    assert not results.failures_of(WrongVerdict), describe_results(results)
    assert not results.failures_of(NeverReady), describe_results(results)
    assert results.tally["histories"] == HISTORIES
    if HISTORIES >= _HISTORIES_THAT_COVER_ALL:
        # What never happens proves nothing; and histories that events alone would judge rightly are too easy.
        assert not results.missing_cases(), describe_results(results)
