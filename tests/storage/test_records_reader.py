"""Everything recorded of a task hub is read by one query: its state, its probes, active instances and stamps. The token
of what was read changes with every event and every correction, and with nothing else."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.errors import StorageUnavailable
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Finished, Instance, LifecycleEvent, RuntimeStatus
from state_api.domain.task_hubs.ownership import TaskHubClaim
from state_api.services.ports import ProbeRecord, TaskHubRecord, TaskHubRecords
from state_api.settings import StorageSettings
from state_api.storage.instance_keys import FIRST_SHARD
from state_api.storage.instances import InstanceStore
from state_api.storage.probes import ProbeStore
from state_api.storage.tables import Tables, instance_table_name
from state_api.storage.task_hub_state_rows import STATE_ROW_KEY
from state_api.storage.task_hub_states import TaskHubStateStore
from state_api.storage.task_hubs import TaskHubStore

pytestmark = pytest.mark.anyio

NOW = parse_instant("2026-11-20T09:00:00Z")
CLAIM = TaskHubClaim("shop")
RESULT = ProbeResult(ProbeStatus.COMPLETE, "azureStorage", NOW)
NO_EXEMPTIONS = Exemptions()
every_shard_count = pytest.mark.parametrize("shards", [1, 4])


@dataclass
class StoredTaskHub:
    """A task hub, and the stores of one server that write and read it."""

    name: str
    tables: Tables
    shards: int = 1
    task_hubs: TaskHubStore = field(init=False)
    instances: InstanceStore = field(init=False)
    probes: ProbeStore = field(init=False)

    def __post_init__(self) -> None:
        self.task_hubs = TaskHubStore(self.tables, self.shards)
        self.instances = InstanceStore(self.tables)
        self.probes = ProbeStore(self.tables)

    async def read(self) -> TaskHubRecords:
        return await self.instances.read_records(self.name, NO_EXEMPTIONS)

    async def get_registry_record(self) -> TaskHubRecord:
        """What the registry holds about the task hub. Fails if it is not registered."""
        record = await self.task_hubs.get(self.name)
        assert record is not None
        return record

    async def record_event(
        self, instance_id: str, status: RuntimeStatus = RuntimeStatus.RUNNING, *, second: int = 0, function: str = "F"
    ) -> None:
        """Record an event of one instance, some seconds after NOW."""
        event = LifecycleEvent(self.name, instance_id, function, status, "", Instant(NOW + seconds(second)))
        await self.instances.record(await self.task_hubs.get_or_create(self.name), [event])

    async def record_end_by_probe(self, instance_id: str) -> None:
        """Record that a probe has shown the end of an instance."""
        finished = Finished(Instant(NOW + 1), RuntimeStatus.COMPLETED, "", "F", EvidenceSource.PROBE)
        await self.instances.record_corrections(
            await self.get_registry_record(), [Instance(instance_id, finished=finished)]
        )

    async def store_probe_result(self, result: ProbeResult = RESULT) -> None:
        """Store the result of a probe, unless another result was stored meanwhile."""
        records = await self.read()
        assert await self.probes.save(self.name, records.probe_etag, result=result)


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the emulator, in which a test can act between two requests."""
    async with run_storage_proxy(storage) as storage_proxy:
        yield storage_proxy


@pytest.fixture
async def tables_behind_proxy(proxy: StorageProxy) -> AsyncIterator[Tables]:
    """Tables whose requests go through the proxy."""
    tables = Tables(proxy.settings)
    yield tables
    await tables.close()


@pytest.fixture
def task_hub(server: StateServer, hub: str) -> StoredTaskHub:
    """A task hub of the state server, of which nothing is recorded yet."""
    return StoredTaskHub(hub, server.tables)


def active_ids(records: TaskHubRecords) -> set[str]:
    return {instance.instance_id for instance in records.activity.active}


async def test_one_request_reads_a_claimed_task_hub_before_its_first_event(
    proxy: StorageProxy, tables_behind_proxy: Tables, hub: str
) -> None:
    task_hub = StoredTaskHub(hub, tables_behind_proxy)
    await task_hub.task_hubs.claim(hub, CLAIM)
    proxy.clear()
    records = await task_hub.read()
    assert len(proxy.forwarded) == 1
    assert (records.activity, records.recording, records.seen) == (InstanceActivity(), False, False)
    assert (records.probe, records.probe_etag) == (ProbeRecord(), None)
    assert not records.state.seen_before


