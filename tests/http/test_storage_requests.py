"""Counts the storage requests of each operation, and compares them with the table in docs/performance.md.

The server and its task hubs use the storage emulator through a proxy, which counts the requests to tables, queues and
blobs. The server has answered such a request before, so it has its caches and knows the storages' time.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import httpx
import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueClient

from state_api.domain.instants import seconds
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub, control_message, timer_created_row
from tests.builders import event, timestamp
from tests.conftest import new_app_name, new_hub_name
from tests.documents.page_tables import ROOT, read_table_rows, remove_markup
from tests.http.counted_releases import RELEASE_OPERATIONS
from tests.http.counted_rollouts import ROLLOUT_OPERATIONS
from tests.http.counted_storage import CountedServer, counted_server
from tests.http.operations import (
    get_staging,
    post_events,
    post_staging,
    post_swap,
    put_app,
    run_headers,
)

pytestmark = pytest.mark.anyio

_PAGE = ROOT / "docs" / "performance.md"
_WRITES_IN_FLIGHT = 24
_EVENTS_PER_DELIVERY = 200


@pytest.fixture
def only_active_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans do not look back, as if no instance had changed within the margin of the clocks."""
    monkeypatch.setattr("state_api.backends.azure_storage._CLOCK_SKEW_MARGIN", -seconds(3600))


# The operations, by their row in the table


async def count_for_status_by_events(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=False)
    return await server.count(get_staging(server.http, app))


async def count_for_status_by_events_with_an_active_instance(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=False)
    await post_events(server.http, event(hub))
    return await server.count(get_staging(server.http, app))


async def count_for_status_after_a_change_of_the_app(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=False)
    await put_app(server.http, app, policy={"freshnessSeconds": 60})
    return await server.count(get_staging(server.http, app))


async def count_for_fresh_status(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=True)
    return await server.count(get_staging(server.http, app, verify="fresh"))


