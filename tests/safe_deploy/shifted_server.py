"""A state server in this process, on a port of loopback, whose clock a test can advance: routers have 60 seconds for a
change of the traffic."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from harness.processes import wait_until
from harness.state_server import HOST, build_server_environment
from state_api.app import StateServer
from state_api.settings import StorageSettings, read_settings
from tests.conftest import NO_EVENT_LEASE, ShiftedClock
from tests.safe_deploy.processes import server_key_entries


@dataclass(frozen=True)
class ShiftedServer:
    url: str
    clock: ShiftedClock


@contextmanager
def serve_with_shifted_clock(storage: StorageSettings, **settings_of_test: str) -> Iterator[ShiftedServer]:
    """Serve until the block ends. The server has a key for every role, its own storage as STATE_TASKHUBS_SHOP, and
    these further settings."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    settings = read_settings(
        build_server_environment(storage, server_key_entries()) | {"STATE_TASKHUBS_SHOP": connection} | settings_of_test
    )
    clock = ShiftedClock()
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        running: list[uvicorn.Server] = []

        async def serve_until_stopped() -> None:
            """Serve the state server, with a clock that a test shifts, until the block ends."""
            state = StateServer(settings, clock, NO_EVENT_LEASE)
            clock.storage = state.tables.clock
            server = uvicorn.Server(
                uvicorn.Config(state.application, log_config=None, access_log=False, lifespan="off", ws="none")
            )
            running.append(server)
            await server.serve(sockets=[listener])
            await state.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve_until_stopped()), daemon=True)
        thread.start()
        wait_until(lambda: bool(running) and running[0].started, "the server listens")
        try:
            yield ShiftedServer(f"http://{HOST}:{listener.getsockname()[1]}", clock)
        finally:
            running[0].should_exit = True
            thread.join(30)
