"""A task hub under test: its worker, what must be active in it, and when the platform itself shows it as drained."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from tests.platform.durable_host import WORKER_GONE, DurableHost
from tests.platform.spans import Spans
from tests.platform.task_hub import TaskHubStorage

Result = TypeVar("Result")

ENDED = ("Completed", "Failed", "Terminated")

_DRAIN_SECONDS = 300
_ASK_AGAIN_SECONDS = 30


@dataclass
class Hub:
    """A task hub under test.

    `steady`: a lock held by code that a kill must not interrupt, and by the code that kills. `worker_is_killed`: the
    worker is killed in this round; messages that it processed but did not delete then return, and can end an instance
    restarted under the same id. `chain_begun`: a chain of launchers has been started. `leftover_timers`: when the
    timers of ended instances would fire (`time.monotonic`). `purges`: ended instances are purged. Where the server sees
    no messages, a purged instance whose end was lost and that no probe has shown blocks for ten minutes
    (docs/correctness.md, What is left open).
    """

    worker: DurableHost
    storage: TaskHubStorage
    spans: Spans = field(default_factory=Spans)
    steady: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker_is_killed: bool = False
    chain_begun: asyncio.Event = field(default_factory=asyncio.Event)
    leftover_timers: list[float] = field(default_factory=list)
    started: int = 0
    purges: bool = True

    async def insist(self, call: Callable[[], Awaitable[Result]]) -> tuple[Result, bool]:
        """Repeat a request until a worker answers. The second value is False if it may have taken effect twice."""
        once = True
        while True:
            try:
                return await call(), once
            except WORKER_GONE:
                once = False
                await asyncio.sleep(0.1)

    async def launch(self, function: str, instance_id: str, **given: Any) -> float | None:
        """Start an orchestration, once there is a worker to ask. The time of the answer; None if the worker was killed
        before it answered, so that nobody knows whether the orchestration starts."""
        self.started += 1
        while True:
            try:
                await self.worker.launch(function, instance_id, **given)
                return time.monotonic()
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
            except WORKER_GONE:
                return None

    async def until_status(self, instance_id: str, *statuses: str) -> str:
        """Wait until the platform shows one of these statuses, over kills of the worker. Raises TimeoutError that says
        what the platform shows instead."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                return (await self.insist(lambda: self.worker.until_status(instance_id, *statuses, seconds=900)))[0]
        except TimeoutError:
            shown = await self.storage.everything()
            raise TimeoutError(f"{instance_id} is not {statuses} after {_DRAIN_SECONDS} s: {shown}") from None

    async def end(self, instance_id: str, *, terminate: bool = False) -> bool:
        """Ask an instance to end. False if it may have been asked twice."""
        self.spans.release(instance_id, time.monotonic())
        if terminate:
            return await self.tell("terminate", instance_id)
        return (await self.insist(lambda: self._send_go(instance_id)))[1]

    async def end_surely(self, instance_id: str, *, terminate: bool = False) -> bool:
        """Ask an instance to end until the platform shows that it has. False if it was, or may have been, asked twice.

        The extension can lose an event: in one of some 400 rounds a Wait stayed Running for 300 s after `go`, with no
        message left in its queues (history 60011-1).
        """
        once = await self.end(instance_id, terminate=terminate)
        for _ in range(_DRAIN_SECONDS // _ASK_AGAIN_SECONDS):
            try:
                async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                    await self.until_status(instance_id, *ENDED)
                    return once
            except TimeoutError:
                once = False
                await self.end(instance_id, terminate=terminate)
        await self.until_status(instance_id, *ENDED)
        return once

    async def tell(self, what: str, instance_id: str) -> bool:
        """Suspend, resume and the like. False if it may have been done twice."""
        return (await self.insist(lambda: self._tell(what, instance_id)))[1]

    async def _send_go(self, instance_id: str) -> None:
        try:
            await self.worker.send_go(instance_id)
        except AssertionError:
            # The extension refuses to send events to an instance that has ended.
            if await self.worker.status(instance_id) not in (*ENDED, None):
                raise

    async def _tell(self, what: str, instance_id: str) -> None:
        try:
            await self.worker.tell(what, instance_id)
        except AssertionError:
            # The extension refuses what has been done already: by an earlier try, or because the instance has ended.
            done = {"resume": "Running", "suspend": "Suspended"}.get(what)
            if await self.worker.status(instance_id) not in (*ENDED, None, done):
                raise

    async def release_all(self) -> float:
        """End everything that is active, and wait until the platform shows the task hub as drained. The time from
        which it was. Raises TimeoutError that says what is left."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while True:
            messages = await self.storage.messages()
            (active, _) = await self.insist(self.worker.active)
            if not active and messages.count <= self.timers_to_come():
                # Nothing was on its way, and then nothing was active. A look in between could miss a hand-over.
                drained_at = time.monotonic()
                if not (await self.insist(self.worker.active))[0]:
                    return drained_at
            if time.monotonic() > deadline:
                raise TimeoutError(f"does not drain: {active}, {messages}: {await self.storage.everything()}")
            for one in active:
                await self._release(one)
            await asyncio.sleep(0.1)

    def timers_to_come(self) -> int:
        """The timers of ended instances whose messages stay in the queues."""
        now = time.monotonic()
        return sum(1 for fires_at in self.leftover_timers if fires_at > now)

    async def _release(self, instance: dict[str, Any]) -> None:
        instance_id, name = instance["id"], instance["name"]
        if instance["status"] == "Suspended":
            await self.tell("resume", instance_id)
        if name in {"Wait", "Mends", "Eternal"}:
            await self.end(instance_id)
