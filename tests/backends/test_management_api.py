"""The backend `managementApi` with a fake function app that behaves as the extension's source says."""

import asyncio
import time
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from state_api.backends import management_api_client
from state_api.backends.management_api import ManagementApiBackend
from state_api.domain.instants import format_instant, parse_instant, seconds
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.backends.fake_function_app import (
    API_PATH,
    HUB,
    SYSTEM_KEY,
    FakeFunctionApp,
    backend,
    fail_if_the_key_is_logged,
    function_app,
    open_management_backend,
    read_pages,
    scan,
)
from tests.builders import timestamp

__all__ = ["backend", "fail_if_the_key_is_logged", "function_app"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_an_empty_task_hub_is_read_in_two_pages(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    start = await backend.begin_scan(HUB)
    pages = await read_pages(backend, start.changed_since, start.cursors)
    assert [page.instances for page in pages] == [(), ()]
    assert start.next_pass_cursors == pages[0].cursors
    assert (backend.provider, await backend.read_queue_snapshot(HUB)) == ("managementApi", None)


async def test_pages_after_short_and_empty_ones_are_read(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.rows_per_page = 3
    for number in range(40):
        status = "Running" if number % 11 == 0 else "Completed"
        function_app.put(f"order-{number:02}", status, created=timestamp(-86_400))
    function_app.put("@counter@one", "Running", created=timestamp(-86_400))
    start = await backend.begin_scan(HUB)
    pages = await read_pages(backend, start.changed_since, start.cursors)
    assert len(pages) == 2 * 14
    assert any(not page.instances and page.cursors for page in pages[1:13])
    instances = [observed for page in pages for observed in page.instances]
    assert [observed.instance_id for observed in instances] == ["order-00", "order-11", "order-22", "order-33"]
    assert all(observed.active for observed in instances)
    assert sum(page.scanned for page in pages) == 4


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES))
async def test_instances_of_every_active_status_are_requested(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, status: RuntimeStatus
) -> None:
    function_app.put("order", status, created="2026-01-02T03:04:05.6789012Z", lastUpdatedTime="2026-01-02T03:05:06.7Z")
    assert await scan(backend) == [
        ObservedInstance(
            instance_id="order",
            function_name="ProcessOrder",
            version=None,
            runtime_status=status,
            created_at=parse_instant("2026-01-02T03:04:05Z"),
            updated_at=parse_instant("2026-01-02T03:05:06Z"),
            stamp=f"2026-01-02T03:04:05Z 2026-01-02T03:05:06Z {status}",
        )
    ]


async def test_requests_have_the_documented_parameters(function_app: FakeFunctionApp) -> None:
    function_app.connection = "OrdersStorage"
    function_app.put("order-1")
    async with open_management_backend(f"{function_app.origin}/", storage_connection="OrdersStorage") as backend:
        start = await backend.begin_scan(HUB)
        await read_pages(backend, start.changed_since, start.cursors)
        assert (await backend.find_instances(HUB, ["order-1"]))["order-1"] is not None
    first, active, recent, lookup = function_app.requests
    assert [request.path for request in function_app.requests] == [f"{API_PATH}/instances"] * 3 + [
        f"{API_PATH}/instances/order-1"
    ]
    for request in function_app.requests:
        assert request.headers["x-functions-key"] == SYSTEM_KEY
        assert SYSTEM_KEY not in str(request.url)
        assert "code" not in request.query
        assert "x-ms-continuation-token" not in request.headers
        assert {name: request.query[name] for name in ("taskHub", "connection", "showInput")} == {
            "taskHub": HUB,
            "connection": "OrdersStorage",
            "showInput": "false",
        }
    assert first.query["top"] == "1"
    assert active.query["top"] == "500"
    assert active.query["runtimeStatus"].split(",") == ["ContinuedAsNew", "Pending", "Running", "Suspended"]
    assert "createdTimeFrom" not in active.query
    assert recent.query["createdTimeFrom"] == format_instant(start.changed_since)
    assert recent.query["top"] == "100"
    assert "runtimeStatus" not in recent.query
    assert "top" not in lookup.query


async def test_requests_name_no_connection_unless_one_is_set(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    await scan(backend)
    assert all("connection" not in request.query for request in function_app.requests)


async def test_another_task_hub_of_the_app_is_not_read(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.put("order-1")
    start = await backend.begin_scan("OtherHub")
    assert (await backend.read_page("OtherHub", start.changed_since, start.cursors[0])).instances == ()
    assert await backend.find_instances("OtherHub", ["order-1"]) == {"order-1": None}


async def test_a_task_hub_that_does_not_exist_looks_empty(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    assert await scan(backend) == []
    assert HUB.lower() in function_app.hubs, "the extension creates it"


@pytest.mark.parametrize(("ends", "starts"), [("zz", "aa"), ("aa", "zz")])
async def test_an_instance_that_starts_during_a_scan_while_another_ends_is_seen(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, ends: str, starts: str
) -> None:
    function_app.rows_per_page = 2
    function_app.put(ends, created=timestamp(-3600))
    for number in range(6):
        function_app.put(f"order-{number}", "Completed", created=timestamp(-3600))
    start = await backend.begin_scan(HUB)
    page = await backend.read_page(HUB, start.changed_since, start.cursors[0])
    before = [observed for observed in page.instances if observed.active]
    function_app.put(starts)
    function_app.put(ends, "Completed")
    after = await read_pages(backend, start.changed_since, page.cursors)
    active = [*before, *(observed for page in after for observed in page.instances if observed.active)]
    assert starts in {observed.instance_id for observed in active}


async def test_instances_that_run_only_between_two_pages_leave_new_stamps(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    """Each of them has ended when it is read. The next pass shows by new stamps that something ran."""
    start = await backend.begin_scan(HUB)
    function_app.put("b", "Completed", created=timestamp(0))
    first = await read_pages(backend, start.changed_since, start.cursors)
    second = await read_pages(backend, start.changed_since, start.next_pass_cursors)
    assert [page.instances for page in first[1:]] == [page.instances for page in second] != [()]
    function_app.put("b", "Running", created=timestamp(5))
    function_app.put("a", "Completed", created=timestamp(5))
    function_app.put("b", "Completed", created=timestamp(5))
    third = await read_pages(backend, start.changed_since, start.next_pass_cursors)
    new_stamps = {observed.stamp for page in third for observed in page.instances}
    assert new_stamps.isdisjoint(observed.stamp for page in second for observed in page.instances)


async def test_a_stamp_changes_with_the_status_and_either_time(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    stamps = []
    for status, created, updated in (
        ("Running", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("Suspended", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("Running", "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"),
        ("Running", "2026-01-02T03:04:06Z", "2026-01-02T03:04:06Z"),
        ("Paused", "2026-01-02T03:04:06Z", "2026-01-02T03:04:06Z"),
    ):
        function_app.put("order", status, created=created, lastUpdatedTime=updated)
        observed = (await backend.find_instances(HUB, ["order"]))["order"]
        assert observed is not None
        stamps.append(observed.stamp)
    assert len(set(stamps)) == len(stamps)


@pytest.mark.parametrize("seconds_ahead", [-3600, 3600, None])
async def test_a_scan_counts_changes_from_a_minute_before_the_earlier_clock(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, seconds_ahead: int | None
) -> None:
    now = time.time()
    if seconds_ahead is None:
        function_app.date = "not a date"
    else:
        function_app.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now + seconds_ahead))
    expected = parse_instant("1970-01-01T00:00:00Z") + seconds(now + min(0, seconds_ahead or 0) - 60)
    assert abs((await backend.begin_scan(HUB)).changed_since - expected) < seconds(5)


async def test_the_end_token_of_old_extensions_ends_the_list(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.last_token = "bnVsbA=="
    function_app.put("order-1")
    instances = await scan(backend)
    assert {observed.instance_id for observed in instances} == {"order-1"}
    assert await backend.find_instances(HUB, ["order-2"]) == {"order-2": None}


async def test_a_missing_or_unknown_status_counts_as_running(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.put("odd", "Hibernating")
    function_app.put("none", "Running", runtimeStatus=None)
    statuses = {observed.instance_id: observed.runtime_status for observed in await scan(backend)}
    assert statuses == {"odd": "Running", "none": "Running"}
    instances = await backend.find_instances(HUB, ["odd", "none"])
    assert all(observed is not None and observed.active for observed in instances.values())


async def test_entities_are_neither_returned_nor_requested(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.put("@counter@one")
    function_app.put("order")
    assert {observed.instance_id for observed in await scan(backend)} == {"order"}
    request_count = len(function_app.requests)
    assert await backend.find_instances(HUB, ["@counter@one", ""]) == {"@counter@one": None, "": None}
    assert len(function_app.requests) == request_count


@pytest.mark.parametrize(
    ("members", "version", "name"),
    [
        ({"version": "1.2"}, "1.2", "ProcessOrder"),
        ({"version": ""}, None, "ProcessOrder"),
        ({"version": None, "name": None}, None, ""),
        ({"name": "Ship"}, None, "Ship"),
    ],
)
async def test_version_and_name_are_shown_if_the_response_has_them(
    function_app: FakeFunctionApp,
    backend: ManagementApiBackend,
    members: dict[str, Any],
    version: str | None,
    name: str,
) -> None:
    function_app.put("order", **members)
    observed = (await backend.find_instances(HUB, ["order"]))["order"]
    assert observed is not None
    assert (observed.version, observed.function_name) == (version, name)


UNUSUAL_INSTANCE_IDS = [
    "two words",
    "tenant/order",
    "/lead",
    "trail/",
    "/",
    "a\\b",
    "100%",
    "%41",
    "a%2Fb",
    "a+b",
    "a?b#c",
    "a&b=c",
    "O'Neil",
    "'",
    "[x]",
    ".",
    "..",
    "../instances",
    "Größe-日本-🙂",
    "terminate",
    "tab\tand\x7f",
]


@pytest.mark.parametrize("instance_id", UNUSUAL_INSTANCE_IDS)
async def test_an_unusual_id_is_found_and_no_similar_one(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, instance_id: str
) -> None:
    """By path alone some of these ids would not be found, and others would lead to another instance."""
    function_app.rows_per_page = 2
    for decoy in ("a", "A", "b", "a b", "tenant", "instances", "two", "O", f"{instance_id}-2", f"{instance_id}/order"):
        function_app.put(decoy, "Completed")
    assert await backend.find_instances(HUB, [instance_id]) == {instance_id: None}
    path = function_app.requests[0].raw_path.partition("?")[0]
    # The paths of "." and ".." would be those of the whole list and of the API.
    assert path == (f"{API_PATH}/instances" + ("" if instance_id in (".", "..") else f"/{quote(instance_id, safe='')}"))
    function_app.put(instance_id)
    instance = (await backend.find_instances(HUB, [instance_id]))[instance_id]
    assert instance is not None
    assert (instance.instance_id, instance.active) == (instance_id, True)


@pytest.mark.parametrize("instance_id", [".", ".."])
async def test_an_id_of_dots_does_not_read_the_whole_task_hub(
    monkeypatch: pytest.MonkeyPatch, function_app: FakeFunctionApp, backend: ManagementApiBackend, instance_id: str
) -> None:
    monkeypatch.setattr(management_api_client, "MAX_RESPONSE_BYTES", 10_000)
    for number in range(100):
        function_app.put(f"order-{number}", "Completed")
    assert await backend.find_instances(HUB, [instance_id]) == {instance_id: None}
    function_app.put(instance_id)
    instance = (await backend.find_instances(HUB, [instance_id]))[instance_id]
    assert instance is not None
    assert (instance.instance_id, instance.active) == (instance_id, True)


async def test_at_most_sixteen_instances_are_looked_up_at_a_time(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    running = maximum = 0

    async def count_requests(request: web.Request) -> None:
        """Keep the greatest number of requests that were in progress at the same time."""
        nonlocal running, maximum
        running += 1
        maximum = max(maximum, running)
        await asyncio.sleep(0.02)
        running -= 1

    function_app.override = count_requests
    ids = [f"order-{number}" for number in range(60)]
    for instance_id in ids:
        function_app.put(instance_id)
    instances = await backend.find_instances(HUB, ids)
    assert list(instances) == ids
    assert maximum == 16
