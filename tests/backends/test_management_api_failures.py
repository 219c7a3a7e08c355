"""Failures of the management API: refusals, redirects, unexpected responses, and no response."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn

import pytest
from aiohttp import web

from harness.processes import free_port
from state_api.backends import management_api_client
from state_api.backends.management_api import ManagementApiBackend
from state_api.backends.protocols import Backend, BackendError, ReadFailure
from state_api.domain.instants import Instant, parse_instant, seconds
from tests.backends.fake_function_app import (
    CONNECTION_NAME,
    HUB,
    SYSTEM_KEY,
    FakeFunctionApp,
    answer_as_usual,
    backend,
    fail_if_the_key_is_logged,
    function_app,
    open_management_backend,
    scan,
    serve_http,
)

__all__ = ["backend", "fail_if_the_key_is_logged", "function_app"]  # fixtures

pytestmark = pytest.mark.anyio


async def catch_backend_error(call: Awaitable[Any]) -> BackendError:
    """Return the error that the call raises. Neither the error nor its causes may contain the key."""
    with pytest.raises(BackendError) as caught:
        await call
    error = caught.value
    assert "\n" not in error.message
    for cause in list_exception_chain(error):
        assert SYSTEM_KEY not in f"{cause!s} {cause!r} {vars(cause)!r}"
    return error


def list_exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all errors that caused it, whose messages must not hold secrets either."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def create_responder(status: int, **response_options: Any) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return an override that answers every request with this status."""

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, **response_options)

    return respond


async def list_backend_calls(backend: Backend) -> AsyncIterator[Awaitable[Any]]:
    """Every call that sends a request."""
    for scan_pass in ("active", "recent"):
        yield backend.read_page(HUB, format_local_time(), json.dumps([scan_pass, None]))
    yield backend.begin_scan(HUB)
    yield backend.find_instances(HUB, ["order-1", "order-2"])


def format_local_time() -> Instant:
    return Instant(parse_instant("1970-01-01T00:00:00Z") + seconds(time.time()))


async def test_a_list_without_an_end_is_a_failure(function_app: FakeFunctionApp, backend: ManagementApiBackend) -> None:
    async def repeat_page(request: web.Request) -> web.StreamResponse:
        return web.json_response([], headers={"x-ms-continuation-token": "again"})

    function_app.override = repeat_page
    start = await backend.begin_scan(HUB)
    page = await backend.read_page(HUB, start.changed_since, start.cursors[0])
    assert (await backend.read_page(HUB, start.changed_since, page.cursors[0])).cursors == page.cursors
    error = await catch_backend_error(backend.find_instances(HUB, ["order"]))
    assert (error.failure, "again and again" in error.message) == (ReadFailure.FAILED, True)


async def test_an_app_without_the_extension_is_a_failure_and_not_a_missing_task_hub(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.override = create_responder(404)
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.FAILED
        assert error.message.startswith(
            f"the app at the address in {CONNECTION_NAME}__endpoint does not serve the management API"
        )


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_names_the_key(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, status: int
) -> None:
    function_app.override = create_responder(status, text=f"<html>{SYSTEM_KEY}</html>")
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.DENIED
        assert f"{CONNECTION_NAME}__key must be the app's system key durabletask_extension" in error.message


async def test_a_wrong_key_is_refused(function_app: FakeFunctionApp) -> None:
    async with open_management_backend(function_app.origin, key="wrong") as backend:
        assert (await catch_backend_error(backend.begin_scan(HUB))).failure is ReadFailure.DENIED


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "minimum", "maximum"),
    [("7", 7, 7), ("in a while", None, None), (None, None, None), ("9" * 5000, None, None), (30, 29, 31), (-30, 0, 0)],
)
async def test_an_app_that_asks_to_wait_says_for_how_long(
    *,
    function_app: FakeFunctionApp,
    backend: ManagementApiBackend,
    status: int,
    header: str | int | None,
    minimum: int | None,
    maximum: int | None,
) -> None:
    if isinstance(header, int):
        header = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + header))
    function_app.override = create_responder(status, headers={} if header is None else {"Retry-After": header})
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.THROTTLED
        assert str(status) in error.message
        if minimum is None or maximum is None:
            assert error.retry_after is None
        else:
            assert error.retry_after is not None
            assert minimum <= error.retry_after <= maximum


@pytest.mark.parametrize("status", [204, 400, 410, 500, 502])
async def test_any_other_status_is_a_failure(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, status: int
) -> None:
    function_app.override = create_responder(status)
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.FAILED
        assert (
            error.message
            == f"the app at the address in {CONNECTION_NAME}__endpoint answers {status}: see the app's own log"
        )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, status: int
) -> None:
    requests_at_target: list[web.Request] = []

    async def handle_at_target(request: web.Request) -> web.StreamResponse:
        requests_at_target.append(request)
        return web.json_response([])

    async with serve_http(handle_at_target) as origin:
        function_app.override = create_responder(status, headers={"Location": f"{origin}/login"})
        async for call in list_backend_calls(backend):
            error = await catch_backend_error(call)
            assert error.failure is ReadFailure.FAILED
            assert f"redirects ({status})" in error.message
            assert origin not in error.message
    assert requests_at_target == []


