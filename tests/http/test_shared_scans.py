"""Workers and servers that scan the same task hub at the same time share one scan, and never a wrong result."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, no_delay
from state_api.services.ports import Lease
from state_api.services.probe_leases import LEASE_DURATION_SECONDS
from state_api.settings import StorageSettings
from state_api.storage.probes import ProbeStore
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub, control_message
from tests.conftest import ShiftedClock
from tests.http.operations import (
    get_staging,
    reason_codes,
)
from tests.http.server_clients import client_of_server_reading

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that reads task hubs through the proxy."""
    async with client_of_server_reading(storage, proxy.settings, clock) as client:
        yield client


@pytest.fixture
def scans_take_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan counts as long before its first page of instances."""
    monkeypatch.setattr("state_api.services.task_hub_reader._SECONDS_WITHOUT_LEASE", -1)


@pytest.mark.usefixtures("scans_take_the_lease")
async def test_two_servers_share_one_long_scan(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    drained_provider_hub: ProviderTaskHub,
) -> None:
    """One server reads the task hub, and the other server waits for its result."""
    async with client_of_server_reading(storage, proxy.settings, ShiftedClock()) as second_http:
        proxy.clear()
        clients = (http, second_http, http, second_http)
        verdicts = await asyncio.gather(*(get_staging(client, app) for client in clients))
        assert [verdict["ready"] for verdict in verdicts] == [True] * 4
        assert len({verdict["evidence"]["probe"]["beganAt"] for verdict in verdicts}) == 1
        assert len([request for request in proxy.forwarded if request.path.endswith("Instances()")]) == 1


class HeldSave:
    """Holds the first outcome of a scan that a worker stores, until `may_continue` is set. Later ones are stored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold up the first write of a probe's outcome until the test sets `may_continue`."""
        self.has_begun, self.may_continue = asyncio.Event(), asyncio.Event()
        save = ProbeStore.save

        async def hold_first_outcome(store: ProbeStore, *arguments: Any, **outcome: Any) -> bool:
            """Hold up the first outcome until the test lets it be saved."""
            if not self.has_begun.is_set():
                self.has_begun.set()
                await self.may_continue.wait()
            return await save(store, *arguments, **outcome)

        monkeypatch.setattr(ProbeStore, "save", hold_first_outcome)


async def test_workers_with_short_scans_at_the_same_time_answer_by_their_own_and_store_one(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_save = HeldSave(monkeypatch)
    first_request = asyncio.create_task(get_staging(http, app))
    await held_save.has_begun.wait()
    second_verdict = await get_staging(http, app)
    held_save.may_continue.set()
    first_verdict = await first_request
    assert (first_verdict["ready"], second_verdict["ready"]) == (True, True)
    began_at = [verdict["evidence"]["probe"]["beganAt"] for verdict in (first_verdict, second_verdict)]
    assert began_at[0] < began_at[1]
    stored = await get_staging(http, app, verify="none")
    assert (stored["ready"], stored["evidence"]["probe"]["beganAt"]) == (True, began_at[1])


async def test_a_pending_start_is_stored_although_another_worker_has_stored_that_it_saw_none(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker's result must not answer requests after a response has shown the start."""
    held_save = HeldSave(monkeypatch)
    async with ControlQueue(drained_provider_hub) as queue:
        message = await queue.send(control_message("order-7"))
        first_request = asyncio.create_task(get_staging(http, app))
        await held_save.has_begun.wait()
        await queue.delete(message)
        assert (await get_staging(http, app))["ready"]
        held_save.may_continue.set()
        assert reason_codes(await first_request) == ["StartsPending"]
        assert reason_codes(await get_staging(http, app, verify="none")) == ["StartsPending"]
        assert (await get_staging(http, app))["ready"], "the next request reads the task hub again"


@pytest.mark.usefixtures("scans_take_the_lease")
async def test_another_worker_reads_the_task_hub_once_the_lease_of_a_dead_worker_has_expired(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    read_has_begun, read_may_continue = asyncio.Event(), asyncio.Event()

    async def hold_request(method: str, path: str) -> None:
        """Hold up the read of the instances until the test lets it go on."""
        if path.endswith("Instances()"):
            read_has_begun.set()
            await read_may_continue.wait()

    proxy.before_request = hold_request
    interrupted_request = asyncio.create_task(get_staging(http, app))
    await read_has_begun.wait()
    # A process that has died does not release its lease.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.storage.probes.ProbeStore.save", _keep_lease)
        interrupted_request.cancel()
        await asyncio.gather(interrupted_request, return_exceptions=True)
    proxy.before_request = no_delay
    read_may_continue.set()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 1.0)
        verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeIncomplete"]
    assert "another worker" in verdict["reasons"][0]["message"]
    clock.advance(LEASE_DURATION_SECONDS + 3)
    assert (await get_staging(http, app))["ready"]


@pytest.mark.usefixtures("scans_take_the_lease")
async def test_a_worker_keeps_its_lease_for_as_long_as_it_reads(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    *,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker renews its lease, so a read may take longer than the duration of a lease."""
    monkeypatch.setattr("state_api.services.probe_leases.LEASE_DURATION_SECONDS", 2)
    monkeypatch.setattr("state_api.services.probe_leases._RENEW_INTERVAL_SECONDS", 0.3)
    read_has_begun, read_may_continue = asyncio.Event(), asyncio.Event()

    async def hold_instance_rows(method: str, path: str) -> None:
        """Hold up the read of the instances until the test lets it go on."""
        if path.endswith("Instances()"):
            read_has_begun.set()
            await read_may_continue.wait()

    async with client_of_server_reading(storage, storage, ShiftedClock()) as second_http:
        proxy.before_request = hold_instance_rows
        slow_request = asyncio.create_task(get_staging(http, app))
        await read_has_begun.wait()
        monkeypatch.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 4.0)
        verdict = await get_staging(second_http, app)
        assert reason_codes(verdict) == ["ProbeIncomplete"]
        assert "another worker" in verdict["reasons"][0]["message"]
        read_may_continue.set()
        assert (await slow_request)["ready"]


async def _keep_lease(*arguments: object) -> bool:
    """Stand in for `ProbeStore.save`: save nothing and leave the lease as it is."""
    return False


@pytest.mark.usefixtures("scans_take_the_lease")
async def test_a_request_that_has_waited_for_another_worker_uses_its_result(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first request waits for the lease, the other worker records the end of an instance."""
    acquire_lease = ProbeStore.acquire_lease
    first_request_waits, lease_is_free = asyncio.Event(), asyncio.Event()

    async def refuse_lease_to_first_request(store: ProbeStore, *arguments: Any, **instants: Any) -> Lease | None:
        """Refuse the lease to the first request, as if another worker had it."""
        if first_request_waits.is_set():
            return await acquire_lease(store, *arguments, **instants)
        first_request_waits.set()
        await lease_is_free.wait()
        return None

    monkeypatch.setattr(ProbeStore, "acquire_lease", refuse_lease_to_first_request)
    first_request = asyncio.create_task(get_staging(http, app))
    await first_request_waits.wait()
    await drained_provider_hub.put("order-1", "Running")
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    await drained_provider_hub.put("order-1", "Completed")
    verdict = await get_staging(http, app)
    assert verdict["ready"]
    lease_is_free.set()
    assert (await first_request)["evidence"]["probe"]["beganAt"] == verdict["evidence"]["probe"]["beganAt"]
    assert reason_codes(await first_request) == []
