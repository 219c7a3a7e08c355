"""Reading the control queues of a task hub, together with the histories that explain invisible messages."""

from dataclasses import replace

from state_api.backends.protocols import Backend
from state_api.domain.instants import Instant
from state_api.domain.readiness.messages import (
    KnownTimers,
    MessageEvidence,
    MessageState,
    ObservedQueues,
    QuietPeriod,
    assess_messages,
    compute_queue_digest,
    max_hidden_seconds,
    track_quiet_period,
)
from state_api.domain.readiness.scans import Scan
from state_api.services.ports import Clock
from state_api.services.probe_requests import ProbeRequest

_MAX_COMPARED_STAMPS = 1000
"""Stamped rows that are compared from probe to probe. With more, a quiet period begins at the next probe."""


class MessageReader:
    """Looks at the messages during one call of a scan."""

    def __init__(self, backend: Backend, question: ProbeRequest, message_state: MessageState, clock: Clock) -> None:
        self._backend = backend
        self._question = question
        self._clock = clock
        self._memory = (
            message_state if message_state.backend_id == question.backend_id else MessageState(question.backend_id)
        )

    @property
    def message_state(self) -> MessageState:
        """What will be remembered."""
        return replace(self._memory, timers=self._memory.timers.limit_size())

    @property
    def quiet_period(self) -> QuietPeriod | None:
        """The quiet period of the exemptions that this question has."""
        quiet = self._memory.quiet_period
        return quiet if quiet is not None and quiet.exemptions_key == self._exemptions_key else None

    @property
    def _exemptions_key(self) -> str:
        return self._question.exemptions.instances_key

    async def read_queues(self) -> ObservedQueues | None:
        """Take a snapshot of the control queues. Reads histories only if the known timers do not explain all invisible
        messages. None if the backend does not show messages, or the policy ignores them. Raises BackendError."""
        if self._question.policy.ignore_messages:
            return None
        look = await self._take_snapshot(self._memory.timers)
        if look is None or look.unexplained_count <= self._question.exemptions.waived_messages:
            return look
        while True:
            timers = await self._backend.read_timers(self._question.task_hub, self._memory.timers)
            # Kept at once: a read that is cut short is carried on by the next question.
            self._memory = replace(self._memory, timers=timers)
            if timers.cursor is None:
                break
        # Only now: a timer explains a message if it was known before the messages were counted.
        return await self._take_snapshot(timers)

    def assess_after_scan(self, scan: Scan, last_recorded_at: Instant | None) -> MessageEvidence | None:
        """What a finished scan says of the messages; updates the memory."""
        look = scan.observed_queues
        if look is None:
            self._memory = replace(self._memory, quiet_period=None)
            return None
        quiet = None
        if not scan.blocking_count:
            signs = compute_queue_digest(look.snapshot, last_recorded_at)
            quiet = track_quiet_period(
                self.quiet_period,
                look,
                key=self._exemptions_key,
                changed_since=scan.changed_since,
                stamp_digest=scan.stamp_digest,
                queue_digest=signs,
            )
            if quiet is not self.quiet_period and scan.stamp_count > _MAX_COMPARED_STAMPS:
                quiet = None
        self._memory = replace(self._memory, quiet_period=quiet)
        hidden_for = max_hidden_seconds(self._question.policy.message_visibility_seconds)
        return assess_messages(look, quiet, self._question.exemptions, max_hidden_seconds=hidden_for)

    async def _take_snapshot(self, timers: KnownTimers) -> ObservedQueues | None:
        began_at = self._clock.now()
        snapshot = await self._backend.read_queue_snapshot(self._question.task_hub)
        return None if snapshot is None else ObservedQueues.from_snapshot(snapshot, timers, began_at, self._clock.now())
