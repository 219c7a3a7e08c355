"""Watches one app while requests wait for it, and decides when they ask again.

The watch costs the same for one waiting request and for a thousand. It reads the records of the task hubs, or the app,
at most once every two seconds, and it hears at once of what this process records. It never answers a request: what it
knows only decides on the moment, and the request then reads everything again.

- A question is one complete assessment, as for a request that does not wait.
- A group is the requests that wait for the answer to the same question.
- A wake lets the requests of a group ask again.
- A round is one read by the watch itself, of a task hub's records or of the app.
- An outlook says what the last answer shows of the next one.
"""

import asyncio
import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace

from state_api.domain.instants import TICKS_PER_SECOND, Instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.waiting import VerificationIntervals
from state_api.domain.releases.apps import App
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import Clock
from state_api.services.slot_status import WaitingQuestion
from state_api.services.verdict_reads import VerdictReads
from state_api.services.waiting_groups import AppChanges, AskedQuestion, Outlook, WaitingGroup
from state_api.services.waiting_reads import ReadListener, WaitingReads

log = logging.getLogger(__name__)

_APP_ROUND = 10
"""Every tenth round reads the app instead of a task hub's records: another process may have changed its policy or added
a waiver."""

_MAX_REQUESTS_AHEAD_OF_BUDGET = 10
"""Requests to the state storage that may be sent ahead of the budget when a verdict is likely to be Ready now."""


@dataclass(frozen=True, slots=True)
class WaitIntervals:
    """Times of waiting requests, in seconds.

    - `per_request`: the budget of all requests that wait for one app in this process: so many seconds for each request
      to the state storage, on average.
    - `idle`: between two reads of the app while only time can make the verdict Ready.
    - `signal_pause`: for which changes in this process are collected before the next decision.
    - `connection_check`: between two looks at whether a caller is still connected.
    - `deadline_step`: waits end at multiples of this time.
    - `verification`: between two reads of a task hub at its provider.
    """

    per_request: float = 2.0
    idle: float = 10.0
    signal_pause: float = 0.02
    connection_check: float = 1.0
    deadline_step: float = 0.25
    verification: VerificationIntervals = field(default_factory=VerificationIntervals)


@dataclass(frozen=True, slots=True)
class WatchContext:
    """What the watches of all apps share. `stopping` ends them when the server shuts down."""

    reads: VerdictReads
    signals: ChangeSignals
    clock: Clock
    stopping: asyncio.Event
    intervals: WaitIntervals


