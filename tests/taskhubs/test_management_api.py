"""The backend on the management API, against a real HTTP server that behaves as the extension's source says."""

import asyncio
import base64
import gzip
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import quote, unquote, unquote_plus

import pytest
from aiohttp import web

from dev.local import free_port
from state_api.domain.instants import Instant, format_instant, parse_instant, seconds
from state_api.domain.lifecycle import RUNNING_STATUSES, RuntimeStatus
from state_api.domain.sightings import Sighting
from state_api.settings import Connections, SettingsError
from state_api.taskhubs import management_api
from state_api.taskhubs.backend import Backend, SourceError, SourcePage, Trouble
from state_api.taskhubs.management_api import ManagementApiBackend, management_api_of
from tests.builders import at

pytestmark = pytest.mark.anyio

KEY = "s3cret-System-Key=="
HUB = "OrdersHub"
API = "/runtime/webhooks/durabletask"
NAME = "OrdersApp"


async def as_usual(request: web.Request) -> web.StreamResponse | None:
    """Nothing out of the ordinary."""
    return None


@dataclass
class App:
    """A function app with the extension: its task hubs, and what it was asked. A page of the list takes in `segment`
    rows, whether they match or not, as Azure Tables does. `instead` can answer in its place."""

    origin: str
    hubs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    connection: str | None = None
    segment: int = 1000
    last_token: str = ""
    date: str | None = None
    instead: Callable[[web.Request], Awaitable[web.StreamResponse | None]] = as_usual
    asked: list[web.Request] = field(default_factory=list)

    def put(self, instance_id: str, status: str = "Running", created: str | None = None, **more: Any) -> None:
        """Create an instance, or change it."""
        instances = self.hubs.setdefault(HUB.lower(), {})
        now = created or at(0)
        before = instances.get(instance_id, {"createdTime": now})
        instances[instance_id] = {
            "name": "ProcessOrder",
            "instanceId": instance_id,
            "runtimeStatus": status,
            "input": None,
            "customStatus": None,
            "output": "x" * 100 if status == "Completed" else None,
            "createdTime": before["createdTime"] if created is None else now,
            "lastUpdatedTime": now,
            "historyEvents": None,
            **more,
        }

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if (other := await self.instead(request)) is not None:
            return other
        if request.headers.get("x-functions-key", request.query.get("code")) != KEY:
            return web.Response(status=401)
        if request.query.get("connection") != self.connection:
            return web.json_response({"message": "no such connection"}, status=500)
        # The extension makes the hub that it is asked about.
        instances = self.hubs.setdefault(request.query["taskHub"].lower(), {})
        path = as_the_extension_reads(request.raw_path.partition("?")[0])
        match path.removeprefix(API).strip("/").split("/"):
            case ["instances"]:
                return self._list(request, instances)
            case ["instances", instance_id] if instance_id in instances:
                shown = as_shown(instances[instance_id])
                if shown["runtimeStatus"] in {status.value for status in RUNNING_STATUSES}:
                    headers = {"Location": str(request.url), "Retry-After": "5"}
                    return web.json_response(shown, status=202, headers=headers)
                known = shown["runtimeStatus"] in {status.value for status in RuntimeStatus}
                return web.json_response(shown, status=200 if known else 500)
        return web.Response(status=404)

    def _list(self, request: web.Request, instances: dict[str, dict[str, Any]]) -> web.Response:
        query = request.query
        wanted = [one for value in query.getall("runtimeStatus", []) for one in value.split(",")]
        since = parse_instant(query.get("createdTimeFrom", "0001-01-01T00:00:00Z"))
        prefix = query.get("instanceIdPrefix", "")
        if "'" in prefix:
            return web.Response(status=500)
        token = request.headers.get("x-ms-continuation-token")
        following = base64.b64decode(token).decode() if token else ""
        rows = sorted(one for one in instances if one >= following and one.startswith(prefix))
        page: list[dict[str, Any]] = []
        seen = 0
        for instance_id in rows[: self.segment]:
            if len(page) == int(query.get("top", "100")):
                break
            seen += 1
            one = instances[instance_id]
            if (not wanted or one["runtimeStatus"] in wanted) and parse_instant(one["createdTime"]) >= since:
                page.append(as_shown(one))
        onward = base64.b64encode(rows[seen].encode()).decode() if seen < len(rows) else self.last_token
        headers = {"x-ms-continuation-token": onward, **({"Date": self.date} if self.date else {})}
        return web.json_response(page, headers=headers)


