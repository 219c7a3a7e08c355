"""Failures of the task hub's own storage, slow reads and concurrent readers never lead to a wrong Ready, and Ready
returns without a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from harness.storage_proxy import StorageProxy, no_delay, run_storage_proxy
from state_api.app import StateServer
from state_api.services.ports import Lease
from state_api.settings import Settings, StorageSettings, TaskHubConnections
from state_api.storage.probes import ProbeStore
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import ShiftedClock, new_hub_name
from tests.http.operations import assert_problem, get_staging, post_events, post_staging, put_app, reason_codes
from tests.http.test_verification import PROVIDER_CONFIG

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of_server_reading(
    storage: StorageSettings, provider_storage: StorageSettings, clock: ShiftedClock
) -> AsyncIterator[httpx.AsyncClient]:
    """A server that reads task hubs through `provider_storage`."""
    assert provider_storage.connection_string is not None
    connections = TaskHubConnections({"STATE_TASKHUBS_SHOP": provider_storage.connection_string.get_secret_value()})
    state = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = state.tables.clock
    transport = httpx.ASGITransport(state.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await state.close()


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy before the storage of the task hubs. The server's own storage is reached directly."""
    async with run_storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of_server_reading(storage, proxy.settings, clock) as client:
        yield client


@pytest.fixture
async def drained_provider_hub(
    http: httpx.AsyncClient, app: str, storage: StorageSettings, hub: str
) -> AsyncIterator[ProviderTaskHub]:
    async with ProviderTaskHub(storage, hub) as provider:
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        yield provider


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
@pytest.mark.parametrize("known", [False, True])
async def test_a_failure_of_the_provider_is_a_reason_until_it_is_over(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    *,
    clock: ShiftedClock,
    status: int,
    code: str,
    known: bool,
) -> None:
    """Both where the server scans the task hub and where it looks up a reported instance."""
    if known:
        await post_events(http, event(drained_provider_hub.hub, "order-1", time=timestamp(-9)))
        await drained_provider_hub.put("order-1", "Completed")
        await asyncio.sleep(1.1)
    proxy.failure_status = lambda method, path: status
    verdict = await get_staging(http, app)
    assert not verdict["ready"]
    assert reason_codes(verdict) == [*(["InstancesActive"] if known else []), code]
    assert "AccountKey" not in str(verdict)
    assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    proxy.failure_status = lambda method, path: None
    assert (await get_staging(http, app))["ready"]


