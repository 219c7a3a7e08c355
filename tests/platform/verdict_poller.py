"""Asks the server about a task hub again and again, beside what the task hub's own storage shows."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.platform.state_server import MAX_SCAN_SECONDS, READY_DELAY_SECONDS, StagingStatusResponse, StateServerProcess
from tests.platform.task_hub_storage import TaskHubReader


@dataclass
class VerdictPoller:
    """Answers about one app. `messages_only_count` counts the looks at which no row was active and messages
    were there: a
    start, if one is on its way, shows nowhere else."""

    server: StateServerProcess
    app: str
    storage: TaskHubReader
    pause_seconds: float = 0.1
    responses: list[StagingStatusResponse] = field(default_factory=list)
    messages_only_count: int = 0

    @property
    def ready(self) -> list[StagingStatusResponse]:
        return [answer for answer in self.responses if answer.ready]

    async def ask(self) -> StagingStatusResponse:
        """One answer; then a look at the storage."""
        answer = await self.server.get_staging_status(self.app)
        self.responses.append(answer)
        messages = await self.storage.count_messages()
        if messages.count and not await self.storage.list_active():
            self.messages_only_count += 1
        return answer

    async def poll_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        await self.poll_until(lambda: time.monotonic() >= deadline)

    async def poll_until(self, is_done: Callable[[], bool]) -> None:
        """Ask at least once, and on until this is true."""
        while True:
            await self.ask()
            if is_done():
                return
            await asyncio.sleep(self.pause_seconds)

    async def wait_until_ready(self, seconds: float = READY_DELAY_SECONDS) -> float:
        """Ask until Ready; how many seconds that took. Raises AssertionError with the answer to a question that was
        asked later than `seconds` from now, if that was not Ready."""
        began = time.monotonic()
        while not (answer := await self.server.get_staging_status(self.app)).ready:
            waited = answer.requested_at - began
            assert waited < seconds, f"asked after {waited:.1f} s and not Ready: {dict(answer.verdict)}"
            await asyncio.sleep(self.pause_seconds)
        assert answer.responded_at - answer.requested_at < MAX_SCAN_SECONDS
        return answer.responded_at - began
