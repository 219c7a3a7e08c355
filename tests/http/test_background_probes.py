"""The background probe: which task hubs it reads, and how long it holds a lease."""

import asyncio
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.instants import Instant, seconds
from state_api.settings import StorageSettings
from state_api.storage.probes import ProbeStore
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    get_staging,
    post_staging,
    put_app,
    reason_codes,
    run_headers,
)

pytestmark = pytest.mark.anyio


async def test_the_background_probe_stores_a_result_and_renews_it_before_it_is_stale(
    http: httpx.AsyncClient, server: StateServer, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    more_than_half_the_freshness_seconds = 70

    async def get_stored_verdict() -> Any:
        return await get_staging(http, app, verify="none")

    assert await server.background.probe_due_hubs() >= 1
    assert (await get_stored_verdict())["ready"]
    first_probe_began_at = (await get_stored_verdict())["evidence"]["probe"]["beganAt"]
    await server.background.probe_due_hubs()
    assert (await get_stored_verdict())["evidence"]["probe"]["beganAt"] == first_probe_began_at
    clock.advance(more_than_half_the_freshness_seconds)
    await server.background.probe_due_hubs()
    assert (await get_stored_verdict())["evidence"]["probe"]["beganAt"] > first_probe_began_at


async def test_the_background_probe_reads_prior_task_hubs(
    http: httpx.AsyncClient,
    storage: StorageSettings,
    server: StateServer,
    app: str,
    drained_provider_hub: ProviderTaskHub,
) -> None:
    async with ProviderTaskHub(storage, new_hub_name()) as staged:
        assert (await post_staging(http, app, staged.hub, run_headers(1))).status_code == 200
        await staged.create()
        # PostStaging has just stored a result under the present policy. The changed policy needs a probe of its own.
        await put_app(http, app, policy={"ignoreFunctions": ["UnusedFunction"]})
        status_url = f"/api/apps/{app}/staging?verify=none"
        verdict = (await http.get(status_url, headers=run_headers(1))).json()
        assert reason_codes(verdict) == ["ProbePending", "ProbePending"]
        assert drained_provider_hub.hub in verdict["reasons"][1]["message"]
        await server.background.probe_due_hubs()
        verdict = (await http.get(status_url, headers=run_headers(1))).json()
        assert (verdict["ready"], verdict["assurance"]) == (True, "verified"), verdict


async def test_the_background_probe_does_not_read_production(
    http: httpx.AsyncClient, server: StateServer, app: str, provider_hub: ProviderTaskHub
) -> None:
    await provider_hub.create()
    await put_app(http, app, slots={"production": {"taskHub": provider_hub.hub}}, taskHubs=PROVIDER_CONFIG)
    await server.background.probe_due_hubs()
    assert reason_codes(await get_staging(http, app, verify="none", slot="production")) == ["ProbePending"]


async def test_the_lease_of_a_background_probe_ends_soon_after_its_worker_has_died(
    http: httpx.AsyncClient, server: StateServer, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    max_lease_seconds = 90
    read_has_begun = asyncio.Event()

    async def read_page_without_end(
        backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str
    ) -> ObservedPage:
        """Begin a read that does not end by itself."""
        if task_hub == drained_provider_hub.hub:
            read_has_begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(AzureStorageBackend, "read_page", read_page_without_end)
    # The scan counts as long before its first page.
    monkeypatch.setattr("state_api.services.task_hub_reader._SECONDS_WITHOUT_LEASE", -1)
    # Other tests have left apps in the storage. All their task hubs are probed at once, so none delays this task hub.
    monkeypatch.setattr("state_api.services.background._CONCURRENCY", 10_000)
    probing = asyncio.create_task(server.background.probe_due_hubs())
    await read_has_begun.wait()
    leased_until = (await ProbeStore(server.tables).get(drained_provider_hub.hub)).leased_until
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    assert leased_until is not None
    assert leased_until <= server.tables.clock.now() + seconds(max_lease_seconds)
