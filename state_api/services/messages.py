"""Reading the control queues of a task hub, together with the histories that explain invisible messages."""

from dataclasses import replace

from state_api.domain.instants import Instant
from state_api.domain.messages import (
    KnownTimers,
    MessageEvidence,
    MessageMemory,
    QueueLook,
    QuietPeriod,
    assess_messages,
    hidden_for_seconds,
    observe_quiet,
    signs_of,
)
from state_api.domain.scans import Scan
from state_api.services.ports import Clock
from state_api.services.questions import Question
from state_api.taskhubs.backend import Backend

_MOST_COMPARED = 1000
"""Stamped rows that are compared from probe to probe. With more, a quiet period begins at the next probe."""


class MessageReading:
    """Looks at the messages during one call of a scan."""

    def __init__(self, backend: Backend, question: Question, memory: MessageMemory, clock: Clock) -> None:
        self._backend = backend
        self._question = question
        self._clock = clock
        self._memory = memory if memory.place == question.place else MessageMemory(question.place)

    @property
    def memory(self) -> MessageMemory:
        """What will be remembered."""
        return replace(self._memory, timers=self._memory.timers.bounded())

    @property
    def quiet(self) -> QuietPeriod | None:
        """The quiet period of the exemptions that this question has."""
        quiet = self._memory.quiet
        return quiet if quiet is not None and quiet.exemptions == self._key else None

    @property
    def _key(self) -> str:
        return self._question.exemptions.key_of_instances

    async def look(self) -> QueueLook | None:
        """Take a snapshot of the control queues. Reads histories only if the known timers do not explain all invisible
        messages. None if the backend does not show messages, or the policy ignores them. Raises SourceError."""
        if self._question.policy.ignore_messages:
            return None
        look = await self._take(self._memory.timers)
        if look is None or look.unexplained <= self._question.exemptions.waived_messages:
            return look
        while True:
            timers = await self._backend.read_timers(self._question.task_hub, self._memory.timers)
            # Kept at once: a read that is cut short is carried on by the next question.
            self._memory = replace(self._memory, timers=timers)
            if timers.cursor is None:
                break
        # Only now: a timer explains a message if it was known before the messages were counted.
        return await self._take(timers)

    def assess(self, scan: Scan, last_recorded_at: Instant | None) -> MessageEvidence | None:
        """What a finished scan says of the messages; updates the memory."""
        look = scan.look
        if look is None:
            self._memory = replace(self._memory, quiet=None)
            return None
        quiet = None
        if not scan.blocking:
            signs = signs_of(look.snapshot, last_recorded_at)
            quiet = observe_quiet(self.quiet, look, key=self._key, since=scan.since, stamps=scan.changes, signs=signs)
            if quiet is not self.quiet and scan.compared > _MOST_COMPARED:
                quiet = None
        self._memory = replace(self._memory, quiet=quiet)
        hidden_for = hidden_for_seconds(self._question.policy.message_visibility_seconds)
        return assess_messages(look, quiet, self._question.exemptions, hidden_for=hidden_for)

    async def _take(self, timers: KnownTimers) -> QueueLook | None:
        began_at = self._clock.now()
        snapshot = await self._backend.snapshot(self._question.task_hub)
        return None if snapshot is None else QueueLook.of(snapshot, timers, began_at, self._clock.now())
