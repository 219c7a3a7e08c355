"""The contract suite: what every backend promises by the Protocol `Backend`, tested once for all providers. What only
one provider does is tested in the modules beside this one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from state_api.backends.protocols import Backend, BackendError, ObservedPage, ReadFailure
from state_api.domain.instants import Instant
from state_api.domain.names import is_entity
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import StorageSettings
from tests.backends.contract_providers import PROVIDERS, ContractProvider, ProviderFactory
from tests.backends.storage_account import hub

__all__ = ["hub"]  # a fixture

pytestmark = pytest.mark.anyio


@pytest.fixture(params=PROVIDERS.values(), ids=list(PROVIDERS))
async def provider(
    request: pytest.FixtureRequest,
    storage: StorageSettings,
    hub: str,
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend: str,
) -> AsyncIterator[ContractProvider]:
    """Each provider, with a task hub that does not exist yet."""
    factory: ProviderFactory = request.param
    async with factory(storage, hub, monkeypatch) as provider:
        yield provider


@pytest.fixture
async def started(provider: ContractProvider) -> ContractProvider:
    """Each provider, with a task hub whose app has started."""
    await provider.create_task_hub()
    return provider


async def read_pages(
    backends: Sequence[Backend], task_hub: str, changed_since: Instant, cursors: Sequence[str]
) -> list[ObservedPage]:
    """All pages that these cursors lead to, read by these backends in turn."""
    pages: list[ObservedPage] = []
    unread = list(cursors)
    while unread:
        assert len(pages) < 500, "the scan has no end"
        page = await backends[len(pages) % len(backends)].read_page(task_hub, changed_since, unread.pop(0))
        pages.append(page)
        unread.extend(page.cursors)
    return pages


async def scan(provider: ContractProvider) -> dict[str, ObservedInstance]:
    """The instances that one pass shows, by id; without entities."""
    start = await provider.backend.begin_scan(provider.task_hub)
    pages = await read_pages([provider.backend], provider.task_hub, start.changed_since, start.cursors)
    return index_instances_by_id(pages)


def index_instances_by_id(pages: Sequence[ObservedPage]) -> dict[str, ObservedInstance]:
    """The instances on these pages by their id, without entities."""
    observed_instances = [observed for page in pages for observed in page.instances]
    return {observed.instance_id: observed for observed in observed_instances if not is_entity(observed.instance_id)}


def list_active_ids(instances: dict[str, ObservedInstance]) -> list[str]:
    return sorted(instance_id for instance_id, observed in instances.items() if observed.active)


async def read_first_page(provider: ContractProvider, backend: Backend) -> ObservedPage:
    """Begin a scan, and read its first page."""
    start = await backend.begin_scan(provider.task_hub)
    return await backend.read_page(provider.task_hub, start.changed_since, start.cursors[0])


READS: dict[str, Callable[[ContractProvider, Backend], Awaitable[object]]] = {
    "scan": read_first_page,
    "lookup": lambda provider, backend: backend.find_instances(provider.task_hub, ["order-1", "order-2"]),
}
"""The two ways in which a probe reads a task hub."""


# What exists


async def test_a_backend_reports_what_exists_under_a_name_and_its_addresses(provider: ContractProvider) -> None:
    addresses = provider.backend.addresses
    assert provider.request_count == 0, "addresses are known without a connection"
    assert addresses
    assert all(address.startswith(("http://127.0.0.1:", "http://[::1]:", "http://localhost:")) for address in addresses)
    assert provider.secret not in str(addresses)
    before = await provider.backend.find_existing(provider.task_hub)
    if not provider.can_find_existing:
        assert (before, provider.request_count) == (None, 0), "a request would create the task hub"
        return
    assert before == ExistingArtifacts((), addresses)
    await provider.create_task_hub()
    after = await provider.backend.find_existing(provider.task_hub)
    assert after is not None
    assert (bool(after.artifacts), after.addresses) == (True, addresses)


# Scans


async def test_a_task_hub_without_instances_shows_nothing_active(started: ContractProvider) -> None:
    assert await scan(started) == {}
    snapshot = await started.backend.read_queue_snapshot(started.task_hub)
    if not started.backend.shows_messages:
        assert snapshot is None
    else:
        assert snapshot is not None
        assert (snapshot.message_count, snapshot.visible, snapshot.invisible) == (0, (), QueueSnapshot().invisible)
    assert (await started.backend.read_timers(started.task_hub, KnownTimers())).cursor is None


async def test_a_scan_shows_every_active_status_as_active_and_no_other(started: ContractProvider) -> None:
    for status in RuntimeStatus:
        await started.put(f"order-{status}", status)
    observed_by_id = await scan(started)
    assert list_active_ids(observed_by_id) == sorted(f"order-{status}" for status in ACTIVE_STATUSES)
    for instance_id, observed in observed_by_id.items():
        assert instance_id == f"order-{observed.runtime_status}"


async def test_an_unknown_status_counts_as_active(started: ContractProvider) -> None:
    await started.put("order-1", "Paused")
    observed_by_id = await scan(started)
    looked_up = await started.backend.find_instances(started.task_hub, ["order-1"])
    for observed in (observed_by_id["order-1"], looked_up["order-1"]):
        assert observed is not None
        assert (observed.active, observed.runtime_status) == (True, RuntimeStatus.RUNNING)


async def test_an_entity_is_never_active(started: ContractProvider) -> None:
    await started.put("@counter@shop")
    await started.put("order-1")
    start = await started.backend.begin_scan(started.task_hub)
    pages = await read_pages([started.backend], started.task_hub, start.changed_since, start.cursors)
    observed_instances = [observed for page in pages for observed in page.instances]
    assert {observed.instance_id for observed in observed_instances if observed.active} == {"order-1"}
    looked_up = (await started.backend.find_instances(started.task_hub, ["@counter@shop"]))["@counter@shop"]
    assert looked_up is None or not looked_up.active


@pytest.mark.parametrize("page_size", [1, 2, 3, 7, 500])
async def test_pages_of_any_size_show_every_active_instance(started: ContractProvider, page_size: int) -> None:
    started.limit_pages(page_size)
    ids = sorted(f"{number:x}-order" for number in range(12))
    for number, instance_id in enumerate(ids):
        await started.put(instance_id)
        await started.put(f"{number:x}-old", "Completed")
    start = await started.backend.begin_scan(started.task_hub)
    for cursors in (start.cursors, start.next_pass_cursors):
        pages = await read_pages([started.backend], started.task_hub, start.changed_since, cursors)
        assert list_active_ids(index_instances_by_id(pages)) == ids
        assert all(len(page.instances) <= page.scanned for page in pages)


async def test_another_worker_continues_a_scan_by_its_cursors(started: ContractProvider) -> None:
    started.limit_pages(3)
    ids = sorted([*(f"{number:x}-order" for number in range(16)), *(f"c{number}" for number in range(8))])
    for instance_id in ids:
        await started.put(instance_id)
    start = await started.backend.begin_scan(started.task_hub)
    async with started.open_backend() as other:
        pages = await read_pages([other, started.backend], started.task_hub, start.changed_since, start.cursors)
    assert len(pages) > 2
    assert list_active_ids(index_instances_by_id(pages)) == ids
    assert all(started.secret not in cursor for page in pages for cursor in page.cursors)


@pytest.mark.parametrize(("ends", "starts"), [("z-first", "a-second"), ("a-first", "z-second")])
async def test_an_instance_that_starts_while_another_ends_is_seen(
    started: ContractProvider, ends: str, starts: str
) -> None:
    """The first pass may miss it. Then the pass has shown new stamps, and the next pass shows it."""
    await started.put(ends)
    await started.put("m-old", "Completed")
    start = await started.backend.begin_scan(started.task_hub)
    first = await started.backend.read_page(started.task_hub, start.changed_since, start.cursors[0])
    await started.put(starts)
    await started.put(ends, "Completed")
    await read_pages([started.backend], started.task_hub, start.changed_since, first.cursors)
    pages = await read_pages([started.backend], started.task_hub, start.changed_since, start.next_pass_cursors)
    assert list_active_ids(index_instances_by_id(pages)) == [starts]


async def test_a_stamp_changes_with_its_instance_and_only_then(started: ContractProvider) -> None:
    await started.put("changing")
    await started.put("unchanged")
    stamps = []
    for status in ("Running", "Suspended", "Completed"):
        await started.put("changing", status)
        looked_up = await started.backend.find_instances(started.task_hub, ["changing", "unchanged"])
        observed_by_id = await scan(started)
        for instance_id, observed in looked_up.items():
            assert observed is not None
            assert observed.stamp == observed_by_id[instance_id].stamp
        stamps.append((observed_by_id["changing"].stamp, observed_by_id["unchanged"].stamp))
    changing, unchanged = zip(*stamps, strict=True)
    assert len(set(changing)) == 3
    assert len(set(unchanged)) == 1


# Lookups


async def test_a_lookup_returns_every_instance_in_order_and_none_for_one_that_does_not_exist(
    started: ContractProvider,
) -> None:
    for status in RuntimeStatus:
        await started.put(status.lower(), status)
    ids = [*(status.lower() for status in RuntimeStatus), "unknown"]
    observed_by_id = await started.backend.find_instances(started.task_hub, ids)
    assert list(observed_by_id) == ids
    assert observed_by_id["unknown"] is None
    assert {name: observed.runtime_status for name, observed in observed_by_id.items() if observed is not None} == {
        status.lower(): status for status in RuntimeStatus
    }
    assert await started.backend.find_instances(started.task_hub, []) == {}


async def test_many_instances_are_looked_up_at_once(started: ContractProvider) -> None:
    ids = [f"order-{number}" for number in range(40)]
    await asyncio.gather(*(started.put(instance_id) for instance_id in ids))
    await started.put(ids[0], "Completed")
    observed_by_id = await started.backend.find_instances(started.task_hub, ids)
    assert list(observed_by_id) == ids
    assert [name for name, observed in observed_by_id.items() if observed is None or not observed.active] == [ids[0]]


UNUSUAL_INSTANCE_IDS = [
    *(".", "..", "../instances", "/", "/lead", "trail/", "order/1", "a\\b", "^", "^^0", "#?", "?", "a?b#c", "~"),
    *("50%", "%41", "a%2Fb", "a+b", "a b", "x y", "a&b=c", "O'Neil", "'", "'quoted'", "[x]", "terminate", "A"),
    *("Größe-日本-🙂", "ß-ü-日本-🙂", "tab\tand\x7f", "\x7f", "z" * 256),
]


async def test_unusual_instance_ids_are_found_by_scans_and_by_lookups(started: ContractProvider) -> None:
    for instance_id in UNUSUAL_INSTANCE_IDS:
        await started.put(instance_id)
    assert list_active_ids(await scan(started)) == sorted(UNUSUAL_INSTANCE_IDS)
    observed_by_id = await started.backend.find_instances(started.task_hub, UNUSUAL_INSTANCE_IDS)
    assert [
        observed.instance_id for observed in observed_by_id.values() if observed is not None and observed.active
    ] == (UNUSUAL_INSTANCE_IDS)


@pytest.mark.parametrize("version", ["2.1", None])
async def test_function_name_and_version_are_shown(started: ContractProvider, version: str | None) -> None:
    await started.put("order-1", name="ShipOrder", version=version)
    looked_up = await started.backend.find_instances(started.task_hub, ["order-1"])
    for observed in ((await scan(started))["order-1"], looked_up["order-1"]):
        assert observed is not None
        assert (observed.function_name, observed.version) == ("ShipOrder", version)
        assert observed.created_at <= observed.updated_at


# Failures


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (401, ReadFailure.DENIED),
        (403, ReadFailure.DENIED),
        (429, ReadFailure.THROTTLED),
        (500, ReadFailure.FAILED),
    ],
)
async def test_a_failed_read_says_which_setting_to_look_at_and_no_secret(
    started: ContractProvider, read: str, status: int, failure: ReadFailure
) -> None:
    started.fail_with(status)
    error = await catch_read_error(READS[read](started, started.backend))
    assert error.failure is failure
    assert error.retry_after is None
    assert_safe_message(started, error)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("header", "retry_after"), [("7", 7), ("soon", None), ("-1", None), ("9000", 300)])
async def test_a_provider_that_asks_to_wait_says_for_how_long(
    started: ContractProvider, read: str, header: str, retry_after: int | None
) -> None:
    started.fail_with(429, header)
    error = await catch_read_error(READS[read](started, started.backend))
    assert (error.failure, error.retry_after) == (ReadFailure.THROTTLED, retry_after)
    assert "asks to wait" in error.message
    assert_safe_message(started, error)


@pytest.mark.parametrize("read", READS)
async def test_a_provider_that_cannot_be_reached_is_a_failure(provider: ContractProvider, read: str) -> None:
    async with provider.open_unreachable_backend() as backend:
        error = await catch_read_error(READS[read](provider, backend))
    assert error.failure is ReadFailure.FAILED
    assert "cannot be reached" in error.message
    assert_safe_message(provider, error)


async def test_a_backend_works_again_after_a_failure(started: ContractProvider) -> None:
    await started.put("order-1")
    started.fail_with(500)
    await catch_read_error(read_first_page(started, started.backend))
    started.fail_with(None)
    assert list_active_ids(await scan(started)) == ["order-1"]


async def catch_read_error(read: Awaitable[object]) -> BackendError:
    """The error with which the read fails."""
    with pytest.raises(BackendError) as caught:
        await read
    return caught.value


def assert_safe_message(provider: ContractProvider, error: BackendError) -> None:
    """A message is one line that names the setting and contains neither secrets nor addresses."""
    assert provider.setting_name in error.message
    assert provider.secret not in error.message
    assert not any(text in error.message for text in ("\n", "127.0.0.1", "AccountKey"))
