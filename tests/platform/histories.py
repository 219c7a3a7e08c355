"""Random histories on the real extension, with a state server that is asked all the time: is it ever Ready while
something is active, and is it Ready soon after nothing is?

`python -m tests.platform.histories --seconds 1200 --seed 7` runs histories until the time is up and prints a summary as
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
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import httpx

from dev.local import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings
from tests.platform.durable_host import DurableHost
from tests.platform.event_relay import EventRelay, event_relay
from tests.platform.hub import Hub
from tests.platform.state_server import (
    MANAGEMENT_PROVIDER,
    READY_SECONDS,
    SCAN_LIMIT_SECONDS,
    STORAGE_PROVIDER,
    Answer,
    StateServerProcess,
    state_server,
)
from tests.platform.stories import ALWAYS, WITH_LAUNCHERS
from tests.platform.task_hub import TaskHubStorage

PROVIDERS = {"azureStorage": STORAGE_PROVIDER, "managementApi": MANAGEMENT_PROVIDER}

LEASE_SECONDS = 15.0
"""How long a server that is killed while it reads a task hub keeps the next reader waiting, at most."""


@dataclass
class Report:
    """What came of histories. `wrong_ready` are Ready answers while something was surely active, `late` are rounds
    after which Ready came too late. `longest` is the longest time from a drained task hub to Ready, in seconds.
    `leftovers` are histories that ended with messages of a killed worker, which the time rule judges."""

    rounds: int = 0
    orchestrations: int = 0
    answers: int = 0
    ready: int = 0
    worker_kills: int = 0
    server_kills: int = 0
    events: int = 0
    lost_events: int = 0
    leftovers: int = 0
    longest: float = 0.0
    wrong_ready: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def add(self, other: "Report") -> None:
        for name, value in asdict(other).items():
            if name == "longest":
                self.longest = max(self.longest, value)
            else:
                setattr(self, name, getattr(self, name) + value)

    @property
    def is_right(self) -> bool:
        return not self.wrong_ready and not self.late


@dataclass(frozen=True, slots=True)
class Faults:
    """What a history may do besides orchestrations, as the share of rounds in which it does."""

    worker_kills: float = 0.0
    server_kills: float = 0.0
    losses: tuple[float, ...] = (0.0, 0.3, 1.0)


class History:
    """One history: rounds of orchestrations on one task hub, with one worker and one server."""

    def __init__(
        self,
        seed: str,
        provider: str,
        faults: Faults,
        hub: Hub,
        server: StateServerProcess,
        relay: EventRelay,
    ) -> None:
        self.app = f"app-{hub.worker.task_hub}"
        self.report = Report()
        self._seed = seed
        self._provider = provider
        self._faults = faults
        self._random = Random(f"{seed} rounds")
        self._hub = hub
        self._server = server
        self._relay = relay

    async def play(self, *, rounds: int | None = None, seconds: float | None = None) -> Report:
        """Play that many rounds, or begin rounds until the time is up."""
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        await self._server.put_app(self.app, self._hub.worker.task_hub, PROVIDERS[self._provider])
        while (
            (rounds is None or self.report.rounds < rounds)
            and time.monotonic() < deadline
            and not self.report.leftovers
        ):
            await self._round(self.report.rounds)
            self.report.rounds += 1
        self.report.orchestrations = self._hub.started
        self.report.worker_kills, self.report.server_kills = self._hub.worker.kills, self._server.kills
        self.report.events, self.report.lost_events = self._relay.posted, self._relay.lost
        return self.report

    async def _round(self, number: int) -> None:
        """Stories side by side with faults; then end everything and wait for Ready."""
        draw = self._random
        self._relay.loss = draw.choice(self._faults.losses)
        self._hub.worker_is_killed = draw.random() < self._faults.worker_kills
        kills_server = draw.random() < self._faults.server_kills
        kinds = WITH_LAUNCHERS if self._provider == "azureStorage" else ALWAYS
        chosen = draw.choices(kinds, k=draw.randint(3, 6))
        asking = asyncio.create_task(self._ask_until_cancelled())
        try:
            async with asyncio.TaskGroup() as group:
                for index, story in enumerate(chosen):
                    instance_id = f"{story.__name__}-{number}-{index}"
                    group.create_task(story(self._hub, instance_id, Random(f"{self._seed} {instance_id}")))
                if self._hub.worker_is_killed:
                    group.create_task(self._kill_worker(after=draw.uniform(0.1, 2), down=draw.uniform(0, 2)))
                if kills_server:
                    group.create_task(self._kill_server(after=draw.uniform(0, 3)))
            drained_at = await self._hub.release_all()
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        if drained_at is None:
            self.report.leftovers += 1
        else:
            await self._expect_ready(number, drained_at)

    async def _kill_worker(self, *, after: float, down: float) -> None:
        await asyncio.sleep(after)
        async with self._hub.steady:
            self._hub.worker.kill()
            await asyncio.sleep(down)
            await self._hub.worker.start()

    async def _kill_server(self, *, after: float) -> None:
        await asyncio.sleep(after)
        await self._server.restart()

    async def _ask_until_cancelled(self) -> None:
        times = Random()
        while True:
            await self._ask()
            await asyncio.sleep(times.random() * 0.3)

    async def _ask(self) -> Answer | None:
        """One answer, held against what was active; None if the server was killed meanwhile."""
        try:
            answer = await self._server.ask(self.app)
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            return None
        self.report.answers += 1
        if answer.ready:
            self.report.ready += 1
            if active := self._hub.spans.covering(answer.asked, answer.answered):
                shown = json.dumps(answer.verdict)
                self.report.wrong_ready.append(f"seed {self._seed}: Ready while {active} was active: {shown}")
        return answer

    async def _expect_ready(self, number: int, drained_at: float) -> None:
        """Ask until Ready. The first question that is asked after the settle window must be answered so: it is one
        scan, for which a busy machine may take a while."""
        while True:
            answer = await self._ask()
            if answer is None:
                continue
            due = max(drained_at, self._relay.delivered_at, self._server.killed_at + LEASE_SECONDS)
            in_time = answer.answered <= due + READY_SECONDS + SCAN_LIMIT_SECONDS
            if answer.ready and self._relay.idle:
                self.report.longest = max(self.report.longest, round(answer.answered - due, 1))
                if in_time:
                    return
            elif not self._relay.idle or (in_time and answer.asked <= due + READY_SECONDS):
                await asyncio.sleep(0.2)
                continue
            late = f"asked {answer.asked - due:.1f} s after Ready was due, answered {answer.answered - due:.1f} s after"
            self.report.late.append(f"seed {self._seed} round {number}: {late}: {json.dumps(answer.verdict)}")
            return


@asynccontextmanager
async def history(
    storage: StorageSettings, folder: Path, seed: str, *, provider: str, faults: Faults
) -> AsyncIterator[History]:
    """A history with a task hub, a worker, a relay and a server of its own. The seed decides everything but times."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    task_hub = f"history{uuid.uuid4().hex[:16]}"
    worker: DurableHost | None = None
    task_hub_storage = TaskHubStorage(connection, task_hub)
    server: StateServerProcess | None = None
    try:
        events = Random(f"{seed} events")
        async with event_relay(lambda: server.webhook if server else "", events) as relay:
            worker = DurableHost(task_hub, connection, folder, topic=relay.url)
            async with state_server(storage, folder, worker.url) as server:
                await worker.start()
                # The management API shows no messages, so a purged instance whose end was lost blocks for ten minutes
                # unless a probe has shown it. Most instances of these histories end before one can.
                purges = provider == "azureStorage" or not any(faults.losses)
                yield History(seed, provider, faults, Hub(worker, task_hub_storage, purges=purges), server, relay)
    finally:
        if worker is not None:
            await worker.close()
        await task_hub_storage.close()


