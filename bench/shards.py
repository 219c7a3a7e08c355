"""Figure 7: the effect of the number of shards on the rate of events and on the time of a verdict."""

import json
import statistics
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.comparison import Figure, compare_rounds, round_significant, run_in_turns
from bench.event_stream import build_event, encode_events
from bench.filled_task_hubs import ACTIVE_COUNT, BenchEnvironment, delay_request
from bench.ingest import EVENTS_PER_DELIVERY, EventEntry, create_event_stream, open_event_entry
from bench.load_generator import LoadError, build_post_request, deliver_until_accepted, open_connections
from bench.storage import SHARD_COUNT, Emulator, run_emulator
from bench.worker import CONCURRENT_EVENTS
from harness.state_server import ServerProcess, run_server
from harness.storage_proxy import run_storage_proxy
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from state_api.settings import STATE_SHARDS

SHARD_COUNTS = (1, 2, 4, 8, 16)
ROUNDS = 3
REQUEST_COUNT = 15
EVENTS_PER_ROUND = {EVENTS_PER_DELIVERY: 1000, 1: 250}
"""Events that a round sends, by the number of events in a delivery."""
_LABELS = {EVENTS_PER_DELIVERY: f"{EVENTS_PER_DELIVERY} events a delivery", 1: "one event a delivery"}


async def run(folder: Path, rounds: int = ROUNDS, request_count: int = REQUEST_COUNT) -> dict[str, Any]:
    """Send events to a server for each number of shards, in batches and one by one.

    Then one server, whose storage requests are delayed, reads the verdict of a task hub of each number of shards."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        entries: dict[tuple[int, int], EventEntry] = {}
        for count in SHARD_COUNTS:
            batches = open_event_entry(
                stack,
                storage,
                folder,
                f"batches{count}",
                EVENTS_PER_DELIVERY,
                extra_settings={STATE_SHARDS: str(count)},
            )
            entries[EVENTS_PER_DELIVERY, count] = batches
            entries[1, count] = EventEntry(
                batches.server, storage, create_event_stream(f"single{count}", 1), 1, CONCURRENT_EVENTS
            )
            await _create_small_task_hub(batches.server, count)
        variants = {
            (batch_size, count): partial(entry.send_events, EVENTS_PER_ROUND[batch_size])
            for (batch_size, count), entry in entries.items()
        }
        for entry in entries.values():
            # The warm-up brings all streams to the same position.
            await entry.send_events(EVENTS_PER_DELIVERY)
        samples = await run_in_turns(rounds, variants)
        request_seconds, requests = await _measure_requests(stack, storage, folder, request_count)
    rates = {key: [sample.events_per_second for sample in own_samples] for key, own_samples in samples.items()}
    figures = [*_compare_rates(rates), *_compare_latencies(request_seconds)]
    return {
        "figures": [figure.as_json() for figure in figures],
        "eventsPerSecond": {
            name: {str(count): round(statistics.median(rates[batch_size, count])) for count in SHARD_COUNTS}
            for batch_size, name in _LABELS.items()
        },
        "milliseconds": {
            str(count): round_significant(1000 * statistics.median(request_seconds[count])) for count in SHARD_COUNTS
        },
        "requests": {str(count): requests[count] for count in SHARD_COUNTS},
        "default": SHARD_COUNT,
    }


def _compare_rates(rates: dict[tuple[int, int], list[float]]) -> list[Figure]:
    """The rate of events with each number of shards, as a ratio to that with the default number."""
    return [
        compare_rounds(
            f"events a second with {_shard_label(count)}, {name}",
            rates[batch_size, count],
            f"with {_shard_label(SHARD_COUNT)}",
            rates[batch_size, SHARD_COUNT],
        )
        for batch_size, name in _LABELS.items()
        for count in SHARD_COUNTS
        if count != SHARD_COUNT
    ]


def _compare_latencies(request_seconds: dict[int, list[float]]) -> list[Figure]:
    """The time of a verdict with each number of shards, as a ratio to that with the default number."""
    return [
        compare_rounds(
            f"time of GetStagingStatus with {_shard_label(count)}",
            request_seconds[count],
            f"with {_shard_label(SHARD_COUNT)}",
            request_seconds[SHARD_COUNT],
        )
        for count in SHARD_COUNTS
        if count != SHARD_COUNT
    ]


def _shard_label(count: int) -> str:
    return f"{count} shards" if count > 1 else "1 shard"


def _small_task_hub_name(count: int) -> str:
    """The name of the small task hub with this number of shards. Its app has the same name."""
    return f"few{count}"


async def _create_small_task_hub(server: ServerProcess, count: int) -> None:
    """Create a task hub with this server's number of shards and a few active instances, in an app's staging slot."""
    hub = _small_task_hub_name(count)
    a_minute_ago = format_instant(Instant(int((time.time() - 60) * TICKS_PER_SECOND)))
    active = [build_event(hub, f"active-{number}", "Running", a_minute_ago) for number in range(ACTIVE_COUNT)]
    app_body = json.dumps({"slots": {"staging": {"taskHub": hub}}}).encode()
    async with open_connections(server.url, 1) as (connection,):
        await deliver_until_accepted(
            connection, build_post_request(server.url, "/api/events", encode_events(active)), ACTIVE_COUNT
        )
        response = await connection.send(build_post_request(server.url, f"/api/apps/{hub}", app_body, "PUT"))
    if response.status != 200:
        raise LoadError(f"{hub}: {response.status} {response.body[:500]!r}")


async def _measure_requests(
    stack: AsyncExitStack, storage: Emulator, folder: Path, request_count: int
) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Seconds of each verdict, and storage requests of one, by number of shards. Storage requests are delayed."""
    proxy = await stack.enter_async_context(run_storage_proxy(storage.settings))
    proxy.before_request = delay_request
    server = stack.enter_context(run_server(proxy.settings, folder))
    service = await stack.enter_async_context(TableServiceClient.from_connection_string(storage.connection))
    environment = BenchEnvironment(storage, proxy, server, service)
    variants = {
        count: partial(environment.request_verdict, f"/api/apps/{_small_task_hub_name(count)}/staging")
        for count in SHARD_COUNTS
    }
    for send_request in variants.values():
        await send_request()
    costs = await run_in_turns(request_count, variants)
    return (
        {count: [cost.seconds for cost in own_costs] for count, own_costs in costs.items()},
        {count: round(statistics.median(cost.requests for cost in own_costs)) for count, own_costs in costs.items()},
    )
