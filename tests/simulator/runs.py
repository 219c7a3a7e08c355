"""Runs many histories side by side against one server on the emulator, and counts."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice

import httpx
import pytest

from state_api.app import StateServer
from state_api.domain.apps import TaskHubSource
from state_api.settings import Connections, Settings, StorageSettings
from state_api.storage.tables import StorageClock
from state_api.taskhubs import azure_storage
from tests.http.client import run
from tests.proxy import storage_proxy
from tests.simulator.history import DIRECT, WATCHED, Around, History, Watcher
from tests.simulator.judge import Stuck, Wrong
from tests.simulator.numbers import Complaint, Results
from tests.simulator.stores import Stores
from tests.simulator.traits import PAGES, Traits

AT_ONCE = 16
_CHUNK = 1024
"""Histories after which their pages grow and shrink again: between two sizes the last ones keep the next waiting."""
_SMALL_CHUNK = 64
_FEW_RANGES = [("", "4"), ("4", "@"), ("A", "c"), ("c", "n"), ("n", None)]
_HUB = re.compile(r"/(h[0-9a-f]{16})Instances")


class Hooks:
    """Tells histories before the server reads their task hubs."""

    def __init__(self) -> None:
        self._watchers: dict[str, Watcher] = {}

    def watch(self, hub: str, watcher: Watcher) -> None:
        self._watchers[hub] = watcher

    def unwatch(self, hub: str) -> None:
        self._watchers.pop(hub, None)

    async def before(self, method: str, path: str) -> None:
        found = _HUB.search(path)
        watcher = self._watchers.get(found[1]) if found else None
        if watcher is not None:
            await watcher()


class CountingClock(StorageClock):
    """Hears of every answer of the storage, and so can count them."""

    def __init__(self, tally: Counter[str], name: str) -> None:
        super().__init__()
        self._tally = tally
        self._name = name

    def hear(self, date: str, sent: float) -> None:
        self._tally[self._name] += 1
        super().hear(date, sent)


async def simulate(storage: StorageSettings, seeds: Iterable[int], stop_at: int | None = None) -> Results:
    """Run the histories of these seeds. With `stop_at`, until so many complaints have come."""
    results = Results()
    began = time.monotonic()
    waiting = iter(seeds)
    async with _around(storage, results.tally) as around:
        while chunk := list(islice(waiting, _CHUNK if stop_at is None else _SMALL_CHUNK)):
            for page in PAGES:
                with _page_size(page):
                    await _run(around, (one for one in chunk if Traits.of(one).page == page), results, stop_at)
    results.seconds = time.monotonic() - began
    return results


async def _run(around: Around, seeds: Iterator[int], results: Results, stop_at: int | None) -> None:
    async def work() -> None:
        for seed in seeds:
            if stop_at is not None and len(results.complaints) >= stop_at:
                return
            history = History(around, Traits.of(seed))
            results.tally["histories"] += 1
            try:
                await history.run()
            except (Wrong, Stuck) as error:
                results.complaints.append(Complaint(seed, error, "\n".join(history.log), results.tally["histories"]))

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(work())


@asynccontextmanager
async def _around(storage: StorageSettings, tally: Counter[str]) -> AsyncIterator[Around]:
    assert storage.connection_string is not None
    direct = storage.connection_string.get_secret_value()
    hooks = Hooks()
    async with storage_proxy(storage) as proxy, Stores(storage) as stores:
        proxy.before = hooks.before
        assert proxy.settings.connection_string is not None
        watched = _with_tables_of(direct, proxy.settings.connection_string.get_secret_value())
        clock = CountingClock(tally, "state storage requests")
        # One shard: there is little in a hub, and each costs a read.
        settings = Settings(storage=storage, connections=Connections({DIRECT: direct, WATCHED: watched}), shards=1)
        server = StateServer(settings, clock)
        server.tables.clock = clock
        for connection in (DIRECT, WATCHED):
            backend = server.backends.of(TaskHubSource("azureStorage", connection))
            assert isinstance(backend, azure_storage.AzureStorageBackend)
            backend._tables.clock = CountingClock(tally, "source requests")

        async def count(request: httpx.Request) -> None:
            tally["API requests"] += 1

        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(
                transport=transport,
                base_url="http://state",
                timeout=150,
                headers=run(1),
                event_hooks={"request": [count]},
            ) as client:
                yield Around(client, server.services.readiness, stores, hooks, tally)
                tally["source writes"] = stores.writes
        finally:
            await server.close()


def _with_tables_of(connection: str, other: str) -> str:
    """The connection string with the table service of another one; its queues stay."""
    tables = next(part for part in other.split(";") if part.startswith("TableEndpoint="))
    return ";".join(tables if part.startswith("TableEndpoint=") else part for part in connection.split(";"))


@contextmanager
def _page_size(rows: int) -> Iterator[None]:
    """Let scans read so many rows at a time. Where these are odd, a scan that needs more than one page is split in
    fewer ranges, which is quicker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(azure_storage, "_PAGE", rows)
        if rows % 2:
            patch.setattr(azure_storage, "_RANGES", _FEW_RANGES)
        yield
