"""Runs many histories concurrently against one server on the emulator, and counts what happens."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice

import httpx
import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.app import StateServer
from state_api.backends import azure_storage
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.tables import StorageClock
from tests.http.operations import run_headers
from tests.simulator.parameters import PAGE_SIZES, SimulationParameters
from tests.simulator.results import SimulationFailure, SimulationResults
from tests.simulator.simulation import DIRECT_CONNECTION, PROXIED_CONNECTION, ReadHook, Simulation, SimulationContext
from tests.simulator.task_hub_storage import SimulatedAccount
from tests.simulator.verdict_checker import NeverReady, WrongVerdict

CONCURRENT_SIMULATIONS = 16
_CHUNK = 1024
"""Histories that run before the page sizes repeat. A change of the size waits for all running histories."""
_SMALL_CHUNK = 64
_FEW_RANGES = [("", "4"), ("4", "@"), ("A", "c"), ("c", "n"), ("n", None)]
_HUB = re.compile(r"/(h[0-9a-f]{16})Instances")


class BeforeReadHooks:
    """Calls a hook of a history before the server reads its task hub."""

    def __init__(self) -> None:
        self._read_hooks: dict[str, ReadHook] = {}

    def register(self, hub: str, read_hook: ReadHook) -> None:
        self._read_hooks[hub] = read_hook

    def unregister(self, hub: str) -> None:
        self._read_hooks.pop(hub, None)

    async def before_request(self, method: str, path: str) -> None:
        match = _HUB.search(path)
        read_hook = self._read_hooks.get(match[1]) if match else None
        if read_hook is not None:
            await read_hook()


class CountingClock(StorageClock):
    """A clock that observes every response of the storage, and counts them."""

    def __init__(self, tally: Counter[str], name: str) -> None:
        super().__init__()
        self._tally = tally
        self._name = name

    def observe_date(self, date: str, sent: float) -> None:
        self._tally[self._name] += 1
        super().observe_date(date, sent)


async def run_simulations(
    storage: StorageSettings, seeds: Iterable[int], stop_at: int | None = None
) -> SimulationResults:
    """Run the histories of these seeds. With `stop_at`, stop after this number of failures."""
    results = SimulationResults()
    began = time.monotonic()
    waiting = iter(seeds)
    async with _simulation_context(storage, results.tally) as around:
        while chunk := list(islice(waiting, _CHUNK if stop_at is None else _SMALL_CHUNK)):
            for page in PAGE_SIZES:
                with _with_page_size(page):
                    await _run_seeds(
                        around, (seed for seed in chunk if SimulationParameters.of(seed).page == page), results, stop_at
                    )
    results.seconds = time.monotonic() - began
    return results


async def _run_seeds(
    around: SimulationContext, seeds: Iterator[int], results: SimulationResults, stop_at: int | None
) -> None:
    async def work() -> None:
        for seed in seeds:
            if stop_at is not None and len(results.failures) >= stop_at:
                return
            history = Simulation(around, SimulationParameters.of(seed))
            results.tally["histories"] += 1
            try:
                await history.run()
            except (WrongVerdict, NeverReady) as error:
                results.failures.append(
                    SimulationFailure(seed, error, "\n".join(history.log), results.tally["histories"])
                )

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENT_SIMULATIONS):
            workers.create_task(work())


@asynccontextmanager
async def _simulation_context(storage: StorageSettings, tally: Counter[str]) -> AsyncIterator[SimulationContext]:
    assert storage.connection_string is not None
    direct = storage.connection_string.get_secret_value()
    hooks = BeforeReadHooks()
    async with run_storage_proxy(storage) as proxy, SimulatedAccount(storage) as stores:
        proxy.before_request = hooks.before_request
        assert proxy.settings.connection_string is not None
        watched = _with_tables_of(direct, proxy.settings.connection_string.get_secret_value())
        clock = CountingClock(tally, "state storage requests")
        # One shard: there is little in a hub, and each costs a read.
        settings = Settings(
            storage=storage,
            connections=TaskHubConnections({DIRECT_CONNECTION: direct, PROXIED_CONNECTION: watched}),
            shards=1,
        )
        server = StateServer(settings, clock)
        server.tables.clock = clock
        for connection in (DIRECT_CONNECTION, PROXIED_CONNECTION):
            backend = server.backends.backend_for(ProviderConfig("azureStorage", connection))
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
                headers=run_headers(1),
                event_hooks={"request": [count]},
            ) as client:
                yield SimulationContext(client, server.services.readiness, stores, hooks, tally)
                tally["source writes"] = stores.writes
        finally:
            await server.close()


def _with_tables_of(connection: str, other: str) -> str:
    """The connection string with the table service of another one; its queues stay."""
    tables = next(part for part in other.split(";") if part.startswith("TableEndpoint="))
    return ";".join(tables if part.startswith("TableEndpoint=") else part for part in connection.split(";"))


@contextmanager
def _with_page_size(rows: int) -> Iterator[None]:
    """Let scans read this number of rows in a page.

    With an odd number, a scan of more than one page is split into fewer ranges, which is faster.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(azure_storage, "_PAGE_SIZE", rows)
        if rows % 2:
            patch.setattr(azure_storage, "_PARTITION_KEY_RANGES", _FEW_RANGES)
        yield
