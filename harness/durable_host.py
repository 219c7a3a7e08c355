"""A worker on a task hub: the program `durable-host` as a process that can be killed and started again, and its HTTP
control API."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from harness.platform_programs import program_path
from harness.processes import free_port

_START_TIMEOUT_SECONDS = 180
_ACTIVE_STATUSES = frozenset({"Running", "Pending", "Suspended", "ContinuedAsNew"})

WORKER_UNREACHABLE_ERRORS = (httpx.TransportError,)
"""Raised by a request to the worker when the worker is killed. The request may have taken effect or not."""


class DurableHost:
    """A worker process on one task hub. It keeps its port when it is started again, as an app keeps its address.

    It posts lifecycle events to `topic`, and none without it. Its telemetry goes to a file in `folder`. It polls
    an idle queue once in every `polling_interval`.
    """

    def __init__(
        self,
        task_hub: str,
        connection: str,
        folder: Path,
        *,
        topic: str | None = None,
        partitions: int = 2,
        visibility_timeout: str = "00:01:00",
        polling_interval: str = "00:00:00.2",
    ) -> None:
        """Prepare the command line of a host for this task hub. The times are in .NET's form, `hh:mm:ss`."""
        self.task_hub = task_hub
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kill_count = 0
        self.log_file = folder / f"durable-host-{task_hub}.log"
        self._command = [
            *(str(program_path("durable-host")), "--hub", task_hub, "--port", str(self.port)),
            *("--connection", connection, "--partitions", str(partitions), "--visibility", visibility_timeout),
            *("--polling", polling_interval),
            *(("--topic", topic) if topic else ()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.AsyncClient(base_url=self.url, timeout=30)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the process and wait until it answers. Raises AssertionError with its output if it ends."""
        self._process = self._spawn()
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not await self._is_healthy():
            assert self.is_running, self.log_file.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer on {self.url}"
            await asyncio.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the process of the host, which appends to the log file."""
        with self.log_file.open("ab") as log_stream:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log_stream, stderr=log_stream)

    async def _is_healthy(self) -> bool:
        """Whether the host answers yet."""
        try:
            return (await self._http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End the process with SIGKILL, so that it neither saves nor releases anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.kill_count += 1

    async def restart(self) -> None:
        """Kill the process, and start it again on the same port."""
        self.kill()
        await self.start()

    async def close(self) -> None:
        """Kill the host, also if work is in progress."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        await self._http.aclose()

    async def start_orchestration(self, function: str, instance_id: str, **input_fields: Any) -> None:
        """Start an orchestration with this input. Its start is durable when this returns."""
        await self._post(f"/start/{function}", {"id": instance_id, "input": input_fields})

    async def send_operation(self, operation: str, instance_id: str) -> None:
        """`operation` is `terminate`, `suspend`, `resume`, `rewind`, `restart` or `purge`."""
        await self._post(f"/{operation}/{quote(instance_id, safe='')}")

    async def raise_go_event(self, instance_id: str) -> None:
        """Raise the event that `Wait`, `Mends` and `Eternal` wait for."""
        await self._post(f"/raise/{quote(instance_id, safe='')}/go")

    async def status(self, instance_id: str) -> str | None:
        """Return the runtime status that the platform shows; None for an instance that it does not have."""
        response = await self._http.get(f"/status/{quote(instance_id, safe='')}")
        return None if response.status_code == 404 else str(response.raise_for_status().json()["status"])

    async def list_instances(self) -> list[dict[str, Any]]:
        """Return every instance that the platform shows, entities included."""
        instances: list[dict[str, Any]] = (await self._http.get("/instances")).raise_for_status().json()
        return instances

    async def list_active(self) -> list[dict[str, Any]]:
        """Return the orchestrations that the platform shows as active."""
        return [
            instance
            for instance in await self.list_instances()
            if instance["status"] in _ACTIVE_STATUSES and not instance["id"].startswith("@")
        ]

    async def wait_for_status(self, instance_id: str, *statuses: str, timeout_seconds: float = 180) -> str:
        """Wait until the platform shows one of these statuses. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while (status := await self.status(instance_id)) not in statuses:
                await asyncio.sleep(0.05)
        assert status is not None
        return status

    async def _post(self, path: str, body: Any = None) -> None:
        """Send a request to the host's control interface, which must accept it."""
        response = await self._http.post(path, json=body if body is not None else {})
        assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:500]}"


@asynccontextmanager
async def run_durable_host(
    task_hub: str, connection: str, folder: Path, *, topic: str | None = None, partitions: int = 2
) -> AsyncIterator[DurableHost]:
    """Run a worker until the block ends. It answers when the block begins."""
    worker = DurableHost(task_hub, connection, folder, topic=topic, partitions=partitions)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.close()
