"""A state server in this process, on a port of loopback, which restarts whenever its settings have changed.

A Function App in Azure does the same."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
from starlette.requests import Request as StarletteRequest
from starlette.types import Receive, Scope, Send

from harness.processes import wait_until
from state_api.app import StateServer
from state_api.settings import SettingsError, read_settings
from tests.documents.fake_azure_resources import TOPIC_KEY, TOPIC_PATH

SettingsSource = Callable[[], dict[str, str] | None]
"""Returns the server's environment as it is now; None while there is no server."""


class RestartingServer:
    """An ASGI application that serves requests with the current settings.

    `keys_required`: without keys every operation is refused, as on a Functions host."""

    def __init__(self, current_settings: SettingsSource, *, keys_required: bool) -> None:
        self._current_settings = current_settings
        self._keys_required = keys_required
        self._settings: dict[str, str] | None = None
        self._server: StateServer | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request with the settings of this moment. If they have changed, the server is closed and a new one
        starts."""
        async with self._lock:
            settings = self._current_settings()
            if settings != self._settings:
                await self.close()
                self._settings = settings
                if settings is not None:
                    with contextlib.suppress(SettingsError):
                        self._server = StateServer(read_settings(settings, keys_required=self._keys_required))
            server = self._server
        if server is not None and scope["type"] == "http" and scope["path"] == TOPIC_PATH:
            await _serve_topic(server, scope, receive, send)
        elif server is None:
            await _send_unavailable_response(send)
        else:
            await server.application(scope, receive, send)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
        self._server = None


async def _serve_topic(server: StateServer, scope: Scope, receive: Receive, send: Send) -> None:
    """Accept events with the topic's key, and record them as the trigger of the server does."""
    request = StarletteRequest(scope, receive)
    if request.headers.get("aeg-sas-key") != TOPIC_KEY:
        await _send_response(send, 401, {"message": "the key is not that of the topic"})
        return
    await server.services.recorder.record(json.loads(await request.body()), "trigger")
    await _send_response(send, 200, {})


async def _send_unavailable_response(send: Send) -> None:
    """Answer 503, as a platform does while no app runs or while its settings are wrong."""
    await _send_response(send, 503, {"message": "no server runs here, or its settings are wrong"})


async def _send_response(send: Send, status: int, body: dict[str, str]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@contextmanager
def serve_restarting(current_settings: SettingsSource, *, keys_required: bool) -> Iterator[str]:
    """Serve until the block ends; yields the address."""
    with serve_application(RestartingServer(current_settings, keys_required=keys_required)) as url:
        yield url


class ClosableApplication(Protocol):
    """An ASGI application that is closed after the last request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""

    async def close(self) -> None:
        """End what the application has started."""


@contextmanager
def serve_application(application: ClosableApplication) -> Iterator[str]:
    """Serve an application on a free port of loopback until the block ends; yields the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off"))

        async def serve_until_stopped() -> None:
            await server.serve(sockets=[listener])
            await application.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve_until_stopped()), daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the server for the documents listens")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