class AppWatch:
    """The requests that wait for one app, and the task that decides when they ask again."""

    def __init__(self, app_name: str, context: WatchContext) -> None:
        """Begin to watch an app for the first request that waits for it."""
        self._app_name = app_name
        self._clock = context.clock
        self._stopping = context.stopping
        self._intervals = context.intervals
        self._signals = context.signals
        self._groups: dict[Hashable, WaitingGroup] = {}
        self._changes = AppChanges(0)
        self._changed = asyncio.Event()
        self._round_count = 0
        self._last_task_hub = ""
        self._budget_used_until = self._rounds_held_until = (
            asyncio.get_running_loop().time() + self._intervals.per_request
        )
        """By the clock of the event loop: the end of the time whose budget is used, and the earliest next round."""
        self.reads = WaitingReads(context.reads, context.signals, ReadListener(self._changed.set, self._charge))
        # In an empty context, because the watch outlives the request that begins it.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    # Requests

    @property
    def is_empty(self) -> bool:
        """Whether no request waits any more."""
        return not self._groups

    def join(self, question: WaitingQuestion) -> WaitingGroup:
        """Add a request that waits to the group of those with the same question. Call `leave` at the end."""
        key = question.key
        if key not in self._groups:
            self._groups[key] = WaitingGroup(question, self.reads, self._intervals.verification)
        self._groups[key].member_count += 1
        return self._groups[key]

    def leave(self, group: WaitingGroup) -> None:
        """Remove a request that waits no longer. The last one ends its group."""
        group.member_count -= 1
        if group.member_count == 0:
            del self._groups[group.question.key]

    def has_just_answered(self, group: WaitingGroup) -> bool:
        """Whether a question of this group that began a moment ago was answered with NotReady."""
        age = asyncio.get_running_loop().time() - group.not_ready_since
        return group.outlook is not None and not group.is_busy and age < self._intervals.per_request

    @contextmanager
    def track_question(self, group: WaitingGroup) -> Iterator[AskedQuestion]:
        """Count a question of this group as under way while the block runs. The block asks the question, and sets the
        status. A question without a status has failed."""
        try:
            # Before the first response of the storage, the time of this machine says nothing.
            now = self._clock.now() if self._clock.synchronized else Instant(0)
            with group.track_question(self._changes, now) as asked:
                yield asked
            if asked.status is not None:
                self._note_revision(asked.status.app.revision)
        finally:
            self._changed.set()

    async def close(self) -> None:
        """Stop watching the app, when no request waits for it any more."""
        self.reads.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # Decisions

    async def _run(self) -> None:
        """Wake groups whose verdict can be Ready, and make rounds, until the watch is closed."""
        stopped = asyncio.create_task(self._stopping.wait())
        round_task: asyncio.Task[None] | None = None
        try:
            with (
                self._signals.listen_to_app(self._app_name, self._on_app_written),
                self._signals.listen_to_acknowledgements(self._app_name, self._note_acknowledgement),
            ):
                while not self._stopping.is_set():
                    self._changed.clear()
                    self._wake_due_groups()
                    if round_task is None or round_task.done():
                        round_task = self._start_due_round()
                    await self._wait_for_next_decision(stopped, is_round_in_progress=round_task is not None)
                self._wake_all()
        except Exception:  # the requests still ask at the end
            log.exception("the watch of app %s has failed", self._app_name)
        finally:
            tasks = [task for task in (stopped, round_task) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_next_decision(self, stopped: "asyncio.Task[object]", *, is_round_in_progress: bool) -> None:
        """Wait until there is something to decide: something has changed, the server stops, or a group of requests or a
        round is due. A round is the watch's own look at the storage. During a round no other one becomes due. A
        short pause comes first, so that a burst of changes leads to one decision."""
        await asyncio.wait((stopped,), timeout=self._intervals.signal_pause)
        changed = asyncio.create_task(self._changed.wait())
        try:
            timeout = self._seconds_to_next_moment(is_round_in_progress=is_round_in_progress)
            await asyncio.wait((changed, stopped), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _wake_all(self) -> None:
        """Let every request that waits ask again."""
        for group in self._groups.values():
            group.wake()

    def _wake_due_groups(self) -> None:
        """Let the requests of each group whose verdict can be Ready by now ask again, unless the budget forbids it."""
        if self._seconds_until_wake_is_allowed() > 0:
            return
        now = self._clock.now()
        for group in self._groups.values():
            moment = group.next_moment(self._changes, now)
            if moment is not None and moment <= now:
                group.wake()

    def _seconds_to_next_moment(self, *, is_round_in_progress: bool) -> float | None:
        """Seconds until a group or, unless one is under way, a round is due; None if only a change makes one due."""
        now, time = self._clock.now(), asyncio.get_running_loop().time()
        waits = [] if is_round_in_progress else [max(self._next_round_at() - time, 0.0)]
        for group in self._groups.values():
            moment = group.next_moment(self._changes, now)
            if moment is not None:
                waits.append(max((moment - now) / TICKS_PER_SECOND, self._seconds_until_wake_is_allowed(), 0.0))
        return min(waits, default=None)

    # The budget

    def _charge(self, request_count: int) -> None:
        """Put off the next round, because requests were sent to the state storage."""
        time = asyncio.get_running_loop().time()
        self._budget_used_until = max(self._budget_used_until, time) + request_count * self._intervals.per_request

    def _seconds_until_wake_is_allowed(self) -> float:
        """Seconds for which no group may be woken, because its questions would use too much of the budget in advance.
        Zero or less if groups may be woken now."""
        seconds_used_in_advance = self._budget_used_until - asyncio.get_running_loop().time()
        return seconds_used_in_advance - _MAX_REQUESTS_AHEAD_OF_BUDGET * self._intervals.per_request

    def _next_round_at(self) -> float:
        """When the next round may begin, by the clock of the event loop."""
        return max(self._budget_used_until, self._rounds_held_until)

    # Rounds

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
            group.wake()
        if due:
            # They have not read yet, so the budget does not hold back the next round.
            self._rounds_held_until = time + self._intervals.per_request
            return None
        return asyncio.create_task(self._make_round())

    async def _make_round(self) -> None:
        """Read the records of the next task hub, or the app. If that fails, all requests read again and report the
        error."""
        self._round_count += 1
        task_hubs, app_blocks = self._find_targets()
        is_app_turn = self._round_count % _APP_ROUND == 0 or (app_blocks and self._round_count % 2 == 0)
        try:
            if task_hubs and not is_app_turn:
                task_hub = next((name for name in task_hubs if name > self._last_task_hub), task_hubs[0])
                self._last_task_hub = task_hub
                await self.reads.read_records(task_hub, self._exemptions(task_hub), uses_budget=True)
                return
            if not (task_hubs or app_blocks):
                self._rounds_held_until = asyncio.get_running_loop().time() + self._intervals.idle
            app = await self.reads.read_app(self._app_name, uses_budget=True)
            if app is None:
                self._wake_all()
            else:
                self._note_revision(app.revision)
        except Exception as error:  # noqa: BLE001 (the requests read again and report it)
            log.info("the watch of app %s could not read: %s", self._app_name, type(error).__name__)
            self._charge(1)
            self._wake_all()
        finally:
            self._changed.set()

    def _find_targets(self) -> tuple[list[str], bool]:
        """The task hubs whose records may have changed, and whether only the app prevents a Ready somewhere."""
        now = self._clock.now()
        busy = {hub_key(task_hub) for group in self._groups.values() if group.is_busy for task_hub in group.task_hubs}
        task_hubs: set[str] = set()
        app_blocks = False
        for group, outlook in self._idle_groups():
            if outlook.blocked_until is not None:
                app_blocks = True
                continue
            earliest = group.earliest_ready_at(now)
            has_asked = earliest is not None and earliest <= group.asked_at
            uses_probe = outlook.is_verified or outlook.uses_stored_probe
            app_blocks = app_blocks or (has_asked and not uses_probe)
            for task_hub in outlook.task_hubs:
                known = self.reads.known(task_hub)
                # A probe that prevents Ready can be over as soon as the records change.
                if known.is_active or not known.is_exact or (has_asked and uses_probe):
                    task_hubs.add(task_hub)
        return sorted(task_hub for task_hub in task_hubs if hub_key(task_hub) not in busy), app_blocks

    def _idle_groups(self) -> Iterator[tuple[WaitingGroup, Outlook]]:
        """The groups that have an answer and do not ask at the moment, each with what its answer says of the future."""
        for group in self._groups.values():
            if group.outlook is not None and not group.is_busy:
                yield group, group.outlook

    def _exemptions(self, task_hub: str) -> Exemptions:
        """The instances of a task hub that do not block, by the newest revision of the app that a group has seen."""
        outlooks = [outlook for _, outlook in self._idle_groups() if task_hub in outlook.task_hubs]
        app = max((outlook.app for outlook in outlooks), key=lambda app: app.revision)
        return Exemptions.for_task_hub(app.policy.ignore_functions, app.waivers, task_hub, self._clock.now())

    # The app

    def _on_app_written(self, app: App) -> None:
        """Have the groups look at an app that this process has written, without waiting for the next round."""
        self._note_revision(app.revision)

    def _note_revision(self, revision: int) -> None:
        """Have the groups look at the app again if this revision is newer than any that is known."""
        if revision > self._changes.revision:
            self._changes = replace(self._changes, revision=revision)
            self._changed.set()

    def _note_acknowledgement(self) -> None:
        """Have the groups look again: a router has acknowledged a routing revision."""
        count = self._changes.acknowledgement_count + 1
        self._changes = replace(self._changes, acknowledgement_count=count)
        self._changed.set()
