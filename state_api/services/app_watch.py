"""Watches one app while requests wait for it, and decides when they ask again.

The watch costs the same for one waiting request and for a thousand. It reads the records of the task hubs, or the app,
at most once every two seconds, and it hears at once of what this process records. It never answers a request: what it
knows only decides on the moment, and the request then reads everything again.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass, field

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import VerificationMode
from state_api.domain.readiness.waiting import (
    NextVerification,
    VerificationIntervals,
    earliest_ready_at,
    plan_next_verification,
)
from state_api.domain.releases.apps import App
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import Clock
from state_api.services.slot_status import SlotStatus, StatusQuestion
from state_api.services.verdict_reads import VerdictReads
from state_api.services.waiting_reads import ReadListener, WaitingReads

log = logging.getLogger(__name__)

_APP_ROUND = 10
"""Every tenth round reads the app instead of a task hub's records: another process may have changed its policy or added
a waiver."""

_MAX_DEBT_REQUESTS = 10
"""Requests that may be sent ahead of the budget when a verdict is likely to be Ready now."""

_NEVER = Instant(2**63)


@dataclass(frozen=True, slots=True)
class WaitIntervals:
    """Times of waiting requests, in seconds.

    - `per_request`: the budget of all requests that wait for one app in this process: so many seconds for each request
      to the state storage, on average.
    - `idle`: between two reads of the app while only time can make the verdict Ready.
    - `signal_pause`: for which changes in this process are collected before the next decision.
    - `connection_check`: between two looks at whether a caller is still connected.
    - `verification`: between two reads of a task hub at its provider.
    """

    per_request: float = 2.0
    idle: float = 10.0
    signal_pause: float = 0.02
    connection_check: float = 1.0
    verification: VerificationIntervals = field(default_factory=VerificationIntervals)


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What the watches of all apps share. `stopping` ends them when the server shuts down."""

    reads: VerdictReads
    signals: ChangeSignals
    clock: Clock
    stopping: asyncio.Event
    intervals: WaitIntervals


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What the last answer shows of when the next one can be Ready.

    - `task_hubs`: the task hubs that the verdict is about.
    - `blocked_until`: when another run's deployment or swap stops to block; None if none blocks.
    - `uses_stored_probe`: the verdict rests on probes that others store.
    """

    app: App
    task_hubs: tuple[str, ...]
    is_verified: bool
    uses_stored_probe: bool
    blocked_until: Instant | None

    @classmethod
    def from_status(cls, status: SlotStatus, mode: VerificationMode) -> "_Outlook":
        app, evidence = status.app, status.verdict.evidence
        blocked_until: Instant | None = None
        if evidence.pending_swap is not None:
            blocked_until = _NEVER
        elif evidence.deployment is not None and app.deployment is not None:
            blocked_until = app.deployment_expires_at(app.deployment)
        has_provider = app.provider_config is not None
        return cls(
            app,
            tuple(hub.task_hub for hub in status.slot.possible_hubs()) if status.slot is not None else (),
            is_verified=has_provider and mode is not VerificationMode.NONE,
            uses_stored_probe=has_provider and mode is VerificationMode.NONE,
            blocked_until=blocked_until,
        )


@dataclass(slots=True, eq=False)
class WaitingGroup:
    """Requests that wait for the answer to the same question.

    - `wake_count`: how often they were woken to ask again.
    - `begun_wake`, `answered_wake`: the last of these for which a question has begun, and was answered.
    - `asking_count`: how many of them are asking now.
    - `asked_at`, `known_version`, `known_revision`: when the last question began, and what it has taken into account.
    - `recorded_count`: what this process had recorded when it began.
    - `verify_at`: when the task hub is read again, by the clock of the event loop.
    """

    question: StatusQuestion
    member_count: int = 0
    asking_count: int = 0
    wake_count: int = 0
    begun_wake: int = -1
    answered_wake: int = -1
    asked_at: Instant = Instant(0)
    known_version: int = 0
    known_revision: int = 0
    recorded_count: int = 0
    outlook: _Outlook | None = None
    next_verification: NextVerification | None = None
    verify_at: float | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way or about to begin."""
        return self.asking_count > 0 or self.begun_wake < self.wake_count

    def wake(self) -> None:
        """Let all of them ask again."""
        self.wake_count += 1
        self._woken.set()
        self._woken = asyncio.Event()

    async def wait_for_wake(self, number: int) -> None:
        """Wait until they were woken more than `number` times."""
        if self.wake_count <= number:
            await self._woken.wait()


