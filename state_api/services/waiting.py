"""Requests that wait for Ready. They ask when a verdict on their slot or release can be Ready, and at the end."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

from state_api.domain.instants import Instant
from state_api.domain.names import AppKey, app_key
from state_api.services.app_watch import AppWatch, WatchContext
from state_api.services.slot_status import WaitingQuestion, WaitingStatus
from state_api.services.verdict_reads import VerdictReads
from state_api.services.waiting_groups import WaitingGroup
from state_api.services.waiting_reads import SharedVerdictReads

_Question_contra = TypeVar("_Question_contra", bound=WaitingQuestion, contravariant=True)
_Status_co = TypeVar("_Status_co", bound=WaitingStatus, covariant=True)
_Question = TypeVar("_Question", bound=WaitingQuestion)
_Status = TypeVar("_Status", bound=WaitingStatus)


class Ask(Protocol[_Question_contra, _Status_co]):
    """Answers one question. Returns the status and the time of the request, which is `requested_at` unless that is
    None."""

    async def __call__(
        self, question: _Question_contra, reads: VerdictReads, requested_at: Instant | None
    ) -> tuple[_Status_co, Instant]: ...


class WaitingRequests:
    """The requests of this process that wait, by app."""

    def __init__(self, context: WatchContext) -> None:
        self._context = context
        self._watches: dict[AppKey, AppWatch] = {}

    async def wait_for_ready(
        self,
        question: _Question,
        ask: Ask[_Question, _Status],
        *,
        wait_seconds: float,
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> _Status:
        """The answer to the question. While it is NotReady, waits for up to `wait_seconds` until it turns Ready.

        A request that comes shortly after another one was answered with NotReady waits with that one before it asks.
        Raises the errors of `ask`.
        """
        loop = asyncio.get_running_loop()
        deadline = self._round_up(loop.time() + wait_seconds)
        requested_at: Instant | None = None
        status: _Status | None = None
        async with self._join(question) as (watch, group):
            number, is_first, is_last = group.wake_count, True, False
            while True:
                if not (is_first and watch.has_just_answered(group)):
                    # Each request may ask a first and a last time. What it asks in between is subject to the budget.
                    reads = SharedVerdictReads(watch.reads, uses_budget=not (is_first or is_last))
                    with watch.track_question(group) as asked:
                        status, requested_at = await ask(question, reads, requested_at)
                        asked.status = status
                    number = asked.number
                    if status.verdict.ready or is_last or loop.time() >= deadline:
                        return status
                is_first = False
                is_ending = not await self._wait_until_woken(group, number, deadline, is_disconnected)
                if is_ending and status is not None:
                    return status
                is_last = is_ending or group.wake_count <= number

    def _round_up(self, deadline: float) -> float:
        """Round the deadline up to a multiple of `deadline_step`, so that requests which end at about the same time
        share their last question."""
        step = self._context.intervals.deadline_step
        return math.ceil(deadline / step) * step

    async def _wait_until_woken(
        self, group: WaitingGroup, number: int, deadline: float, is_disconnected: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Wait until the group was woken more than `number` times, or until the deadline. False if the request is to
        end, because the server stops or the caller has gone."""
        loop = asyncio.get_running_loop()
        while not self._context.stopping.is_set() and not await is_disconnected():
            remaining = deadline - loop.time()
            if group.wake_count > number or remaining <= 0:
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(min(remaining, self._context.intervals.connection_check)):
                    await group.wait_for_wake(number)
        return False

    @asynccontextmanager
    async def _join(self, question: WaitingQuestion) -> AsyncIterator[tuple[AppWatch, WaitingGroup]]:
        """Watch the app of the question, together with all requests that wait for it. The last one ends the watch."""
        key = app_key(question.app_name)
        if key not in self._watches:
            self._watches[key] = AppWatch(question.app_name, self._context)
        watch = self._watches[key]
        group = watch.join(question)
        try:
            yield watch, group
        finally:
            watch.leave(group)
            if watch.is_empty:
                del self._watches[key]
                await watch.close()
