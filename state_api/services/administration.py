"""What administrators remove: the records of a task hub that no app has claimed, and old events in quarantine."""

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
"""The attribute of a log record that is never left out where the log is limited (serving/log_limit)."""

_ALWAYS_LOGGED = {EXEMPT_FROM_LOG_LIMIT: True}
"""The log holds the only record of what is removed here: the audit log is that of an app."""

_CLOCK_TOLERANCE = seconds(60)
"""How far a caller's clock may be ahead of the storage's."""


class Administration:
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
        """Remove the records of a task hub that no app has claimed, and close its name. An event that arrives meanwhile
        goes to quarantine, or is found and makes this fail. Calling it again finishes what was cut short. Raises
        TaskHubNotFound, TaskHubClaimed, TaskHubNotDrained."""
        hub = await self._task_hubs.get(name)
        if hub is not None and hub.app is not None:
            raise refusals.task_hub_claimed(hub.name, hub.app).to_error()
        if hub is None or not hub.closed:
            waiting = await self._recorder.has_waiting_events(name)
            if hub is None and not waiting:
                raise refusals.task_hub_not_found(name).to_error()
            if waiting:
                # What waits in quarantine may be active, or may be the end of what the records show active.
                await self._recorder.replay_quarantined(name, enforce_limit=False)
            await self._check_drained(name)
        closed = await self._task_hubs.close_unclaimed(name)
        # Once more, now that the hub is closed: what is recorded before this look is found by it, and of what is
        # recorded later the worker that recorded it finds that the hub is closed, and keeps it in quarantine.
        activity = await self._instances.read_activity(closed, Exemptions(), missing_is_empty=True)
        verdict = self._assess(name, activity)
        if not verdict.ready:
            await self._task_hubs.reopen_unclaimed(name)
            raise refusals.task_hub_not_drained(name, verdict).to_error()
        await self._instances.delete_records(closed)
        # Another call may have seen what this one did not, and have opened the hub again.
        await self._task_hubs.close_unclaimed(name)
        log.warning("%s removed the records of task hub %s", ascii(caller.name), closed.name, extra=_ALWAYS_LOGGED)
        return closed

    async def purge_quarantine(self, received_before: Instant, caller: Caller) -> PurgeResult:
        """Remove events from quarantine that came before a time. Raises InvalidRequest for a time to come."""
        if received_before > self._clock.now() + _CLOCK_TOLERANCE:
            raise InvalidRequest("before must not be in the future")
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
