"""The backend `azureStorage` on rows as the provider writes them, in the storage emulator."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.domain.instants import TICKS_PER_SECOND, Instant, seconds
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import SettingsError, StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.conftest import new_hub_name

pytestmark = pytest.mark.anyio

_UNCHANGED_AFTER_SECONDS = 6.2
"""The margin of a scan, 5 s, and a second because the storage's time is in whole seconds."""


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    """The backend that reads task hubs in the emulator."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield backend
    await backend.close()


@pytest.fixture
async def provider(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderTaskHub]:
    """An empty task hub in the emulator, to which a test adds rows as the Azure Storage provider does."""
    async with ProviderTaskHub(storage, hub) as provider:
        yield await provider.create()


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator that counts requests and can fail."""
    async with run_storage_proxy(storage) as proxy:
        yield proxy


@pytest.fixture
async def backend_behind_proxy(proxy: StorageProxy) -> AsyncIterator[AzureStorageBackend]:
    """The backend whose requests go through the proxy."""
    backend = AzureStorageBackend(proxy.settings, "STATE_TASKHUBS_SHOP")
    yield backend
    await backend.close()


async def read_one_pass(backend: AzureStorageBackend, hub: str) -> list[ObservedInstance]:
    """Return the instances of one pass."""
    start = await backend.begin_scan(hub)
    instances: list[ObservedInstance] = []
    cursors = list(start.cursors)
    while cursors:
        page = await backend.read_page(hub, start.changed_since, cursors.pop())
        instances += page.instances
        cursors += page.cursors
    return instances


def list_active_ids(observed_instances: list[ObservedInstance]) -> list[str]:
    """The ids of the active instances, sorted."""
    return sorted(observed.instance_id for observed in observed_instances if observed.active)


async def wait_until_unchanged(provider: ProviderTaskHub) -> None:
    """Wait until the rows are older than the margin within which a new scan counts them as changed."""
    await asyncio.sleep(_UNCHANGED_AFTER_SECONDS)


