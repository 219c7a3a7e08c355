"""When the task hub's own storage is in trouble, slow or read by several: never Ready by mistake, and Ready again
without a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from state_api.app import StateServer
from state_api.services.ports import Lease
from state_api.settings import Connections, Settings, StorageSettings
from state_api.storage.probes import ProbeStore
from tests.builders import at, event
from tests.conftest import ShiftedClock, new_hub
from tests.http.client import codes, problem, publish, put, stage, staging
from tests.http.test_verification import SOURCE
from tests.proxy import StorageProxy, at_once, storage_proxy
from tests.taskhubs.provider import ProviderHub

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(
    storage: StorageSettings, source: StorageSettings, clock: ShiftedClock
) -> AsyncIterator[httpx.AsyncClient]:
    """A server whose apps' task hubs are reached through `source`."""
    assert source.connection_string is not None
    connections = Connections({"STATE_TASKHUBS_SHOP": source.connection_string.get_secret_value()})
    state = StateServer(Settings(storage=storage, connections=connections), clock)
    clock.storage = state.tables.clock
    transport = httpx.ASGITransport(state.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://state", timeout=150) as client:
        yield client
    await state.close()


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """Between the server and the storage of the task hubs; the server's own storage is reached directly."""
    async with storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def http(storage: StorageSettings, proxy: StorageProxy, clock: ShiftedClock) -> AsyncIterator[httpx.AsyncClient]:
    async with served(storage, proxy.settings, clock) as client:
        yield client


@pytest.fixture
async def draining(http: httpx.AsyncClient, app: str, storage: StorageSettings, hub: str) -> AsyncIterator[ProviderHub]:
    async with ProviderHub(storage, hub) as provider:
        await provider.create()
        await put(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
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
async def test_trouble_at_the_source_is_a_reason_and_passes(
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    draining: ProviderHub,
    clock: ShiftedClock,
    status: int,
    code: str,
    known: bool,
) -> None:
    """Whether the server would scan the hub or look up an instance that events show."""
    if known:
        await publish(http, event(draining.hub, "order-1", time=at(-9)))
        await draining.put("order-1", "Completed")
        await asyncio.sleep(1.1)
    proxy.fail = lambda method, path: status
    verdict = await staging(http, app)
    assert not verdict["ready"]
    assert codes(verdict) == [*(["InstancesActive"] if known else []), code]
    assert "AccountKey" not in str(verdict)
    problem(await stage(http, app, new_hub()), 409, "StagingNotReady")
    proxy.fail = lambda method, path: None
    assert (await staging(http, app))["ready"]


async def test_a_result_that_was_good_does_not_outlive_trouble_when_staging(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub
) -> None:
    assert (await staging(http, app))["ready"]
    proxy.fail = lambda method, path: 503
    refused = problem(await stage(http, app, new_hub()), 409, "StagingNotReady")
    assert [reason["code"] for reason in refused["reasons"]] == ["ProbeThrottled"]
    assert codes(await staging(http, app)) == ["ProbeThrottled"]


async def test_who_is_asked_to_wait_waits(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    proxy.fail, proxy.headers = (lambda method, path: 429), {"Retry-After": "40"}
    verdict = await staging(http, app)
    assert (codes(verdict), verdict["retryAfterSeconds"]) == (["ProbeThrottled"], 40)
    proxy.fail = lambda method, path: None
    proxy.clear()
    assert codes(await staging(http, app, verify="fresh")) == ["ProbeThrottled"]
    assert proxy.count() == (0, 0)
    clock.turn(41)
    assert (await staging(http, app))["ready"]


async def test_a_connection_that_breaks_in_the_middle_of_a_page_is_no_end(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub
) -> None:
    proxy.cut_bodies = True
    assert codes(await staging(http, app)) == ["ProbeFailed"]
    proxy.cut_bodies = False
    assert (await staging(http, app))["ready"]


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one row, one at a time, and little time for each question."""
    monkeypatch.setattr("state_api.taskhubs.azure_storage._PAGE", 1)
    monkeypatch.setattr("state_api.services.scanning._PAGES_AT_ONCE", 1)
    monkeypatch.setattr("state_api.services.readiness.BUDGET_SECONDS", 1.0)
    for module in ("questions", "scanning"):
        monkeypatch.setattr(f"state_api.services.{module}.LONG_SECONDS", 0.5)


async def much_to_read(http: httpx.AsyncClient, app: str, draining: ProviderHub, **policy: int) -> None:
    """Rows that every scan reads and that hold nothing up. Those of finished instances it reads only for some seconds
    after their end, which a busy machine may let pass before the scan begins."""
    await put(http, app, policy={"ignoreFunctions": ["Sync"], **policy})
    for number in range(4):
        await draining.put(f"b-sync-{number}", "Running", name="Sync")


async def slowly(method: str, path: str) -> None:
    await asyncio.sleep(0.1)


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("verify", ["cached", "fresh"])
async def test_a_scan_that_needs_longer_is_carried_on_by_the_next_question(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub, verify: str
) -> None:
    await much_to_read(http, app, draining)
    proxy.before = slowly
    verdicts: list[Any] = []
    while not verdicts or not verdicts[-1]["ready"]:
        verdicts.append(await staging(http, app, verify=verify))
        assert len(verdicts) < 20
    assert len(verdicts) > 2
    assert {code for verdict in verdicts[:-1] for code in codes(verdict)} == {"ProbeIncomplete"}
    messages = [verdict["evidence"]["probe"]["message"] for verdict in verdicts[:-1]]
    assert len(set(messages)) == len(messages), "each question gets further, and says how far"
    assert verdicts[-1]["assurance"] == "verified"


@pytest.mark.usefixtures("in_small_steps")
async def test_a_hub_that_takes_longer_to_read_than_a_result_may_be_old_says_what_to_set(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub
) -> None:
    await much_to_read(http, app, draining, freshnessSeconds=1)
    proxy.before = slowly
    verdict = await staging(http, app)
    for _ in range(20):
        if codes(verdict) != ["ProbeIncomplete"]:
            break
        verdict = await staging(http, app)
    assert codes(verdict) == ["ProbeStale"]
    assert "set freshnessSeconds well above that" in verdict["reasons"][0]["message"]
    await put(http, app, policy={"freshnessSeconds": 60})
    assert codes(await staging(http, app, verify="none")) == []


@pytest.mark.usefixtures("in_small_steps")
async def test_an_event_overtakes_a_scan_that_waits_to_be_carried_on(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub
) -> None:
    await much_to_read(http, app, draining)
    proxy.before = slowly
    first = await staging(http, app)
    assert codes(first) == ["ProbeIncomplete"]
    await asyncio.sleep(1.1)
    await publish(http, event(draining.hub, "b-order-9", "Completed"))
    await asyncio.sleep(1.1)
    again = await staging(http, app)
    assert codes(again) == ["ProbeIncomplete"]
    assert again["evidence"]["probe"]["checkedAt"] > first["evidence"]["probe"]["checkedAt"]


async def test_two_servers_share_one_scan(
    storage: StorageSettings, http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub
) -> None:
    """One reads, the other waits for what it finds."""
    async with served(storage, proxy.settings, ShiftedClock()) as other:
        proxy.clear()
        verdicts = await asyncio.gather(*(staging(client, app) for client in (http, other, http, other)))
        assert [verdict["ready"] for verdict in verdicts] == [True] * 4
        assert len({verdict["evidence"]["probe"]["checkedAt"] for verdict in verdicts}) == 1
        assert len([one for one in proxy.passed if one.path.endswith("Instances()")]) == 1


async def test_a_worker_that_died_does_not_keep_the_hub(
    http: httpx.AsyncClient, proxy: StorageProxy, app: str, draining: ProviderHub, clock: ShiftedClock
) -> None:
    """Its lease runs out."""
    reading, stuck = asyncio.Event(), asyncio.Event()

    async def die(method: str, path: str) -> None:
        reading.set()
        await stuck.wait()

    proxy.before = die
    dying = asyncio.create_task(staging(http, app))
    await reading.wait()
    # The process is gone: nothing gives the lease back.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.storage.probes.ProbeStore.keep", _nothing)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    proxy.before = at_once
    stuck.set()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.services.readiness.BUDGET_SECONDS", 1.0)
        verdict = await staging(http, app)
    assert codes(verdict) == ["ProbeIncomplete"]
    assert "another worker" in verdict["reasons"][0]["message"]
    clock.turn(15)
    assert (await staging(http, app))["ready"]


async def test_a_worker_keeps_the_hub_for_as_long_as_it_reads(
    storage: StorageSettings,
    http: httpx.AsyncClient,
    proxy: StorageProxy,
    app: str,
    draining: ProviderHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease is renewed, so that a read may take longer than a lease."""
    monkeypatch.setattr("state_api.services.scanning.LEASE_SECONDS", 2)
    monkeypatch.setattr("state_api.services.scanning._RENEW_SECONDS", 0.3)
    reading, released = asyncio.Event(), asyncio.Event()

    async def hold(method: str, path: str) -> None:
        if "Instances" in path:
            reading.set()
            await released.wait()

    async with served(storage, storage, ShiftedClock()) as other:
        proxy.before = hold
        first = asyncio.create_task(staging(http, app))
        await reading.wait()
        monkeypatch.setattr("state_api.services.readiness.BUDGET_SECONDS", 4.0)
        verdict = await staging(other, app)
        assert codes(verdict) == ["ProbeIncomplete"]
        assert "another worker" in verdict["reasons"][0]["message"]
        released.set()
        assert (await first)["ready"]


async def _nothing(*arguments: object) -> bool:
    return False


async def test_who_has_waited_for_another_worker_takes_what_that_one_has_found(
    http: httpx.AsyncClient, app: str, draining: ProviderHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although that one has closed an instance in the meantime."""
    lease = ProbeStore.lease
    waits, done = asyncio.Event(), asyncio.Event()

    async def held_by_another(self: ProbeStore, *arguments: Any) -> Lease | None:
        if waits.is_set():
            return await lease(self, *arguments)
        waits.set()
        await done.wait()
        return None

    monkeypatch.setattr(ProbeStore, "lease", held_by_another)
    waiting = asyncio.create_task(staging(http, app))
    await waits.wait()
    await draining.put("order-1", "Running")
    assert codes(await staging(http, app)) == ["InstancesActive"]
    await draining.put("order-1", "Completed")
    found = await staging(http, app)
    assert found["ready"]
    done.set()
    assert (await waiting)["evidence"]["probe"]["checkedAt"] == found["evidence"]["probe"]["checkedAt"]
    assert codes(await waiting) == []


async def test_an_end_that_the_storage_does_not_take_is_not_sought_again_and_again(
    storage: StorageSettings, clock: ShiftedClock, app: str, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance stays active, and whoever asked is told at once."""
    monkeypatch.setattr("state_api.storage.commits._REFUSED", frozenset({"Injected"}))
    async with (
        storage_proxy(storage) as state,
        served(state.settings, storage, clock) as http,
        ProviderHub(storage, hub) as provider,
    ):
        await provider.create()
        await put(http, app, slots={"staging": {"taskHub": hub}}, policy={"settleSeconds": 0}, taskHubs=SOURCE)
        await provider.put("order-1", "Completed")
        await publish(http, event(hub, "order-1"))
        # By this one the hub is known from now on.
        assert (await staging(http, app, wait=10))["ready"]
        await provider.put("order-2", "Completed")
        await publish(http, event(hub, "order-2"))
        state.fail = lambda method, path: 400 if path.endswith("$batch") else None
        state.clear()
        assert codes(await staging(http, app)) == ["InstancesActive"]
        assert state.count()[0] < 30, "one round of look-ups"
        state.fail = lambda method, path: None
        assert (await staging(http, app, wait=10))["ready"]