class AppWatch:
    """The requests that wait for one app, and the task that decides when they ask again."""

    def __init__(self, app_name: str, context: WatchContext) -> None:
        self._app_name = app_name
        self._clock = context.clock
        self._stopping = context.stopping
        self._intervals = context.intervals
        self._signals = context.signals
        self._groups: dict[tuple[str, VerificationMode, str | None], WaitingGroup] = {}
        self._revision = 0
        """The greatest revision of the app that is known."""
        self._changed = asyncio.Event()
        self._round_count = 0
        self._paid_until = self._held_until = asyncio.get_running_loop().time() + self._intervals.per_request
        self._last_hub: str = ""
        self.reads = WaitingReads(context.reads, context.signals, ReadListener(self._changed.set, self._charge))
        # In an empty context, because the watch outlives the request that begins it.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    # Requests

    @property
    def is_empty(self) -> bool:
        """Whether no request waits any more."""
        return not self._groups

    def join(self, question: StatusQuestion) -> WaitingGroup:
        """Add a request that waits. Call `leave` at the end."""
        group = self._groups.setdefault(_group_key(question), WaitingGroup(question))
        group.member_count += 1
        return group

    def leave(self, group: WaitingGroup) -> None:
        """Remove a request."""
        group.member_count -= 1
        if group.member_count == 0:
            del self._groups[_group_key(group.question)]

    def begin_question(self, group: WaitingGroup) -> int:
        """Note that a request of this group asks now. Returns the number of the wake that it obeys."""
        group.asking_count += 1
        if group.begun_wake < group.wake_count:
            group.begun_wake = group.wake_count
            group.asked_at = self._clock.now()
            group.known_version = self._version(group)
            group.known_revision = self._revision
            group.recorded_count = self._recorded_count(group)
        return group.wake_count

    def end_question(
        self, group: WaitingGroup, number: int, status: SlotStatus | None, *, duration_seconds: float
    ) -> None:
        """Note the answer; None if there is none."""
        group.asking_count -= 1
        self._changed.set()
        if status is None or number <= group.answered_wake:
            return
        group.answered_wake = number
        group.outlook = outlook = _Outlook.from_status(status, group.question.mode)
        self._note_revision(status.app.revision)
        group.known_revision = max(group.known_revision, status.app.revision)
        previous, group.next_verification, group.verify_at = group.next_verification, None, None
        if outlook.is_verified and outlook.blocked_until is None:
            planned = plan_next_verification(
                status.verdict, previous, self._intervals.verification, read_seconds=duration_seconds
            )
            if planned is not None:
                group.verify_at = asyncio.get_running_loop().time() + planned.interval_seconds
            group.next_verification = planned
        has_corrected_itself = group.next_verification is not None and not status.verdict.active_count
        if has_corrected_itself or group.recorded_count == self._recorded_count(group):
            # What this question has read, or has recorded itself, is no reason to ask again.
            group.known_version = self._version(group)

    async def close(self) -> None:
        """End the watch."""
        self.reads.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # Decisions

    async def _run(self) -> None:
        """Wake groups whose verdict can be Ready, and make rounds, until the watch is closed."""
        stopped = asyncio.create_task(self._stopping.wait())
        round_task: asyncio.Task[None] | None = None
        try:
            with self._signals.listen_to_app(self._app_name, self._note_app):
                while not self._stopping.is_set():
                    self._changed.clear()
                    self._wake_due_groups()
                    if round_task is None or round_task.done():
                        round_task = self._start_due_round()
                    await self._wait_for_change(stopped, is_reading=round_task is not None)
                self._wake_all()
        except Exception:  # the requests still ask at the end
            log.exception("the watch of app %s has failed", self._app_name)
        finally:
            for task in (stopped, round_task):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(task for task in (stopped, round_task) if task), return_exceptions=True)

    async def _wait_for_change(self, stopped: "asyncio.Task[object]", *, is_reading: bool) -> None:
        """Wait until something has changed, or until the next moment at which a group or a round is due. Waits at least
        for a moment, so that a busy task hub does not keep this task busy."""
        await asyncio.wait((stopped,), timeout=self._intervals.signal_pause)
        changed = asyncio.create_task(self._changed.wait())
        try:
            timeout = self._seconds_to_next_moment(is_reading=is_reading)
            await asyncio.wait((changed, stopped), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _wake_all(self) -> None:
        for group in self._groups.values():
            group.wake()

    def _wake_due_groups(self) -> None:
        if self._debt_seconds() > _MAX_DEBT_REQUESTS * self._intervals.per_request:
            return
        now = self._clock.now()
        for group in self._groups.values():
            moment = self._next_moment(group, now)
            if moment is not None and moment <= now:
                group.wake()

    def _next_moment(self, group: WaitingGroup, now: Instant) -> Instant | None:
        """When this group can be answered with Ready; None if that does not depend on time alone, or if the group has
        asked since."""
        outlook = group.outlook
        if outlook is None or group.begun_wake < group.wake_count:
            return None
        if self._revision > group.known_revision:
            return Instant(0)
        if outlook.blocked_until is not None:
            return outlook.blocked_until if outlook.blocked_until > group.asked_at else None
        earliest = self._earliest(outlook, now)
        if earliest is None:
            return None
        return earliest if earliest > group.asked_at or self._version(group) > group.known_version else None

    def _earliest(self, outlook: _Outlook, now: Instant) -> Instant | None:
        known = [self.reads.known(task_hub) for task_hub in outlook.task_hubs]
        return earliest_ready_at(known, outlook.app.policy, now, is_verified=outlook.is_verified)

    def _version(self, group: WaitingGroup) -> int:
        return sum(self.reads.known(task_hub).version for task_hub in _task_hubs(group))

    def _recorded_count(self, group: WaitingGroup) -> int:
        return sum(self.reads.known(task_hub).recorded_count for task_hub in _task_hubs(group))

    def _seconds_to_next_moment(self, *, is_reading: bool) -> float | None:
        """Seconds until a group or, unless one is under way, a round is due; None if only a change makes one due."""
        now, time = self._clock.now(), asyncio.get_running_loop().time()
        allowed_at = max(0.0, self._debt_seconds() - _MAX_DEBT_REQUESTS * self._intervals.per_request)
        waits = [] if is_reading else [max(self._next_round_at() - time, 0.0)]
        for group in self._groups.values():
            moment = self._next_moment(group, now)
            if moment is not None:
                waits.append(max((moment - now) / TICKS_PER_SECOND, allowed_at, 0.0))
        return min(waits, default=None)

    # Rounds

    def _charge(self, request_count: int) -> None:
        """Put off the next round, because requests were sent to the state storage."""
        time = asyncio.get_running_loop().time()
        self._paid_until = max(self._paid_until, time) + request_count * self._intervals.per_request

    def _debt_seconds(self) -> float:
        """For how long the requests so far have used up the budget."""
        return self._paid_until - asyncio.get_running_loop().time()

    def _next_round_at(self) -> float:
        return max(self._paid_until, self._held_until)

    def _start_due_round(self) -> "asyncio.Task[None] | None":
        """Wake the groups whose task hub is to be read again; if there are none, read what may have changed."""
        time = asyncio.get_running_loop().time()
        if time < self._next_round_at():
            return None
        due = [
            group
            for group in self._groups.values()
            if group.verify_at is not None and group.verify_at <= time and not group.is_busy
        ]
        for group in due:
            group.verify_at = None
            group.wake()
        if due:
            # They have not read yet, so the budget does not hold back the next round.
            self._held_until = time + self._intervals.per_request
            return None
        return asyncio.create_task(self._make_round())

    async def _make_round(self) -> None:
        """Read the records of the next task hub, or the app. If that fails, all requests read again and report the
        error."""
        self._round_count += 1
        task_hubs, app_blocks = self._find_targets()
        try:
            if task_hubs and not (app_blocks and self._round_count % 2) and self._round_count % _APP_ROUND:
                task_hub = next((name for name in task_hubs if name > self._last_hub), task_hubs[0])
                self._last_hub = task_hub
                await self.reads.read_records(task_hub, self._exemptions(task_hub), is_counted=True)
                return
            app = await self.reads.read_app(self._app_name, is_counted=True)
            if app is None:
                self._wake_all()
            else:
                self._note_revision(app.revision)
            if not (task_hubs or app_blocks):
                self._held_until = asyncio.get_running_loop().time() + self._intervals.idle
        except Exception as error:  # noqa: BLE001 (the requests read again and report it)
            log.info("the watch of app %s could not read: %s", self._app_name, type(error).__name__)
            self._charge(1)
            self._wake_all()
        finally:
            self._changed.set()

    def _find_targets(self) -> tuple[list[str], bool]:
        """The task hubs whose records may have changed, and whether only the app prevents a Ready somewhere."""
        now = self._clock.now()
        busy = {hub_key(task_hub) for group in self._groups.values() if group.is_busy for task_hub in _task_hubs(group)}
        task_hubs: dict[str, None] = {}
        app_blocks = False
        for group, outlook in self._idle_groups():
            if outlook.blocked_until is not None:
                app_blocks = True
                continue
            earliest = self._earliest(outlook, now)
            has_asked = earliest is not None and earliest <= group.asked_at
            app_blocks = app_blocks or (has_asked and not outlook.is_verified and not outlook.uses_stored_probe)
            for task_hub in outlook.task_hubs:
                known = self.reads.known(task_hub)
                if known.is_active or not known.is_exact or (has_asked and outlook.uses_stored_probe):
                    task_hubs[task_hub] = None
        return sorted(task_hub for task_hub in task_hubs if hub_key(task_hub) not in busy), app_blocks

    def _idle_groups(self) -> Iterator[tuple[WaitingGroup, _Outlook]]:
        for group in self._groups.values():
            if group.outlook is not None and not group.is_busy:
                yield group, group.outlook

    def _exemptions(self, task_hub: str) -> Exemptions:
        outlooks = [outlook for _, outlook in self._idle_groups() if task_hub in outlook.task_hubs]
        app = max((outlook.app for outlook in outlooks), key=lambda app: app.revision)
        return Exemptions.for_task_hub(app.policy.ignore_functions, app.waivers, task_hub, self._clock.now())

    # The app

    def _note_app(self, app: App) -> None:
        self._note_revision(app.revision)

    def _note_revision(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            self._changed.set()


def _task_hubs(group: WaitingGroup) -> tuple[str, ...]:
    return group.outlook.task_hubs if group.outlook is not None else ()


def _group_key(question: StatusQuestion) -> tuple[str, VerificationMode, str | None]:
    return question.slot_name.lower(), question.mode, question.caller.run_url
