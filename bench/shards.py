"""Figure 7: what the number of shards does to the rate of events, and to the cost of a question."""

import json
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from azure.data.tables.aio import TableServiceClient

from bench.hubs import ACTIVE, Costs, Place, delayed
from bench.ingest import BATCH, Door, Sample, door, stream
from bench.lifecycles import encoded, event
from bench.load import LoadError, connections, deliver, post
from bench.rates import Figure, compared, in_turns, significant
from bench.storage import Emulator, emulator
from bench.worker import IN_FLIGHT
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from state_api.settings import SHARDS
from tests.proxy import storage_proxy
from tests.server.processes import Served, serving

COUNTS = (1, 2, 4, 8, 16)
DEFAULT = 4
ROUNDS = 3
QUESTIONS = 15
EVENTS = {BATCH: 1000, 1: 250}
_WORDS = {BATCH: f"{BATCH} events a delivery", 1: "one event a delivery"}


async def run(folder: Path, rounds: int = ROUNDS, questions: int = QUESTIONS) -> dict[str, Any]:
    """A server for each number of shards, with a hub for each way in; then one that asks about all of these hubs, with
    the delay on its way to the storage."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(emulator())
        doors: dict[tuple[int, int], Door] = {}
        for count in COUNTS:
            batches = door(stack, storage, folder, f"batches{count}", BATCH, more={SHARDS: str(count)})
            doors[BATCH, count] = batches
            doors[1, count] = Door(batches.server, storage, stream(f"single{count}", 1), 1, IN_FLIGHT)
            await _few_active(batches.server, count)
        variants = {key: _variant(one, EVENTS[key[0]]) for key, one in doors.items()}
        for one in doors.values():
            # All are at the same place of their streams from here on.
            await one.take(BATCH)
        samples = await in_turns(rounds, variants)
        asked, requests = await _ask(stack, storage, folder, questions)
    rates = {key: [one.rate for one in of] for key, of in samples.items()}
    figures = [*_rates(rates), *_questions(asked)]
    return {
        "figures": [one.as_json() for one in figures],
        "eventsASecond": {
            name: {str(count): round(statistics.median(rates[batch, count])) for count in COUNTS}
            for batch, name in _WORDS.items()
        },
        "milliseconds": {str(count): significant(1000 * statistics.median(asked[count])) for count in COUNTS},
        "requests": {str(count): requests[count] for count in COUNTS},
        "default": DEFAULT,
    }


def _variant(one: Door, events: int) -> Callable[[], Awaitable[Sample]]:
    return lambda: one.take(events)


def _rates(rates: dict[tuple[int, int], list[float]]) -> list[Figure]:
    return [
        compared(
            f"events a second with {_shown(count)}, {name}",
            rates[batch, count],
            f"with {DEFAULT}",
            rates[batch, DEFAULT],
        )
        for batch, name in _WORDS.items()
        for count in COUNTS
        if count != DEFAULT
    ]


def _questions(asked: dict[int, list[float]]) -> list[Figure]:
    return [
        compared(f"time of GetStagingStatus with {_shown(count)}", asked[count], f"with {DEFAULT}", asked[DEFAULT])
        for count in COUNTS
        if count != DEFAULT
    ]


def _shown(count: int) -> str:
    return f"{count} shards" if count > 1 else "1 shard"


async def _few_active(server: Served, count: int) -> None:
    """A hub with so many shards as this server gives, and a few active instances, in the staging slot of an app."""
    hub = f"few{count}"
    now = format_instant(Instant(int((time.time() - 60) * TICKS_PER_SECOND)))
    active = [event(hub, f"active-{number}", "Running", now) for number in range(ACTIVE)]
    content = json.dumps({"slots": {"staging": {"taskHub": hub}}}).encode()
    async with connections(server.url, 1) as (connection,):
        await deliver(connection, post(server.url, "/api/events", encoded(active)), ACTIVE)
        answer = await connection.send(post(server.url, f"/api/apps/{hub}", content, "PUT"))
    if answer.status != 200:
        raise LoadError(f"{hub}: {answer.status} {answer.body[:500]!r}")


async def _ask(
    stack: AsyncExitStack, storage: Emulator, folder: Path, questions: int
) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Seconds of each question and requests of one, by number of shards. Its server asks through the delay."""
    proxy = await stack.enter_async_context(storage_proxy(storage.settings))
    proxy.before = delayed
    server = stack.enter_context(serving(proxy.settings, folder))
    service = await stack.enter_async_context(TableServiceClient.from_connection_string(storage.connection))
    place = Place(storage, proxy, server, service)

    def question(count: int) -> Callable[[], Awaitable[Costs]]:
        return lambda: place.ask(f"/api/apps/few{count}/staging")

    variants = {count: question(count) for count in COUNTS}
    for one in variants.values():
        await one()
    costs = await in_turns(questions, variants)
    return (
        {count: [one.seconds for one in of] for count, of in costs.items()},
        {count: round(statistics.median(one.requests for one in of)) for count, of in costs.items()},
    )
