"""DeleteTaskHub: removes the records of a drained task hub that no app has claimed."""

import asyncio
from contextlib import suppress

from state_api.domain.errors import StorageUnavailable
from state_api.domain.readiness.evidence import Evidence, InstanceActivity
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases import refusals
from state_api.domain.releases.apps import Caller
from state_api.services.ports import (
    Clock,
    EventLease,
    Instances,
    TaskHubRecord,
    TaskHubReopened,
    TaskHubs,
)
from state_api.services.readiness import Readiness
from state_api.services.recording import Recorder
from state_api.services.removal_log import log_removal

_RETRY_AFTER_SECONDS = 5
_STOPPING = "the server is stopping: send the request again"


class TaskHubDeletion:
    """Removes the records of task hubs that no app has claimed. Each removal is logged with its caller."""

    def __init__(
        self,
        *,
        task_hubs: TaskHubs,
        instances: Instances,
        recorder: Recorder,
        readiness: Readiness,
        clock: Clock,
        event_lease: EventLease,
        stopping: asyncio.Event,
    ) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._recorder = recorder
        self._readiness = readiness
        self._clock = clock
        self._event_lease = event_lease
        self._stopping = stopping

    async def delete_task_hub(self, name: str, caller: Caller) -> TaskHubRecord:
        """Remove the records of a task hub that no app has claimed, and close its name.

        An event that arrives at the same time waits in quarantine, or is found here. Both make the operation fail and
        the task hub open again. A repeated call finishes one that was cut off, and concurrent calls end alike. Takes
        `EventLease.closing_delay_seconds` longer than its requests. Raises TaskHubNotFound, TaskHubClaimed,
        TaskHubNotDrained, and StorageUnavailable if the call must be repeated.
        """
        record = await self._task_hubs.get(name)
        if record is not None and record.app is not None:
            raise refusals.task_hub_claimed(record.name, record.app).to_error()
        if record is None or not record.closed:
            if record is None and not await self._recorder.has_waiting_events(name):
                raise refusals.task_hub_not_found(name).to_error()
            await self._check_drained(name)
        closed = await self._task_hubs.close_for_deletion(name)
        if closed.deletion_id:
            closed = await self._decide_deletion(closed)
        await self._instances.delete_records(closed)
        log_removal(caller, f"the records of task hub {closed.name}")
        return closed

    async def _decide_deletion(self, closing: TaskHubRecord) -> TaskHubRecord:
        """Decide about a task hub that is closed but can be reopened. Returns its record once the deletion is decided.
        Raises TaskHubNotDrained and StorageUnavailable."""
        await self._wait_for_leases_to_end()
        # Both reads together find every event that was acknowledged after the closing, see EventLease.
        records = await self._instances.read_records(closing.name, Exemptions())
        has_waiting_events = await self._recorder.has_waiting_events(closing.name)
        if not has_waiting_events and self._assess(closing.name, records.activity).ready:
            with suppress(TaskHubReopened):
                return await self._task_hubs.decide_deletion(closing)
        record = await self._task_hubs.reopen(closing)
        if record.is_closed_for_ever:
            # A concurrent call has decided before this one found an event that arrived later.
            return record
        await self._check_drained(closing.name)
        raise StorageUnavailable(
            f"events of task hub {closing.name} arrived while its records were about to be removed, or another caller "
            "removes them: send the request again",
            retry_after=_RETRY_AFTER_SECONDS,
        )

    async def _wait_for_leases_to_end(self) -> None:
        """Wait until no worker holds a lease to record events of a task hub that it read before the hub was closed.

        Raises StorageUnavailable when the server stops. The task hub stays closed then, and a repeated call goes on."""
        try:
            async with asyncio.timeout(self._event_lease.closing_delay_seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise StorageUnavailable(_STOPPING)

    async def _check_drained(self, task_hub: str) -> None:
        """Record the events that wait in quarantine: they may start an instance, or end one that the records show as
        active. Then raise TaskHubNotDrained unless the task hub has drained."""
        await self._recorder.replay_quarantined(task_hub, enforce_limit=False)
        verdict = self._assess(task_hub, await self._readiness.read_activity(task_hub, Policy()))
        if not verdict.ready:
            raise refusals.task_hub_not_drained(task_hub, verdict).to_error()

    def _assess(self, task_hub: str, activity: InstanceActivity) -> Verdict:
        """The verdict on a task hub without an app: no policy exempts an instance, and only records count."""
        return assess_readiness(Evidence(task_hub, activity), Policy(), self._clock.now())
