"""The lease of the worker that probes a task hub: one worker at a time, released once, and not lost by a retry."""

from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.messages import KnownTimers, MessageState, PendingTimer
from state_api.domain.task_hubs.ownership import TaskHubClaim
from state_api.services.ports import Lease, ProbeRecord
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


def now_plus(offset: float) -> Instant:
    return Instant(NOW + seconds(offset))


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
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
    await TaskHubStore(tables, shards=1).claim(hub, TaskHubClaim("shop", "run 1"))


async def acquire_lease(
    probe_store: ProbeStore, hub: str, owner: str = "first", *, until: Instant = LATER, now: Instant = NOW
) -> Lease | None:
    """Read what is stored of the probes, and acquire the lease."""
    records = await RecordsReader(probe_store._tables).read(hub, Exemptions())
    return await probe_store.acquire_lease(hub, owner, records.probe, records.probe_etag, until=until, now=now)


async def acquire_free_lease(probe_store: ProbeStore, hub: str, owner: str = "first") -> Lease:
    lease = await acquire_lease(probe_store, hub, owner)
    assert lease is not None
    return lease


async def test_acquiring_a_lease_takes_one_request_after_the_records_were_read(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    proxy.clear()
    assert await store_behind_proxy.acquire_lease(hub, "first", ProbeRecord(), None, until=LATER, now=NOW) is not None
    assert [request.method for request in proxy.forwarded] == ["POST"]


async def test_a_lease_is_acquired_by_what_another_worker_has_stored_since_the_records_were_read(
    probe_store: ProbeStore, hub: str
) -> None:
    assert await probe_store.save_and_release(await acquire_free_lease(probe_store, hub), result=RESULT)
    lease = await probe_store.acquire_lease(hub, "second", ProbeRecord(), None, until=LATER, now=NOW)
    assert lease is not None
    assert lease.record == ProbeRecord(result=RESULT)
    assert await probe_store.acquire_lease(hub, "third", ProbeRecord(), None, until=LATER, now=NOW) is None


async def test_one_worker_holds_the_lease_until_it_releases_it_or_the_lease_expires(
    probe_store: ProbeStore, hub: str
) -> None:
    first = await acquire_free_lease(probe_store, hub)
    assert await acquire_lease(probe_store, hub, "second") is None
    assert await probe_store.save_and_release(first, result=RESULT)
    second = await acquire_free_lease(probe_store, hub, "second")
    assert second.record == ProbeRecord(result=RESULT)
    third = await acquire_lease(probe_store, hub, "third", until=Instant(LATER + 1), now=LATER)
    assert third is not None
    assert not await probe_store.save_and_release(second), "another worker holds the lease"
    assert await probe_store.save_and_release(third)


async def test_releasing_a_lease_takes_one_request(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    lease = await acquire_free_lease(store_behind_proxy, hub)
    proxy.clear()
    assert await store_behind_proxy.save_and_release(lease, result=RESULT)
    assert [request.method for request in proxy.forwarded] == ["POST"]


async def test_a_worker_gets_its_lease_although_the_response_is_lost(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    """The library sends the request again, and the second attempt conflicts with the first."""
    await store_behind_proxy.save_and_release(await acquire_free_lease(store_behind_proxy, hub), result=RESULT)
    lost_paths: list[str] = []

    def drop_first_response(method: str, path: str) -> bool:
        if path.endswith("$batch") and not lost_paths:
            lost_paths.append(path)
            return True
        return False

    proxy.drops_response = drop_first_response
    lease = await acquire_free_lease(store_behind_proxy, hub, "second")
    assert lost_paths
    assert lease.record.result == RESULT
    assert await store_behind_proxy.save_and_release(lease)


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
    assert not await probe_store.save_and_release(lease, result=RESULT)
    names = server.tables._service.query_tables(f"TableName eq '{instance_table_name(hub)}'")
    assert not [table.name async for table in names]


async def test_a_lease_can_be_renewed_until_another_worker_acquires_it(probe_store: ProbeStore, hub: str) -> None:
    lease = await acquire_lease(probe_store, hub, "anna", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    renewed = await probe_store.renew_lease(lease, now_plus(16))
    assert renewed is not None
    assert await acquire_lease(probe_store, hub, "ben", until=now_plus(27), now=now_plus(15)) is None
    # The lease from before the renewal is no longer valid.
    assert not await probe_store.save_and_release(lease, result=RESULT)
    taken = await acquire_lease(probe_store, hub, "ben", until=now_plus(29), now=now_plus(17))
    assert taken is not None
    assert await probe_store.renew_lease(renewed, now_plus(33)) is None
    assert await probe_store.save_and_release(taken, result=RESULT)


async def test_the_message_state_stays_until_it_is_replaced(probe_store: ProbeStore, hub: str) -> None:
    message_state = MessageState("backend", KnownTimers((PendingTimer(7, now_plus(3600)),), now_plus(0)))
    lease = await acquire_lease(probe_store, hub, "anna", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    assert lease.record.message_state == MessageState()
    assert await probe_store.save_and_release(lease, message_state=message_state)
    lease = await acquire_lease(probe_store, hub, "ben", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    assert lease.record.message_state == message_state
    assert await probe_store.save_and_release(lease)
    assert (await probe_store.get(hub)).message_state == message_state
