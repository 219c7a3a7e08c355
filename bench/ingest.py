"""Figure 1: how many events a second get in, by each door, against the straightforward way and against the limit."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.lifecycles import Lifecycles, encoded, lag_of
from bench.load import connections, drive, post
from bench.machine import Stopwatch, cpu_seconds, shares
from bench.rates import Aim, Figure, compared, in_turns
from bench.storage import Emulator, RawTables, emulator
from bench.worker import IN_FLIGHT, Worker, worker
from state_api.storage.tables import instance_table
from tests.server.processes import Served, serving

ROUNDS = 3
BATCH = 250
"""Events of a delivery."""
DELIVERIES = 4
"""Deliveries in flight: 4 partitions are written at once on the other side."""
_SERVER = ("-m", "state_api")
_STRAIGHTFORWARD = ("-m", "bench.straightforward")


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one variant: events a second, the processors' share by process, requests refused."""

    rate: float
    cpu: dict[str, float]
    refused: int = 0


@dataclass
class Door:
    """One server with one stream of events, which go in by `batch` with `in_flight` requests at a time."""

    server: Served
    emulator: Emulator
    stream: Lifecycles
    batch: int
    in_flight: int

    async def take(self, events: int) -> Sample:
        """Deliver so many events, which must be whole deliveries; made ready before the clock starts."""
        if events <= 0 or events % self.batch:
            raise ValueError(f"{events} events are no whole deliveries of {self.batch}")
        requests = []
        for _ in range(events // self.batch):
            some = self.stream.take(self.batch)
            requests.append((post(self.server.url, "/api/events", encoded(some)), len(some)))
        pids = {"server": self.server.process.pid, "emulator": self.emulator.pid}
        # Opened anew each time: the server closes those that are idle while others have their turn.
        async with connections(self.server.url, self.in_flight) as opened:
            before, own = _cpu(pids), Stopwatch()
            done = await drive(opened, requests)
            after, (_, worked) = _cpu(pids), own.read()
        cpu = {**shares(before, after, done.seconds), "load": round(worked / done.seconds, 2)}
        return Sample(done.rate, cpu, done.refused)


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def door(
    stack: ExitStack | AsyncExitStack,
    storage: Emulator,
    folder: Path,
    hub: str,
    batch: int,
    command: tuple[str, ...] = _SERVER,
    more: dict[str, str] | None = None,
) -> Door:
    """A server of its own for one way in, until the stack ends."""
    server = stack.enter_context(serving(storage.settings, folder, command=command, more=more))
    return Door(server, storage, stream(hub, batch), batch, requests_in_flight(batch))


def requests_in_flight(batch: int) -> int:
    return IN_FLIGHT if batch == 1 else DELIVERIES


def stream(hub: str, batch: int, seed: int = 1) -> Lifecycles:
    """The events of a hub that come in by deliveries of this size."""
    return Lifecycles(hub, seed, lag=lag_of(batch * requests_in_flight(batch)))


def without_server(one: Worker, storage: Emulator) -> Callable[[int], Awaitable[Sample]]:
    """A worker as a variant like the others."""

    async def take(events: int) -> Sample:
        pids = {"emulator": storage.pid}
        before = _cpu(pids)
        seconds, worked = await one.run(events)
        # It tells its own: what it does before its clock starts does not count.
        return Sample(events / seconds, {**shares(before, _cpu(pids), seconds), "worker": round(worked / seconds, 2)})

    return take


EVENTS = {
    "batches": 2000,
    "batches, straightforward": 500,
    "single": 600,
    "single, straightforward": 300,
    "trigger": 600,
    "trigger, straightforward": 300,
    "limit": 1600,
    "emulator": 6000,
}
"""Events of a round: one to three seconds of each."""
WARM_UP = {name: 1500 if name.startswith("batches") else 250 for name in EVENTS} | {"limit": 1000, "emulator": 1000}
"""Events before the first round."""


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """All ways in by turns, on one emulator."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(emulator())
        doors = {
            "batches": door(stack, storage, folder, "batches", BATCH),
            "batches, straightforward": door(stack, storage, folder, "batches", BATCH, _STRAIGHTFORWARD),
            "single": door(stack, storage, folder, "single", 1),
            "single, straightforward": door(stack, storage, folder, "single", 1, _STRAIGHTFORWARD),
        }
        takes: dict[str, Callable[[int], Awaitable[Sample]]] = {name: one.take for name, one in doors.items()}
        for name, role in (
            ("trigger", "trigger"),
            ("trigger, straightforward", "straightforward-trigger"),
            ("limit", "limit"),
            ("emulator", "emulator"),
        ):
            takes[name] = without_server(stack.enter_context(worker(role, storage.connection)), storage)

        def variant(name: str) -> Callable[[], Awaitable[Sample]]:
            return lambda: takes[name](EVENTS[name])

        # Before anything counts, tables are made and caches filled, and as many orchestrations end as start.
        for name, events in WARM_UP.items():
            await takes[name](events)
        samples = await in_turns(rounds, {name: variant(name) for name in EVENTS})
        await _check(storage, doors)
    return _result(samples)


async def _check(storage: Emulator, doors: dict[str, Door]) -> None:
    """What was counted is there: as many active rows as orchestrations were left running."""
    async with RawTables(storage.connection) as tables:
        for name in ("batches", "single"):
            stream = doors[name].stream
            found = await tables.count(instance_table(stream.hub), "RowKey ge 'a|' and RowKey lt 'a}'")
            if found != stream.active:
                raise RuntimeError(f"{name}: {found} instances are active in the table, and {stream.active} really")


def _result(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    rates = {name: [one.rate for one in of_variant] for name, of_variant in samples.items()}

    def against(name: str, other: str, words: str, aim: Aim | None = None) -> Figure:
        return compared(_WORDS[name], rates[name], words, rates[other], aim)

    straight = "the straightforward way, {}"
    figures = [
        against("batches", "limit", _LIMIT, Aim(least=0.8)),
        against("single", "limit", _LIMIT),
        against("trigger", "limit", _LIMIT),
        against("batches", "batches, straightforward", straight.format("by the same door")),
        against("single", "single, straightforward", straight.format("by the same door"), Aim(least=3)),
        against("trigger", "trigger, straightforward", straight.format("from the same handler"), Aim(least=3)),
        compared("the limit", rates["limit"], "the emulator alone, with bodies made before", rates["emulator"]),
    ]
    # What a busy machine does to a rate it does not do to the processor time.
    figures += [
        compared(
            f"processor time of the server for one event, {_WORDS[name]}",
            [one.cpu["server"] / one.rate for one in samples[name]],
            "the client's for the limit's writes",
            [one.cpu["worker"] / one.rate for one in samples["limit"]],
        )
        for name in ("batches", "single")
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "eventsASecond": {name: [round(rate) for rate in of_variant] for name, of_variant in rates.items()},
        "coresUsed": {name: _typical(of_variant) for name, of_variant in samples.items()},
        "refused": {name: sum(one.refused for one in of_variant) for name, of_variant in samples.items()},
    }


_WORDS = {
    "batches": f"webhook, {BATCH} events a delivery, {DELIVERIES} in flight",
    "single": f"webhook, one event a delivery, {IN_FLIGHT} in flight",
    "trigger": f"trigger handler, one event an invocation, {IN_FLIGHT} in flight",
}
_LIMIT = "the limit: the same writes in full transactions"


def _typical(samples: list[Sample]) -> dict[str, float]:
    """The round in the middle, by what the emulator used."""
    return sorted(samples, key=lambda one: one.cpu["emulator"])[len(samples) // 2].cpu
