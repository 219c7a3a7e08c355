"""Random workloads on the real extension, while the state server's verdict is polled: it must never be Ready while
something is active, and must be Ready soon after nothing is.

`python -m tests.platform.random_workloads --seconds 1200 --seed 7` runs workloads until the time is up and prints a
summary as JSON. The exit code is 1 if a response was wrong or late.
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

from harness.durable_host import DurableHost
from harness.processes import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings
from tests.platform.event_relay import run_event_relay
from tests.platform.state_server import StateServerProcess, run_state_server
from tests.platform.task_hub_driver import TaskHubDriver
from tests.platform.task_hub_storage import TaskHubReader
from tests.platform.workload import FaultRates, RandomWorkload, WorkloadParts, WorkloadReport

WORKLOAD_KINDS: tuple[tuple[str, FaultRates], ...] = (
    ("azureStorage", FaultRates(server_kills=0.3)),
    ("managementApi", FaultRates(server_kills=0.3)),
    ("azureStorage", FaultRates(worker_kills=1.0, server_kills=0.2)),
    ("managementApi", FaultRates(worker_kills=1.0, server_kills=0.2)),
)
"""Provider and faults of a workload, by its number modulo their count."""

WORKLOAD_SECONDS = 150


@asynccontextmanager
async def open_workload(
    storage: StorageSettings, folder: Path, seed: str, *, provider: str, faults: FaultRates
) -> AsyncIterator[RandomWorkload]:
    """Create a workload with a task hub, a worker, a relay and a server of its own."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    task_hub = f"workload{uuid.uuid4().hex[:16]}"
    worker: DurableHost | None = None
    task_hub_storage = TaskHubReader(connection, task_hub)
    server: StateServerProcess | None = None
    try:
        relay_choices = Random(f"{seed} events")
        async with run_event_relay(lambda: server.webhook if server else "", relay_choices) as relay:
            worker = DurableHost(task_hub, connection, folder, topic=relay.url)
            async with run_state_server(storage, folder, worker.url) as server:
                await worker.start()
                # The management API shows no messages, so a purged instance whose end was lost blocks for ten minutes
                # unless a probe has seen it. Most instances of these workloads end before a probe can see them.
                can_purge = provider == "azureStorage" or not any(faults.loss_rates)
                driver = TaskHubDriver(worker, task_hub_storage, can_purge=can_purge)
                yield RandomWorkload(seed, provider, faults, WorkloadParts(driver, server, relay))
    finally:
        if worker is not None:
            await worker.close()
        await task_hub_storage.close()


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
    """Run the workload of this number under a seed: `rounds` rounds, or rounds until `seconds` have passed.
    `round_seconds` replaces the value of its fault rates."""
    provider, faults = WORKLOAD_KINDS[number % len(WORKLOAD_KINDS)]
    if round_seconds is not None:
        faults = replace(faults, round_seconds=round_seconds)
    name = f"{seed}-{number}"
    print(f"workload {name}: {provider}, {faults}", flush=True)
    async with open_workload(storage, folder, name, provider=provider, faults=faults) as workload:
        report = await workload.run(rounds=rounds, seconds=None if rounds else seconds)
    print(f"workload {name}: {json.dumps(asdict(report))}", flush=True)
    return report


async def run_workloads(storage: StorageSettings, folder: Path, seed: int, seconds: float) -> WorkloadReport:
    """Run workloads of all kinds until the time is up, two of them side by side. Return the sum of their reports."""
    report = WorkloadReport()
    deadline = time.monotonic() + seconds

    async def run_every_other_workload(first_number: int) -> None:
        """Run workloads one after another until the time is up. Two of these tasks share the numbers."""
        for number in itertools.count(first_number, 2):
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0:
                return
            workload_seconds = min(remaining_seconds, WORKLOAD_SECONDS)
            report.add_report(await run_workload(storage, folder, seed, number, seconds=workload_seconds))

    await asyncio.gather(run_every_other_workload(0), run_every_other_workload(1))
    return report


def main() -> int:
    """Run random workloads, and print what they have found. Returns the exit code: 0 if the server made no error."""
    parser = argparse.ArgumentParser(prog="python -m tests.platform.random_workloads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="begin no round after this time (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed of an earlier run, to repeat its workloads")
    parser.add_argument("--only", type=int, default=None, metavar="NUMBER", help="run only the workload SEED-NUMBER")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else Random().getrandbits(31)
    print(f"seed {seed}", flush=True)
    ports = EmulatorPorts(*free_ports(3))
    with tempfile.TemporaryDirectory() as name, storage_emulator(ports, None):
        storage, folder = StorageSettings.model_validate({"connection_string": ports.connection_string()}), Path(name)
        if arguments.only is None:
            report = asyncio.run(run_workloads(storage, folder, seed, arguments.seconds))
        else:
            report = asyncio.run(run_workload(storage, folder, seed, arguments.only, seconds=arguments.seconds))
    print(json.dumps({"seed": seed, **asdict(report)}, indent=2))
    return 0 if report.has_no_errors else 1


if __name__ == "__main__":
    sys.exit(main())