async def test_one_request_reads_state_probes_and_active_instances(
    proxy: StorageProxy, tables_behind_proxy: Tables, hub: str
) -> None:
    task_hub = StoredTaskHub(hub, tables_behind_proxy)
    await task_hub.record_event("order-1")
    await task_hub.record_event("order-2", RuntimeStatus.COMPLETED)
    await task_hub.task_hubs.record_seen(hub, confirmed_backend="here")
    await task_hub.store_probe_result()
    proxy.clear()
    records = await task_hub.read()
    assert len(proxy.forwarded) == 1
    assert (active_ids(records), records.recording, records.seen) == ({"order-1"}, True, True)
    assert (records.confirmed_backend, records.probe.result) == ("here", RESULT)
    assert records.state.seen_before


async def test_a_server_with_another_number_of_shards_for_new_task_hubs_reads_every_shard(
    server: StateServer, hub: str
) -> None:
    writer = StoredTaskHub(hub, server.tables, shards=4)
    for number in range(20):
        await writer.record_event(f"order-{number}")
    records = await StoredTaskHub(hub, server.tables, shards=1).read()
    assert active_ids(records) == {f"order-{number}" for number in range(20)}


async def test_every_spelling_of_a_task_hub_has_the_same_records(task_hub: StoredTaskHub) -> None:
    await task_hub.record_event("order-1")
    assert await replace(task_hub, name=task_hub.name.upper()).read() == await task_hub.read()


@every_shard_count
async def test_a_repeated_event_and_a_probe_result_do_not_change_the_change_token(
    server: StateServer, hub: str, shards: int
) -> None:
    task_hub = StoredTaskHub(hub, server.tables, shards)
    await task_hub.record_event("order-1")
    token = (await task_hub.read()).change_token
    await task_hub.record_event("order-1")
    await task_hub.store_probe_result()
    await task_hub.task_hubs.record_seen(hub, confirmed_backend="here")
    assert (await task_hub.read()).change_token == token


@every_shard_count
async def test_the_token_changes_with_every_event_and_every_correction(
    server: StateServer, hub: str, shards: int
) -> None:
    task_hub = StoredTaskHub(hub, server.tables, shards)
    await task_hub.task_hubs.claim(hub, CLAIM)
    tokens = [(await task_hub.read()).change_token]
    changes: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: task_hub.record_event("order-1"),
        lambda: task_hub.record_event("order-2"),
        lambda: task_hub.record_event("order-2", RuntimeStatus.COMPLETED, second=1),
        # Nothing but the stamps of functions shows an end without its start, and a start that comes after its end.
        lambda: task_hub.record_event("order-3", RuntimeStatus.FAILED, second=1),
        lambda: task_hub.record_event("order-3"),
        lambda: task_hub.record_event("order-4", RuntimeStatus.COMPLETED, function="G"),
        lambda: task_hub.record_event("order-1", RuntimeStatus.SUSPENDED),
        lambda: task_hub.record_end_by_probe("order-1"),
    )
    for record_change in changes:
        await record_change()
        tokens.append((await task_hub.read()).change_token)
    assert len(set(tokens)) == len(tokens)


async def test_cleanup_ends_what_is_recorded_as_active(task_hub: StoredTaskHub) -> None:
    """Events that would end these instances are not recorded any more."""
    await task_hub.record_event("order-1")
    await task_hub.task_hubs.close(task_hub.name)
    records = await task_hub.read()
    assert (records.activity, records.recording) == (InstanceActivity(), True)


# Without a state


async def test_an_unknown_task_hub_has_no_records(task_hub: StoredTaskHub) -> None:
    assert await task_hub.read() == TaskHubRecords()


async def test_a_task_hub_that_was_cleaned_up_has_no_records_and_was_seen_before(task_hub: StoredTaskHub) -> None:
    await task_hub.record_event("order-1")
    await task_hub.task_hubs.close(task_hub.name)
    await task_hub.instances.delete_records(await task_hub.get_registry_record())
    assert await task_hub.read() == TaskHubRecords(recording=True)


async def test_a_repeated_claim_creates_what_the_first_one_has_not(
    monkeypatch: pytest.MonkeyPatch, task_hub: StoredTaskHub
) -> None:
    """The worker of the first claim dies before it creates the table."""

    async def fail_to_create(store: TaskHubStateStore, record: TaskHubRecord) -> None:
        raise StorageUnavailable("the worker has died")

    with monkeypatch.context() as patched:
        patched.setattr(TaskHubStateStore, "create", fail_to_create)
        with pytest.raises(StorageUnavailable):
            await task_hub.task_hubs.claim(task_hub.name, CLAIM)
    assert await task_hub.read() == TaskHubRecords()
    await task_hub.task_hubs.claim(task_hub.name, CLAIM)
    assert (await task_hub.read()).change_token


