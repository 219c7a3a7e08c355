"""A worker on a task hub: `bin/durable-host` as a process that can be killed and started again, and its HTTP control
API."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from harness.processes import free_port
from tests.platform.programs import program_path

_START_TIMEOUT_SECONDS = 180
_ACTIVE_STATUSES = frozenset({"Running", "Pending", "Suspended", "ContinuedAsNew"})

WORKER_UNREACHABLE_ERRORS = (httpx.TransportError,)
"""What a request to the worker raises when the worker is killed. Whether the request took effect is not known."""


class DurableHost:
    """A worker process on one task hub. It keeps its port when it is started again, as an app keeps its address.

    `topic` is where it posts lifecycle events; it posts none without it. Its telemetry goes to a file in `folder`.
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
    ) -> None:
        self.task_hub = task_hub
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kill_count = 0
        self.log_file = folder / f"durable-host-{task_hub}.log"
        self._command = [
            *(str(program_path("durable-host")), "--hub", task_hub, "--port", str(self.port)),
            *("--connection", connection, "--partitions", str(partitions), "--visibility", visibility_timeout),
            *(("--topic", topic) if topic else ()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.AsyncClient(base_url=self.url, timeout=30)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the process and wait until it answers. Raises AssertionError with its output if it ends instead."""
        self._process = self._spawn()
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not await self._is_healthy():
            assert self.is_running, self.log_file.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer on {self.url}"
            await asyncio.sleep(0.05)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as sink:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)

    async def _is_healthy(self) -> bool:
        try:
            return (await self._http.get("/health")).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End the process with SIGKILL: it saves and gives back nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.kill_count += 1

    async def restart(self) -> None:
        self.kill()
        await self.start()

    async def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        await self._http.aclose()

    async def start_orchestration(self, function: str, instance_id: str, **input_fields: Any) -> None:
        """Start an orchestration with this input. When this returns, its start is durable."""
        await self._post(f"/start/{function}", {"id": instance_id, "input": input_fields})

    async def send_operation(self, operation: str, instance_id: str) -> None:
        """`operation` is `terminate`, `suspend`, `resume`, `rewind`, `restart` or `purge`."""
        await self._post(f"/{operation}/{quote(instance_id, safe='')}")

    async def raise_go_event(self, instance_id: str) -> None:
        """Raise the event that `Wait`, `Mends` and `Eternal` wait for."""
        await self._post(f"/raise/{quote(instance_id, safe='')}/go")

    async def status(self, instance_id: str) -> str | None:
        """The runtime status that the platform shows; None for an instance that it does not know."""
        answer = await self._http.get(f"/status/{quote(instance_id, safe='')}")
        return None if answer.status_code == 404 else str(answer.raise_for_status().json()["status"])

    async def list_instances(self) -> list[dict[str, Any]]:
        """Every instance that the platform shows, entities included."""
        found: list[dict[str, Any]] = (await self._http.get("/instances")).raise_for_status().json()
        return found

    async def list_active(self) -> list[dict[str, Any]]:
        """The orchestrations that the platform shows as active."""
        found = await self.list_instances()
        return [one for one in found if one["status"] in _ACTIVE_STATUSES and not one["id"].startswith("@")]

    async def wait_for_status(self, instance_id: str, *statuses: str, timeout_seconds: float = 180) -> str:
        """Wait until the platform shows one of these statuses. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while (status := await self.status(instance_id)) not in statuses:
                await asyncio.sleep(0.05)
        assert status is not None
        return status

    async def _post(self, path: str, body: Any = None) -> None:
        answer = await self._http.post(path, json=body if body is not None else {})
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"


@asynccontextmanager
async def run_durable_host(
    task_hub: str, connection: str, folder: Path, *, topic: str | None = None, partitions: int = 2
) -> AsyncIterator[DurableHost]:
    """A worker until the block ends. It runs when the block begins."""
    worker = DurableHost(task_hub, connection, folder, topic=topic, partitions=partitions)
    try:
        await worker.start()
        yield worker
    finally:
        await worker.close()