async def test_an_observed_instance_has_the_values_that_a_verdict_shows(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Running", name="ProcessOrder", version="2.1")
    (before,) = await read_one_pass(backend, provider.hub)
    assert (before.instance_id, before.function_name, before.version) == ("order-1", "ProcessOrder", "2.1")
    assert 4 <= (before.updated_at - before.created_at) / TICKS_PER_SECOND <= 7
    await provider.put("order-1", "Running")
    (after,) = await read_one_pass(backend, provider.hub)
    assert after.version is None
    assert after.stamp != before.stamp


async def test_an_ended_instance_is_returned_only_while_its_change_is_recent(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Completed")
    assert [observed.instance_id for observed in await read_one_pass(backend, provider.hub)] == ["order-1"]
    await wait_until_unchanged(provider)
    assert await read_one_pass(backend, provider.hub) == []


async def test_an_entity_is_returned_when_it_has_changed_and_is_never_active(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("@counter@shop", "Running", name="@counter@shop")
    await provider.put("@", "Running")
    instances = await read_one_pass(backend, provider.hub)
    assert sorted((observed.instance_id, observed.active) for observed in instances) == [
        ("@", False),
        ("@counter@shop", False),
    ]
    assert {observed.function_name for observed in instances} == {"", "counter"}
    await wait_until_unchanged(provider)
    assert await read_one_pass(backend, provider.hub) == []


@pytest.mark.parametrize("status", [None, "Paused"])
async def test_a_missing_or_unknown_status_counts_as_active(
    backend: AzureStorageBackend, provider: ProviderTaskHub, status: str | None
) -> None:
    await provider.put("order-1", status)
    await wait_until_unchanged(provider)
    assert list_active_ids(await read_one_pass(backend, provider.hub)) == ["order-1"]


async def test_a_row_that_a_purge_leaves_behind_is_not_an_instance(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.table.upsert_entity({"PartitionKey": "order-1", "RowKey": "", "SequenceNumber": 7})
    assert await read_one_pass(backend, provider.hub) == []


@pytest.mark.long
async def test_a_task_hub_of_many_pages_is_read_to_the_end(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    """2,700 matching rows: the service returns at most 1,000 on a page."""
    ids = [f"{number * 7919 % 16:x}{number:05d}" for number in range(2700)]
    concurrency_limit = asyncio.Semaphore(24)

    async def put_instance(instance_id: str) -> None:
        async with concurrency_limit:
            await provider.put(instance_id, "Running")

    await asyncio.gather(*(put_instance(instance_id) for instance_id in ids))
    assert list_active_ids(await read_one_pass(backend, provider.hub)) == sorted(ids)


@pytest.mark.long
async def test_a_range_of_partition_keys_can_have_many_pages(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    ids = [f"order-{number:05d}" for number in range(2600)]
    concurrency_limit = asyncio.Semaphore(24)

    async def put_instance(instance_id: str) -> None:
        async with concurrency_limit:
            await provider.put(instance_id, "Pending")

    await asyncio.gather(*(put_instance(instance_id) for instance_id in ids))
    instances = await read_one_pass(backend, provider.hub)
    assert len(instances) == len(ids)
    assert list_active_ids(instances) == sorted(ids)


async def test_workers_that_share_a_scan_return_every_instance_once(
    storage: StorageSettings, backend: AzureStorageBackend, provider: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 3)
    ids = [f"{number:x}-order" for number in range(16)] + [f"c{number}" for number in range(8)]
    for instance_id in ids:
        await provider.put(instance_id, "Running")
    start = await backend.begin_scan(provider.hub)
    instances: list[ObservedInstance] = []
    cursors = list(start.cursors)
    while cursors:
        other_worker = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
        page = await other_worker.read_page(provider.hub, start.changed_since, cursors.pop(0))
        await other_worker.close()
        instances += page.instances
        cursors += page.cursors
    assert list_active_ids(instances) == sorted(ids)
    assert len(instances) == len(ids)


async def test_short_and_empty_pages_do_not_end_a_scan(
    proxy: StorageProxy,
    backend_behind_proxy: AzureStorageBackend,
    provider: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service may return fewer rows than were asked for, even none, with a continuation."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 2)
    ids = [f"a{number}" for number in range(5)] + [f"order-{number}" for number in range(5)]
    for instance_id in ids:
        await provider.put(instance_id, "Running")
    proxy.insert_empty_pages = True
    assert list_active_ids(await read_one_pass(backend_behind_proxy, provider.hub)) == sorted(ids)
    assert proxy.empty_page_count > 3


class StepwiseScan:
    """Reads a scan page by page, as verification does, so that a test can change instances in between."""

    def __init__(self, backend: AzureStorageBackend, hub: str) -> None:
        self._backend = backend
        self._hub = hub

    async def begin(self) -> Scan:
        """Begin a scan."""
        start = await self._backend.begin_scan(self._hub)
        return Scan(Instant(0), start.changed_since, list(start.cursors), list(start.next_pass_cursors), "")

    async def read_next_page(self, scan: Scan) -> None:
        """Read the page of the first cursor, and add it to the scan."""
        cursor = scan.cursors.pop(0)
        page = await self._backend.read_page(self._hub, scan.changed_since, cursor)
        scan.add_page(page.instances, Exemptions())
        scan.cursors[:0] = page.cursors


async def test_an_orchestration_that_starts_behind_the_scan_is_found_by_another_pass(
    backend: AzureStorageBackend, provider: ProviderTaskHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b-first starts a-second and ends after the scan has read the range of `a` and before it reads that of `b`. The
    scan sees neither as active, but it sees that b-first has changed."""
    monkeypatch.setattr("state_api.backends.azure_storage._PAGE_SIZE", 1)
    await provider.put("b-first", "Running")
    await provider.put("a-old", "Completed")
    await provider.put("c-old", "Completed")
    scanner = StepwiseScan(backend, provider.hub)
    scan = await scanner.begin()
    await scanner.read_next_page(scan)
    while '"PartitionKey"' in scan.cursors[0] or not scan.cursors[0].startswith("[15"):
        await scanner.read_next_page(scan)
    await provider.put("a-second", "Running")
    await provider.put("b-first", "Completed")
    while scan.cursors:
        await scanner.read_next_page(scan)
    assert scan.blocking_count == 0
    assert not scan.finish_pass(), "a pass that saw changes is not enough"
    while scan.cursors:
        await scanner.read_next_page(scan)
    assert [blocking.instance_id for blocking in scan.listed_blocking] == ["a-second"]
    assert scan.finish_pass()


async def test_a_task_hub_that_has_just_drained_needs_a_second_pass_and_no_wait(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Completed")
    scanner = StepwiseScan(backend, provider.hub)
    scan = await scanner.begin()
    passes = 0
    while not scan.finish_pass():
        passes += 1
        while scan.cursors:
            await scanner.read_next_page(scan)
    assert (passes, scan.blocking_count) == (2, 0)


async def test_a_task_hub_without_tables_is_missing(backend: AzureStorageBackend, hub: str) -> None:
    for read in (
        backend.begin_scan(hub),
        backend.read_queue_snapshot(hub),
        backend.read_page(hub, Instant(0), "[null, null]"),
        backend.find_instances(hub, ["order-1"]),
    ):
        with pytest.raises(BackendError, match=f"there is no table {hub}Instances") as caught:
            await read
        assert caught.value.failure is ReadFailure.MISSING
        assert "STATE_TASKHUBS_SHOP" in caught.value.message


async def test_a_scan_begins_without_a_request_while_the_clock_of_the_storage_is_known(
    proxy: StorageProxy,
    backend_behind_proxy: AzureStorageBackend,
    provider: ProviderTaskHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state_api.backends.azure_storage._MAX_CLOCK_AGE_SECONDS", 3600)
    first = await backend_behind_proxy.begin_scan(provider.hub)
    assert len(proxy.forwarded) == 1, "a new process does not know the storage's time"
    second = await backend_behind_proxy.begin_scan(provider.hub)
    assert len(proxy.forwarded) == 1
    assert second.changed_since >= first.changed_since
    monkeypatch.setattr("state_api.backends.azure_storage._MAX_CLOCK_AGE_SECONDS", -1)
    await backend_behind_proxy.begin_scan(provider.hub)
    assert len(proxy.forwarded) == 2, "the last response is too long ago"


async def test_a_scan_looks_back_further_than_the_stamps_of_rows_can_differ_from_the_clock(
    backend: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    """The margin holds as well if the estimate of the storage's clock rests on an earlier response."""
    for number in range(3):
        start = await backend.begin_scan(provider.hub)
        await provider.put(f"order-{number}", "Completed")
        page = await backend.read_page(provider.hub, start.changed_since, start.cursors[0])
        (changed,) = [observed for observed in page.instances if observed.instance_id == f"order-{number}"]
        assert changed.updated_at - start.changed_since >= seconds(3)


async def test_only_this_task_hubs_rows_of_a_shared_tracking_store_are_returned(
    storage: StorageSettings, hub: str
) -> None:
    prefix = new_hub_name()
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP", TrackingStore(storage, "TRACKING", prefix))
    async with ProviderTaskHub(storage, hub, f"{prefix}Instances") as ours:
        await ours.create()
        await ours.put("ours", "Running")
        await ours.put("ours-in-capitals", "Running", TaskHubName=hub.upper())
        await ours.put("without-task-hub", "Running", TaskHubName=None)
        await ours.put("theirs", "Running", TaskHubName="othershub")
        assert list_active_ids(await read_one_pass(backend, hub)) == ["ours", "ours-in-capitals", "without-task-hub"]
        assert (await backend.find_instances(hub, ["theirs"]))["theirs"] is None
    await backend.close()


@pytest.mark.parametrize(
    ("status", "failure", "text"),
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
async def test_a_failure_says_what_to_correct(
    *,
    proxy: StorageProxy,
    backend_behind_proxy: AzureStorageBackend,
    provider: ProviderTaskHub,
    status: int,
    failure: ReadFailure,
    text: str,
) -> None:
    proxy.failure_status = lambda method, path: status
    proxy.headers = {"Retry-After": "7"}
    with pytest.raises(BackendError) as caught:
        await backend_behind_proxy.read_page(provider.hub, Instant(0), "[null, null]")
    assert caught.value.failure is failure
    assert text in caught.value.message
    assert "AccountKey" not in caught.value.message
    assert caught.value.retry_after == (7 if failure is ReadFailure.THROTTLED else None)
    proxy.failure_status = lambda method, path: None
    assert await read_one_pass(backend_behind_proxy, provider.hub) == []


async def test_an_incomplete_response_is_a_failure(
    proxy: StorageProxy, backend_behind_proxy: AzureStorageBackend, provider: ProviderTaskHub
) -> None:
    await provider.put("order-1", "Running")
    proxy.truncate_responses = True
    with pytest.raises(BackendError) as caught:
        await backend_behind_proxy.read_page(provider.hub, Instant(0), "[null, null]")
    assert caught.value.failure is ReadFailure.FAILED
    proxy.truncate_responses = False
    assert list_active_ids(await read_one_pass(backend_behind_proxy, provider.hub)) == ["order-1"]


def test_a_connection_string_without_a_key_is_reported_with_its_setting() -> None:
    with pytest.raises(SettingsError, match="STATE_TASKHUBS_SHOP"):
        AzureStorageBackend(
            StorageSettings.model_validate({"connection_string": "AccountName=shop"}), "STATE_TASKHUBS_SHOP"
        )
