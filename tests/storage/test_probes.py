"""What workers store of the probes of a task hub, with and without a lease."""

from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import KnownTimers, MessageState, PendingTimer
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.ownership import TaskHubClaim
from state_api.services.ports import Lease, ProbeRecord
from state_api.services.probe_leases import is_leased
from state_api.settings import StorageSettings
from state_api.storage.probes import ProbeStore
from state_api.storage.records_reader import RecordsReader
from state_api.storage.tables import Tables, instance_table_name
from state_api.storage.task_hubs import TaskHubStore
from tests.storage.stored_rows import instance_store, task_hub_record

pytestmark = pytest.mark.anyio

NOW = parse_instant("2026-11-20T09:00:00Z")
LATER = Instant(NOW + seconds(60))
RESULT = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", NOW)
NEWER_RESULT = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", LATER)


def now_plus(offset: float) -> Instant:
    return Instant(NOW + seconds(offset))


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator, in which a test can lose responses."""
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def store_behind_proxy(proxy: StorageProxy, hub: str) -> AsyncIterator[ProbeStore]:
    """A store whose requests go through the proxy. The task hub has been claimed."""
    tables = Tables(proxy.settings)
    await claim_task_hub(tables, hub)
    yield ProbeStore(tables)
    await tables.close()


@pytest.fixture
async def probe_store(server: StateServer, hub: str) -> ProbeStore:
    """A store, and a task hub that has been claimed."""
    await claim_task_hub(server.tables, hub)
    return ProbeStore(server.tables)


async def claim_task_hub(tables: Tables, hub: str) -> None:
    """Claim the task hub for an app, which creates its table."""
    await TaskHubStore(tables, shards=1).claim(hub, TaskHubClaim("shop"))


async def acquire_lease(
    probe_store: ProbeStore, hub: str, owner: str = "first", *, until: Instant = LATER
) -> Lease | None:
    """Read what is stored of the probes, and acquire the lease."""
    records = await RecordsReader(probe_store._tables).read(hub, Exemptions())
    return await probe_store.acquire_lease(hub, owner, records.probe, records.probe_etag, until=until)


async def acquire_free_lease(probe_store: ProbeStore, hub: str, owner: str = "first") -> Lease:
    """Take the lease of the task hub, which must be free."""
    lease = await acquire_lease(probe_store, hub, owner)
    assert lease is not None
    return lease


async def test_acquiring_a_lease_takes_one_request_after_the_records_were_read(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    proxy.clear()
    assert await store_behind_proxy.acquire_lease(hub, "first", ProbeRecord(), None, until=LATER) is not None
    assert [request.method for request in proxy.forwarded] == ["POST"]


async def test_no_lease_is_acquired_after_another_worker_has_stored_something_since_the_records_were_read(
    probe_store: ProbeStore, hub: str
) -> None:
    assert await probe_store.save(hub, None, result=RESULT)
    assert await probe_store.acquire_lease(hub, "second", ProbeRecord(), None, until=LATER) is None
    assert await acquire_lease(probe_store, hub, "second") is not None


async def test_a_worker_stores_its_outcome_without_a_lease_unless_another_worker_has_stored_something(
    probe_store: ProbeStore, hub: str
) -> None:
    assert await probe_store.save(hub, None, result=RESULT)
    assert not await probe_store.save(hub, None, result=NEWER_RESULT)
    read = await RecordsReader(probe_store._tables).read(hub, Exemptions())
    assert read.probe == ProbeRecord(result=RESULT)
    assert await probe_store.save(hub, read.probe_etag, result=NEWER_RESULT)
    assert not await probe_store.save(hub, read.probe_etag, result=RESULT)
    assert (await probe_store.get(hub)).result == NEWER_RESULT


async def test_replacing_the_result_ends_the_lease_of_another_worker_and_keeps_its_scan(
    probe_store: ProbeStore, hub: str
) -> None:
    scan = Scan(NOW, NOW, ["first"], ["next"], "key")
    await probe_store.replace_result(hub, RESULT)
    assert (await probe_store.get(hub)).result is None, "nothing that could be replaced is stored"
    assert await probe_store.save(hub, None, scan=scan)
    lease = await acquire_free_lease(probe_store, hub)
    await probe_store.replace_result(hub, NEWER_RESULT)
    stored = await probe_store.get(hub)
    assert (stored.result, stored.scan, stored.leased_until) == (NEWER_RESULT, scan, None)
    assert not await probe_store.save(hub, lease.etag, result=RESULT)


async def test_one_worker_holds_the_lease_until_it_saves_or_another_worker_takes_it_over(
    probe_store: ProbeStore, hub: str
) -> None:
    first = await acquire_free_lease(probe_store, hub)
    assert is_leased(await probe_store.get(hub), NOW)
    assert not is_leased(await probe_store.get(hub), LATER)
    assert await probe_store.save(hub, first.etag, result=RESULT)
    assert not is_leased(await probe_store.get(hub), NOW)
    second = await acquire_free_lease(probe_store, hub, "second")
    third = await acquire_free_lease(probe_store, hub, "third")
    assert not await probe_store.save(hub, second.etag), "another worker holds the lease"
    assert await probe_store.save(hub, third.etag)


async def test_saving_takes_one_request(store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str) -> None:
    lease = await acquire_free_lease(store_behind_proxy, hub)
    proxy.clear()
    assert await store_behind_proxy.save(hub, lease.etag, result=RESULT)
    assert [request.method for request in proxy.forwarded] == ["POST"]


async def test_a_worker_gets_its_lease_although_the_response_is_lost(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    """The library sends the request again, and the second attempt conflicts with the first."""
    assert await store_behind_proxy.save(hub, None, result=RESULT)
    lost_paths: list[str] = []

    def drop_first_response(method: str, path: str) -> bool:
        """Lose the response of the first transaction, which the emulator has carried out."""
        if path.endswith("$batch") and not lost_paths:
            lost_paths.append(path)
            return True
        return False

    proxy.drops_response = drop_first_response
    lease = await acquire_free_lease(store_behind_proxy, hub, "second")
    assert lost_paths
    assert await store_behind_proxy.save(hub, lease.etag)


@pytest.mark.parametrize("reads_before_cleanup", [False, True])
async def test_releasing_a_lease_after_cleanup_stores_nothing(
    server: StateServer, probe_store: ProbeStore, hub: str, *, reads_before_cleanup: bool
) -> None:
    """Also the worker that acquired the lease only after Cleanup can go on reading, but stores nothing."""
    lease = await acquire_free_lease(probe_store, hub) if reads_before_cleanup else None
    record = await task_hub_record(server, hub)
    await TaskHubStore(server.tables, shards=1).close(hub)
    await instance_store(server).delete_records(record)
    lease = lease or await acquire_free_lease(probe_store, hub)
    assert await probe_store.renew_lease(lease, now_plus(120)) is None
    assert not await probe_store.save(hub, lease.etag, result=RESULT)
    await probe_store.replace_result(hub, RESULT)
    names = server.tables._service.query_tables(f"TableName eq '{instance_table_name(hub)}'")
    assert not [table.name async for table in names]


async def test_a_lease_can_be_renewed_until_another_worker_acquires_it(probe_store: ProbeStore, hub: str) -> None:
    lease = await acquire_lease(probe_store, hub, "anna", until=now_plus(12))
    assert lease is not None
    renewed = await probe_store.renew_lease(lease, now_plus(16))
    assert renewed is not None
    assert is_leased(await probe_store.get(hub), now_plus(15))
    # The lease from before the renewal is no longer valid.
    assert not await probe_store.save(hub, lease.etag, result=RESULT)
    taken = await acquire_lease(probe_store, hub, "ben", until=now_plus(29))
    assert taken is not None
    assert await probe_store.renew_lease(renewed, now_plus(33)) is None
    assert await probe_store.save(hub, taken.etag, result=RESULT)


async def test_the_message_state_stays_until_it_is_replaced(probe_store: ProbeStore, hub: str) -> None:
    message_state = MessageState("backend", KnownTimers((PendingTimer(7, now_plus(3600)),), now_plus(0)))
    assert (await probe_store.get(hub)).message_state == MessageState()
    assert await probe_store.save(hub, None, message_state=message_state)
    lease = await acquire_free_lease(probe_store, hub)
    assert await probe_store.save(hub, lease.etag)
    assert (await probe_store.get(hub)).message_state == message_state
