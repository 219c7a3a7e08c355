"""Look-ups: asking the task hub for just those instances that the records hold active, which is cheap. Those that have
ended there are closed in the records."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from state_api.domain.evidence import ActiveInstance
from state_api.domain.healing import Standing, ended, is_recent, record_seen, standing
from state_api.domain.instants import Instant
from state_api.domain.lifecycle import Instance, Source, Started
from state_api.domain.scans import shown_as
from state_api.domain.sightings import Sighting
from state_api.services.ports import Clock, Instances, TableMissing, TaskHubs
from state_api.services.questions import Question
from state_api.taskhubs.backend import Backend, SourceError, Trouble

log = logging.getLogger(__name__)

LOOKED_UP = 16
"""Active instances that are looked up at a time, the oldest first; one that is still active is answer enough."""
_MOST_LOOKED_UP = 128
_SAMPLED = 500
"""Finished instances among which the latest are sought, where it is in doubt whose hub it is. They come in no order of
time, so it may miss those that are not purged yet; `acquaint` makes that rare."""


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What became of instances that the records hold active. `undecided`: not all of them are known to have ended, or
    the storage does not take it. `seen` are those that the hub has shown active; there may be none, and doubt.
    `corrected`: records were closed. `unconfirmed` are starts that the hub does not show while its control queues hold
    messages; all others have ended."""

    undecided: bool
    seen: tuple[ActiveInstance, ...] = ()
    corrected: bool = False
    unconfirmed: tuple[ActiveInstance, ...] = ()


