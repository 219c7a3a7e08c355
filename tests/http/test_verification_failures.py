"""Failures of the task hub's own storage never lead to a wrong Ready, and the server recovers without a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, no_delay, run_storage_proxy
from state_api.app import StateServer
from state_api.services.ports import Lease
from state_api.services.probe_leases import LEASE_DURATION_SECONDS
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.probes import ProbeStore
from tests.backends.azure_storage_task_hub import ControlQueue, ProviderTaskHub, control_message
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import (
    PROVIDER_CONFIG,
    assert_problem,
    get_staging,
    post_events,
    post_staging,
    put_app,
    reason_codes,
    wait_for_clock_tolerance,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of_server_reading(
    storage: StorageSettings, provider_storage: StorageSettings, clock: ShiftedClock
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that stores its state in `storage` and reads task hubs through `provider_storage`."""
    assert provider_storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": provider_storage.connection_string.get_secret_value()})
    server = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = server.tables.clock
    transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await server.close()


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the storage of the task hubs. The server reaches its own storage directly."""
    async with run_storage_proxy(storage) as running_proxy:
        yield running_proxy


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that reads task hubs through the proxy."""
    async with client_of_server_reading(storage, proxy.settings, clock) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0, "ProbeFailed"),
        (500, "ProbeFailed"),
        (404, "ProbeFailed"),
        (401, "ProbeDenied"),
        (403, "ProbeDenied"),
        (429, "ProbeThrottled"),
        (503, "ProbeThrottled"),
    ],
)
@pytest.mark.parametrize("has_active_record", [False, True])
async def test_a_failure_of_the_provider_is_a_reason_until_it_is_over(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    *,
    clock: ShiftedClock,
    status: int,
    code: str,
    has_active_record: bool,
) -> None:
    """The server scans the task hub, or looks up an instance if the records hold one that is active."""
    if has_active_record:
        await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-9)))
        await drained_provider_hub.put("order-1", "Completed")
        await wait_for_clock_tolerance()
    proxy.failure_status = lambda method, path: status
    verdict = await get_staging(http, app)
    assert not verdict["ready"]
    assert reason_codes(verdict) == [*(["InstancesActive"] if has_active_record else []), code]
    assert "AccountKey" not in str(verdict)
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    proxy.failure_status = lambda method, path: None
    assert (await get_staging(http, app))["ready"]


async def test_post_staging_does_not_use_an_earlier_result_while_the_provider_fails(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    proxy.failure_status = lambda method, path: 503
    refused = assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["ProbeThrottled"]
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]


async def test_a_provider_that_throttles_is_not_read_before_its_retry_after_time(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    retry_after_seconds = 40
    proxy.failure_status, proxy.headers = (lambda method, path: 429), {"Retry-After": str(retry_after_seconds)}
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["retryAfterSeconds"]) == (["ProbeThrottled"], retry_after_seconds)
    proxy.failure_status = lambda method, path: None
    proxy.clear()
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["ProbeThrottled"]
    assert proxy.count_requests_and_rows() == (0, 0)
    clock.advance(retry_after_seconds + 1)
    assert (await get_staging(http, app))["ready"]


async def test_a_connection_that_breaks_within_a_page_of_rows_is_a_failed_probe(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    proxy.truncate_responses = True
    assert reason_codes(await get_staging(http, app)) == ["ProbeFailed"]
    proxy.truncate_responses = False
    assert (await get_staging(http, app))["ready"]


@pytest.fixture
def small_pages_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the server read pages of one row, one page at a time, and gives each request one second for its probe."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 1)
    monkeypatch.setattr("state_api.services.task_hub_reader._PAGE_CONCURRENCY", 1)
    monkeypatch.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("state_api.domain.readiness.requirements.LARGE_HUB_READ_SECONDS", 0.5)


async def add_ignored_instances(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, **policy: int
) -> None:
    """Add four active instances of a function that the policy ignores, so every scan reads their rows.

    Finished instances do not serve here: a scan reads their rows only for some seconds after their end, which may pass
    on a busy machine before the scan begins.
    """
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"], **policy})
    for number in range(4):
        await drained_provider_hub.put(f"b-sync-{number}", "Running", name="Sync")


async def delay_request(method: str, path: str) -> None:
    """Delay a storage request by a tenth of a second."""
    await asyncio.sleep(0.1)


@pytest.mark.usefixtures("small_pages_and_budget")
@pytest.mark.parametrize("verify", ["cached", "fresh"])
async def test_a_scan_that_runs_out_of_time_is_resumed_by_the_next_request(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, verify: str
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub)
    proxy.before_request = delay_request
    verdicts: list[Any] = []
    while not verdicts or not verdicts[-1]["ready"]:
        verdicts.append(await get_staging(http, app, verify=verify))
        assert len(verdicts) < 20
    assert len(verdicts) > 2
    assert {code for verdict in verdicts[:-1] for code in reason_codes(verdict)} == {"ProbeIncomplete"}
    messages = [verdict["evidence"]["probe"]["message"] for verdict in verdicts[:-1]]
    assert len(set(messages)) == len(messages), "each request reads further, and its message says how far"
    assert verdicts[-1]["assurance"] == "verified"


@pytest.mark.usefixtures("small_pages_and_budget")
async def test_a_task_hub_that_takes_longer_to_read_than_freshness_seconds_reports_what_to_set(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub, freshnessSeconds=1)
    proxy.before_request = delay_request
    verdict = await get_staging(http, app)
    for _ in range(20):
        if reason_codes(verdict) != ["ProbeIncomplete"]:
            break
        verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeStale"]
    assert "set freshnessSeconds well above that" in verdict["reasons"][0]["message"]
    await put_app(http, app, policy={"freshnessSeconds": 60})
    assert reason_codes(await get_staging(http, app, verify="none")) == []


@pytest.mark.usefixtures("small_pages_and_budget")
async def test_an_interrupted_scan_begins_again_after_an_event(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub)
    proxy.before_request = delay_request
    first = await get_staging(http, app)
    assert reason_codes(first) == ["ProbeIncomplete"]
    await wait_for_clock_tolerance()
    await post_events(http, event(drained_provider_hub.hub, "b-order-9", "Completed"))
    await wait_for_clock_tolerance()
    second = await get_staging(http, app)
    assert reason_codes(second) == ["ProbeIncomplete"]
    assert second["evidence"]["probe"]["beganAt"] > first["evidence"]["probe"]["beganAt"]


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


async def test_an_end_that_the_state_storage_rejects_is_looked_up_only_once_in_a_request(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end cannot be recorded, so the instance stays active, and the request is answered without another look-up."""
    max_requests_of_one_look_up = 30
    monkeypatch.setattr("state_api.storage.group_commit._REJECTED_ROW_CODES", frozenset({"Injected"}))
    async with (
        run_storage_proxy(storage) as state_proxy,
        client_of_server_reading(state_proxy.settings, storage, clock) as http,
        ProviderTaskHub(storage, hub) as provider,
    ):
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        await provider.put("order-1", "Completed")
        await post_events(http, event(hub, "order-1"))
        # A probe that shows order-1 confirms that the connection leads to the task hub of the events.
        assert (await get_staging(http, app, wait=10))["ready"]
        await provider.put("order-2", "Completed")
        await post_events(http, event(hub, "order-2"))
        state_proxy.failure_status = lambda method, path: 400 if path.endswith("$batch") else None
        state_proxy.clear()
        assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
        assert state_proxy.count_requests_and_rows()[0] < max_requests_of_one_look_up
        state_proxy.failure_status = lambda method, path: None
        assert (await get_staging(http, app, wait=10))["ready"]