VALID_INSTANCE = {
    "instanceId": "order-1",
    "createdTime": "2026-01-02T03:04:05Z",
    "lastUpdatedTime": "2026-01-02T03:04:05Z",
}


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
        json.dumps([VALID_INSTANCE, {**VALID_INSTANCE, "instanceId": 5}]),
        json.dumps([VALID_INSTANCE, {**VALID_INSTANCE, "createdTime": "yesterday"}]),
        json.dumps([VALID_INSTANCE, {**VALID_INSTANCE, "lastUpdatedTime": None}]),
        json.dumps({**VALID_INSTANCE, "createdTime": "yesterday"}),
    ],
)
async def test_a_response_without_the_expected_json_is_a_failure(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, body: str | bytes
) -> None:
    function_app.override = create_responder(200, body=body)
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.FAILED
        assert error.message.startswith(
            f"the app at the address in {CONNECTION_NAME}__endpoint answers with something that is not"
        )


async def test_a_token_that_cannot_be_sent_back_is_a_failure(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.override = create_responder(200, body="[]", headers={"x-ms-continuation-token": "größer"})
    assert "x-ms-continuation-token" in (await catch_backend_error(backend.begin_scan(HUB))).message


async def test_a_response_that_is_too_large_is_a_failure(
    function_app: FakeFunctionApp, backend: ManagementApiBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management_api_client, "MAX_RESPONSE_BYTES", 2 * 1024 * 1024)
    for body, headers in (
        (b" " * (2 * 1024 * 1024 + 1), {}),
        (gzip.compress(b" " * 40 * 1024 * 1024), {"Content-Encoding": "gzip"}),
    ):
        function_app.override = create_responder(200, body=body, headers=headers)
        error = await catch_backend_error(backend.begin_scan(HUB))
        assert (error.failure, "more than 2 MiB" in error.message) == (ReadFailure.FAILED, True)
    function_app.override = create_responder(200, body=gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"})
    await backend.begin_scan(HUB)


async def test_an_app_that_cannot_be_reached_is_a_failure() -> None:
    for origin in (f"http://127.0.0.1:{free_port()}", "https://no-such-app.invalid"):
        async with open_management_backend(origin) as backend:
            async for call in list_backend_calls(backend):
                error = await catch_backend_error(call)
                assert error.failure is ReadFailure.FAILED
                assert f"{CONNECTION_NAME}__endpoint cannot be reached" in error.message


async def test_a_server_without_tls_is_a_failure(function_app: FakeFunctionApp) -> None:
    async with open_management_backend(function_app.origin.replace("http:", "https:")) as backend:
        error = await catch_backend_error(backend.begin_scan(HUB))
    assert error.failure is ReadFailure.FAILED
    assert "does not offer an encrypted connection" in error.message
    assert function_app.requests == []


async def test_an_app_that_does_not_answer_in_time_is_a_failure(function_app: FakeFunctionApp) -> None:
    async def answer_late(request: web.Request) -> NoReturn:
        await asyncio.sleep(30)
        raise AssertionError

    async def end_late(request: web.Request) -> NoReturn:
        response = web.StreamResponse(headers={"x-ms-continuation-token": ""})
        await response.prepare(request)
        await response.write(b"[")
        await answer_late(request)

    async with open_management_backend(function_app.origin, timeout_seconds=0.2) as backend:
        for override in (answer_late, end_late):
            function_app.override = override
            async for call in list_backend_calls(backend):
                error = await catch_backend_error(call)
                assert error.failure is ReadFailure.FAILED
                assert (
                    error.message
                    == f"the app at the address in {CONNECTION_NAME}__endpoint did not answer within 0.2 s"
                )


async def test_an_incomplete_response_is_a_failure(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    async def abort_response(request: web.Request) -> NoReturn:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"[]")
        assert request.transport is not None
        request.transport.abort()
        raise asyncio.CancelledError

    function_app.override = abort_response
    async for call in list_backend_calls(backend):
        error = await catch_backend_error(call)
        assert error.failure is ReadFailure.FAILED
        assert "incomplete or unexpected response" in error.message
    function_app.override = create_responder(200, body=b"no gzip", headers={"Content-Encoding": "gzip"})
    assert "incomplete or unexpected response" in (await catch_backend_error(backend.begin_scan(HUB))).message


@pytest.mark.parametrize("sent_bytes", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"])
async def test_a_server_that_does_not_speak_http_is_a_failure(sent_bytes: bytes) -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent_bytes)
        writer.close()

    server = await asyncio.start_server(send, "127.0.0.1", 0)
    async with server, open_management_backend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as backend:
        error = await catch_backend_error(backend.begin_scan(HUB))
    assert error.failure is ReadFailure.FAILED
    assert "incomplete or unexpected response" in error.message


async def test_a_backend_works_again_after_a_failure_and_after_it_was_closed(
    function_app: FakeFunctionApp, backend: ManagementApiBackend
) -> None:
    function_app.put("order")
    function_app.override = create_responder(500)
    await catch_backend_error(backend.begin_scan(HUB))
    function_app.override = answer_as_usual
    assert await scan(backend)
    await backend.close()
    await backend.close()
    assert await scan(backend)
