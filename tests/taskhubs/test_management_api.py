"""The backend on the management API, against a real HTTP server that behaves as the extension's source says."""

import asyncio
import time
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from state_api.domain.instants import format_instant, parse_instant, seconds
from state_api.domain.lifecycle import RUNNING_STATUSES, RuntimeStatus
from state_api.domain.sightings import Sighting
from state_api.taskhubs import management_api
from state_api.taskhubs.management_api import ManagementApiBackend
from tests.builders import at
from tests.taskhubs.management_app import (
    API,
    HUB,
    KEY,
    App,
    app,
    backend,
    backend_on,
    no_key_in_the_log,
    passed,
    scanned,
)

__all__ = ["app", "backend", "no_key_in_the_log"]  # fixtures

pytestmark = pytest.mark.anyio


async def test_a_hub_without_instances_is_read_in_two_pages(app: App, backend: ManagementApiBackend) -> None:
    start = await backend.start(HUB)
    pages = await passed(backend, start.since, start.cursors)
    assert [page.sightings for page in pages] == [(), ()]
    assert start.again == pages[0].cursors
    assert (backend.provider, await backend.snapshot(HUB)) == ("managementApi", None)


async def test_every_page_is_read_also_after_short_and_empty_ones(app: App, backend: ManagementApiBackend) -> None:
    app.segment = 3
    for number in range(40):
        status = "Running" if number % 11 == 0 else "Completed"
        app.put(f"order-{number:02}", status, created=at(-86_400))
    app.put("@counter@one", "Running", created=at(-86_400))
    start = await backend.start(HUB)
    pages = await passed(backend, start.since, start.cursors)
    assert len(pages) == 2 * 14
    assert any(not page.sightings and page.cursors for page in pages[1:13])
    found = [one for page in pages for one in page.sightings]
    assert [one.instance_id for one in found] == ["order-00", "order-11", "order-22", "order-33"]
    assert all(one.active for one in found)
    assert sum(page.scanned for page in pages) == 4


@pytest.mark.parametrize("status", sorted(RUNNING_STATUSES))
async def test_every_active_status_is_asked_for(app: App, backend: ManagementApiBackend, status: RuntimeStatus) -> None:
    app.put("order", status, created="2026-01-02T03:04:05.6789012Z", lastUpdatedTime="2026-01-02T03:05:06.7Z")
    assert await scanned(backend) == [
        Sighting(
            instance_id="order",
            function_name="ProcessOrder",
            version=None,
            runtime_status=status,
            created_at=parse_instant("2026-01-02T03:04:05Z"),
            updated_at=parse_instant("2026-01-02T03:05:06Z"),
            stamp=f"2026-01-02T03:04:05Z 2026-01-02T03:05:06Z {status}",
        )
    ]


async def test_the_api_is_asked_as_it_is_documented(app: App) -> None:
    app.connection = "OrdersStorage"
    app.put("order-1")
    async with backend_on(f"{app.origin}/", storage_connection="OrdersStorage") as backend:
        start = await backend.start(HUB)
        await passed(backend, start.since, start.cursors)
        assert (await backend.find(HUB, ["order-1"]))["order-1"] is not None
    first, active, recent, one = app.asked
    assert [request.path for request in app.asked] == [f"{API}/instances"] * 3 + [f"{API}/instances/order-1"]
    for request in app.asked:
        assert request.headers["x-functions-key"] == KEY
        assert KEY not in str(request.url)
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
    assert recent.query["createdTimeFrom"] == format_instant(start.since)
    assert recent.query["top"] == "100"
    assert "runtimeStatus" not in recent.query
    assert "top" not in one.query


async def test_without_a_connection_none_is_named(app: App, backend: ManagementApiBackend) -> None:
    await scanned(backend)
    assert all("connection" not in request.query for request in app.asked)


async def test_another_hub_of_the_app_is_not_read(app: App, backend: ManagementApiBackend) -> None:
    app.put("order-1")
    start = await backend.start("OtherHub")
    assert (await backend.page("OtherHub", start.since, start.cursors[0])).sightings == ()
    assert await backend.find("OtherHub", ["order-1"]) == {"order-1": None}


