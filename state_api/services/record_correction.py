"""Corrects the records of a task hub by what probes show: ends, missed starts, confirmed starts."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from state_api.backends.protocols import Backend, BackendError, ReadFailure
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ACTIVE_LIMIT, ActiveInstance
from state_api.domain.readiness.lookups import LOOKUP_BATCH_SIZE
from state_api.domain.readiness.plan import Correct
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import confirm_start, reconcile_start
from state_api.services.ports import Clock, Instances, TableMissing, TaskHubs
from state_api.services.probe_requests import ProbeRequest

log = logging.getLogger(__name__)

_MAX_RECORDED_INSTANCES = ACTIVE_LIMIT + 1
"""Instances missed by events that one scan records: enough to show that there are more than a verdict counts."""

_SAMPLE_SIZE = 500
"""Finished instances among which the latest are sought to confirm a backend. They are listed in no order of time, so
the latest may not be among them; `Verifier.confirm_backend` makes this sample rarely necessary."""


class RecordCorrector:
    """Corrects the records of one task hub by what its backend shows."""

    def __init__(self, task_hubs: TaskHubs, instances: Instances, clock: Clock) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock

    async def record_ends(
        self, backend: Backend, request: ProbeRequest, step: Correct, confirmed_backend: str | None
    ) -> bool:
        """Record that instances have ended. `confirmed_backend` comes from the records. False if the storage did not
        record all of them.

        Raises BackendError if this may be another task hub of the same name.
        """
        is_confirmed = confirmed_backend == request.backend_id
        if (step.absence_counts or step.event_instance_found) and not is_confirmed:
            await self._require_confirmed_backend(backend, request, event_instance_found=step.event_instance_found)
        return await self.record_corrections(request.task_hub, step.ended)

    async def record_missed_instances(
        self,
        request: ProbeRequest,
        scan: Scan,
        observed: Iterable[ObservedInstance],
        *,
        confirmed_backend: str | None,
        sees_messages: bool,
    ) -> None:
        """Record the active instances of a page that events missed, except those of ignored functions.

        `confirmed_backend` is the one that the records name. `sees_messages` says whether the backend shows starts that
        are only messages."""
        active = [
            instance
            for instance in observed
            if instance.active and not request.exemptions.ignores(instance.function_name)
        ]
        active = active[: max(0, _MAX_RECORDED_INSTANCES - scan.recorded_count)]
        if not active:
            return
        hub = await self._task_hubs.get_or_create(request.task_hub)
        if hub.closed:
            return
        recorded = await asyncio.gather(*(self._instances.get(hub, instance.instance_id) for instance in active))
        is_known_from_events = any(
            instance is not None and instance.source is EvidenceSource.EVENT for instance in recorded
        )
        if is_known_from_events and confirmed_backend != request.backend_id:
            await self._task_hubs.record_seen(request.task_hub, confirmed_backend=request.backend_id)
        if not sees_messages:
            active_starts = [
                (before.started, instance)
                for before, instance in zip(recorded, active, strict=True)
                if before is not None and before.active and before.started is not None
            ]
            await self.confirm_starts(request, active_starts, observed_at=scan.began_at)
        now = self._clock.now()
        missed = [reconcile_start(before, instance, now) for before, instance in zip(recorded, active, strict=True)]
        await self.record_corrections(request.task_hub, [instance for instance in missed if instance is not None])
        # The instances are counted only now, because a page whose instances could not be recorded is read again.
        scan.recorded_count += len(active)

    async def confirm_starts(
        self, request: ProbeRequest, starts: Iterable[tuple[Started, ObservedInstance]], *, observed_at: Instant
    ) -> None:
        """Record which of these starts the task hub has shown, by a read that began at `observed_at`. If such an
        instance is absent later, it has ended and was purged."""
        confirmed = (
            (
                observed.instance_id,
                confirm_start(started, observed, backend_id=request.backend_id, observed_at=observed_at),
            )
            for started, observed in starts
        )
        await self._merge(
            request.task_hub, [Instance(instance_id, start) for instance_id, start in confirmed if start is not None]
        )

    async def read_recorded_starts(self, task_hub: str, instances: Sequence[ActiveInstance]) -> Mapping[str, Started]:
        """The starts of these instances with their confirmations, where the records still hold the same start."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or hub.closed:
            return {}
        records = await asyncio.gather(*(self._instances.get(hub, instance.instance_id) for instance in instances))
        return {
            instance.instance_id: record.started
            for instance, record in zip(instances, records, strict=True)
            if record is not None and record.started is not None and record.started.at == instance.started_at
        }

    async def record_corrections(self, task_hub: str, corrections: Sequence[Instance]) -> bool:
        """Merge corrections into the records. False if the storage did not record all of them, or if the task hub was
        cleaned up."""
        changed = await self._merge(task_hub, corrections)
        if changed:
            log.info("task hub %s: the probe corrected the records of %d instances", task_hub, changed.count(True))
        return len(changed) == len(corrections) and None not in changed

    async def _merge(self, task_hub: str, evidence: Sequence[Instance]) -> list[bool | None]:
        """Record what was seen. For each instance, whether it changed the records; empty if the task hub was cleaned
        up."""
        if not evidence:
            return []
        hub = await self._task_hubs.get_or_create(task_hub)
        if hub.closed:
            return []
        try:
            return await self._instances.record_corrections(hub, evidence)
        except TableMissing:
            # The next request reads the registry again.
            self._task_hubs.invalidate_cache(task_hub)
            return []

    async def _require_confirmed_backend(
        self, backend: Backend, request: ProbeRequest, *, event_instance_found: bool
    ) -> None:
        """Raises BackendError unless the backend has shown an instance that events reported."""
        if not await self._is_backend_confirmed(backend, request, event_instance_found=event_instance_found):
            raise BackendError(
                ReadFailure.FAILED,
                f"the storage that {request.provider_config.connection} leads to has none of the instances that events "
                f"reported for task hub {request.task_hub}: is it the storage of another app or environment? If the "
                "instances were purged, waive those that are shown active with PostWaiver",
            )

    async def _is_backend_confirmed(
        self, backend: Backend, request: ProbeRequest, *, event_instance_found: bool
    ) -> bool:
        """Whether the backend shows an instance that events reported. If so, that is recorded. A task hub of the same
        name in another account shows none, and must not close what runs here because it does not show it."""
        hub = await self._task_hubs.get(request.task_hub)
        if hub is None:
            return False
        if not event_instance_found:
            # Of instances that have ended, the latest are purged last.
            page = await self._instances.list_page(hub, active=False, top=_SAMPLE_SIZE)
            latest = sorted(page.items, key=lambda instance: instance.last_event_at)[-LOOKUP_BATCH_SIZE:]
            observed = await backend.find_instances(request.task_hub, [instance.instance_id for instance in latest])
            event_instance_found = any(observed.values())
        if event_instance_found:
            await self._task_hubs.record_seen(request.task_hub, confirmed_backend=request.backend_id)
        return event_instance_found
