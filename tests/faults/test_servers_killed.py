"""Servers are killed, restarted and paused while events are published and verdicts are polled. No acknowledged event is
lost, and no verdict is wrong."""

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
PAUSE_SECONDS = scaled(30, minimum=10)


async def test_no_event_is_lost_when_a_server_is_killed_repeatedly(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng = random.Random(11)
    with run_servers(storage, tmp_path) as group:

        async def kill_servers(publisher: Publisher) -> None:
            """Kill the server at random moments while events are published, and start it again."""
            for share in sorted(rng.uniform(0.05, 0.95) for _ in range(scaled(5, minimum=3))):
                await publisher.wait_for_share(share)
                group.kill(0)
                await asyncio.sleep(rng.uniform(0, 0.5))
                await group.restart(0)

        await run_fault_scenario(
            group,
            Publisher(group.addresses, seed=11),
            events=EVENTS,
            inject_faults=kill_servers,
            record_figures=record_figures,
        )


async def test_no_event_is_lost_when_two_servers_are_killed_in_turn(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    rng = random.Random(12)
    with run_servers(storage, tmp_path, 2) as group:

        async def kill_servers(publisher: Publisher) -> None:
            """Kill the two servers in turn at random moments, and start them again."""
            for kill, share in enumerate(sorted(rng.uniform(0.05, 0.95) for _ in range(4))):
                await publisher.wait_for_share(share)
                group.kill(kill % 2)
                await asyncio.sleep(rng.uniform(0, 0.5))
                await group.restart(kill % 2)

        await run_fault_scenario(
            group,
            Publisher(group.addresses, seed=12),
            events=EVENTS,
            inject_faults=kill_servers,
            record_figures=record_figures,
        )


async def test_no_event_is_lost_when_a_server_is_paused(
    storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    """The server stops during writes. When it continues, the other server has written the same events and later ones:
    the publisher waits for a shorter time than the pause, and then sends a delivery again."""
    with run_servers(storage, tmp_path, 2) as group:

        async def pause_server(publisher: Publisher) -> None:
            """Stop one server for a while, as a suspended virtual machine does."""
            await publisher.wait_for_share(0.1)
            group.pause(0)
            await asyncio.sleep(PAUSE_SECONDS)
            group.resume(0)

        # Slow enough that events are still published when the pause ends.
        publisher = Publisher(group.addresses, seed=13, timeout=5, per_second=EVENTS / (PAUSE_SECONDS + 10))
        await run_fault_scenario(
            group, publisher, events=EVENTS, inject_faults=pause_server, record_figures=record_figures
        )
        assert publisher.retried["TimeoutError"] + publisher.retried["ServerTimeoutError"] > 0
