"""One event loop for all tests of backends.

gRPC has one poller for a process. It calls back into the event loop of a call, sometimes after its test has ended. If
that event loop is closed by then, the next test fails.
"""

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    """The backends run on asyncio, as in the server."""
    return "asyncio"


@pytest.fixture(scope="package", autouse=True)
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keep the event loop open from test to test."""
    assert anyio_backend == "asyncio"
    yield  # noqa: PT022  # with `return` the event loop would end with the fixture's set-up