def as_shown(instance: dict[str, Any]) -> dict[str, Any]:
    """The API cuts times to seconds."""
    return {
        name: f"{value[:19]}Z" if name.endswith("Time") and isinstance(value, str) else value
        for name, value in instance.items()
    }


def as_the_extension_reads(raw_path: str) -> str:
    """The host decodes the path, but for slashes, and resolves its dots; then the extension decodes it once more."""
    once = "%2F".join(unquote(part) for part in re.split("%2f", raw_path, flags=re.IGNORECASE))
    kept: list[str] = []
    for part in once.split("/"):
        if part == "..":
            kept.pop()
        elif part != ".":
            kept.append(part)
    return unquote_plus("/".join(kept))


@asynccontextmanager
async def served(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A server on loopback; yields its origin."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def app(anyio_backend: str) -> AsyncIterator[App]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await running.answer(request)

    running = App("")
    async with served(answer) as origin:
        running.origin = origin
        yield running


@asynccontextmanager
async def backend_on(origin: str, key: str = KEY, **more: Any) -> AsyncIterator[ManagementApiBackend]:
    made = ManagementApiBackend(origin, key, NAME, **more)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def backend(app: App) -> AsyncIterator[ManagementApiBackend]:
    async with backend_on(app.origin) as made:
        yield made


async def passed(backend: Backend, since: Instant, cursors: tuple[str, ...]) -> list[SourcePage]:
    """All pages that these cursors lead to."""
    pages = []
    left = list(cursors)
    while left:
        page = await backend.page(HUB, since, left.pop(0))
        pages.append(page)
        left.extend(page.cursors)
        assert len(pages) < 200
    return pages


async def scanned(backend: Backend) -> list[Sighting]:
    start = await backend.start(HUB)
    return [one for page in await passed(backend, start.since, start.cursors) for one in page.sightings]


async def failure(awaitable: Awaitable[Any]) -> SourceError:
    """The error that this ends in. Nothing of it may show the key."""
    with pytest.raises(SourceError) as caught:
        await awaitable
    error = caught.value
    assert "\n" not in error.message
    for one in chained(error):
        assert KEY not in f"{one!s} {one!r} {vars(one)!r}"
    return error


def chained(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.fixture(autouse=True)
def no_key_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may log the key, whatever goes wrong in it."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert KEY not in record.getMessage()
        assert KEY not in caplog.handler.format(record)


def instead(*statuses: int, **more: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Every answer with this status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=statuses[0], **more)

    return answer


async def test_a_hub_without_instances_is_read_in_two_pages(app: App, backend: ManagementApiBackend) -> None:
    start = await backend.start(HUB)
    pages = await passed(backend, start.since, start.cursors)
    assert [page.sightings for page in pages] == [(), ()]
    assert start.again == pages[0].cursors
    assert (backend.provider, await backend.in_flight(HUB)) == ("managementApi", None)


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
    assert app.asked[0].raw_path.partition("?")[0] == f"{API}/instances/{quote(instance_id, safe='')}"
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


async def test_a_list_without_end_is_told(app: App, backend: ManagementApiBackend) -> None:
    async def again(request: web.Request) -> web.StreamResponse:
        return web.json_response([], headers={"x-ms-continuation-token": "again"})

    app.instead = again
    start = await backend.start(HUB)
    page = await backend.page(HUB, start.since, start.cursors[0])
    assert (await backend.page(HUB, start.since, page.cursors[0])).cursors == page.cursors
    error = await failure(backend.find(HUB, ["order"]))
    assert (error.trouble, "again and again" in error.message) == (Trouble.FAILED, True)


async def ways(backend: Backend) -> AsyncIterator[Awaitable[Any]]:
    """All that the backend can be asked."""
    for kind in ("active", "recent"):
        yield backend.page(HUB, now_here(), json.dumps([kind, None]))
    yield backend.start(HUB)
    yield backend.find(HUB, ["order-1", "order-2"])


def now_here() -> Instant:
    return Instant(parse_instant("1970-01-01T00:00:00Z") + seconds(time.time()))


async def test_an_app_without_the_extension_is_no_missing_hub(app: App, backend: ManagementApiBackend) -> None:
    app.instead = instead(404)
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.FAILED
        assert error.message.startswith(f"the app at the address in {NAME}__endpoint does not serve the management API")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_names_the_key(app: App, backend: ManagementApiBackend, status: int) -> None:
    app.instead = instead(status, text=f"<html>{KEY}</html>")
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.DENIED
        assert f"{NAME}__key must be the app's system key durabletask_extension" in error.message


async def test_a_wrong_key_is_refused(app: App) -> None:
    async with backend_on(app.origin, key="wrong") as backend:
        assert (await failure(backend.start(HUB))).trouble is Trouble.DENIED


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7, 7), ("in a while", None, None), (None, None, None), ("9" * 5000, None, None), (30, 29, 31), (-30, 0, 0)],
)
async def test_a_busy_app_is_left_alone_for_as_long_as_it_asks(
    app: App, backend: ManagementApiBackend, status: int, header: str | int | None, least: int | None, most: int | None
) -> None:
    if isinstance(header, int):
        header = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + header))
    app.instead = instead(status, headers={} if header is None else {"Retry-After": header})
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.THROTTLED
        assert str(status) in error.message
        if least is None or most is None:
            assert error.retry_after is None
        else:
            assert error.retry_after is not None
            assert least <= error.retry_after <= most


