"""The lease of a worker that reads a task hub: one at a time, given back once, and never lost to its own retries."""

from collections.abc import AsyncIterator

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.messages import KnownTimers, MessageState, PendingTimer
from state_api.services.ports import Lease, ProbeRecord
from state_api.settings import StorageSettings
from state_api.storage.probes import ProbeStore
from state_api.storage.tables import TASK_HUBS_TABLE, Tables

pytestmark = pytest.mark.anyio

NOW = parse_instant("2026-11-20T09:00:00Z")
LATER = Instant(NOW + seconds(60))
RESULT = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", NOW)


def now_plus(offset: float) -> Instant:
    return Instant(NOW + seconds(offset))


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    async with run_storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def store_behind_proxy(proxy: StorageProxy) -> AsyncIterator[ProbeStore]:
    """A store whose requests can fail."""
    tables = Tables(proxy.settings)
    yield ProbeStore(tables)
    await tables.close()


@pytest.fixture
async def probe_store(server: StateServer) -> ProbeStore:
    return ProbeStore(server.tables)


async def acquire_lease(probe_store: ProbeStore, hub: str, owner: str = "one") -> Lease:
    lease = await probe_store.acquire_lease(hub, owner, until=LATER, now=NOW)
    assert lease is not None
    return lease


async def test_one_worker_has_a_hub_until_it_gives_it_back_or_its_time_is_up(probe_store: ProbeStore, hub: str) -> None:
    first = await acquire_lease(probe_store, hub)
    assert await probe_store.acquire_lease(hub, "two", until=LATER, now=NOW) is None
    assert await probe_store.save_and_release(first, result=RESULT)
    second = await acquire_lease(probe_store, hub, "two")
    assert second.record == ProbeRecord(result=RESULT)
    third = await probe_store.acquire_lease(hub, "three", until=Instant(LATER + 1), now=LATER)
    assert third is not None
    assert not await probe_store.save_and_release(second), "another has it by now"
    assert await probe_store.save_and_release(third)


async def test_who_gives_a_hub_back_reads_nothing(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    lease = await acquire_lease(store_behind_proxy, hub)
    proxy.clear()
    assert await store_behind_proxy.save_and_release(lease, result=RESULT)
    assert [one.method for one in proxy.forwarded] == ["POST"]


async def test_an_answer_that_is_lost_does_not_lock_a_worker_out_of_its_own_lease(
    store_behind_proxy: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    """It is asked for again, and the second time the row is no longer what it was."""
    await store_behind_proxy.save_and_release(await acquire_lease(store_behind_proxy, hub), result=RESULT)
    lost: list[str] = []

    def drops_response(method: str, path: str) -> bool:
        if path.endswith("$batch") and not lost:
            lost.append(path)
            return True
        return False

    proxy.drops_response = drops_response
    lease = await acquire_lease(store_behind_proxy, hub, "two")
    assert lost
    assert lease.record.result == RESULT
    assert await store_behind_proxy.save_and_release(lease)


async def test_what_is_given_back_after_a_cleanup_leaves_nothing_behind(
    server: StateServer, probe_store: ProbeStore, hub: str
) -> None:
    lease = await acquire_lease(probe_store, hub)
    await probe_store.delete_records(hub)
    assert not await probe_store.save_and_release(lease, result=RESULT)
    rows = server.tables.client(TASK_HUBS_TABLE).query_entities("PartitionKey eq 'probe'")
    assert not [row["RowKey"] async for row in rows if row["RowKey"].startswith(f"{hub.lower()}|")]


async def test_what_is_given_back_without_a_table_is_nobodys(storage: StorageSettings, hub: str) -> None:
    """The registry's table is shared by all tests, so this lease says it is of another's."""
    tables = Tables(storage)
    probe_store = ProbeStore(tables)
    probe_store._table = tables.client(f"Gone{hub}")
    assert not await probe_store.save_and_release(Lease(hub, "owner", ProbeRecord(), 'W/"any"'), result=RESULT)
    await tables.close()


async def test_a_lease_is_renewed_until_another_worker_has_the_hub(probe_store: ProbeStore, hub: str) -> None:
    lease = await probe_store.acquire_lease(hub, "anna", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    renewed = await probe_store.renew_lease(lease, now_plus(16))
    assert renewed is not None
    assert await probe_store.acquire_lease(hub, "ben", until=now_plus(27), now=now_plus(15)) is None
    # The lease as it was before does not give the hub back.
    assert not await probe_store.save_and_release(lease, result=RESULT)
    taken = await probe_store.acquire_lease(hub, "ben", until=now_plus(29), now=now_plus(17))
    assert taken is not None
    assert await probe_store.renew_lease(renewed, now_plus(33)) is None
    assert await probe_store.save_and_release(taken, result=RESULT)


async def test_what_is_remembered_of_the_messages_stays_until_it_is_replaced(probe_store: ProbeStore, hub: str) -> None:
    memory = MessageState("here", KnownTimers((PendingTimer(7, now_plus(3600)),), now_plus(0)))
    lease = await probe_store.acquire_lease(hub, "anna", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    assert lease.record.message_state == MessageState()
    assert await probe_store.save_and_release(lease, message_state=memory)
    lease = await probe_store.acquire_lease(hub, "ben", until=now_plus(12), now=now_plus(0))
    assert lease is not None
    assert lease.record.message_state == memory
    assert await probe_store.save_and_release(lease)
    assert (await probe_store.get(hub)).message_state == memory
    await probe_store.delete_records(hub)
    assert (await probe_store.get(hub)).message_state == MessageState()
