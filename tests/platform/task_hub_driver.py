"""Drives a task hub under test: starts and ends its orchestrations, and knows which must be active.

It also finds out when the platform itself shows the task hub as drained."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from harness.durable_host import WORKER_UNREACHABLE_ERRORS, DurableHost
from tests import recordings
from tests.platform.active_periods import ActivePeriods
from tests.platform.task_hub_storage import TaskHubReader

Result = TypeVar("Result")

ENDED_STATUSES = ("Completed", "Failed", "Terminated")

_DRAIN_TIMEOUT_SECONDS = 300
_RESEND_AFTER_SECONDS = 30


@dataclass
class TaskHubDriver:
    """A task hub under test.

    - `no_kill_lock` is held by code that a kill must not interrupt, and by the code that kills.
    - `worker_killed_in_round` says that the worker is killed in this round. Messages that the worker has processed and
      not deleted then return, and can end an instance that was restarted with its id.
    - `chain_begun` is set when a chain of launchers has been started.
    - `leftover_timers` are the times, by `time.monotonic`, at which the timers of ended instances would fire.
    - `can_purge` says whether ended instances may be purged. If the server sees no messages, a purged instance whose
      end was lost, and which no probe has seen, blocks for ten minutes (docs/correctness.md, What is left open).
    """

    worker: DurableHost
    storage: TaskHubReader
    active_periods: ActivePeriods = field(default_factory=ActivePeriods)
    no_kill_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker_killed_in_round: bool = False
    chain_begun: asyncio.Event = field(default_factory=asyncio.Event)
    leftover_timers: list[float] = field(default_factory=list)
    started_count: int = 0
    can_purge: bool = True

    async def retry_until_answered(self, call: Callable[[], Awaitable[Result]]) -> tuple[Result, bool]:
        """Repeat a request until a worker answers. Return its result, and whether it has taken effect exactly once;
        False means that it may have done so twice."""
        exactly_once = True
        while True:
            try:
                return await call(), exactly_once
            except WORKER_UNREACHABLE_ERRORS:
                exactly_once = False
                await asyncio.sleep(0.1)

    async def start_orchestration(self, function: str, instance_id: str, **input_fields: Any) -> float | None:
        """Start an orchestration as soon as a worker can be reached. Return the time of the response. None means that
        the worker was killed before it answered: the orchestration may start or not."""
        self.started_count += 1
        while True:
            try:
                await self.worker.start_orchestration(function, instance_id, **input_fields)
                return time.monotonic()
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
            except WORKER_UNREACHABLE_ERRORS:
                return None

    async def wait_for_status(self, instance_id: str, *statuses: str) -> str:
        """Wait until the platform shows one of these statuses, also while the worker is killed and started again.
        Raises TimeoutError that says what the platform shows instead."""
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
                status, _ = await self.retry_until_answered(
                    lambda: self.worker.wait_for_status(instance_id, *statuses, timeout_seconds=900)
                )
                return status
        except TimeoutError:
            storage = await self.storage.describe()
            raise TimeoutError(f"{instance_id} is not {statuses} after {_DRAIN_TIMEOUT_SECONDS} s: {storage}") from None

    async def request_end(self, instance_id: str, *, terminate: bool = False) -> bool:
        """Ask an instance to end. Return False if it may have been asked twice."""
        self.active_periods.mark_released(instance_id, time.monotonic())
        if terminate:
            return await self.send_operation("terminate", instance_id)
        return (await self.retry_until_answered(lambda: self._raise_go_event(instance_id)))[1]

    async def request_end_and_wait(self, instance_id: str, *, terminate: bool = False) -> bool:
        """Ask an instance to end until the platform shows that it has. Return False if it may have been asked twice.

        The extension can lose an event: in one of some 400 rounds a Wait stayed Running for 300 s after `go`, with no
        message left in its queues (workload 60011-1).
        """
        exactly_once = await self.request_end(instance_id, terminate=terminate)
        for _ in range(_DRAIN_TIMEOUT_SECONDS // _RESEND_AFTER_SECONDS):
            try:
                async with asyncio.timeout(_RESEND_AFTER_SECONDS):
                    await self.wait_for_status(instance_id, *ENDED_STATUSES)
                    return exactly_once
            except TimeoutError:
                exactly_once = False
                await self.request_end(instance_id, terminate=terminate)
        await self.wait_for_status(instance_id, *ENDED_STATUSES)
        return exactly_once

    async def send_operation(self, operation: str, instance_id: str) -> bool:
        """Send an operation such as `suspend` or `resume`. Return False if it may have been sent twice."""
        return (await self.retry_until_answered(lambda: self._send_operation_once(operation, instance_id)))[1]

    async def _raise_go_event(self, instance_id: str) -> None:
        """Raise the event `go` to an instance, unless it has ended."""
        try:
            await self.worker.raise_go_event(instance_id)
        except AssertionError:
            # The extension refuses events to an instance that has ended.
            if await self.worker.status(instance_id) not in (*ENDED_STATUSES, None):
                raise

    async def _send_operation_once(self, operation: str, instance_id: str) -> None:
        """Suspend, resume or terminate an instance, unless that has already happened."""
        try:
            await self.worker.send_operation(operation, instance_id)
        except AssertionError:
            # The extension refuses an operation that an earlier attempt has done, or on an instance that has ended.
            status_after = {"resume": "Running", "suspend": "Suspended"}.get(operation)
            if await self.worker.status(instance_id) not in (*ENDED_STATUSES, None, status_after):
                raise

    async def drain(self) -> float:
        """End everything that is active, and wait until the platform shows the task hub as drained. Return the time
        from which it was. Raises TimeoutError that says what is left."""
        deadline = time.monotonic() + _DRAIN_TIMEOUT_SECONDS
        while True:
            before = await self.storage.read_snapshot()
            drained_at = time.monotonic()
            (active, _) = await self.retry_until_answered(self.worker.list_active)
            after = await self.storage.read_snapshot()
            # The queues are read one by one, so a message can move from one that is still to be read to one that was
            # read before. A worker that takes a message writes a row first, so unchanged rows prove that none moved.
            unchanged = before.rows == after.rows
            only_timers = before.message_count <= self.count_leftover_timers()
            if unchanged and not active and not before.active and only_timers:
                return drained_at
            if time.monotonic() > deadline:
                storage = await self.storage.describe()
                raise TimeoutError(f"does not drain: {active}, {before.message_count} messages: {storage}")
            for instance in active:
                await self._end_instance(instance)
            await asyncio.sleep(0.1)

    def count_leftover_timers(self) -> int:
        """Return the number of timers of ended instances whose messages are still in the queues."""
        now = time.monotonic()
        return sum(1 for fires_at in self.leftover_timers if fires_at > now)

    async def _end_instance(self, instance: dict[str, Any]) -> None:
        """Do what an instance needs in order to end: resume it, or send the event that it waits for."""
        instance_id, name = instance["id"], instance["name"]
        if instance["status"] == "Suspended":
            await self.send_operation("resume", instance_id)
        if name in {"Wait", recordings.REWOUND_FUNCTION_NAME, "Eternal"}:
            await self.request_end(instance_id)
