"""The lease of a worker that reads a task hub: one at a time, given back once, and never lost to its own retries."""

from collections.abc import AsyncIterator

import pytest

from state_api.app import StateServer
from state_api.domain.evidence import ProbeResult, ProbeStatus
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.messages import KnownTimers, MessageMemory, PendingTimer
from state_api.services.ports import Lease, ProbeRecord
from state_api.settings import StorageSettings
from state_api.storage.probes import ProbeStore
from state_api.storage.tables import TASK_HUBS, Tables
from tests.proxy import StorageProxy, storage_proxy

pytestmark = pytest.mark.anyio

NOW = parse_instant("2026-11-20T09:00:00Z")
LATER = Instant(NOW + seconds(60))
RESULT = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", NOW)


def at(offset: float) -> Instant:
    return Instant(NOW + seconds(offset))


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    async with storage_proxy(storage) as between:
        yield between


@pytest.fixture
async def behind(proxy: StorageProxy) -> AsyncIterator[ProbeStore]:
    """A store whose requests can fail."""
    tables = Tables(proxy.settings)
    yield ProbeStore(tables)
    await tables.close()


@pytest.fixture
async def probes(server: StateServer) -> ProbeStore:
    return ProbeStore(server.tables)


async def leased(probes: ProbeStore, hub: str, owner: str = "one") -> Lease:
    lease = await probes.lease(hub, owner, LATER, NOW)
    assert lease is not None
    return lease


async def test_one_worker_has_a_hub_until_it_gives_it_back_or_its_time_is_up(probes: ProbeStore, hub: str) -> None:
    first = await leased(probes, hub)
    assert await probes.lease(hub, "two", LATER, NOW) is None
    assert await probes.keep(first, RESULT, None)
    second = await leased(probes, hub, "two")
    assert second.kept == ProbeRecord(result=RESULT)
    third = await probes.lease(hub, "three", Instant(LATER + 1), LATER)
    assert third is not None
    assert not await probes.keep(second, None, None), "another has it by now"
    assert await probes.keep(third, None, None)


async def test_who_gives_a_hub_back_reads_nothing(behind: ProbeStore, proxy: StorageProxy, hub: str) -> None:
    lease = await leased(behind, hub)
    proxy.clear()
    assert await behind.keep(lease, RESULT, None)
    assert [one.method for one in proxy.passed] == ["POST"]


async def test_an_answer_that_is_lost_does_not_lock_a_worker_out_of_its_own_lease(
    behind: ProbeStore, proxy: StorageProxy, hub: str
) -> None:
    """It is asked for again, and the second time the row is no longer what it was."""
    await behind.keep(await leased(behind, hub), RESULT, None)
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        if path.endswith("$batch") and not lost:
            lost.append(path)
            return True
        return False

    proxy.lose = lose
    lease = await leased(behind, hub, "two")
    assert lost
    assert lease.kept.result == RESULT
    assert await behind.keep(lease, None, None)


async def test_what_is_given_back_after_a_cleanup_leaves_nothing_behind(
    server: StateServer, probes: ProbeStore, hub: str
) -> None:
    lease = await leased(probes, hub)
    await probes.drop(hub)
    assert not await probes.keep(lease, RESULT, None)
    rows = server.tables.client(TASK_HUBS).query_entities("PartitionKey eq 'probe'")
    assert not [row["RowKey"] async for row in rows if row["RowKey"].startswith(f"{hub.lower()}|")]


async def test_what_is_given_back_without_a_table_is_nobodys(storage: StorageSettings, hub: str) -> None:
    """The registry's table is shared by all tests, so this lease says it is of another's."""
    tables = Tables(storage)
    probes = ProbeStore(tables)
    probes._table = tables.client(f"Gone{hub}")
    assert not await probes.keep(Lease(hub, "owner", ProbeRecord(), 'W/"any"'), RESULT, None)
    await tables.close()


async def test_a_lease_is_renewed_until_another_worker_has_the_hub(probes: ProbeStore, hub: str) -> None:
    lease = await probes.lease(hub, "anna", at(12), at(0))
    assert lease is not None
    renewed = await probes.renew(lease, at(16))
    assert renewed is not None
    assert await probes.lease(hub, "ben", at(27), at(15)) is None
    # The lease as it was before does not give the hub back.
    assert not await probes.keep(lease, RESULT, None)
    taken = await probes.lease(hub, "ben", at(29), at(17))
    assert taken is not None
    assert await probes.renew(renewed, at(33)) is None
    assert await probes.keep(taken, RESULT, None)


async def test_what_is_remembered_of_the_messages_stays_until_it_is_replaced(probes: ProbeStore, hub: str) -> None:
    memory = MessageMemory("here", KnownTimers((PendingTimer(7, at(3600)),), at(0)))
    lease = await probes.lease(hub, "anna", at(12), at(0))
    assert lease is not None
    assert lease.kept.memory == MessageMemory()
    assert await probes.keep(lease, None, None, memory)
    lease = await probes.lease(hub, "ben", at(12), at(0))
    assert lease is not None
    assert lease.kept.memory == memory
    assert await probes.keep(lease, None, None)
    assert (await probes.get(hub)).memory == memory
    await probes.drop(hub)
    assert (await probes.get(hub)).memory == MessageMemory()
