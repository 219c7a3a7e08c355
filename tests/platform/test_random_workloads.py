"""Random histories on the real extension: never Ready while something is active, and Ready soon after nothing is.

Seeds are new every time. `python -m tests.platform.random_workloads --seed SEED --only NUMBER` plays the
history SEED-NUMBER,
which every failure names, again.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from state_api.settings import StorageSettings
from tests.platform.history import WorkloadReport
from tests.platform.random_workloads import WORKLOAD_KINDS, run_workload, run_workloads

pytestmark = pytest.mark.anyio


def is_good(report: WorkloadReport) -> None:
    assert report.wrong_ready_responses == [], "Ready while something was active, or about to start"
    assert report.late_responses == [], "not Ready although nothing was active any more"
    assert report.wrong_reason == [], "NotReady without the reason that the storage shows"
    assert report.drained + report.held_up == report.round_count
    assert report.ready_count >= report.drained, "Ready once in each round that drained"
    assert report.response_count - report.ready_count >= report.judged >= report.round_count, (
        "NotReady once in each round at least"
    )


@pytest.mark.parametrize("number", [0, 1], ids=["azureStorage", "managementApi"])
async def test_every_answer_is_right_in_a_random_history(storage: StorageSettings, tmp_path: Path, number: int) -> None:
    report = await run_workload(storage, tmp_path, Random().getrandbits(31), number, rounds=5, round_seconds=70)
    is_good(report)
    assert report.drained == 5 or report.held_up == 1


async def test_every_answer_is_right_when_the_worker_is_killed(storage: StorageSettings, tmp_path: Path) -> None:
    """Three task hubs side by side, each for one round.

    Messages that the killed worker had taken come back after a minute. A round that has not drained a few seconds later
    is held up, because the extension hides a message that it gives up for up to 600 s. Its verdict must be what the
    storage shows (`history.History._judge_held_up`). Ready is required only of a round that drains: on a busy machine
    all three can be held up.
    """
    seed = Random().getrandbits(31)
    async with asyncio.TaskGroup() as side_by_side:
        histories = [
            side_by_side.create_task(run_workload(storage, tmp_path, seed, number, rounds=1, round_seconds=70))
            for number in (2, 3, 6)
        ]
    for report in (history.result() for history in histories):
        is_good(report)
        assert (report.round_count, report.worker_kills >= 1) == (1, True)


@pytest.mark.long
async def test_every_answer_is_right_in_twenty_minutes_of_histories(storage: StorageSettings, tmp_path: Path) -> None:
    report = await run_workloads(storage, tmp_path, Random().getrandbits(31), 20 * 60)
    is_good(report)
    assert report.round_count > len(WORKLOAD_KINDS)
    assert report.worker_kills > 0
    assert report.server_kills > 0
    assert report.lost_event_count > 0