async def test_a_hub_that_does_not_exist_looks_empty(app: App, backend: ManagementApiBackend) -> None:
    assert await scanned(backend) == []
    assert HUB.lower() in app.hubs, "the extension makes it"


@pytest.mark.parametrize(("ends", "starts"), [("zz", "aa"), ("aa", "zz")])
async def test_a_hand_over_during_the_scan_is_seen(
    app: App, backend: ManagementApiBackend, ends: str, starts: str
) -> None:
    app.segment = 2
    app.put(ends, created=at(-3600))
    for number in range(6):
        app.put(f"order-{number}", "Completed", created=at(-3600))
    start = await backend.start(HUB)
    page = await backend.page(HUB, start.since, start.cursors[0])
    before = [one for one in page.sightings if one.active]
    app.put(starts)
    app.put(ends, "Completed")
    after = await passed(backend, start.since, page.cursors)
    active = [*before, *(one for page in after for one in page.sightings if one.active)]
    assert starts in {one.instance_id for one in active}


async def test_a_chain_of_hand_overs_leaves_new_stamps(app: App, backend: ManagementApiBackend) -> None:
    """Each runs only while nobody looks; the pass that follows tells that there was something."""
    start = await backend.start(HUB)
    app.put("b", "Completed", created=at(0))
    first = await passed(backend, start.since, start.cursors)
    again = await passed(backend, start.since, start.again)
    assert [page.sightings for page in first[1:]] == [page.sightings for page in again] != [()]
    app.put("b", "Running", created=at(5))
    app.put("a", "Completed", created=at(5))
    app.put("b", "Completed", created=at(5))
    changed = {one.stamp for page in await passed(backend, start.since, start.again) for one in page.sightings}
    assert changed.isdisjoint(one.stamp for page in again for one in page.sightings)


async def test_a_stamp_changes_with_the_status_and_either_time(app: App, backend: ManagementApiBackend) -> None:
    stamps = []
    for status, created, updated in (
        ("Running", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("Suspended", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("Running", "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"),
        ("Running", "2026-01-02T03:04:06Z", "2026-01-02T03:04:06Z"),
        ("Paused", "2026-01-02T03:04:06Z", "2026-01-02T03:04:06Z"),
    ):
        app.put("order", status, created=created, lastUpdatedTime=updated)
        sighting = (await backend.find(HUB, ["order"]))["order"]
        assert sighting is not None
        stamps.append(sighting.stamp)
    assert len(set(stamps)) == len(stamps)


async def test_another_worker_carries_the_scan_on(app: App, backend: ManagementApiBackend) -> None:
    app.segment = 2
    for number in range(9):
        app.put(f"order-{number}")
    start = await backend.start(HUB)
    page = await backend.page(HUB, start.since, start.cursors[0])
    found = list(page.sightings)
    while page.cursors:
        assert KEY not in page.cursors[0]
        async with backend_on(app.origin) as other:
            page = await other.page(HUB, start.since, page.cursors[0])
        found += page.sightings
    assert {one.instance_id for one in found} == {f"order-{number}" for number in range(9)}


@pytest.mark.parametrize("ahead", [-3600, 3600, None])
async def test_since_is_a_minute_before_the_earlier_clock(
    app: App, backend: ManagementApiBackend, ahead: int | None
) -> None:
    now = time.time()
    app.date = "at some time" if ahead is None else time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now + ahead))
    expected = parse_instant("1970-01-01T00:00:00Z") + seconds(now + min(0, ahead or 0) - 60)
    assert abs((await backend.start(HUB)).since - expected) < seconds(5)


async def test_old_extensions_end_with_a_token_of_their_own(app: App, backend: ManagementApiBackend) -> None:
    app.last_token = "bnVsbA=="
    app.put("order-1")
    found = await scanned(backend)
    assert {one.instance_id for one in found} == {"order-1"}
    assert await backend.find(HUB, ["order-2"]) == {"order-2": None}


