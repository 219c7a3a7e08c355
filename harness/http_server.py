"""HTTP servers in the event loop of a test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

HOST = "127.0.0.1"


@asynccontextmanager
async def run_http_server(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], ports: int = 1, shutdown_timeout: float = 60
) -> AsyncIterator[Sequence[int]]:
    """Serve on `ports` free ports of loopback with one handler. Yields the port numbers.

    At the end, requests in progress have `shutdown_timeout` seconds."""
    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=shutdown_timeout)
    await runner.setup()
    listeners: list[socket.socket] = []
    try:
        for _ in range(ports):
            listeners.append(socket.create_server((HOST, 0)))
            await web.SockSite(runner, listeners[-1]).start()
        yield [listener.getsockname()[1] for listener in listeners]
    finally:
        # asyncio forgets a connection that it accepts while the server closes, and leaves its socket open. So stop
        # accepting, and let accepted connections finish, which takes two iterations of the event loop.
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        await runner.cleanup()
