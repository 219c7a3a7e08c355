"""The limits on connections, tested with short timeouts and small applications in this process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from harness.http_server import HOST
from state_api.serving.connections import ConnectionLimits, protocol_factory

pytestmark = pytest.mark.anyio

GET_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNFINISHED_CHUNKED_REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
TIMEOUT_SECONDS = 10.0
"""The time limit of every wait in these tests."""
PART_BYTES = 65_536
"""The size of the parts in which the applications send responses and the tests read them."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[bytes], Awaitable[Connection]]


class SlowApplication:
    """Responds to each request with `response_size` bytes once `may_respond` is set."""

    def __init__(self, response_size: int = 2) -> None:
        self.may_respond = asyncio.Event()
        self.response_size = response_size
        self.request_count = 0
        self.messages: list[Message] = []
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond once the test allows it, in parts."""
        self.request_count += 1
        try:
            await self.may_respond.wait()
            headers = [(b"content-length", b"%d" % self.response_size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            part = b"x" * min(self.response_size, PART_BYTES)
            for _ in range(0, self.response_size, PART_BYTES):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.ended.set()


class BodyReader(SlowApplication):
    """Reads the body of each request. With `responds_first`, it begins its response before it reads the body."""

    def __init__(self, *, responds_first: bool) -> None:
        super().__init__()
        self._responds_first = responds_first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the request to its end, or until the client disconnects."""
        if self._responds_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            self.messages.append(await receive())
            self.request_count += 1
            if self.messages[-1]["type"] == "http.disconnect":
                self.ended.set()
                return


@asynccontextmanager
async def serve_application(
    application: SlowApplication,
    *,
    head_timeout_seconds: float = TIMEOUT_SECONDS,
    unread_timeout_seconds: float = TIMEOUT_SECONDS,
) -> AsyncIterator[Connect]:
    """Serve the application to at most two connections until the block ends.

    Yields a function that opens a connection and sends the bytes of a request.
    """
    limits = ConnectionLimits(
        max_connections=2, head_timeout_seconds=head_timeout_seconds, unread_timeout_seconds=unread_timeout_seconds
    )
    config = uvicorn.Config(
        application, http=protocol_factory(limits), log_config=None, access_log=False, timeout_keep_alive=60
    )
    config.load()
    state = ServerState()
    writers: list[asyncio.StreamWriter] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),  # type: ignore[call-arg]
        HOST,
        0,
    )
    port = server.sockets[0].getsockname()[1]

    async def connect(request: bytes) -> Connection:
        """Open a connection and send these bytes, which may be only a part of a request."""
        reader, writer = await asyncio.open_connection(HOST, port, limit=PART_BYTES)
        writers.append(writer)
        writer.write(request)
        await writer.drain()
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await wait_until(lambda: not state.connections and not state.tasks)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, and fail after TIMEOUT_SECONDS."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def read_until_closed(connection: Connection) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await connection[0].read()
    except ConnectionResetError:
        return b""


async def read_response_head(connection: Connection) -> bytes:
    """Return the status line and the headers of the next response."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await connection[0].readuntil(b"\r\n\r\n")


async def test_a_new_connection_replaces_the_one_that_has_been_idle_longest(anyio_backend: str) -> None:
    application = SlowApplication()
    application.may_respond.set()
    async with serve_application(application) as connect:
        idle, used = await connect(b""), await connect(GET_REQUEST)
        assert b"200" in await read_response_head(used)
        new = await connect(GET_REQUEST)
        assert await read_until_closed(idle) == b""
        assert b"200" in await read_response_head(new)


async def test_connections_with_a_request_are_not_replaced(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    application = SlowApplication()
    async with serve_application(application) as connect:
        busy = [await connect(GET_REQUEST), await connect(GET_REQUEST)]
        await wait_until(lambda: application.request_count == 2)
        assert await read_until_closed(await connect(GET_REQUEST)) == b""
        assert "refused a connection: 2 are open and each has a request" in caplog.text
        application.may_respond.set()
        for connection in busy:
            assert b"200" in await read_response_head(connection)
    assert application.request_count == 2


async def test_a_connection_is_closed_if_its_response_is_not_read(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    application = SlowApplication(response_size=64 * 1024 * 1024)
    application.may_respond.set()
    async with serve_application(application, unread_timeout_seconds=0.2) as connect:
        await connect(GET_REQUEST)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await application.ended.wait()
    assert "its response has not been read for 0.2 s" in caplog.text


async def test_a_response_that_is_read_slowly_is_sent_completely(anyio_backend: str) -> None:
    """The client reads for longer than a response may stay unread, and longer than a request head may take."""
    application = SlowApplication(response_size=16 * 1024 * 1024)
    application.may_respond.set()
    async with serve_application(application, unread_timeout_seconds=2, head_timeout_seconds=0.5) as connect:
        connection = await connect(GET_REQUEST)
        await read_response_head(connection)
        bytes_read = 0
        async with asyncio.timeout(60):
            while part := await connection[0].read(PART_BYTES):
                bytes_read += len(part)
                if bytes_read == application.response_size:
                    break
                await asyncio.sleep(0.02)
    assert bytes_read == application.response_size


async def test_a_connection_is_closed_if_its_body_continues_after_the_response(anyio_backend: str) -> None:
    application = SlowApplication()
    application.may_respond.set()
    async with serve_application(application, head_timeout_seconds=0.3) as connect:
        connection = await connect(UNFINISHED_CHUNKED_REQUEST)
        assert b"200" in await read_response_head(connection)
        reading = asyncio.ensure_future(read_until_closed(connection))
        while not reading.done():
            connection[1].write(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("responds_first", [False, True])
async def test_invalid_http_within_a_body_ends_the_request_and_logs_one_line(
    *, anyio_backend: str, caplog: pytest.LogCaptureFixture, responds_first: bool
) -> None:
    caplog.set_level(logging.INFO)
    application = BodyReader(responds_first=responds_first)
    async with serve_application(application) as connect:
        connection = await connect(UNFINISHED_CHUNKED_REQUEST)
        await wait_until(lambda: application.request_count == 1)
        connection[1].write(b"no chunk\r\n\r\n")
        response = await read_until_closed(connection)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await application.ended.wait()
    assert response.startswith(b"HTTP/1.1 " + (b"200" if responds_first else b"400"))
    assert [message["type"] for message in application.messages] == ["http.request", "http.disconnect"]
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == [
        "Invalid HTTP request received."
    ]
