"""The state server in Azure: the Function App on the real Functions host, which restarts when its settings change.

Events of the Event Grid topic go to the server's trigger."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from harness.functions_host import EVENT_GRID_KEY, FunctionsHost, run_functions_host
from tests.documents.fake_azure_resources import TOPIC_PATH
from tests.documents.local_server import SettingsSource

_TRIGGER = f"/runtime/webhooks/EventGrid?functionName=RecordLifecycleEvent&code={EVENT_GRID_KEY}"
_TIMEOUT_SECONDS = 180
_HOP_HEADERS = ("content-length", "transfer-encoding", "connection", "date", "server")


class RestartingFunctionsHost:
    """An ASGI application in the place of the platform's front end: it passes each request to the host."""

    def __init__(self, package: Path, folder: Path, storage: str, current_settings: SettingsSource) -> None:
        """Serve the package. `storage` is the connection of the host's own storage account."""
        self._package = package
        self._folder = folder
        self._storage = storage
        self._current_settings = current_settings
        self._settings: dict[str, str] | None = None
        self._running = ExitStack()
        self._host: FunctionsHost | None = None
        self._lock = asyncio.Lock()
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the host, which starts first if its settings have changed."""
        request = Request(scope, receive)
        async with self._lock:
            await asyncio.to_thread(self._apply_settings)
            host = self._host
        if host is None:
            await Response(status_code=404)(scope, receive, send)
            return
        headers = [(name, value) for name, value in request.headers.raw if name != b"host"]
        method, target = request.method, f"{request.url.path}?{request.url.query}".removesuffix("?")
        if request.url.path == TOPIC_PATH:
            target, headers = _TRIGGER, [(b"aeg-event-type", b"Notification"), (b"content-type", b"application/json")]
        answer = await self._client.request(
            method, f"{host.url}{target}", headers=headers, content=await request.body()
        )
        passed = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_HEADERS}
        status = 200 if request.url.path == TOPIC_PATH and answer.is_success else answer.status_code
        await Response(answer.content, status, passed)(scope, receive, send)

    async def close(self) -> None:
        """End the host."""
        await self._client.aclose()
        await asyncio.to_thread(self._running.close)

    def _apply_settings(self) -> None:
        """Start the host with the settings of this moment, unless it runs with them. Without a package it ends."""
        settings = self._current_settings()
        if settings == self._settings:
            return
        self._running.close()
        self._settings, self._host = settings, None
        if settings is not None:
            settings = {"AzureWebJobsStorage": self._storage, **settings}
            self._host = self._running.enter_context(run_functions_host(self._package, self._folder, settings))
