"""How long a worker relies on the registry row of an open task hub that it has read."""

from dataclasses import dataclass

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.app import StateServer
from state_api.domain.instants import Instant, seconds
from state_api.services.ports import EventLease, TaskHubRecord
from state_api.settings import Settings, StorageSettings
from state_api.storage.open_task_hubs import MAX_CACHED_RECORDS, OpenTaskHubs
from state_api.storage.tables import TASK_HUBS_TABLE
from tests.builders import event
from tests.http.operations import post_events, put_app

LEASE_SECONDS = 10.0


@dataclass
class FakeClocks:
    """The clock of this machine in seconds, and the storage's clock."""

    machine_seconds: float = 1000.0
    storage_seconds: float = 5000.0
    uncertainty_seconds: float = 0.0
    synchronized: bool = True

    def monotonic(self) -> float:
        return self.machine_seconds

    def now(self) -> Instant:
        return Instant(seconds(self.storage_seconds))

    def upper_bound(self) -> Instant:
        return Instant(seconds(self.storage_seconds + self.uncertainty_seconds))

    def advance(self, duration_seconds: float) -> None:
        self.machine_seconds += duration_seconds
        self.storage_seconds += duration_seconds


@pytest.fixture
def clocks() -> FakeClocks:
    """Clocks of the storage and of the machine that a test advances."""
    return FakeClocks()


@pytest.fixture
def open_task_hubs(clocks: FakeClocks) -> OpenTaskHubs:
    """An empty cache of open task hubs."""
    return OpenTaskHubs(LEASE_SECONDS, clocks, clocks.monotonic)


def open_record(task_hub: str) -> TaskHubRecord:
    """The record of a task hub that takes events."""
    return TaskHubRecord(task_hub, shards=1, app=None, recording=True, closed=False)


def test_a_lease_counts_from_before_the_read(open_task_hubs: OpenTaskHubs, clocks: FakeClocks) -> None:
    read_start = open_task_hubs.start_read()
    clocks.advance(4)
    open_task_hubs.add(open_record("Shop1"), read_start)
    clocks.advance(5.9)
    assert open_task_hubs.has_lease("shop1")
    clocks.advance(0.2)
    assert not open_task_hubs.has_lease("shop1")
    assert open_task_hubs.get("SHOP1") == open_record("Shop1"), "the record stays cached"


def test_a_suspension_of_the_machine_ends_the_lease(open_task_hubs: OpenTaskHubs, clocks: FakeClocks) -> None:
    """The clock of the machine stands still meanwhile."""
    open_task_hubs.add(open_record("shop1"), open_task_hubs.start_read())
    clocks.storage_seconds += LEASE_SECONDS
    assert not open_task_hubs.has_lease("shop1")


def test_a_suspension_ends_the_lease_although_the_storages_time_is_known_only_to_seconds(
    open_task_hubs: OpenTaskHubs, clocks: FakeClocks
) -> None:
    open_task_hubs.add(open_record("shop1"), open_task_hubs.start_read())
    clocks.storage_seconds += LEASE_SECONDS - 3
    clocks.uncertainty_seconds = 3
    assert not open_task_hubs.has_lease("shop1")


def test_a_storage_clock_that_is_set_back_does_not_extend_the_lease(
    open_task_hubs: OpenTaskHubs, clocks: FakeClocks
) -> None:
    open_task_hubs.add(open_record("shop1"), open_task_hubs.start_read())
    clocks.storage_seconds -= 3600
    clocks.machine_seconds += LEASE_SECONDS
    assert not open_task_hubs.has_lease("shop1")


def test_a_task_hub_that_was_removed_or_never_read_has_no_lease(open_task_hubs: OpenTaskHubs) -> None:
    open_task_hubs.add(open_record("shop1"), open_task_hubs.start_read())
    open_task_hubs.remove("SHOP1")
    assert not open_task_hubs.has_lease("shop1")
    assert not open_task_hubs.has_lease("shop2")


def test_the_records_read_longest_ago_are_forgotten(open_task_hubs: OpenTaskHubs) -> None:
    for number in range(MAX_CACHED_RECORDS):
        open_task_hubs.add(open_record(f"shop{number}"), open_task_hubs.start_read())
    open_task_hubs.add(open_record("shop0"), open_task_hubs.start_read())
    open_task_hubs.add(open_record("another"), open_task_hubs.start_read())
    assert open_task_hubs.get("shop0") is not None
    assert open_task_hubs.get("shop1") is None


def count_registry_reads(proxy: StorageProxy) -> int:
    """How often the registry of task hubs was read."""
    return sum(request.method == "GET" and TASK_HUBS_TABLE in request.path for request in proxy.forwarded)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("lease_seconds", "is_claimed", "reads"),
    [(3600, False, 0), (0, False, 3), (0, True, 0)],
    ids=["within the lease", "after the lease", "of a claimed task hub"],
)
async def test_events_read_the_registry_only_for_an_unclaimed_task_hub_without_a_lease(
    *, storage: StorageSettings, hub: str, app: str, lease_seconds: float, is_claimed: bool, reads: int
) -> None:
    async with run_storage_proxy(storage) as proxy:
        server = StateServer(
            Settings(storage=proxy.settings), event_lease=EventLease(seconds=lease_seconds, margin_seconds=0)
        )
        transport = httpx.ASGITransport(server.application, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://recording") as http:
            if is_claimed:
                await put_app(http, app, slots={"staging": {"taskHub": hub}})
            await post_events(http, event(hub, "order-0"))
            proxy.clear()
            for number in range(1, 4):
                assert (await post_events(http, event(hub, f"order-{number}")))["recorded"] == 1
        await server.close()
    assert count_registry_reads(proxy) == reads
