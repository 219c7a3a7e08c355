"""Servers are killed, restarted and paused while events stream in and others ask. What they did not acknowledge comes
again, at whichever server there is; what they did acknowledge is there, and no verdict is wrong meanwhile."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from state_api.settings import StorageSettings
from tests.faults.fault_scenario import run_fault_scenario
from tests.faults.publisher import Publisher
from tests.faults.scale import scaled
from tests.faults.server_group import run_servers

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

EVENTS = scaled(4_000)
PAUSE = scaled(30, minimum=10)


async def test_a_server_that_is_killed_again_and_again_loses_nothing(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng = random.Random(11)
    with run_servers(storage, tmp_path) as group:

        async def killing(publisher: Publisher) -> None:
            for share in sorted(rng.uniform(0.05, 0.95) for _ in range(scaled(5, minimum=3))):
                await publisher.wait_for_share(share)
                group.kill(0)
                await asyncio.sleep(rng.uniform(0, 0.5))
                await group.restart(0)

        await run_fault_scenario(group, Publisher(group.addresses, seed=11), EVENTS, killing, record_figures)


async def test_two_servers_that_are_killed_in_turn_lose_nothing(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng = random.Random(12)
    with run_servers(storage, tmp_path, 2) as group:

        async def killing(publisher: Publisher) -> None:
            for number, share in enumerate(sorted(rng.uniform(0.05, 0.95) for _ in range(4))):
                await publisher.wait_for_share(share)
                group.kill(number % 2)
                await asyncio.sleep(rng.uniform(0, 0.5))
                await group.restart(number % 2)

        await run_fault_scenario(group, Publisher(group.addresses, seed=12), EVENTS, killing, record_figures)


async def test_a_server_that_is_paused_and_goes_on_does_no_harm(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    """It stops in the middle of writes, and wakes up when all that it was about to write was written by the other, and
    more. The publisher waits for an answer for a shorter time than the pause, so that it tries at the other."""
    with run_servers(storage, tmp_path, 2) as group:

        async def pausing(publisher: Publisher) -> None:
            await publisher.wait_for_share(0.1)
            group.pause(0)
            await asyncio.sleep(PAUSE)
            group.resume(0)

        # Slow enough that the stream goes on when the pause ends.
        publisher = Publisher(group.addresses, seed=13, timeout=5, per_second=EVENTS / (PAUSE + 10))
        await run_fault_scenario(group, publisher, EVENTS, pausing, record_figures)
        assert publisher.retried["TimeoutError"] + publisher.retried["ServerTimeoutError"] > 0
