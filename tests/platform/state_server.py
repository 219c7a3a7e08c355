"""The state server as a process that can be killed and started again, and the requests that tests send to it."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from harness.state_server import ServerProcess, run_server
from state_api.settings import StorageSettings

STORAGE_CONNECTION_SETTING = "STATE_TASKHUBS_STORAGE"
"""The setting with the storage account of the task hubs."""

APP_CONNECTION_SETTING = "STATE_TASKHUBS_APP"
"""The prefix of the settings for the app whose management API the server reads."""

STORAGE_PROVIDER_CONFIG = {"provider": "azureStorage", "connection": STORAGE_CONNECTION_SETTING}
MANAGEMENT_API_PROVIDER_CONFIG = {"provider": "managementApi", "connection": APP_CONNECTION_SETTING}

SETTLE_SECONDS = 2
"""The settle window of the apps in these tests."""

READY_DELAY_SECONDS = SETTLE_SECONDS + 1.5
"""How long after a task hub has drained a request must be answered with Ready. The settle window counts by the
storage's clock, which reports whole seconds."""

MAX_SCAN_SECONDS = 30.0
"""How long a busy machine may take for one response."""

_NO_STORAGE_RESPONSE = re.compile(r"state storage:  Service(Request|Response)(Timeout)?Error: ")
"""What the server logs when the storage gave no response. An error that the storage answered has a status before the
name."""


@dataclass(frozen=True, slots=True)
class StagingStatusResponse:
    """A response of GetStagingStatus. The times are by `time.monotonic`."""

    requested_at: float
    responded_at: float
    verdict: Mapping[str, Any]

    @property
    def ready(self) -> bool:
        return bool(self.verdict["ready"])

    @property
    def reason_codes(self) -> list[str]:
        return [reason["code"] for reason in self.verdict["reasons"]]


class StorageSilent(Exception):
    """The server answered that it got no response from the storage."""


class StateServerProcess:
    """`python -m state_api serve`. After a kill it listens on another port."""

    def __init__(self, storage: StorageSettings, folder: Path, app_url: str | None = None) -> None:
        """Prepare a server that can read task hubs in the storage, or through the management API at `app_url`."""
        assert storage.connection_string is not None
        self._storage = storage
        self._folder = folder
        self._settings = {STORAGE_CONNECTION_SETTING: storage.connection_string.get_secret_value()}
        if app_url is not None:
            self._settings |= {
                f"{APP_CONNECTION_SETTING}__endpoint": app_url,
                f"{APP_CONNECTION_SETTING}__key": "any-key-opens-it",
            }
        self._stack = ExitStack()
        self._server_process: ServerProcess | None = None
        # Without connections that are kept alive: the server may be closing one when a request is sent.
        self._http = httpx.AsyncClient(timeout=150, limits=httpx.Limits(max_keepalive_connections=0))
        self.kill_count = 0
        self.killed_at = 0.0

    @property
    def url(self) -> str:
        return self._server_process.url if self._server_process is not None else ""

    @property
    def webhook(self) -> str:
        return f"{self.url}/api/events"

    async def start(self) -> None:
        """Start the process on a free port."""
        context = run_server(self._storage, self._folder, extra_settings=self._settings)
        self._server_process = await asyncio.to_thread(self._stack.enter_context, context)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        assert self._server_process is not None
        self._server_process.process.kill()
        self._server_process.process.wait()
        self.kill_count += 1
        self.killed_at = time.monotonic()

    async def restart(self) -> None:
        """Kill the process and start another one."""
        self.kill()
        await self.start()

    async def close(self) -> None:
        """End the process and the connections to it."""
        await self._http.aclose()
        await asyncio.to_thread(self._stack.close)

    def _find_storage_silence(self) -> bool:
        """Whether the last failure of the storage in the server's log is a missing response."""
        failures = [line for line in self._read_end_of_log().splitlines() if "state storage:" in line]
        if failures:
            print(failures[-1], flush=True)
        return bool(failures) and _NO_STORAGE_RESPONSE.search(failures[-1]) is not None

    def _read_end_of_log(self) -> str:
        """The last 3,000 characters of the server's log, which say why it answered with an error."""
        assert self._server_process is not None
        return self._server_process.read_log()[-3000:]

    async def put_app(self, app: str, task_hub: str, provider: Mapping[str, str], **policy: Any) -> None:
        """Register an app whose staging slot holds this task hub."""
        body = {
            "slots": {"staging": {"taskHub": task_hub}},
            "policy": {"settleSeconds": SETTLE_SECONDS, **policy},
            "taskHubs": dict(provider),
        }
        response = await self._http.put(f"{self.url}/api/apps/{app}", json=body)
        assert response.status_code == 200, f"{response.text}\n{self._read_end_of_log()}"

    async def get_staging_status(self, app: str, *, wait: int = 0) -> StagingStatusResponse:
        """Send GetStagingStatus with `verify=fresh`. Raises httpx.TransportError if the server is killed meanwhile, and
        StorageSilent if the server got no response from the storage, which happens on a busy machine."""
        requested_at = time.monotonic()
        response = await self._http.get(f"{self.url}/api/apps/{app}/staging", params={"verify": "fresh", "wait": wait})
        responded_at = time.monotonic()
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE and self._find_storage_silence():
            raise StorageSilent
        assert response.status_code == 200, f"{response.text}\n{self._read_end_of_log()}"
        return StagingStatusResponse(requested_at, responded_at, response.json())


@asynccontextmanager
async def run_state_server(
    storage: StorageSettings, folder: Path, app_url: str | None = None
) -> AsyncIterator[StateServerProcess]:
    """Run a state server until the block ends. `app_url` is the address of the app for `managementApi`."""
    server = StateServerProcess(storage, folder, app_url)
    try:
        await server.start()
        yield server
    finally:
        await server.close()
