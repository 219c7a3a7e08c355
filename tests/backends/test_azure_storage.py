"""The probe of Azure Storage on rows as the provider writes them, in the real emulator."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.domain.instants import Instant
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import SettingsError, StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import new_hub_name

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    made = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield made
    await made.close()


@pytest.fixture
async def provider(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderTaskHub]:
    async with ProviderTaskHub(storage, hub) as made:
        yield await made.create()


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    async with run_storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def backend_behind_proxy(proxy: StorageProxy) -> AsyncIterator[AzureStorageBackend]:
    made = AzureStorageBackend(proxy.settings, "STATE_TASKHUBS_SHOP")
    yield made
    await made.close()


async def read_one_pass(backend: AzureStorageBackend, hub: str) -> list[ObservedInstance]:
    """One pass, every cursor to its end."""
    start = await backend.begin_scan(hub)
    found: list[ObservedInstance] = []
    cursors = list(start.cursors)
    while cursors:
        page = await backend.read_page(hub, start.changed_since, cursors.pop())
        found += page.instances
        cursors += page.cursors
    return found


def active_ids(observed_instances: list[ObservedInstance]) -> list[str]:
    return sorted(one.instance_id for one in observed_instances if one.active)


async def wait_past_look_back(provider: ProviderTaskHub) -> None:
    """Wait until what was written is older than a scan that begins now looks back."""
    await asyncio.sleep(6.2)


async def test_a_sighting_has_what_a_verdict_shows(backend: AzureStorageBackend, provider: ProviderTaskHub) -> None:
    await provider.put("order-1", "Running", name="ProcessOrder", version="2.1")
    (one,) = await read_one_pass(backend, provider.hub)
    assert (one.instance_id, one.function_name, one.version) == ("order-1", "ProcessOrder", "2.1")
    assert 4 <= (one.updated_at - one.created_at) / 10_000_000 <= 7
    await provider.put("order-1", "Running")
    (again,) = await read_one_pass(backend, provider.hub)
    assert again.version is None
    assert again.stamp != one.stamp


async def test_finished_instances_stay_in_the_storage_once_they_are_old(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Completed")
    assert [one.instance_id for one in await read_one_pass(backend, provider.hub)] == ["order-1"]
    await wait_past_look_back(provider)
    assert await read_one_pass(backend, provider.hub) == []


async def test_entities_are_seen_when_they_change_and_are_never_active(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("@counter@shop", "Running", name="@counter@shop")
    await provider.put("@", "Running")
    found = await read_one_pass(backend, provider.hub)
    assert sorted((one.instance_id, one.active) for one in found) == [("@", False), ("@counter@shop", False)]
    assert {one.function_name for one in found} == {"", "counter"}
    await wait_past_look_back(provider)
    assert await read_one_pass(backend, provider.hub) == []


@pytest.mark.parametrize("status", [None, "Paused"])
async def test_a_status_that_nobody_knows_counts_as_active(
    backend: AzureStorageBackend, provider: ProviderTaskHub, status: str | None
) -> None:
    await provider.put("order-1", status)
    await wait_past_look_back(provider)
    assert active_ids(await read_one_pass(backend, provider.hub)) == ["order-1"]


async def test_what_a_purge_left_behind_is_no_instance(backend: AzureStorageBackend, provider: ProviderTaskHub) -> None:
    await provider.table.upsert_entity({"PartitionKey": "order-1", "RowKey": "", "SequenceNumber": 7})
    assert await read_one_pass(backend, provider.hub) == []


@pytest.mark.long
async def test_a_hub_of_many_pages_is_read_to_the_end(backend: AzureStorageBackend, provider: ProviderTaskHub) -> None:
    """More than 2,500 matching rows: the service gives a thousand at a time."""
    ids = [f"{number * 7919 % 16:x}{number:05d}" for number in range(2700)]
    at_once = asyncio.Semaphore(24)

    async def put(instance_id: str) -> None:
        async with at_once:
            await provider.put(instance_id, "Running")

    await asyncio.gather(*(put(instance_id) for instance_id in ids))
    assert active_ids(await read_one_pass(backend, provider.hub)) == sorted(ids)


@pytest.mark.long
async def test_ids_with_one_beginning_take_many_pages_of_one_range(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    ids = [f"order-{number:05d}" for number in range(2600)]
    at_once = asyncio.Semaphore(24)

    async def put(instance_id: str) -> None:
        async with at_once:
            await provider.put(instance_id, "Pending")

    await asyncio.gather(*(put(instance_id) for instance_id in ids))
    found = await read_one_pass(backend, provider.hub)
    assert len(found) == len(ids)
    assert active_ids(found) == sorted(ids)


async def test_a_page_cursor_is_good_for_another_worker(
    storage: StorageSettings, backend: AzureStorageBackend, provider: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 3)
    ids = [f"{number:x}-order" for number in range(16)] + [f"c{number}" for number in range(8)]
    for instance_id in ids:
        await provider.put(instance_id, "Running")
    start = await backend.begin_scan(provider.hub)
    found: list[ObservedInstance] = []
    cursors = list(start.cursors)
    while cursors:
        other = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
        page = await other.read_page(provider.hub, start.changed_since, cursors.pop(0))
        await other.close()
        found += page.instances
        cursors += page.cursors
    assert active_ids(found) == sorted(ids)
    assert len(found) == len(ids)


async def test_short_and_empty_pages_do_not_end_a_scan(
    proxy: StorageProxy,
    backend_behind_proxy: AzureStorageBackend,
    provider: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service may give back less than was asked for, even nothing, with a continuation."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 2)
    ids = [f"a{number}" for number in range(5)] + [f"order-{number}" for number in range(5)]
    for instance_id in ids:
        await provider.put(instance_id, "Running")
    proxy.insert_empty_pages = True
    assert active_ids(await read_one_pass(backend_behind_proxy, provider.hub)) == sorted(ids)
    assert proxy.empty_page_count > 3


class StepwiseScan:
    """Follows a scan pass by pass, as verification does, and lets a test act between two pages."""

    def __init__(self, backend: AzureStorageBackend, hub: str) -> None:
        self._backend = backend
        self._hub = hub

    async def begin(self) -> Scan:
        start = await self._backend.begin_scan(self._hub)
        return Scan(Instant(0), start.changed_since, list(start.cursors), list(start.next_pass_cursors), "")

    async def one_page(self, scan: Scan) -> None:
        cursor = scan.cursors.pop(0)
        page = await self._backend.read_page(self._hub, scan.changed_since, cursor)
        scan.add_page(page.instances, Exemptions())
        scan.cursors[:0] = page.cursors


async def test_work_that_is_handed_over_while_a_scan_runs_is_not_missed(
    backend: AzureStorageBackend, provider: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b-first starts a-second and ends, after the scan has read the range of a and before it reads that of b: neither
    is seen active, but the change is."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 1)
    await provider.put("b-first", "Running")
    await provider.put("a-old", "Completed")
    await provider.put("c-old", "Completed")
    scanner = StepwiseScan(backend, provider.hub)
    scan = await scanner.begin()
    await scanner.one_page(scan)
    while '"PartitionKey"' in scan.cursors[0] or not scan.cursors[0].startswith("[15"):
        await scanner.one_page(scan)
    await provider.put("a-second", "Running")
    await provider.put("b-first", "Completed")
    while scan.cursors:
        await scanner.one_page(scan)
    assert scan.blocking_count == 0
    assert not scan.finish_pass(), "a pass that saw changes is not enough"
    while scan.cursors:
        await scanner.one_page(scan)
    assert [one.instance_id for one in scan.listed_blocking] == ["a-second"]
    assert scan.finish_pass()


async def test_a_hub_that_has_just_fallen_silent_needs_one_pass_more_and_no_waiting(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Completed")
    scanner = StepwiseScan(backend, provider.hub)
    scan = await scanner.begin()
    passes = 0
    while not scan.finish_pass():
        passes += 1
        while scan.cursors:
            await scanner.one_page(scan)
    assert (passes, scan.blocking_count) == (2, 0)


async def test_a_hub_without_tables_is_missing(backend: AzureStorageBackend, hub: str) -> None:
    for asked in (
        backend.begin_scan(hub),
        backend.read_page(hub, Instant(0), "[null, null]"),
        backend.find_instances(hub, ["order-1"]),
    ):
        with pytest.raises(BackendError, match=f"there is no table {hub}Instances") as told:
            await asked
        assert told.value.failure is ReadFailure.MISSING
        assert "STATE_TASKHUBS_SHOP" in told.value.message


async def test_a_shared_tracking_store_shows_only_the_rows_of_the_hub(storage: StorageSettings, hub: str) -> None:
    prefix = new_hub_name()
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP", TrackingStore(storage, "TRACKING", prefix))
    async with ProviderTaskHub(storage, hub, f"{prefix}Instances") as ours:
        await ours.create()
        await ours.put("ours", "Running")
        await ours.put("ours-in-capitals", "Running", TaskHubName=hub.upper())
        await ours.put("nobody-says", "Running", TaskHubName=None)
        await ours.put("theirs", "Running", TaskHubName="othershub")
        assert active_ids(await read_one_pass(backend, hub)) == ["nobody-says", "ours", "ours-in-capitals"]
        assert (await backend.find_instances(hub, ["theirs"]))["theirs"] is None
    await backend.close()


@pytest.mark.parametrize(
    ("status", "failure", "says"),
    [
        (403, ReadFailure.DENIED, "Storage Table Data Reader"),
        (401, ReadFailure.DENIED, "Storage Table Data Reader"),
        (429, ReadFailure.THROTTLED, "asks to wait"),
        (503, ReadFailure.THROTTLED, "asks to wait"),
        (500, ReadFailure.FAILED, "answers 500"),
        (404, ReadFailure.FAILED, "answers 404 (Injected)"),
        (0, ReadFailure.FAILED, "STATE_TASKHUBS_SHOP"),
    ],
)
async def test_trouble_is_told_by_what_there_is_to_mend(
    proxy: StorageProxy,
    backend_behind_proxy: AzureStorageBackend,
    provider: ProviderTaskHub,
    status: int,
    failure: ReadFailure,
    says: str,
) -> None:
    proxy.failure_status = lambda method, path: status
    proxy.headers = {"Retry-After": "7"}
    with pytest.raises(BackendError) as told:
        await backend_behind_proxy.read_page(provider.hub, Instant(0), "[null, null]")
    assert told.value.failure is failure
    assert says in told.value.message
    assert "AccountKey" not in told.value.message
    assert told.value.retry_after == (7 if failure is ReadFailure.THROTTLED else None)
    proxy.failure_status = lambda method, path: None
    assert await read_one_pass(backend_behind_proxy, provider.hub) == []


async def test_an_answer_that_breaks_off_in_the_middle_is_a_failure(
    proxy: StorageProxy, backend_behind_proxy: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Running")
    proxy.truncate_responses = True
    with pytest.raises(BackendError) as told:
        await backend_behind_proxy.read_page(provider.hub, Instant(0), "[null, null]")
    assert told.value.failure is ReadFailure.FAILED
    proxy.truncate_responses = False
    assert active_ids(await read_one_pass(backend_behind_proxy, provider.hub)) == ["order-1"]


def test_a_connection_without_a_key_is_told_by_its_setting() -> None:
    with pytest.raises(SettingsError, match="STATE_TASKHUBS_SHOP"):
        AzureStorageBackend(
            StorageSettings.model_validate({"connection_string": "AccountName=shop"}), "STATE_TASKHUBS_SHOP"
        )
