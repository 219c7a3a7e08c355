"""What administrators remove: the records of a task hub that no app has claimed, and old quarantined events."""

import logging

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.readiness.evidence import Evidence, InstanceActivity
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import Caller
from state_api.services.ports import Clock, Instances, PurgeResult, Quarantine, TaskHubRecord, TaskHubs
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder

log = logging.getLogger(__name__)

EXEMPT_FROM_LOG_LIMIT = "unlimited"
"""The attribute of a log record that the log limit (serving/log_limit) never drops."""

_ALWAYS_LOGGED = {EXEMPT_FROM_LOG_LIMIT: True}
"""These removals are recorded in the log only: audit logs belong to apps."""

_CLOCK_TOLERANCE = seconds(60)
"""How far a caller's clock may be ahead of the clock of the state storage, in ticks."""


class Administration:
    """Operations for administrators that concern no app. Each is logged with its caller."""

    def __init__(
        self,
        *,
        task_hubs: TaskHubs,
        instances: Instances,
        quarantine: Quarantine,
        recorder: Recorder,
        readiness: Readiness,
        clock: Clock,
    ) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._quarantine = quarantine
        self._recorder = recorder
        self._readiness = readiness
        self._clock = clock

    async def delete_task_hub(self, name: str, caller: Caller) -> TaskHubRecord:
        """Remove the records of a task hub that no app has claimed, and close its name.

        An event that arrives at the same time goes to quarantine, or is found here and makes the operation fail. A
        repeated call finishes one that was cut off. Raises TaskHubNotFound, TaskHubClaimed, TaskHubNotDrained.
        """
        record = await self._task_hubs.get(name)
        if record is not None and record.app is not None:
            raise refusals.task_hub_claimed(record.name, record.app).to_error()
        if record is None or not record.closed:
            has_waiting_events = await self._recorder.has_waiting_events(name)
            if record is None and not has_waiting_events:
                raise refusals.task_hub_not_found(name).to_error()
            if has_waiting_events:
                # A waiting event may start an instance, or end one that the records show as active.
                await self._recorder.replay_quarantined(name, enforce_limit=False)
            await self._check_drained(name)
        closed = await self._task_hubs.close_unclaimed(name)
        # Checked again, now that the task hub is closed. This read finds every event that was recorded before it. A
        # worker that records one later finds the task hub closed, and quarantines the event.
        records = await self._instances.read_records(name, Exemptions())
        verdict = self._assess(name, records.activity)
        if not verdict.ready:
            await self._task_hubs.reopen_unclaimed(name)
            raise refusals.task_hub_not_drained(name, verdict).to_error()
        await self._instances.delete_records(closed)
        # A concurrent call may have found an event that this one has not, and have reopened the task hub.
        await self._task_hubs.close_unclaimed(name)
        log.warning("%s removed the records of task hub %s", ascii(caller.name), closed.name, extra=_ALWAYS_LOGGED)
        return closed

    async def purge_quarantine(self, received_before: Instant, caller: Caller) -> PurgeResult:
        """Remove quarantined events that were received before a time. Raises InvalidRequest for a future time."""
        if received_before > self._clock.now() + _CLOCK_TOLERANCE:
            raise InvalidRequest("before must not be in the future. Send an earlier time")
        purged = await self._quarantine.purge(received_before)
        log.warning(
            "%s removed %d events received before %s from quarantine",
            ascii(caller.name),
            purged.removed,
            format_instant(received_before),
            extra=_ALWAYS_LOGGED,
        )
        return purged

    async def _check_drained(self, task_hub: str) -> None:
        verdict = self._assess(task_hub, await self._readiness.read_activity(task_hub, Policy()))
        if not verdict.ready:
            raise refusals.task_hub_not_drained(task_hub, verdict).to_error()

    def _assess(self, task_hub: str, activity: InstanceActivity) -> Verdict:
        return assess_readiness(Evidence(task_hub, activity), Policy(), self._clock.now())
