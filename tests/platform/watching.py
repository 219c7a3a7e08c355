"""Asks the server about a task hub again and again, beside what the task hub's own storage shows."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.platform.state_server import READY_SECONDS, SCAN_LIMIT_SECONDS, Answer, StateServerProcess
from tests.platform.task_hub import TaskHubStorage


@dataclass
class Watch:
    """Answers about one app. `messages_only` counts the looks at which no row was active and messages were there: a
    start, if one is on its way, shows nowhere else."""

    server: StateServerProcess
    app: str
    storage: TaskHubStorage
    pause_seconds: float = 0.1
    answers: list[Answer] = field(default_factory=list)
    messages_only: int = 0

    @property
    def ready(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.ready]

    async def ask(self) -> Answer:
        """One answer; then a look at the storage."""
        answer = await self.server.ask(self.app)
        self.answers.append(answer)
        messages = await self.storage.messages()
        if messages.count and not await self.storage.active():
            self.messages_only += 1
        return answer

    async def ask_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        await self.ask_until(lambda: time.monotonic() >= deadline)

    async def ask_until(self, enough: Callable[[], bool]) -> None:
        """Ask at least once, and on until this is true."""
        while True:
            await self.ask()
            if enough():
                return
            await asyncio.sleep(self.pause_seconds)

    async def until_ready(self, seconds: float = READY_SECONDS) -> float:
        """Ask until Ready; how many seconds that took. Raises AssertionError with the answer to a question that was
        asked later than `seconds` from now, if that was not Ready."""
        began = time.monotonic()
        while not (answer := await self.server.ask(self.app)).ready:
            waited = answer.asked - began
            assert waited < seconds, f"asked after {waited:.1f} s and not Ready: {dict(answer.verdict)}"
            await asyncio.sleep(self.pause_seconds)
        assert answer.answered - answer.asked < SCAN_LIMIT_SECONDS
        return answer.answered - began
