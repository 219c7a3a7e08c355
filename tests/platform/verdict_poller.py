"""Polls the state server's verdict on a task hub, beside what the task hub's own storage shows."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.platform.state_server import MAX_SCAN_SECONDS, READY_DELAY_SECONDS, StagingStatusResponse, StateServerProcess
from tests.platform.task_hub_storage import TaskHubReader


@dataclass
class VerdictPoller:
    """Polls the verdict on one app.

    `messages_only_count` counts the polls at which the storage had messages and no active row. A start that was on its
    way then showed nowhere else.
    """

    server: StateServerProcess
    app: str
    storage: TaskHubReader
    pause_seconds: float = 0.1
    responses: list[StagingStatusResponse] = field(default_factory=list)
    messages_only_count: int = 0

    @property
    def ready_responses(self) -> list[StagingStatusResponse]:
        return [response for response in self.responses if response.ready]

    async def poll(self) -> StagingStatusResponse:
        """Request the verdict once, and then read the storage."""
        response = await self.server.get_staging_status(self.app)
        self.responses.append(response)
        messages = await self.storage.count_messages()
        if messages.count and not await self.storage.list_active():
            self.messages_only_count += 1
        return response

    async def poll_for(self, seconds: float) -> None:
        """Poll for this time."""
        deadline = time.monotonic() + seconds
        await self.poll_until(lambda: time.monotonic() >= deadline)

    async def poll_until(self, is_done: Callable[[], bool]) -> None:
        """Poll at least once, and until the condition is true."""
        while True:
            await self.poll()
            if is_done():
                return
            await asyncio.sleep(self.pause_seconds)

    async def wait_until_ready(self, timeout_seconds: float = READY_DELAY_SECONDS) -> float:
        """Poll until Ready, and return how many seconds that took. Raises AssertionError if the response to a request
        that was sent after `timeout_seconds` is NotReady."""
        began_at = time.monotonic()
        while not (response := await self.server.get_staging_status(self.app)).ready:
            waited = response.requested_at - began_at
            assert waited < timeout_seconds, f"requested after {waited:.1f} s and not Ready: {dict(response.verdict)}"
            await asyncio.sleep(self.pause_seconds)
        assert response.responded_at - response.requested_at < MAX_SCAN_SECONDS
        return response.responded_at - began_at
