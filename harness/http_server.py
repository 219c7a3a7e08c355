"""HTTP servers of tests, in the test's own event loop."""

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
    """Answer whatever comes to some ports of loopback, which are yielded. What is still being answered in the end has
    `shutdown_timeout` seconds."""
    application = web.Application(client_max_size=16 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=shutdown_timeout)
    await runner.setup()
    listeners: list[socket.socket] = []
    try:
        for _ in range(ports):
            listeners.append(socket.create_server((HOST, 0)))
            await web.SockSite(runner, listeners[-1]).start()
        yield [one.getsockname()[1] for one in listeners]
    finally:
        # Whoever connects while a server closes is half taken up and then forgotten, with the socket left open. So take
        # up nobody any more, and give those time who were: it takes two turns of the loop.
        for one in listeners:
            asyncio.get_running_loop().remove_reader(one)
        for _ in range(3):
            await asyncio.sleep(0)
        await runner.cleanup()
