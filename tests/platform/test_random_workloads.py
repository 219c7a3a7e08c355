"""Random workloads on the real extension: never Ready while something is active, and Ready soon after nothing is.

Seeds are new every time. A failure names the workload SEED-NUMBER, which
`python -m tests.platform.random_workloads --seed SEED --only NUMBER` runs again.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from state_api.settings import StorageSettings
from tests.platform.random_workloads import WORKLOAD_KINDS, run_workload, run_workloads
from tests.platform.workload import WorkloadReport

pytestmark = pytest.mark.anyio


def assert_no_errors(report: WorkloadReport) -> None:
    """Fail unless every answer was right: Ready only when drained, and always then."""
    assert report.wrong_ready_responses == [], "Ready while something was active, or about to start"
    assert report.late_responses == [], "not Ready although nothing was active any more"
    assert report.wrong_reasons == [], "NotReady without the reason that the storage shows"
    assert report.drained_count + report.stalled_count == report.round_count
    assert report.ready_count >= report.drained_count, "Ready once in each round that drained"
    assert report.response_count - report.ready_count >= report.assessed_count >= report.round_count, (
        "NotReady once in each round at least"
    )


@pytest.mark.parametrize("number", [0, 1], ids=["azureStorage", "managementApi"])
async def test_every_response_is_right_in_a_random_workload(
    storage: StorageSettings, tmp_path: Path, number: int
) -> None:
    report = await run_workload(storage, tmp_path, Random().getrandbits(31), number, rounds=5, round_seconds=70)
    assert_no_errors(report)
    assert report.drained_count == 5 or report.stalled_count == 1


async def test_every_response_is_right_when_the_worker_is_killed(storage: StorageSettings, tmp_path: Path) -> None:
    """Three task hubs side by side, each for one round.

    Messages that the killed worker had taken come back after a minute. A round that has not drained a few seconds later
    is stalled, because the extension hides a message that it abandons for up to 600 s. Its verdict must be what the
    storage shows (`workload.RandomWorkload._assess_stalled_round`). Ready is required only of a round that drains: on a
    busy machine all three can be stalled.
    """
    seed = Random().getrandbits(31)
    async with asyncio.TaskGroup() as group:
        workloads = [
            group.create_task(run_workload(storage, tmp_path, seed, number, rounds=1, round_seconds=70))
            for number in (2, 3, 6)
        ]
    for report in (workload.result() for workload in workloads):
        assert_no_errors(report)
        assert (report.round_count, report.worker_kill_count >= 1) == (1, True)


@pytest.mark.long
async def test_every_response_is_right_in_twenty_minutes_of_workloads(storage: StorageSettings, tmp_path: Path) -> None:
    report = await run_workloads(storage, tmp_path, Random().getrandbits(31), 20 * 60)
    assert_no_errors(report)
    assert report.round_count > len(WORKLOAD_KINDS)
    assert report.worker_kill_count > 0
    assert report.server_kill_count > 0
    assert report.lost_event_count > 0