async def count_for_fresh_status_after_a_recent_end(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=True)
    async with ProviderTaskHub(server.storage, hub) as provider:
        await provider.put("order-1", "Completed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("state_api.backends.azure_storage._CLOCK_SKEW_MARGIN", seconds(3600))
        return await server.count(get_staging(server.http, app, verify="fresh"))


async def count_for_first_status_of_a_process(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=True)
    async with counted_server(server.storage, server.queue_count) as new_process:
        return await new_process.count(get_staging(new_process.http, app, verify="fresh"))


async def count_for_first_status_of_a_task_hub(server: CountedServer) -> int:
    app, _ = await server.register(verified=True)
    return await server.count(get_staging(server.http, app, verify="fresh"))


async def count_for_cached_status(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=True)
    return await server.count(get_staging(server.http, app))


async def count_for_verified_status_with_an_active_instance(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=True)
    async with ProviderTaskHub(server.storage, hub) as provider:
        await provider.put("order-1", "Running")
    await post_events(server.http, event(hub, "order-1", time=timestamp(-9)))
    assert (await get_staging(server.http, app))["activeCount"] == 1
    return await server.count(get_staging(server.http, app))


async def count_for_status_with_explained_messages(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=True)
    await add_cancelled_timer(server, hub)
    assert (await get_staging(server.http, app, verify="fresh"))["ready"]
    return await server.count(get_staging(server.http, app, verify="fresh"))


async def count_for_status_with_messages_to_explain(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=True)
    await add_cancelled_timer(server, hub)
    return await server.count(get_staging(server.http, app, verify="fresh"))


async def count_for_staging_into_an_empty_slot(server: CountedServer) -> int:
    app = new_app_name()
    await put_app(server.http, app)
    return await server.count(post_staging(server.http, app, new_hub_name()))


async def count_for_staging_by_events(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=False)
    return await server.count(post_staging(server.http, app, new_hub_name()))


async def count_for_verified_staging(server: CountedServer) -> int:
    app, _ = await server.register_and_ask(verified=True)
    return await server.count(post_staging(server.http, app, new_hub_name()))


async def count_for_pending_swap(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=False)
    return await server.count(post_swap_outcome(server, app, hub, "Pending"))


async def count_for_done_swap(server: CountedServer) -> int:
    app, hub = await server.register_and_ask(verified=False)
    await post_swap_outcome(server, app, hub, "Pending")
    return await server.count(post_swap_outcome(server, app, hub, "Done"))


async def count_for_one_event(server: CountedServer) -> int:
    _, hub = await server.register_and_ask(verified=False)
    now = timestamp()
    await post_events(server.http, event(hub, "order-1", time=now))
    return await server.count(post_events(server.http, event(hub, "order-2", time=now)))


async def count_for_first_event_of_a_process(server: CountedServer) -> int:
    _, hub = await server.register_and_ask(verified=False)
    await post_events(server.http, event(hub, "order-1"))
    async with counted_server(server.storage, server.queue_count) as new_process:
        await new_process.register_and_ask(verified=False)
        return await new_process.count(post_events(new_process.http, event(hub, "order-2")))


async def count_for_list_apps(server: CountedServer) -> int:
    await server.register(verified=False)
    return await server.count(server.http.get("/api/apps", params={"top": 1}))


async def count_for_get_task_hub(server: CountedServer) -> int:
    _, hub = await server.register_and_ask(verified=False)
    return await server.count(server.http.get(f"/api/taskhubs/{hub}"))


async def count_for_get_timeline(server: CountedServer) -> int:
    _, hub = await server.register_and_ask(verified=False)
    await post_events(server.http, event(hub, "order-1"))
    return await server.count(server.http.get(f"/api/taskhubs/{hub}/timeline"))


async def count_for_cleanup(server: CountedServer) -> int:
    """The requests of a Cleanup of an app with two retired task hubs."""
    app, hub = await server.register_and_ask(verified=True)
    for next_hub in (new_hub_name(), new_hub_name()):
        assert (await post_swap(server.http, app, hub)).status_code == 200
        assert (await post_staging(server.http, app, next_hub)).status_code == 200
        await server.create_provider_hub(next_hub)
        hub = next_hub
    assert (await post_swap(server.http, app, hub)).status_code == 200
    return await server.count(server.http.post(f"/api/apps/{app}/cleanup", json={}))


OPERATIONS: dict[str, Callable[[CountedServer], Awaitable[int]]] = {
    "GetStagingStatus by events": count_for_status_by_events,
    "GetStagingStatus by events, an instance is active": count_for_status_by_events_with_an_active_instance,
    "GetStagingStatus by events, the first after the app has changed": count_for_status_after_a_change_of_the_app,
    "GetStagingStatus, verify=fresh": count_for_fresh_status,
    "GetStagingStatus, verify=fresh, instances have ended within 5 s": count_for_fresh_status_after_a_recent_end,
    "GetStagingStatus, verify=fresh, one invisible message, explained before": count_for_status_with_explained_messages,
    "GetStagingStatus, verify=fresh, one invisible message to explain": count_for_status_with_messages_to_explain,
    "GetStagingStatus, verify=cached, with a recent result": count_for_cached_status,
    "GetStagingStatus verified, an instance is active": count_for_verified_status_with_an_active_instance,
    "GetStagingStatus, verify=fresh, the first of a process": count_for_first_status_of_a_process,
    "GetStagingStatus, verify=fresh, the first of a task hub": count_for_first_status_of_a_task_hub,
    "PostStaging into an empty slot": count_for_staging_into_an_empty_slot,
    "PostStaging by events": count_for_staging_by_events,
    "PostStaging verified": count_for_verified_staging,
    "PostSwap, Pending": count_for_pending_swap,
    "PostSwap, Done": count_for_done_swap,
    **RELEASE_OPERATIONS,
    **ROLLOUT_OPERATIONS,
    "PostEvents, one event": count_for_one_event,
    "PostEvents, the first event of a task hub in a process": count_for_first_event_of_a_process,
    "ListApps, one app": count_for_list_apps,
    "GetTaskHub": count_for_get_task_hub,
    "GetTimeline": count_for_get_timeline,
    "Cleanup of one retired task hub": count_for_cleanup,
}
"""How to count the requests of each row of the table."""


async def add_cancelled_timer(server: CountedServer, hub: str) -> None:
    """Leave what a cancelled timer leaves: a row of the history and an invisible message."""
    assert server.storage.connection_string is not None
    connection = server.storage.connection_string.get_secret_value()
    async with TableServiceClient.from_connection_string(connection) as tables:
        history = await tables.create_table_if_not_exists(f"{hub}History")
        await history.upsert_entity(timer_created_row("order-1", due_in_seconds=86_400))
    async with QueueClient.from_connection_string(connection, f"{hub}-control-00") as queue:
        await queue.send_message(control_message("order-1", "TimerFired", None), visibility_timeout=86_400)


async def add_finished_instances(server: CountedServer, hub: str, count: int) -> None:
    """Add instances that have run and ended, to the records and at the provider."""
    ids = [f"{number * 7919 % 16:x}{number:05d}" for number in range(count)]
    concurrency_limit = asyncio.Semaphore(_WRITES_IN_FLIGHT)
    async with ProviderTaskHub(server.storage, hub) as provider:

        async def put(instance_id: str) -> None:
            async with concurrency_limit:
                await provider.put(instance_id, "Completed")

        await asyncio.gather(*(put(instance_id) for instance_id in ids))
    for start in range(0, count, _EVENTS_PER_DELIVERY):
        delivered_ids = ids[start : start + _EVENTS_PER_DELIVERY]
        await post_events(
            server.http, *(event(hub, instance_id, "Completed", time=timestamp(-60)) for instance_id in delivered_ids)
        )


async def post_swap_outcome(server: CountedServer, app: str, hub: str, outcome: str) -> httpx.Response:
    """Report an outcome of a swap."""
    return await server.http.post(
        f"/api/apps/{app}/swap", json={"taskHub": hub, "outcome": outcome}, headers=run_headers(1)
    )


# The table


def documented_requests() -> dict[str, str]:
    """The number of requests that the page states for each operation, as a formula."""
    rows = read_table_rows(_PAGE, "Storage requests per operation", "Operation")
    return {remove_markup(cells[0]): cells[1] for cells in rows}


def evaluate(formula: str, queue_count: int) -> int:
    """The number of requests by a formula of the table, such as `6 + q` or `8 + 2q`, for this number of queues."""
    match = re.fullmatch(r"(\d+)(?: \+ (\d*)q)?", formula)
    assert match is not None, f"{formula} is no formula of the table"
    per_queue = 0 if match[2] is None else int(match[2] or 1)
    return int(match[1]) + per_queue * queue_count


def test_the_table_has_a_row_for_each_counted_operation() -> None:
    assert list(documented_requests()) == list(OPERATIONS)


@pytest.mark.usefixtures("only_active_rows")
@pytest.mark.parametrize("finished_count", [0, 10, 2_000])
async def test_a_verdict_costs_the_same_on_a_task_hub_of_any_age(
    own_storage: StorageSettings, finished_count: int
) -> None:
    """Finished instances are in the records and at the provider."""
    documented = documented_requests()
    async with counted_server(own_storage, queue_count=4) as server:
        app, hub = await server.register_and_ask(verified=True)
        await add_finished_instances(server, hub, finished_count)
        assert (await get_staging(server.http, app, verify="fresh", wait=30))["ready"]
        by_events = await server.count(get_staging(server.http, app, verify="none"))
        verified = await server.count(get_staging(server.http, app, verify="fresh"))
        assert str(by_events) == documented["GetStagingStatus by events"]
        assert verified == evaluate(documented["GetStagingStatus, verify=fresh"], queue_count=4)


@pytest.mark.usefixtures("only_active_rows")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("queue_count", [1, 4])
async def test_an_operation_sends_as_many_storage_requests_as_documented(
    own_storage: StorageSettings, operation: str, queue_count: int
) -> None:
    expected = evaluate(documented_requests()[operation], queue_count)
    async with counted_server(own_storage, queue_count) as server:
        await server.register_and_ask(verified=True)
        requests = await OPERATIONS[operation](server)
        sent = [(request.service, request.method, request.path) for request in server.proxy.forwarded]
        assert requests == expected, sent