@pytest.mark.parametrize("status", [204, 400, 410, 500, 502])
async def test_any_other_status_is_told(app: App, backend: ManagementApiBackend, status: int) -> None:
    app.instead = instead(status)
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.FAILED
        assert error.message == f"the app at the address in {NAME}__endpoint answers {status}; its own log says why"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(app: App, backend: ManagementApiBackend, status: int) -> None:
    elsewhere: list[web.Request] = []

    async def listener(request: web.Request) -> web.StreamResponse:
        elsewhere.append(request)
        return web.json_response([])

    async with served(listener) as origin:
        app.instead = instead(status, headers={"Location": f"{origin}/login"})
        async for way in ways(backend):
            error = await failure(way)
            assert error.trouble is Trouble.FAILED
            assert f"redirects ({status})" in error.message
            assert origin not in error.message
    assert elsewhere == []


FINE = {"instanceId": "order-1", "createdTime": "2026-01-02T03:04:05Z", "lastUpdatedTime": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    "body",
    [
        "<html>Sign in</html>",
        "",
        "[",
        "[" * 100_000,
        b"\xff\xfe\xff",
        "null",
        "17",
        '{"value": []}',
        "[17]",
        "[[]]",
        "[{}]",
        json.dumps([FINE, {**FINE, "instanceId": 5}]),
        json.dumps([FINE, {**FINE, "createdTime": "yesterday"}]),
        json.dumps([FINE, {**FINE, "lastUpdatedTime": None}]),
        json.dumps({**FINE, "createdTime": "yesterday"}),
    ],
)
async def test_what_is_not_the_expected_json_is_told(
    app: App, backend: ManagementApiBackend, body: str | bytes
) -> None:
    app.instead = instead(200, body=body)
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.FAILED
        assert error.message.startswith(
            f"the app at the address in {NAME}__endpoint answers with something that is not"
        )


async def test_a_token_that_cannot_be_sent_back_is_told(app: App, backend: ManagementApiBackend) -> None:
    app.instead = instead(200, body="[]", headers={"x-ms-continuation-token": "größer"})
    assert "x-ms-continuation-token" in (await failure(backend.start(HUB))).message


