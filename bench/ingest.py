"""Figure 1: how many events a second get in, by each door, against the straightforward way and against the limit."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.comparison import Aim, Figure, compare_rounds, run_in_turns
from bench.event_stream import EventStream, encode_events, min_lag_events
from bench.load_generator import build_post_request, connections, run_load
from bench.machine import Stopwatch, compute_core_usage, cpu_seconds
from bench.storage import Emulator, RawTables, run_emulator
from bench.worker import CONCURRENT_EVENTS, Worker, run_worker
from harness.state_server import ServerProcess, run_server
from state_api.storage.tables import instance_table_name

ROUNDS = 3
EVENTS_PER_DELIVERY = 250
"""Events of a delivery."""
DELIVERIES_IN_FLIGHT = 4
"""Deliveries in flight: 4 partitions are written at once on the other side."""
_SERVER_MODULE = ("-m", "state_api")
_STRAIGHTFORWARD_MODULE = ("-m", "bench.straightforward")


@dataclass(frozen=True, slots=True)
class IngestSample:
    """One round of one variant: events a second, the processors' share by process, requests refused."""

    events_per_second: float
    cores_used: dict[str, float]
    refused_count: int = 0


@dataclass
class EventEntry:
    """A server and its stream of events: each delivery has `events_per_delivery`, `in_flight` are sent at a time."""

    server: ServerProcess
    emulator: Emulator
    stream: EventStream
    events_per_delivery: int
    in_flight: int

    async def send_events(self, events: int) -> IngestSample:
        """Deliver so many events, which must be whole deliveries; made ready before the clock starts."""
        if events <= 0 or events % self.events_per_delivery:
            raise ValueError(f"{events} events are no whole deliveries of {self.events_per_delivery}")
        requests = []
        for _ in range(events // self.events_per_delivery):
            some = self.stream.next_events(self.events_per_delivery)
            requests.append((build_post_request(self.server.url, "/api/events", encode_events(some)), len(some)))
        pids = {"server": self.server.process.pid, "emulator": self.emulator.pid}
        # Opened anew each time: the server closes those that are idle while others have their turn.
        async with connections(self.server.url, self.in_flight) as opened:
            before, own = _read_cpu_seconds(pids), Stopwatch()
            done = await run_load(opened, requests)
            after, (_, worked) = _read_cpu_seconds(pids), own.read()
        cores_used = {**compute_core_usage(before, after, done.seconds), "load": round(worked / done.seconds, 2)}
        return IngestSample(done.events_per_second, cores_used, done.refused_count)


def _read_cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def open_event_entry(
    stack: ExitStack | AsyncExitStack,
    storage: Emulator,
    folder: Path,
    hub: str,
    events_per_delivery: int,
    command: tuple[str, ...] = _SERVER_MODULE,
    extra_settings: dict[str, str] | None = None,
) -> EventEntry:
    """A server of its own for one way in, until the stack ends."""
    server = stack.enter_context(run_server(storage.settings, folder, command=command, extra_settings=extra_settings))
    return EventEntry(
        server,
        storage,
        create_event_stream(hub, events_per_delivery),
        events_per_delivery,
        count_requests_in_flight(events_per_delivery),
    )


def count_requests_in_flight(events_per_delivery: int) -> int:
    return CONCURRENT_EVENTS if events_per_delivery == 1 else DELIVERIES_IN_FLIGHT


def create_event_stream(hub: str, events_per_delivery: int, seed: int = 1) -> EventStream:
    """The events of a hub that come in by deliveries of this size."""
    return EventStream(
        hub, seed, lag=min_lag_events(events_per_delivery * count_requests_in_flight(events_per_delivery))
    )


def worker_variant(one: Worker, storage: Emulator) -> Callable[[int], Awaitable[IngestSample]]:
    """A worker as a variant like the others."""

    async def take(events: int) -> IngestSample:
        pids = {"emulator": storage.pid}
        before = _read_cpu_seconds(pids)
        seconds, worked = await one.run(events)
        # It tells its own: what it does before its clock starts does not count.
        return IngestSample(
            events / seconds,
            {**compute_core_usage(before, _read_cpu_seconds(pids), seconds), "worker": round(worked / seconds, 2)},
        )

    return take


EVENTS_PER_ROUND = {
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
WARM_UP_EVENTS = {name: 1500 if name.startswith("batches") else 250 for name in EVENTS_PER_ROUND} | {
    "limit": 1000,
    "emulator": 1000,
}
"""Events before the first round."""


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """All ways in by turns, on one emulator."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        doors = {
            "batches": open_event_entry(stack, storage, folder, "batches", EVENTS_PER_DELIVERY),
            "batches, straightforward": open_event_entry(
                stack, storage, folder, "batches", EVENTS_PER_DELIVERY, _STRAIGHTFORWARD_MODULE
            ),
            "single": open_event_entry(stack, storage, folder, "single", 1),
            "single, straightforward": open_event_entry(stack, storage, folder, "single", 1, _STRAIGHTFORWARD_MODULE),
        }
        takes: dict[str, Callable[[int], Awaitable[IngestSample]]] = {
            name: one.send_events for name, one in doors.items()
        }
        for name, role in (
            ("trigger", "trigger"),
            ("trigger, straightforward", "straightforward-trigger"),
            ("limit", "limit"),
            ("emulator", "emulator"),
        ):
            takes[name] = worker_variant(stack.enter_context(run_worker(role, storage.connection)), storage)

        def variant(name: str) -> Callable[[], Awaitable[IngestSample]]:
            return lambda: takes[name](EVENTS_PER_ROUND[name])

        # Before anything counts, tables are made and caches filled, and as many orchestrations end as start.
        for name, events in WARM_UP_EVENTS.items():
            await takes[name](events)
        samples = await run_in_turns(rounds, {name: variant(name) for name in EVENTS_PER_ROUND})
        await _check_active_counts(storage, doors)
    return _build_result(samples)


async def _check_active_counts(storage: Emulator, doors: dict[str, EventEntry]) -> None:
    """What was counted is there: as many active rows as orchestrations were left running."""
    async with RawTables(storage.connection) as tables:
        for name in ("batches", "single"):
            stream = doors[name].stream
            found = await tables.count(instance_table_name(stream.hub), "RowKey ge 'a|' and RowKey lt 'a}'")
            if found != stream.active_count:
                raise RuntimeError(
                    f"{name}: {found} instances are active in the table, and {stream.active_count} really"
                )


def _build_result(samples: dict[str, list[IngestSample]]) -> dict[str, Any]:
    rates = {name: [one.events_per_second for one in of_variant] for name, of_variant in samples.items()}

    def against(name: str, other: str, words: str, aim: Aim | None = None) -> Figure:
        return compare_rounds(_LABELS[name], rates[name], words, rates[other], aim)

    straight = "the straightforward way, {}"
    figures = [
        against("batches", "limit", _LIMIT_LABEL, Aim(minimum=0.8)),
        against("single", "limit", _LIMIT_LABEL),
        against("trigger", "limit", _LIMIT_LABEL),
        against("batches", "batches, straightforward", straight.format("by the same door")),
        against("single", "single, straightforward", straight.format("by the same door"), Aim(minimum=3)),
        against("trigger", "trigger, straightforward", straight.format("from the same handler"), Aim(minimum=3)),
        compare_rounds("the limit", rates["limit"], "the emulator alone, with bodies made before", rates["emulator"]),
    ]
    # What a busy machine does to a rate it does not do to the processor time.
    figures += [
        compare_rounds(
            f"processor time of the server for one event, {_LABELS[name]}",
            [one.cores_used["server"] / one.events_per_second for one in samples[name]],
            "the client's for the limit's writes",
            [one.cores_used["worker"] / one.events_per_second for one in samples["limit"]],
        )
        for name in ("batches", "single")
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "eventsPerSecond": {
            name: [round(events_per_second) for events_per_second in of_variant] for name, of_variant in rates.items()
        },
        "coresUsed": {name: _median_cores_used(of_variant) for name, of_variant in samples.items()},
        "refused": {name: sum(one.refused_count for one in of_variant) for name, of_variant in samples.items()},
    }


_LABELS = {
    "batches": f"webhook, {EVENTS_PER_DELIVERY} events a delivery, {DELIVERIES_IN_FLIGHT} in flight",
    "single": f"webhook, one event a delivery, {CONCURRENT_EVENTS} in flight",
    "trigger": f"trigger handler, one event an invocation, {CONCURRENT_EVENTS} in flight",
}
_LIMIT_LABEL = "the limit: the same writes in full transactions"


def _median_cores_used(samples: list[IngestSample]) -> dict[str, float]:
    """The round in the middle, by what the emulator used."""
    return sorted(samples, key=lambda one: one.cores_used["emulator"])[len(samples) // 2].cores_used