async def test_staging_does_not_use_an_earlier_result_while_the_provider_fails(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    assert (await get_staging(http, app))["ready"]
    proxy.failure_status = lambda method, path: 503
    refused = assert_problem(await post_staging(http, app, new_hub_name()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["ProbeThrottled"]
    assert reason_codes(await get_staging(http, app)) == ["ProbeThrottled"]


async def test_a_throttled_provider_is_not_read_before_the_requested_time(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    proxy.failure_status, proxy.headers = (lambda method, path: 429), {"Retry-After": "40"}
    verdict = await get_staging(http, app)
    assert (reason_codes(verdict), verdict["retryAfterSeconds"]) == (["ProbeThrottled"], 40)
    proxy.failure_status = lambda method, path: None
    proxy.clear()
    assert reason_codes(await get_staging(http, app, verify="fresh")) == ["ProbeThrottled"]
    assert proxy.count_requests_and_rows() == (0, 0)
    clock.advance(41)
    assert (await get_staging(http, app))["ready"]


async def test_a_connection_that_breaks_within_a_page_is_a_failure(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    proxy.truncate_responses = True
    assert reason_codes(await get_staging(http, app)) == ["ProbeFailed"]
    proxy.truncate_responses = False
    assert (await get_staging(http, app))["ready"]


@pytest.fixture
def small_pages_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one row, one at a time, and little time for each request."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 1)
    monkeypatch.setattr("state_api.services.task_hub_reader._PAGE_CONCURRENCY", 1)
    monkeypatch.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("state_api.domain.readiness.plan.LARGE_HUB_READ_SECONDS", 0.5)


async def add_ignored_instances(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, **policy: int
) -> None:
    """Rows that every scan returns and that do not block.

    Rows of finished instances are returned only for some seconds after their end, which may pass on a busy machine
    before the scan begins.
    """
    await put_app(http, app, policy={"ignoreFunctions": ["Sync"], **policy})
    for number in range(4):
        await drained_provider_hub.put(f"b-sync-{number}", "Running", name="Sync")


async def delay_request(method: str, path: str) -> None:
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
    assert len(set(messages)) == len(messages), "each question gets further, and says how far"
    assert verdicts[-1]["assurance"] == "verified"


@pytest.mark.usefixtures("small_pages_and_budget")
async def test_a_task_hub_that_takes_longer_to_read_than_the_freshness_reports_what_to_set(
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
async def test_an_event_supersedes_a_scan_that_waits_to_be_resumed(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub
) -> None:
    await add_ignored_instances(http, app, drained_provider_hub)
    proxy.before_request = delay_request
    first = await get_staging(http, app)
    assert reason_codes(first) == ["ProbeIncomplete"]
    await asyncio.sleep(1.1)
    await post_events(http, event(drained_provider_hub.hub, "b-order-9", "Completed"))
    await asyncio.sleep(1.1)
    second = await get_staging(http, app)
    assert reason_codes(second) == ["ProbeIncomplete"]
    assert second["evidence"]["probe"]["beganAt"] > first["evidence"]["probe"]["beganAt"]


async def test_two_servers_share_one_scan(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    drained_provider_hub: ProviderTaskHub,
) -> None:
    """One server reads, and the other waits for its result."""
    async with client_of_server_reading(storage, proxy.settings, ShiftedClock()) as other:
        proxy.clear()
        verdicts = await asyncio.gather(*(get_staging(client, app) for client in (http, other, http, other)))
        assert [verdict["ready"] for verdict in verdicts] == [True] * 4
        assert len({verdict["evidence"]["probe"]["beganAt"] for verdict in verdicts}) == 1
        assert len([request for request in proxy.forwarded if request.path.endswith("Instances()")]) == 1


async def test_the_lease_of_a_dead_worker_expires(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, drained_provider_hub: ProviderTaskHub, clock: ShiftedClock
) -> None:
    """Its lease expires."""
    reading, stuck = asyncio.Event(), asyncio.Event()

    async def die(method: str, path: str) -> None:
        reading.set()
        await stuck.wait()

    proxy.before_request = die
    dying = asyncio.create_task(get_staging(http, app))
    await reading.wait()
    # The process is gone: nothing gives the lease back.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.storage.probes.ProbeStore.save_and_release", _return_false)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    proxy.before_request = no_delay
    stuck.set()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 1.0)
        verdict = await get_staging(http, app)
    assert reason_codes(verdict) == ["ProbeIncomplete"]
    assert "another worker" in verdict["reasons"][0]["message"]
    clock.advance(15)
    assert (await get_staging(http, app))["ready"]


async def test_a_worker_keeps_its_lease_for_as_long_as_it_reads(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    *,
    app: str,
    drained_provider_hub: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease is renewed, so that a read may take longer than a lease."""
    monkeypatch.setattr("state_api.services.probe_leases.LEASE_DURATION_SECONDS", 2)
    monkeypatch.setattr("state_api.services.probe_leases._RENEW_INTERVAL_SECONDS", 0.3)
    reading, released = asyncio.Event(), asyncio.Event()

    async def hold(method: str, path: str) -> None:
        if "Instances" in path:
            reading.set()
            await released.wait()

    async with client_of_server_reading(storage, storage, ShiftedClock()) as other:
        proxy.before_request = hold
        first = asyncio.create_task(get_staging(http, app))
        await reading.wait()
        monkeypatch.setattr("state_api.services.readiness.PROBE_TIMEOUT_SECONDS", 4.0)
        verdict = await get_staging(other, app)
        assert reason_codes(verdict) == ["ProbeIncomplete"]
        assert "another worker" in verdict["reasons"][0]["message"]
        released.set()
        assert (await first)["ready"]


async def _return_false(*arguments: object) -> bool:
    return False


async def test_a_request_that_has_waited_for_another_worker_uses_its_result(
    http: httpx.AsyncClient, app: str, drained_provider_hub: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker has closed an instance in the meantime."""
    lease = ProbeStore.acquire_lease
    waits, done = asyncio.Event(), asyncio.Event()

    async def held_by_another(self: ProbeStore, *arguments: Any, **times: Any) -> Lease | None:
        if waits.is_set():
            return await lease(self, *arguments, **times)
        waits.set()
        await done.wait()
        return None

    monkeypatch.setattr(ProbeStore, "acquire_lease", held_by_another)
    waiting = asyncio.create_task(get_staging(http, app))
    await waits.wait()
    await drained_provider_hub.put("order-1", "Running")
    assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
    await drained_provider_hub.put("order-1", "Completed")
    verdict = await get_staging(http, app)
    assert verdict["ready"]
    done.set()
    assert (await waiting)["evidence"]["probe"]["beganAt"] == verdict["evidence"]["probe"]["beganAt"]
    assert reason_codes(await waiting) == []


async def test_an_end_that_the_storage_rejects_is_not_looked_up_again_and_again(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance stays active, and the request is answered at once."""
    monkeypatch.setattr("state_api.storage.group_commit._REJECTED_ROW_CODES", frozenset({"Injected"}))
    async with (
        run_storage_proxy(storage) as state,
        client_of_server_reading(state.settings, storage, clock) as http,
        ProviderTaskHub(storage, hub) as provider,
    ):
        await provider.create()
        await put_app(
            http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG
        )
        await provider.put("order-1", "Completed")
        await post_events(http, event(hub, "order-1"))
        # By this one the hub is known from now on.
        assert (await get_staging(http, app, wait=10))["ready"]
        await provider.put("order-2", "Completed")
        await post_events(http, event(hub, "order-2"))
        state.failure_status = lambda method, path: 400 if path.endswith("$batch") else None
        state.clear()
        assert reason_codes(await get_staging(http, app)) == ["InstancesActive"]
        assert state.count_requests_and_rows()[0] < 30, "one round of look-ups"
        state.failure_status = lambda method, path: None
        assert (await get_staging(http, app, wait=10))["ready"]