async def test_an_answer_that_is_too_large_is_not_kept(
    app: App, backend: ManagementApiBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management_api, "LARGEST_BODY", 2 * 1024 * 1024)
    for body, headers in (
        (b" " * (2 * 1024 * 1024 + 1), {}),
        (gzip.compress(b" " * 40 * 1024 * 1024), {"Content-Encoding": "gzip"}),
    ):
        app.instead = instead(200, body=body, headers=headers)
        error = await failure(backend.start(HUB))
        assert (error.trouble, "more than 2 MiB" in error.message) == (Trouble.FAILED, True)
    app.instead = instead(200, body=gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"})
    await backend.start(HUB)


async def test_an_app_that_cannot_be_reached_is_told() -> None:
    for origin in (f"http://127.0.0.1:{free_port()}", "https://no-such-app.invalid"):
        async with backend_on(origin) as backend:
            async for way in ways(backend):
                error = await failure(way)
                assert error.trouble is Trouble.FAILED
                assert f"{NAME}__endpoint cannot be reached" in error.message


async def test_a_server_that_does_not_speak_tls_is_told(app: App) -> None:
    async with backend_on(app.origin.replace("http:", "https:")) as backend:
        error = await failure(backend.start(HUB))
    assert error.trouble is Trouble.FAILED
    assert "does not offer an encrypted connection" in error.message
    assert app.asked == []


async def test_an_app_that_does_not_answer_in_time_is_told(app: App) -> None:
    async def late(request: web.Request) -> NoReturn:
        await asyncio.sleep(30)
        raise AssertionError

    async def late_end(request: web.Request) -> NoReturn:
        answer = web.StreamResponse(headers={"x-ms-continuation-token": ""})
        await answer.prepare(request)
        await answer.write(b"[")
        await late(request)

    async with backend_on(app.origin, timeout=0.2) as backend:
        for slow in (late, late_end):
            app.instead = slow
            async for way in ways(backend):
                error = await failure(way)
                assert error.trouble is Trouble.FAILED
                assert error.message == f"the app at the address in {NAME}__endpoint did not answer within 0.2 s"


async def test_an_answer_that_breaks_off_is_told(app: App, backend: ManagementApiBackend) -> None:
    async def cut(request: web.Request) -> NoReturn:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"[]")
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    app.instead = cut
    async for way in ways(backend):
        error = await failure(way)
        assert error.trouble is Trouble.FAILED
        assert "broke off its answer" in error.message
    app.instead = instead(200, body=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert "broke off its answer" in (await failure(backend.start(HUB))).message


@pytest.mark.parametrize("words", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"])
async def test_what_does_not_speak_http_is_told(words: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(words)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, backend_on(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as backend:
        error = await failure(backend.start(HUB))
    assert error.trouble is Trouble.FAILED
    assert "broke off its answer" in error.message


async def test_a_backend_works_again_after_trouble_and_after_closing(app: App, backend: ManagementApiBackend) -> None:
    app.put("order")
    app.instead = instead(500)
    await failure(backend.start(HUB))
    app.instead = as_usual
    assert await scanned(backend)
    await backend.close()
    await backend.close()
    assert await scanned(backend)


def test_the_key_does_not_show_in_a_backend() -> None:
    backend = ManagementApiBackend("https://app.example", KEY, NAME)
    assert KEY not in f"{backend!r} {backend!s} {vars(backend)!r}"


GOOD = {f"{NAME}__endpoint": "https://app.example", f"{NAME}__key": KEY}


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://app.azurewebsites.net",
        "https://app.azurewebsites.net/",
        "HTTPS://App.example:8443/behind/gateway",
        "http://localhost:7071",
        "http://127.0.0.2:7071/",
        "http://[::1]:7071",
        "https://[2001:db8::1]",
    ],
)
def test_addresses_that_will_do(endpoint: str) -> None:
    management_api_of(Connections({**GOOD, f"{NAME}__endpoint": endpoint}), NAME)


@pytest.mark.parametrize(
    "endpoint",
    [
        "app.example",
        "ftp://app.example",
        "https://",
        "https:///path",
        "https://user:pass-w0rd@app.example",
        "https://app.example?code=pass-w0rd",
        "https://app.example/#pass-w0rd",
        "https://app.example:99999",
        "https://app.example:port",
        "https://app.example\\@pass-w0rd",
        "https://app example",
        "https://app.example/../pass-w0rd%2f",
        " https://app.example",
        "https://app.example\n",
        "http://app.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://10.0.0.1",
    ],
)
def test_addresses_that_will_not_do(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=f"{NAME}__endpoint must") as caught:
        management_api_of(Connections({**GOOD, f"{NAME}__endpoint": endpoint}), NAME)
    assert "pass-w0rd" not in str(caught.value)
    if endpoint.startswith("http://"):
        assert "because the key travels in every request" in str(caught.value)


@pytest.mark.parametrize("lacking", ["endpoint", "key"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_setting_that_is_missing_is_named(lacking: str, value: str | None) -> None:
    settings = {name: text for name, text in GOOD.items() if not name.endswith(lacking)}
    if value is not None:
        settings[f"{NAME}__{lacking}"] = value
    with pytest.raises(SettingsError, match=f"the setting {NAME}__{lacking} is not set on this server") as caught:
        management_api_of(Connections(settings), NAME)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_named(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{NAME}__key must be") as caught:
        management_api_of(Connections({**GOOD, f"{NAME}__key": key}), NAME)
    assert key not in str(caught.value)


async def test_a_connection_string_is_not_sent_to_the_app(app: App) -> None:
    setting = f"{NAME}__storageConnection"
    with pytest.raises(SettingsError, match=f"{setting} must be the name") as caught:
        management_api_of(Connections({**GOOD, setting: "AccountName=a;AccountKey=pass-w0rd=="}), NAME)
    assert "pass-w0rd" not in str(caught.value)
    app.connection = "OrdersStorage"
    settings = {**GOOD, f"{NAME}__endpoint": app.origin, setting: "OrdersStorage"}
    backend = management_api_of(Connections(settings), NAME)
    await backend.start(HUB)
    await backend.close()
