"""Random histories on the real extension: never Ready while something is active, and Ready soon after nothing is.

Seeds are new every time. `python -m tests.platform.histories --seed SEED --only NUMBER` plays the history SEED-NUMBER,
which every failure names, again.
"""

from pathlib import Path
from random import Random

import pytest

from state_api.settings import StorageSettings
from tests.platform.histories import KINDS, Report, play_for, play_one

pytestmark = pytest.mark.anyio


def is_good(report: Report) -> None:
    assert report.wrong_ready == [], "Ready while something was active"
    assert report.late == [], "not Ready although nothing was active any more"


@pytest.mark.parametrize(
    ("number", "rounds"),
    # With kills of the worker a round takes minutes: messages that it had taken come back after one minute or several.
    [(0, 5), (1, 5), pytest.param(2, 3, marks=pytest.mark.long)],
    ids=["azureStorage", "managementApi", "azureStorage-and-kills-of-the-worker"],
)
async def test_every_answer_is_right_in_a_random_history(
    storage: StorageSettings, tmp_path: Path, number: int, rounds: int
) -> None:
    report = await play_one(storage, tmp_path, Random().getrandbits(31), number, rounds=rounds)
    is_good(report)
    assert report.rounds == rounds
    assert rounds - report.leftovers <= report.ready < report.answers


@pytest.mark.long
async def test_every_answer_is_right_in_twenty_minutes_of_histories(storage: StorageSettings, tmp_path: Path) -> None:
    report = await play_for(storage, tmp_path, Random().getrandbits(31), 20 * 60)
    is_good(report)
    assert report.rounds > len(KINDS)
    assert report.worker_kills > 0
    assert report.server_kills > 0
    assert report.lost_events > 0