class LookUps:
    """Corrects the records by what task hubs show."""

    def __init__(self, task_hubs: TaskHubs, instances: Instances, clock: Clock) -> None:
        self._task_hubs = task_hubs
        self._instances = instances
        self._clock = clock

    async def look_up(self, backend: Backend, question: Question, active: Sequence[ActiveInstance]) -> LookedUp:
        """Ask the hub for instances that the records hold active, and close those that have ended, until some are found
        that have not."""
        size, at, corrected = LOOKED_UP, 0, False
        unconfirmed: list[ActiveInstance] = []
        while at < len(active):
            batch = {one.instance_id: one for one in active[at : at + size]}
            at, size = at + size, min(2 * size, _MOST_LOOKED_UP)
            looked_at = self._clock.now()
            seen = dict(await backend.find(question.task_hub, list(batch)))
            if messages_unseen(backend, question):
                shown_starts = [(_started(batch[one]), shown) for one, shown in seen.items() if shown is not None]
                await self.record_seen(question, shown_starts, looked_at)
            standings = {one: standing(_started(batch[one]), seen[one]) for one in batch}
            doubtful = [one for one, known in standings.items() if known is Standing.UNCONFIRMED]
            waiting: list[str] = []
            if doubtful:
                # Messages first, then the instances once more: what has left the queues in between has been written.
                # The same holds for what confirms a start: an absence counts only if it was known before.
                unseen = messages_unseen(backend, question)
                messages = None if unseen else await backend.snapshot(question.task_hub)
                starts = {one: _started(batch[one]) for one in doubtful}
                if unseen:
                    starts |= await self._confirmed(question.task_hub, starts)
                seen |= await backend.find(question.task_hub, doubtful)
                standings |= {one: standing(starts[one], seen[one], question.place) for one in doubtful}
                doubtful = [one for one in doubtful if standings[one] is Standing.UNCONFIRMED]
                if messages is None:
                    now = self._clock.now()
                    doubtful = [one for one in doubtful if is_recent(_started(batch[one]), now)]
                elif messages.count:
                    waiting, doubtful = doubtful, []
                else:
                    doubtful = []
            blocking = {*doubtful, *waiting}
            absent = [one for one in batch if standings[one] is Standing.UNCONFIRMED and one not in blocking]
            told = any(seen[one] is not None and batch[one].source is Source.EVENT for one in batch)
            if absent or told:
                await self._check_same_hub(backend, question, told=told)
            over = [one for one in batch if standings[one] is not Standing.ACTIVE and one not in blocking]
            closed = [ended(Instance(one, _started(batch[one])), seen[one]) for one in over]
            taken = await self.correct(question.task_hub, closed)
            corrected = corrected or bool(over)
            unconfirmed += [batch[one] for one in waiting]
            if not taken or len(over) + len(waiting) < len(batch):
                shown = tuple(shown_as(one) for one in seen.values() if one is not None and one.active)
                return LookedUp(True, shown, corrected)
        return LookedUp(False, (), corrected, tuple(unconfirmed))

    async def record_seen(
        self, question: Question, shown: Sequence[tuple[Started, Sighting]], looked_at: Instant
    ) -> None:
        """Record which starts the task hub has shown, by a look that began at `looked_at`: if one of them is absent
        later, it has ended and was purged."""
        confirmed = [
            Instance(sighting.instance_id, seen)
            for started, sighting in shown
            if (seen := record_seen(started, sighting, question.place, looked_at)) is not None
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

    async def close_unconfirmed(
        self, backend: Backend, question: Question, unconfirmed: Sequence[ActiveInstance]
    ) -> bool:
        """Close starts that the hub does not show, once no start is on its way in it. Whether the storage took it all.
        Raises SourceError if this may be another hub of the same name."""
        await self._check_same_hub(backend, question, told=False)
        closed = [ended(Instance(one.instance_id, _started(one)), None) for one in unconfirmed]
        return await self.correct(question.task_hub, closed)

    async def _check_same_hub(self, backend: Backend, question: Question, *, told: bool) -> None:
        """Raises SourceError unless the backend has shown an instance that events told of."""
        if not await self._is_same_hub(backend, question, told):
            raise SourceError(
                Trouble.FAILED,
                f"what {question.source.connection} leads to knows none of the instances that events showed on "
                f"task hub {question.task_hub}: is it the storage of another app or environment? If they were "
                "purged, waive those that are shown active",
            )

    async def _is_same_hub(self, backend: Backend, question: Question, told: bool) -> bool:
        """Whether the backend has ever shown an instance that events `told` of. A hub of the same name in another
        account does not, and its silence must not close what runs here."""
        hub = await self._task_hubs.get(question.task_hub)
        if hub is None or hub.matched == question.place:
            return hub is not None
        if not told:
            # The latest of some that are known to have finished: they are the last to be purged.
            page = await self._instances.page(hub, False, None, _SAMPLED, None)
            latest = sorted(page.items, key=lambda one: one.last_event_at)[-LOOKED_UP:]
            told = any((await backend.find(question.task_hub, [one.instance_id for one in latest])).values())
        if told:
            await self._task_hubs.mark(question.task_hub, question.place)
        return told

    async def correct(self, task_hub: str, corrections: Sequence[Instance]) -> bool:
        """Merge what was seen into the records, unless the hub was cleaned up. Whether the storage took it all."""
        changed = await self._merge(task_hub, corrections)
        if changed:
            log.info("task hub %s: the probe corrected the records of %d instances", task_hub, changed.count(True))
        return None not in changed

    async def _merge(self, task_hub: str, evidence: Sequence[Instance]) -> list[bool | None]:
        """For each of these, whether it changed the records; nothing if the hub was cleaned up."""
        if not evidence:
            return []
        hub = await self._task_hubs.open(task_hub)
        if hub.closed:
            return []
        try:
            return await self._instances.correct(hub, evidence)
        except TableMissing:
            # The next question reads the hub anew.
            self._task_hubs.forget(task_hub)
            return []


def messages_unseen(backend: Backend, question: Question) -> bool:
    """Whether a start may be a message that this question does not see."""
    return question.policy.ignore_messages or not backend.shows_messages


def _started(active: ActiveInstance) -> Started:
    return Started(active.started_at, active.runtime_status, active.function_name, active.source)
