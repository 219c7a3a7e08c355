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
from state_api.storage.storage_clock import StorageClock
from tests.http.operations import run_headers
from tests.simulator.parameters import PAGE_SIZES, SimulationParameters
from tests.simulator.results import SimulationFailure, SimulationResults
from tests.simulator.simulated_task_hub import ReadHook, SimulationContext
from tests.simulator.simulation import DIRECT_CONNECTION, PROXIED_CONNECTION, Simulation
from tests.simulator.task_hub_storage import SimulatedAccount
from tests.simulator.verdict_checker import NeverReady, WrongVerdict

CONCURRENT_SIMULATIONS = 16
_SEEDS_PER_CHUNK = 1024
"""Seeds of a chunk. All page sizes are used once in a chunk.

A change of the page size waits until all running histories have ended, so small chunks are slow."""
_SEEDS_PER_SMALL_CHUNK = 64
"""Seeds of a chunk, if the run is to stop after a number of failures."""
_FEW_PARTITION_KEY_RANGES = [("", "4"), ("4", "@"), ("A", "c"), ("c", "n"), ("n", None)]
_HUB_IN_PATH = re.compile(r"/(h[0-9a-f]{16})Instances")


class BeforeReadHooks:
    """Calls the hook of a history before the server reads a page of its task hub."""

    def __init__(self) -> None:
        self._read_hooks: dict[str, ReadHook] = {}

    def register(self, hub: str, read_hook: ReadHook) -> None:
        self._read_hooks[hub] = read_hook

    def unregister(self, hub: str) -> None:
        self._read_hooks.pop(hub, None)

    async def before_request(self, method: str, path: str) -> None:
        """Call the hook of the task hub in this path, if there is one. The proxy awaits it before it forwards."""
        match = _HUB_IN_PATH.search(path)
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
        """Count the response, too: the clock is called for each one."""
        self._tally[self._name] += 1
        super().observe_date(date, sent)


async def run_simulations(
    storage: StorageSettings, seeds: Iterable[int], stop_at: int | None = None
) -> SimulationResults:
    """Run the histories of these seeds. With `stop_at`, stop after this number of failures."""
    results = SimulationResults()
    began = time.monotonic()
    remaining_seeds = iter(seeds)
    async with _simulation_context(storage, results.tally) as context:
        while chunk := list(islice(remaining_seeds, _SEEDS_PER_CHUNK if stop_at is None else _SEEDS_PER_SMALL_CHUNK)):
            for page_size in PAGE_SIZES:
                with _use_page_size(page_size):
                    await _run_seeds(
                        context,
                        (seed for seed in chunk if SimulationParameters.from_seed(seed).page_size == page_size),
                        results,
                        stop_at,
                    )
    results.seconds = time.monotonic() - began
    return results


async def _run_seeds(
    context: SimulationContext, seeds: Iterator[int], results: SimulationResults, stop_at: int | None
) -> None:
    """Run the history of each seed, several at a time, and collect the failures. Stops after `stop_at` failures."""

    async def run_waiting_simulations() -> None:
        """Run simulations until no seed is left or enough have failed. Several of these tasks share the seeds."""
        for seed in seeds:
            if stop_at is not None and len(results.failures) >= stop_at:
                return
            simulation = Simulation(context, SimulationParameters.from_seed(seed))
            results.tally["histories"] += 1
            try:
                await simulation.run()
            except (WrongVerdict, NeverReady) as error:
                results.failures.append(
                    SimulationFailure(seed, error, "\n".join(simulation.log), results.tally["histories"])
                )

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENT_SIMULATIONS):
            workers.create_task(run_waiting_simulations())


@asynccontextmanager
async def _simulation_context(storage: StorageSettings, tally: Counter[str]) -> AsyncIterator[SimulationContext]:
    """A state server on this storage, whose requests are counted, and a client of it."""
    assert storage.connection_string is not None
    direct_connection = storage.connection_string.get_secret_value()
    hooks = BeforeReadHooks()
    async with run_storage_proxy(storage) as proxy, SimulatedAccount(storage) as account:
        proxy.before_request = hooks.before_request
        assert proxy.settings.connection_string is not None
        proxied_connection = _replace_table_endpoint(
            direct_connection, proxy.settings.connection_string.get_secret_value()
        )
        clock = CountingClock(tally, "state storage requests")
        # One shard, because the task hubs are small and each shard costs a read.
        settings = Settings(
            storage=storage,
            connections=TaskHubConnections(
                {DIRECT_CONNECTION: direct_connection, PROXIED_CONNECTION: proxied_connection}
            ),
            shards=1,
        )
        server = StateServer(settings, clock)
        server.tables.clock = clock
        for connection in (DIRECT_CONNECTION, PROXIED_CONNECTION):
            backend = server.backends.backend_for(ProviderConfig("azureStorage", connection))
            assert isinstance(backend, azure_storage.AzureStorageBackend)
            backend._tables.clock = CountingClock(tally, "provider requests")

        async def count_api_request(request: httpx.Request) -> None:
            """Count the requests to the state server."""
            tally["API requests"] += 1

        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(
                transport=transport,
                base_url="http://state",
                timeout=150,
                headers=run_headers(1),
                event_hooks={"request": [count_api_request]},
            ) as client:
                yield SimulationContext(client, server, server.services.readiness, account, hooks, tally)
                tally["provider writes"] = account.writes
        finally:
            await server.close()


def _replace_table_endpoint(connection: str, source_connection: str) -> str:
    """The connection string with the table endpoint of `source_connection`. Its other endpoints stay."""
    table_endpoint = next(part for part in source_connection.split(";") if part.startswith("TableEndpoint="))
    return ";".join(table_endpoint if part.startswith("TableEndpoint=") else part for part in connection.split(";"))


@contextmanager
def _use_page_size(rows: int) -> Iterator[None]:
    """Let scans read this number of rows in a page.

    With an odd number, a scan of more than one page is split into fewer ranges, which is faster.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(azure_storage, "_PAGE_SIZE", rows)
        if rows % 2:
            patch.setattr(azure_storage, "_PARTITION_KEY_RANGES", _FEW_PARTITION_KEY_RANGES)
        yield
