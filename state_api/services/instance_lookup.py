"""Look-ups: asking the task hub for just those instances that the records hold active, which is cheap. Those that have
ended there are closed in the records."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from state_api.backends.protocols import Backend, BackendError, ReadFailure
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.readiness.scans import to_active_instance
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import (
    ObservedState,
    is_recent_start,
    observe_state,
    reconcile_end,
    record_seen,
)
from state_api.services.ports import Clock, Instances, TableMissing, TaskHubs
from state_api.services.probe_requests import ProbeRequest

log = logging.getLogger(__name__)

LOOKUP_BATCH_SIZE = 16
"""Active instances that are looked up at a time, the oldest first; one that is still active is answer enough."""
_MAX_LOOKUP_BATCH_SIZE = 128
_SAMPLE_SIZE = 500
"""Finished instances among which the latest are sought, where it is in doubt whose hub it is. They come in no order of
time, so it may miss those that are not purged yet; `confirm_backend` makes that rare."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What became of instances that the records hold active. `undecided`: not all of them are known to have ended, or
    the storage does not take it. `seen` are those that the hub has shown active; there may be none, and doubt.
    `corrected`: records were closed. `unconfirmed_starts` are starts that the hub does not show while its control
    queues hold messages; all others have ended."""

    undecided: bool
    active_instances: tuple[ActiveInstance, ...] = ()
    records_corrected: bool = False
    unconfirmed_starts: tuple[ActiveInstance, ...] = ()


class InstanceLookup:
    """Corrects the records by what task hubs show."""

    def __init__(self, task_hubs: TaskHubs, instances: Instances, clock: Clock) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock

    async def look_up_instances(
        self, backend: Backend, question: ProbeRequest, active: Sequence[ActiveInstance]
    ) -> LookupResult:
        """Ask the hub for instances that the records hold active, and close those that have ended, until some are found
        that have not."""
        size, at, corrected = LOOKUP_BATCH_SIZE, 0, False
        unconfirmed_starts: list[ActiveInstance] = []
        while at < len(active):
            batch = {one.instance_id: one for one in active[at : at + size]}
            at, size = at + size, min(2 * size, _MAX_LOOKUP_BATCH_SIZE)
            looked_at = self._clock.now()
            seen = dict(await backend.find_instances(question.task_hub, list(batch)))
            if messages_unseen(backend, question):
                shown_starts = [(_start_of(batch[one]), shown) for one, shown in seen.items() if shown is not None]
                await self.record_seen(question, shown_starts, looked_at)
            standings = {one: observe_state(_start_of(batch[one]), seen[one]) for one in batch}
            doubtful = [one for one, known in standings.items() if known is ObservedState.UNCONFIRMED]
            waiting: list[str] = []
            if doubtful:
                # Messages first, then the instances once more: what has left the queues in between has been written.
                # The same holds for what confirms a start: an absence counts only if it was known before.
                unseen = messages_unseen(backend, question)
                messages = None if unseen else await backend.read_queue_snapshot(question.task_hub)
                starts = {one: _start_of(batch[one]) for one in doubtful}
                if unseen:
                    starts |= await self._confirmed(question.task_hub, starts)
                seen |= await backend.find_instances(question.task_hub, doubtful)
                standings |= {one: observe_state(starts[one], seen[one], question.backend_id) for one in doubtful}
                doubtful = [one for one in doubtful if standings[one] is ObservedState.UNCONFIRMED]
                if messages is None:
                    now = self._clock.now()
                    doubtful = [one for one in doubtful if is_recent_start(_start_of(batch[one]), now)]
                elif messages.message_count:
                    waiting, doubtful = doubtful, []
                else:
                    doubtful = []
            blocking = {*doubtful, *waiting}
            absent = [one for one in batch if standings[one] is ObservedState.UNCONFIRMED and one not in blocking]
            event_instance_found = any(
                seen[one] is not None and batch[one].source is EvidenceSource.EVENT for one in batch
            )
            if absent or event_instance_found:
                await self._check_backend_confirmed(backend, question, event_instance_found=event_instance_found)
            over = [one for one in batch if standings[one] is not ObservedState.ACTIVE and one not in blocking]
            closed = [reconcile_end(Instance(one, _start_of(batch[one])), seen[one]) for one in over]
            taken = await self.record_corrections(question.task_hub, closed)
            corrected = corrected or bool(over)
            unconfirmed_starts += [batch[one] for one in waiting]
            if not taken or len(over) + len(waiting) < len(batch):
                shown = tuple(to_active_instance(one) for one in seen.values() if one is not None and one.active)
                return LookupResult(True, shown, corrected)
        return LookupResult(False, (), corrected, tuple(unconfirmed_starts))

    async def record_seen(
        self, question: ProbeRequest, shown: Sequence[tuple[Started, ObservedInstance]], looked_at: Instant
    ) -> None:
        """Record which starts the task hub has shown, by a look that began at `looked_at`: if one of them is absent
        later, it has ended and was purged."""
        confirmed = [
            Instance(observed.instance_id, seen)
            for started, observed in shown
            if (seen := record_seen(started, observed, question.backend_id, looked_at)) is not None
        ]
        await self._merge(question.task_hub, confirmed)

    async def _confirmed(self, task_hub: str, starts: Mapping[str, Started]) -> dict[str, Started]:
        """Those of the starts that are still the latest, as the records hold them now."""
        hub = await self._task_hubs.get(task_hub)
        if hub is None or hub.closed:
            return {}
        known = await asyncio.gather(*(self._instances.get(hub, one) for one in starts))
        return {
            one: record.started
            for one, record in zip(starts, known, strict=True)
            if record is not None and record.started is not None and record.started.at == starts[one].at
        }

    async def close_unconfirmed_starts(
        self, backend: Backend, question: ProbeRequest, unconfirmed_starts: Sequence[ActiveInstance]
    ) -> bool:
        """Close starts that the hub does not show, once no start is on its way in it. Whether the storage took it all.
        Raises BackendError if this may be another hub of the same name."""
        await self._check_backend_confirmed(backend, question, event_instance_found=False)
        closed = [reconcile_end(Instance(one.instance_id, _start_of(one)), None) for one in unconfirmed_starts]
        return await self.record_corrections(question.task_hub, closed)

    async def _check_backend_confirmed(
        self, backend: Backend, question: ProbeRequest, *, event_instance_found: bool
    ) -> None:
        """Raises BackendError unless the backend has shown an instance that events told of."""
        if not await self._is_backend_confirmed(backend, question, event_instance_found):
            raise BackendError(
                ReadFailure.FAILED,
                f"what {question.provider_config.connection} leads to knows none of the instances that events showed "
                f"on task hub {question.task_hub}: is it the storage of another app or environment? If they were "
                "purged, waive those that are shown active",
            )

    async def _is_backend_confirmed(self, backend: Backend, question: ProbeRequest, event_instance_found: bool) -> bool:
        """Whether the backend has ever shown an instance that events `event_instance_found` of. A hub of the same name
        in another account does not, and its silence must not close what runs here."""
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or hub.confirmed_backend == question.backend_id:
            return hub is not None
        if not event_instance_found:
            # The latest of some that are known to have finished: they are the last to be purged.
            page = await self._instances.list_page(hub, active=False, top=_SAMPLE_SIZE)
            latest = sorted(page.items, key=lambda one: one.last_event_at)[-LOOKUP_BATCH_SIZE:]
            event_instance_found = any(
                (await backend.find_instances(question.task_hub, [one.instance_id for one in latest])).values()
            )
        if event_instance_found:
            await self._task_hubs.record_seen(question.task_hub, confirmed_backend=question.backend_id)
        return event_instance_found

    async def record_corrections(self, task_hub: str, corrections: Sequence[Instance]) -> bool:
        """Merge what was seen into the records, unless the hub was cleaned up. Whether the storage took it all."""
        changed = await self._merge(task_hub, corrections)
        if changed:
            log.info("task hub %s: the probe corrected the records of %d instances", task_hub, changed.count(True))
        return None not in changed

    async def _merge(self, task_hub: str, evidence: Sequence[Instance]) -> list[bool | None]:
        """For each of these, whether it changed the records; nothing if the hub was cleaned up."""
        if not evidence:
            return []
        hub = await self._task_hubs.get_or_create(task_hub)
        if hub.closed:
            return []
        try:
            return await self._instances.record_corrections(hub, evidence)
        except TableMissing:
            # The next question reads the hub anew.
            self._task_hubs.invalidate_cache(task_hub)
            return []


def messages_unseen(backend: Backend, question: ProbeRequest) -> bool:
    """Whether a start may be a message that this question does not see."""
    return question.policy.ignore_messages or not backend.shows_messages


def _start_of(active: ActiveInstance) -> Started:
    return Started(active.started_at, active.runtime_status, active.function_name, active.source)