KINDS: tuple[tuple[str, Faults], ...] = (
    ("azureStorage", Faults(server_kills=0.3)),
    ("managementApi", Faults(server_kills=0.3)),
    ("azureStorage", Faults(worker_kills=1.0, server_kills=0.2)),
    ("managementApi", Faults(worker_kills=1.0, server_kills=0.2)),
)
"""Provider and faults of a history, by its number modulo their count."""

LONGEST_HISTORY_SECONDS = 150


async def play_one(
    storage: StorageSettings,
    folder: Path,
    seed: int,
    number: int,
    *,
    rounds: int | None = None,
    seconds: float = LONGEST_HISTORY_SECONDS,
) -> Report:
    """The history of that number under a seed: that many rounds, or until the time is up."""
    provider, faults = KINDS[number % len(KINDS)]
    name = f"{seed}-{number}"
    print(f"history {name}: {provider}, {faults}", flush=True)
    async with history(storage, folder, name, provider=provider, faults=faults) as played:
        report = await played.play(rounds=rounds, seconds=None if rounds else seconds)
    print(f"history {name}: {json.dumps(asdict(report))}", flush=True)
    return report


async def play_for(storage: StorageSettings, folder: Path, seed: int, seconds: float) -> Report:
    """Histories of all kinds until the time is up, two of them side by side."""
    report = Report()
    deadline = time.monotonic() + seconds

    async def play(first: int) -> None:
        for number in itertools.count(first, 2):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            report.add(await play_one(storage, folder, seed, number, seconds=min(left, LONGEST_HISTORY_SECONDS)))

    await asyncio.gather(play(0), play(1))
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.platform.histories", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="when no further round begins (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="that of an earlier run, to play its histories again")
    parser.add_argument("--only", type=int, default=None, metavar="NUMBER", help="play the history SEED-NUMBER alone")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else Random().getrandbits(31)
    print(f"seed {seed}", flush=True)
    ports = EmulatorPorts(*free_ports(3))
    with tempfile.TemporaryDirectory() as name, storage_emulator(ports, None):
        storage, folder = StorageSettings.model_validate({"connection_string": ports.connection()}), Path(name)
        if given.only is None:
            report = asyncio.run(play_for(storage, folder, seed, given.seconds))
        else:
            report = asyncio.run(play_one(storage, folder, seed, given.only, seconds=given.seconds))
    print(json.dumps({"seed": seed, **asdict(report)}, indent=2))
    return 0 if report.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