async def test_a_table_without_a_state_is_read_with_the_shards_of_the_registry(server: StateServer, hub: str) -> None:
    task_hub = StoredTaskHub(hub, server.tables, shards=4)
    for number in range(20):
        await task_hub.record_event(f"order-{number}")
    await server.tables.client(instance_table_name(hub)).delete_entity(FIRST_SHARD, STATE_ROW_KEY)
    records = await task_hub.read()
    assert (len(active_ids(records)), records.recording, records.seen) == (20, True, False)
    await task_hub.task_hubs.record_seen(hub)
    records = await task_hub.read()
    assert (len(active_ids(records)), records.recording, records.seen) == (20, True, True)


async def test_a_first_event_that_is_recorded_while_the_registry_is_read_counts(
    server: StateServer, proxy: StorageProxy, tables_behind_proxy: Tables, hub: str
) -> None:
    """The table did not exist when it was read, and the registry then shows that something is recorded."""
    is_recorded = False

    async def record_first_event(method: str, path: str) -> None:
        """Record the first event of the task hub just before the registry is read."""
        nonlocal is_recorded
        if "TaskHubs" in path and not is_recorded:
            is_recorded = True
            await StoredTaskHub(hub, server.tables).record_event("order-1")

    proxy.before_request = record_first_event
    assert active_ids(await StoredTaskHub(hub, tables_behind_proxy).read()) == {"order-1"}
    assert is_recorded


async def test_lost_records_are_an_error_for_reading_and_for_what_a_probe_has_seen(task_hub: StoredTaskHub) -> None:
    await task_hub.record_event("order-1")
    await task_hub.instances.delete_records(await task_hub.get_registry_record())
    with pytest.raises(StorageUnavailable, match="was deleted"):
        await task_hub.read()
    with pytest.raises(StorageUnavailable, match="was deleted"):
        await task_hub.task_hubs.record_seen(task_hub.name)
    with pytest.raises(StorageUnavailable, match="was deleted"):
        await task_hub.read()


# The state


async def test_what_a_probe_has_seen_is_written_once(
    proxy: StorageProxy, tables_behind_proxy: Tables, hub: str
) -> None:
    task_hub = StoredTaskHub(hub, tables_behind_proxy)
    await task_hub.task_hubs.claim(hub, CLAIM)
    await task_hub.task_hubs.record_seen(hub, confirmed_backend="here")
    proxy.clear()
    await task_hub.task_hubs.record_seen(hub)
    await task_hub.task_hubs.record_seen(hub, confirmed_backend="here")
    assert {request.method for request in proxy.forwarded} == {"GET"}
    await task_hub.task_hubs.record_seen(hub, confirmed_backend="there")
    assert (await task_hub.read()).confirmed_backend == "there"


async def test_what_a_probe_has_seen_of_an_unknown_or_removed_task_hub_creates_nothing(
    task_hub: StoredTaskHub,
) -> None:
    await task_hub.task_hubs.record_seen(task_hub.name)
    assert await task_hub.task_hubs.get(task_hub.name) is None
    await task_hub.task_hubs.claim(task_hub.name, CLAIM)
    record = await task_hub.get_registry_record()
    await task_hub.task_hubs.close(task_hub.name)
    await task_hub.instances.delete_records(record)
    await task_hub.task_hubs.record_seen(task_hub.name)
    await task_hub.task_hubs.close(task_hub.name)
    names = task_hub.tables._service.query_tables(f"TableName eq '{instance_table_name(task_hub.name)}'")
    assert not [table.name async for table in names]


async def test_the_first_event_of_a_claimed_task_hub_keeps_what_a_probe_has_seen(task_hub: StoredTaskHub) -> None:
    await task_hub.task_hubs.claim(task_hub.name, CLAIM)
    await task_hub.task_hubs.record_seen(task_hub.name, confirmed_backend="here")
    await task_hub.record_event("order-1")
    records = await task_hub.read()
    assert (records.recording, records.seen, records.confirmed_backend) == (True, True, "here")


async def test_two_servers_that_change_the_state_at_the_same_time_lose_nothing(
    server: StateServer, proxy: StorageProxy, tables_behind_proxy: Tables, hub: str
) -> None:
    await StoredTaskHub(hub, server.tables).task_hubs.claim(hub, CLAIM)
    is_recorded = False

    async def record_first_event(method: str, path: str) -> None:
        """Record the first event of the task hub just before the first transaction."""
        nonlocal is_recorded
        if path.endswith("$batch") and not is_recorded:
            is_recorded = True
            await StoredTaskHub(hub, server.tables).record_event("order-1")

    proxy.before_request = record_first_event
    task_hub = StoredTaskHub(hub, tables_behind_proxy)
    await task_hub.task_hubs.record_seen(hub)
    records = await task_hub.read()
    assert (is_recorded, records.recording, records.seen) == (True, True, True)
