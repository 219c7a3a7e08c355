"""Requests that wait for the answer to the same question: what their last answer shows of the next one."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.waiting import (
    KnownActivity,
    NextVerification,
    VerificationIntervals,
    earliest_ready_at,
    plan_next_verification,
)
from state_api.domain.releases.apps import App
from state_api.services.slot_status import WaitingQuestion, WaitingStatus
from state_api.services.waiting_reads import WaitingReads


@dataclass(frozen=True, slots=True)
class Outlook:
    """What an answer shows of when the next one can be Ready.

    - `task_hubs`: the task hubs that the verdict is about.
    - `blocked_until`: until when something else than the task hubs prevents a Ready; None if nothing else does.
    - `uses_stored_probe`: the verdict rests on probes that other requests and servers store.
    """

    app: App
    task_hubs: tuple[str, ...]
    is_verified: bool
    uses_stored_probe: bool
    blocked_until: Instant | None

    @classmethod
    def from_status(cls, status: WaitingStatus, mode: VerificationMode) -> "Outlook":
        """The outlook after an answer that is NotReady."""
        has_provider = status.app.provider_config is not None
        return cls(
            status.app,
            status.task_hubs,
            is_verified=has_provider and mode is not VerificationMode.NONE,
            uses_stored_probe=has_provider and mode is VerificationMode.NONE,
            blocked_until=status.blocked_until,
        )


@dataclass(frozen=True, slots=True)
class AppChanges:
    """What a watch has heard of its app: the greatest revision, and how many acknowledgements of routers."""

    revision: int
    acknowledgement_count: int = 0


@dataclass(slots=True)
class AskedQuestion:
    """A question that is under way: the number of the wake that it obeys, when it began, and its answer."""

    number: int
    began: float
    status: WaitingStatus | None = None


@dataclass(slots=True, eq=False)
class WaitingGroup:
    """Requests of one app that wait for the answer to the same question.

    - `member_count`: how many requests wait.
    - `wake_count`: how often the requests were woken to ask again.
    - `begun_wake`, `answered_wake`: the last wake for which a question has begun, and the last that was answered.
    - `asking_count`: how many requests are asking now.
    - `asked_at`: when the last question began, by the state storage's clock.
    - `known_version`: which version of the records the last question has seen.
    - `known_changes`: which changes of the app it has seen.
    - `recorded_count`: what this process had recorded when the last question began.
    - `not_ready_since`: when the last question began that was answered with NotReady, by the clock of the event loop.
    - `outlook`: None until a question was answered with NotReady, and after one that was answered with Ready.
    - `verify_at`: when the task hub is read again, by the clock of the event loop.
    """

    question: WaitingQuestion
    reads: WaitingReads
    intervals: VerificationIntervals
    member_count: int = 0
    asking_count: int = 0
    wake_count: int = 0
    begun_wake: int = -1
    answered_wake: int = -1
    asked_at: Instant = Instant(0)
    known_version: int = 0
    known_changes: AppChanges = AppChanges(0)
    recorded_count: int = 0
    not_ready_since: float = 0.0
    outlook: Outlook | None = None
    next_verification: NextVerification | None = None
    verify_at: float | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    # Waking

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way or about to begin."""
        return self.asking_count > 0 or self.begun_wake < self.wake_count

    def wake(self) -> None:
        """Let all of them ask again."""
        self.verify_at = None
        self.wake_count += 1
        self._woken.set()
        self._woken = asyncio.Event()

    async def wait_for_wake(self, number: int) -> None:
        """Wait until they were woken more than `number` times."""
        if self.wake_count <= number:
            await self._woken.wait()

    # Questions and answers

    @contextmanager
    def track_question(self, changes: AppChanges, now: Instant) -> Iterator[AskedQuestion]:
        """Count a question from the beginning to the end of the block, which asks it and sets its status.

        A question without a status has failed. `changes` are those of the app that are known."""
        asked = AskedQuestion(self.wake_count, asyncio.get_running_loop().time())
        self.asking_count += 1
        # A question that begins beside another one for the same wake leaves what that one has noted: the answer of
        # either can come first.
        if self.begun_wake < self.wake_count or (self.outlook is None and self.asking_count == 1):
            self.begun_wake = self.wake_count
            self.asked_at = now
            self.known_version, self.recorded_count = self._version, self._recorded_count
            self.known_changes = changes
        try:
            yield asked
        finally:
            self.asking_count -= 1
            if asked.status is not None:
                self._note_answer(asked, asked.status)

    def _note_answer(self, asked: AskedQuestion, status: WaitingStatus) -> None:
        """Keep what an answer says of the next moment at which the verdict can be Ready."""
        if status.verdict.ready:
            self.outlook = self.next_verification = self.verify_at = None
            if self.wake_count == asked.number:
                # Nothing has woken the group since this question began. Let the other requests get the Ready too.
                self.wake()
            return
        self.not_ready_since = max(self.not_ready_since, asked.began)
        if asked.number <= self.answered_wake and self.outlook is not None:
            return
        self.answered_wake = asked.number
        self.outlook = outlook = Outlook.from_status(status, self.question.mode)
        # The storage's clock may not have come as far as the estimate was when the question began.
        self.asked_at = min(self.asked_at, status.verdict.checked_at)
        known_revision = max(self.known_changes.revision, status.app.revision)
        self.known_changes = replace(self.known_changes, revision=known_revision)
        previous, self.next_verification, self.verify_at = self.next_verification, None, None
        # A stored probe that does not count yet may count a moment later: the clocks of two servers differ by up to a
        # second and a round trip, and a probe that began in the future does not count.
        waits_for_probe = outlook.uses_stored_probe and not status.verdict.active_count
        if (outlook.is_verified or waits_for_probe) and outlook.blocked_until is None:
            now = asyncio.get_running_loop().time()
            planned = plan_next_verification(status.verdict, previous, self.intervals, read_seconds=now - asked.began)
            self.next_verification = planned
            self.verify_at = None if planned is None else now + planned.interval_seconds
        has_corrected_itself = self.next_verification is not None and not status.verdict.active_count
        if has_corrected_itself or self.recorded_count == self._recorded_count:
            # What this question has read, or has recorded itself, is no reason to ask again.
            self.known_version = self._version

    # What is known

    @property
    def task_hubs(self) -> tuple[str, ...]:
        """The task hubs that the last verdict was about."""
        return self.outlook.task_hubs if self.outlook is not None else ()

    @property
    def known_activities(self) -> list[KnownActivity]:
        """What is known of the records of these task hubs."""
        return [self.reads.known(task_hub) for task_hub in self.task_hubs]

    def next_moment(self, changes: AppChanges, now: Instant) -> Instant | None:
        """The earliest time at which the answer can be Ready. None if that does not depend on time alone, or if the
        group has been woken and has not asked yet. `changes`: those of the app that are known."""
        if self.outlook is None or self.begun_wake < self.wake_count:
            return None
        if changes.revision > self.known_changes.revision:
            return Instant(0)
        if self.outlook.blocked_until is not None:
            if changes.acknowledgement_count > self.known_changes.acknowledgement_count:
                return Instant(0)
            return self.outlook.blocked_until if self.outlook.blocked_until > self.asked_at else None
        earliest = self.earliest_ready_at(now)
        if earliest is None:
            return None
        return earliest if earliest > self.asked_at or self._version > self.known_version else None

    def earliest_ready_at(self, now: Instant) -> Instant | None:
        """The earliest moment at which the records allow Ready; None while an instance is known to be active."""
        assert self.outlook is not None, "an answer has shown the task hubs"
        policy, is_verified = self.outlook.app.policy, self.outlook.is_verified
        return earliest_ready_at(self.known_activities, policy, now, is_verified=is_verified)

    @property
    def _version(self) -> int:
        """A number that grows with every change of what is known of these task hubs."""
        return sum(known.version for known in self.known_activities)

    @property
    def _recorded_count(self) -> int:
        """How many changes of these task hubs this process has recorded."""
        return sum(known.recorded_count for known in self.known_activities)
