"""Random histories on the real extension, with a state server that is asked all the time: is it ever Ready while
something is active, and is it Ready soon after nothing is?

`python -m tests.platform.random_workloads --seconds 1200 --seed 7` runs histories until the time is up and
prints a summary as
JSON. The exit code is 1 if an answer was false or late.
"""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from harness.processes import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings
from tests.platform.durable_host import DurableHost
from tests.platform.event_relay import run_event_relay
from tests.platform.history import FaultRates, RandomWorkload, WorkloadReport
from tests.platform.state_server import StateServerProcess, run_state_server
from tests.platform.task_hub_driver import TaskHubDriver
from tests.platform.task_hub_storage import TaskHubReader


@asynccontextmanager
async def history(
    storage: StorageSettings, folder: Path, seed: str, *, provider: str, faults: FaultRates
) -> AsyncIterator[RandomWorkload]:
    """A history with a task hub, a worker, a relay and a server of its own. The seed decides everything but times."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    task_hub = f"history{uuid.uuid4().hex[:16]}"
    worker: DurableHost | None = None
    task_hub_storage = TaskHubReader(connection, task_hub)
    server: StateServerProcess | None = None
    try:
        events = Random(f"{seed} events")
        async with run_event_relay(lambda: server.webhook if server else "", events) as relay:
            worker = DurableHost(task_hub, connection, folder, topic=relay.url)
            async with run_state_server(storage, folder, worker.url) as server:
                await worker.start()
                # The management API shows no messages, so a purged instance whose end was lost blocks for ten minutes
                # unless a probe has shown it. Most instances of these histories end before one can.
                purges = provider == "azureStorage" or not any(faults.loss_rates)
                yield RandomWorkload(
                    seed, provider, faults, TaskHubDriver(worker, task_hub_storage, can_purge=purges), server, relay
                )
    finally:
        if worker is not None:
            await worker.close()
        await task_hub_storage.close()


WORKLOAD_KINDS: tuple[tuple[str, FaultRates], ...] = (
    ("azureStorage", FaultRates(server_kills=0.3)),
    ("managementApi", FaultRates(server_kills=0.3)),
    ("azureStorage", FaultRates(worker_kills=1.0, server_kills=0.2)),
    ("managementApi", FaultRates(worker_kills=1.0, server_kills=0.2)),
)
"""Provider and faults of a history, by its number modulo their count."""

WORKLOAD_SECONDS = 150


async def run_workload(
    storage: StorageSettings,
    folder: Path,
    seed: int,
    number: int,
    *,
    rounds: int | None = None,
    seconds: float = WORKLOAD_SECONDS,
    round_seconds: float | None = None,
) -> WorkloadReport:
    """The history of that number under a seed: that many rounds, or until the time is up. `round_seconds` takes the
    place of that of its faults."""
    provider, faults = WORKLOAD_KINDS[number % len(WORKLOAD_KINDS)]
    if round_seconds is not None:
        faults = replace(faults, round_seconds=round_seconds)
    name = f"{seed}-{number}"
    print(f"history {name}: {provider}, {faults}", flush=True)
    async with history(storage, folder, name, provider=provider, faults=faults) as played:
        report = await played.play(rounds=rounds, seconds=None if rounds else seconds)
    print(f"history {name}: {json.dumps(asdict(report))}", flush=True)
    return report


async def run_workloads(storage: StorageSettings, folder: Path, seed: int, seconds: float) -> WorkloadReport:
    """Histories of all kinds until the time is up, two of them side by side."""
    report = WorkloadReport()
    deadline = time.monotonic() + seconds

    async def play(first: int) -> None:
        for number in itertools.count(first, 2):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            report.add(await run_workload(storage, folder, seed, number, seconds=min(left, WORKLOAD_SECONDS)))

    await asyncio.gather(play(0), play(1))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.platform.random_workloads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="when no further round begins (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="that of an earlier run, to play its histories again")
    parser.add_argument("--only", type=int, default=None, metavar="NUMBER", help="play the history SEED-NUMBER alone")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else Random().getrandbits(31)
    print(f"seed {seed}", flush=True)
    ports = EmulatorPorts(*free_ports(3))
    with tempfile.TemporaryDirectory() as name, storage_emulator(ports, None):
        storage, folder = StorageSettings.model_validate({"connection_string": ports.connection_string()}), Path(name)
        if given.only is None:
            report = asyncio.run(run_workloads(storage, folder, seed, given.seconds))
        else:
            report = asyncio.run(run_workload(storage, folder, seed, given.only, seconds=given.seconds))
    print(json.dumps({"seed": seed, **asdict(report)}, indent=2))
    return 0 if report.has_no_errors else 1


if __name__ == "__main__":
    sys.exit(main())