async def test_a_status_that_nobody_knows_counts_as_running(app: App, backend: ManagementApiBackend) -> None:
    app.put("odd", "Hibernating")
    app.put("none", "Running", runtimeStatus=None)
    found = {one.instance_id: one for one in await scanned(backend)}
    assert {name: one.runtime_status for name, one in found.items()} == {"odd": "Running", "none": "Running"}
    assert all(one is not None and one.active for one in (await backend.find(HUB, ["odd", "none"])).values())


async def test_entities_are_left_out(app: App, backend: ManagementApiBackend) -> None:
    app.put("@counter@one")
    app.put("order")
    assert {one.instance_id for one in await scanned(backend)} == {"order"}
    asked = len(app.asked)
    assert await backend.find(HUB, ["@counter@one", ""]) == {"@counter@one": None, "": None}
    assert len(app.asked) == asked


@pytest.mark.parametrize(
    ("more", "version", "name"),
    [
        ({"version": "1.2"}, "1.2", "ProcessOrder"),
        ({"version": ""}, None, "ProcessOrder"),
        ({"version": None, "name": None}, None, ""),
        ({"name": "Ship"}, None, "Ship"),
    ],
)
async def test_version_and_name_are_told_if_they_come(
    app: App, backend: ManagementApiBackend, more: dict[str, Any], version: str | None, name: str
) -> None:
    app.put("order", **more)
    sighting = (await backend.find(HUB, ["order"]))["order"]
    assert sighting is not None
    assert (sighting.version, sighting.function_name) == (version, name)


async def test_found_whether_running_finished_or_unknown(app: App, backend: ManagementApiBackend) -> None:
    for status in RuntimeStatus:
        app.put(status.lower(), status)
    found = dict(await backend.find(HUB, [*(status.lower() for status in RuntimeStatus), "unknown"]))
    assert found.pop("unknown") is None
    assert {name: one and one.runtime_status for name, one in found.items()} == {
        status.lower(): status for status in RuntimeStatus
    }


STRANGE = [
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


@pytest.mark.parametrize("instance_id", STRANGE)
async def test_strange_ids_are_found_and_only_they(app: App, backend: ManagementApiBackend, instance_id: str) -> None:
    """The path alone would miss some of them, and take others for somebody else."""
    app.segment = 2
    for decoy in ("a", "A", "b", "a b", "tenant", "instances", "two", "O", f"{instance_id}-2", f"{instance_id}/order"):
        app.put(decoy, "Completed")
    assert await backend.find(HUB, [instance_id]) == {instance_id: None}
    path = app.asked[0].raw_path.partition("?")[0]
    # The address of these two would be that of the whole list, or of the API.
    assert path == (f"{API}/instances" + ("" if instance_id in (".", "..") else f"/{quote(instance_id, safe='')}"))
    app.put(instance_id)
    found = (await backend.find(HUB, [instance_id]))[instance_id]
    assert found is not None
    assert (found.instance_id, found.active) == (instance_id, True)


@pytest.mark.parametrize("instance_id", [".", ".."])
async def test_an_id_of_dots_does_not_read_the_whole_task_hub(
    monkeypatch: pytest.MonkeyPatch, app: App, backend: ManagementApiBackend, instance_id: str
) -> None:
    monkeypatch.setattr(management_api, "LARGEST_BODY", 10_000)
    for number in range(100):
        app.put(f"order-{number}", "Completed")
    assert await backend.find(HUB, [instance_id]) == {instance_id: None}
    app.put(instance_id)
    found = (await backend.find(HUB, [instance_id]))[instance_id]
    assert found is not None
    assert (found.instance_id, found.active) == (instance_id, True)


async def test_no_more_than_sixteen_are_looked_up_at_once(app: App, backend: ManagementApiBackend) -> None:
    running = most = 0

    async def counted(request: web.Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    app.instead = counted
    ids = [f"order-{number}" for number in range(60)]
    for instance_id in ids:
        app.put(instance_id)
    found = await backend.find(HUB, ids)
    assert list(found) == ids
    assert most == 16
