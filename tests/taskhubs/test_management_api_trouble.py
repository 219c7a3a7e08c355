"""What goes wrong on the management API: refusals, redirects, answers that are none, and no answer at all."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn

import pytest
from aiohttp import web

from dev.local import free_port
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.taskhubs import management_api
from state_api.taskhubs.backend import Backend, SourceError, Trouble
from state_api.taskhubs.management_api import ManagementApiBackend
from tests.taskhubs.management_app import (
    HUB,
    KEY,
    NAME,
    App,
    app,
    as_usual,
    backend,
    backend_on,
    no_key_in_the_log,
    scanned,
    served,
)

__all__ = ["app", "backend", "no_key_in_the_log"]  # fixtures

pytestmark = pytest.mark.anyio


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


def instead(*statuses: int, **more: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Every answer with this status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=statuses[0], **more)

    return answer


async def ways(backend: Backend) -> AsyncIterator[Awaitable[Any]]:
    """All that the backend can be asked."""
    for kind in ("active", "recent"):
        yield backend.page(HUB, now_here(), json.dumps([kind, None]))
    yield backend.start(HUB)
    yield backend.find(HUB, ["order-1", "order-2"])


def now_here() -> Instant:
    return Instant(parse_instant("1970-01-01T00:00:00Z") + seconds(time.time()))


async def test_a_list_without_end_is_told(app: App, backend: ManagementApiBackend) -> None:
    async def again(request: web.Request) -> web.StreamResponse:
        return web.json_response([], headers={"x-ms-continuation-token": "again"})

    app.instead = again
    start = await backend.start(HUB)
    page = await backend.page(HUB, start.since, start.cursors[0])
    assert (await backend.page(HUB, start.since, page.cursors[0])).cursors == page.cursors
    error = await failure(backend.find(HUB, ["order"]))
    assert (error.trouble, "again and again" in error.message) == (Trouble.FAILED, True)


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
