"""Figure 1: events a second by each endpoint, as a ratio to a straightforward server and to the storage's limit."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.comparison import Aim, Figure, compare_rounds, run_in_turns
from bench.event_stream import DeliveriesInTurns, EventStream, encode_events, min_lag_events
from bench.load_generator import build_post_request, open_connections, run_load
from bench.machine import Stopwatch, compute_core_usage, read_cpu_seconds
from bench.storage import Emulator, RawTables, run_emulator
from bench.worker import CONCURRENT_EVENTS, Worker, run_worker
from harness.state_server import ServerProcess, run_server
from state_api.storage.tables import instance_table_name

ROUNDS = 3
EVENTS_PER_DELIVERY = 250
DELIVERIES_IN_FLIGHT = 4
"""So that a shard always has a full transaction to write when the previous one has ended."""
_SERVER_MODULE = ("-m", "state_api")
_STRAIGHTFORWARD_MODULE = ("-m", "bench.straightforward")


@dataclass(frozen=True, slots=True)
class IngestSample:
    """One round of one variant: events a second, cores used by each process, and refused requests."""

    events_per_second: float
    cores_used: dict[str, float]
    refused_count: int = 0


@dataclass
class EventEntry:
    """A server and the stream of events that is sent to it.

    Each delivery has `events_per_delivery` events. `in_flight` deliveries are sent at a time."""

    server: ServerProcess
    emulator: Emulator
    stream: EventStream
    events_per_delivery: int
    in_flight: int

    async def send_events(self, events: int, deliveries: DeliveriesInTurns | None = None) -> IngestSample:
        """Deliver the next events of the stream, or of `deliveries`. Requests are built before the clock starts.

        Raises ValueError if they do not fill whole deliveries."""
        if events <= 0 or events % self.events_per_delivery:
            raise ValueError(f"{events} events do not fill deliveries of {self.events_per_delivery}")
        requests = []
        for _ in range(events // self.events_per_delivery):
            delivery = (deliveries or self.stream).next_events(self.events_per_delivery)
            request = build_post_request(self.server.url, "/api/events", encode_events(delivery))
            requests.append((request, len(delivery)))
        pids = {"server": self.server.process.pid, "emulator": self.emulator.pid}
        # Connections are opened for each round, because the server closes them while they are idle.
        async with open_connections(self.server.url, self.in_flight) as opened:
            before, stopwatch = _read_cpu_seconds_by_process(pids), Stopwatch()
            load = await run_load(opened, requests)
            after, (_, own_cpu_seconds) = _read_cpu_seconds_by_process(pids), stopwatch.read()
        cores_used = compute_core_usage(before, after, load.seconds)
        cores_used["load"] = round(own_cpu_seconds / load.seconds, 2)
        return IngestSample(load.events_per_second, cores_used, load.refused_count)


def _read_cpu_seconds_by_process(pids: dict[str, int]) -> dict[str, float]:
    """The processor time that each process has used so far, in seconds."""
    return {name: read_cpu_seconds(pid) for name, pid in pids.items()}


def open_event_entry(
    stack: ExitStack | AsyncExitStack,
    storage: Emulator,
    folder: Path,
    hub: str,
    events_per_delivery: int,
    *,
    command: tuple[str, ...] = _SERVER_MODULE,
    extra_settings: dict[str, str] | None = None,
) -> EventEntry:
    """Start a server for one stream of events, until the stack is closed."""
    server = stack.enter_context(run_server(storage.settings, folder, command=command, extra_settings=extra_settings))
    return EventEntry(
        server,
        storage,
        create_event_stream(hub, events_per_delivery),
        events_per_delivery,
        count_requests_in_flight(events_per_delivery),
    )


def count_requests_in_flight(events_per_delivery: int) -> int:
    """How many deliveries of this size are sent at the same time."""
    return CONCURRENT_EVENTS if events_per_delivery == 1 else DELIVERIES_IN_FLIGHT


def create_event_stream(hub: str, events_per_delivery: int, seed: int = 1) -> EventStream:
    """A stream for a task hub whose events are sent in deliveries of this size."""
    return EventStream(
        hub, seed, lag=min_lag_events(events_per_delivery * count_requests_in_flight(events_per_delivery))
    )


def create_worker_sender(worker: Worker, storage: Emulator) -> Callable[[int], Awaitable[IngestSample]]:
    """A function that lets a worker process handle events. It returns a sample, as `EventEntry.send_events` does."""

    async def send_events(events: int) -> IngestSample:
        """Have the worker process record so many events, and measure their rate and the cores that were used."""
        pids = {"emulator": storage.pid}
        before = _read_cpu_seconds_by_process(pids)
        # The worker reports its own times, which leave out what it does before its clock starts.
        seconds, own_cpu_seconds = await worker.run(events)
        cores_used = compute_core_usage(before, _read_cpu_seconds_by_process(pids), seconds)
        cores_used["worker"] = round(own_cpu_seconds / seconds, 2)
        return IngestSample(events / seconds, cores_used)

    return send_events


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
"""Events of a round. Each variant needs one to three seconds for them."""
WARM_UP_EVENTS = {name: 1500 if name.startswith("batches") else 250 for name in EVENTS_PER_ROUND} | {
    "limit": 1000,
    "emulator": 1000,
}
"""Events before the first round."""


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Run all variants in turns, on one emulator."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        entries = {
            "batches": open_event_entry(stack, storage, folder, "batches", EVENTS_PER_DELIVERY),
            "batches, straightforward": open_event_entry(
                stack, storage, folder, "batches", EVENTS_PER_DELIVERY, command=_STRAIGHTFORWARD_MODULE
            ),
            "single": open_event_entry(stack, storage, folder, "single", 1),
            "single, straightforward": open_event_entry(
                stack, storage, folder, "single", 1, command=_STRAIGHTFORWARD_MODULE
            ),
        }
        senders: dict[str, Callable[[int], Awaitable[IngestSample]]] = {
            name: entry.send_events for name, entry in entries.items()
        }
        for name, role in (
            ("trigger", "trigger"),
            ("trigger, straightforward", "straightforward-trigger"),
            ("limit", "limit"),
            ("emulator", "emulator"),
        ):
            senders[name] = create_worker_sender(stack.enter_context(run_worker(role, storage.connection)), storage)

        # The warm-up creates tables and fills caches. After it, streams end as many orchestrations as they start.
        for name, events in WARM_UP_EVENTS.items():
            await senders[name](events)
        samples = await run_in_turns(
            rounds, {name: partial(senders[name], events) for name, events in EVENTS_PER_ROUND.items()}
        )
        await _check_active_counts(storage, entries)
    return _build_result(samples)


async def _check_active_counts(storage: Emulator, entries: dict[str, EventEntry]) -> None:
    """Raises RuntimeError unless the tables have as many active rows as the streams have active orchestrations."""
    async with RawTables(storage.connection) as tables:
        for name in ("batches", "single"):
            stream = entries[name].stream
            row_count = await tables.count_rows(instance_table_name(stream.hub), "RowKey ge 'a|' and RowKey lt 'a}'")
            if row_count != stream.active_count:
                raise RuntimeError(
                    f"{name}: {row_count} instances are active in the table, and {stream.active_count} in the stream"
                )


def _build_result(samples: dict[str, list[IngestSample]]) -> dict[str, Any]:
    """The section of this figure in the results: the ratios of the variants, and what each has measured."""
    rates = {name: [sample.events_per_second for sample in own_samples] for name, own_samples in samples.items()}

    def compare_variants(name: str, baseline_name: str, baseline: str, aim: Aim | None = None) -> Figure:
        """The rate of one variant, as a ratio to that of another. `baseline` describes the other one."""
        return compare_rounds(_LABELS[name], rates[name], baseline, rates[baseline_name], aim)

    straightforward = "the straightforward way, {}"
    figures = [
        compare_variants("batches", "limit", _LIMIT_LABEL, Aim(minimum=0.8)),
        compare_variants("single", "limit", _LIMIT_LABEL),
        compare_variants("trigger", "limit", _LIMIT_LABEL),
        compare_variants("batches", "batches, straightforward", straightforward.format("by the same endpoint")),
        compare_variants(
            "single", "single, straightforward", straightforward.format("by the same endpoint"), Aim(minimum=3)
        ),
        compare_variants(
            "trigger", "trigger, straightforward", straightforward.format("from the same handler"), Aim(minimum=3)
        ),
        compare_rounds("the limit", rates["limit"], "the emulator alone, with bodies made before", rates["emulator"]),
    ]
    # Unlike a rate, processor time does not depend on how busy the machine is.
    figures += [
        compare_rounds(
            f"processor time of the server for one event, {_LABELS[name]}",
            [sample.cores_used["server"] / sample.events_per_second for sample in samples[name]],
            "the client's for the limit's writes",
            [sample.cores_used["worker"] / sample.events_per_second for sample in samples["limit"]],
        )
        for name in ("batches", "single")
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "eventsPerSecond": {
            name: [round(events_per_second) for events_per_second in own_rates] for name, own_rates in rates.items()
        },
        "coresUsed": {name: _median_cores_used(own_samples) for name, own_samples in samples.items()},
        "refused": {name: sum(sample.refused_count for sample in own_samples) for name, own_samples in samples.items()},
    }


_LABELS = {
    "batches": f"webhook, {EVENTS_PER_DELIVERY} events a delivery, {DELIVERIES_IN_FLIGHT} in flight",
    "single": f"webhook, one event a delivery, {CONCURRENT_EVENTS} in flight",
    "trigger": f"trigger handler, one event an invocation, {CONCURRENT_EVENTS} in flight",
}
_LIMIT_LABEL = "the limit: the same writes in full transactions"


def _median_cores_used(samples: list[IngestSample]) -> dict[str, float]:
    """The cores that each process used in one round: the round with the median usage of the emulator."""
    return sorted(samples, key=lambda sample: sample.cores_used["emulator"])[len(samples) // 2].cores_used
