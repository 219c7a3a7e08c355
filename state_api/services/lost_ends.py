"""Lost ends: looks up active instances of a task hub at its provider, and records the ends that no event has reported.

A verdict needs to know only whether anything is active, so its look-ups stop at the first instance that is. Here every
end counts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from state_api.backends.protocols import BackendError
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.readiness.plan import Correct, CountMessages, LookUp, ReadState, plan_batch
from state_api.services.ports import TaskHubRecords
from state_api.services.probe_requests import ProbeRequest
from state_api.services.task_hub_reader import ReaderContext, TaskHubReader

_OLDEST_COUNT = 128
"""How many of the oldest instances are looked up each time, in one batch."""
_SAMPLE_COUNT = 128
"""How many of the others are looked up each time, chosen at random: instances that stay active for long must not keep
the ends of later ones from being found."""


@dataclass(frozen=True, slots=True)
class StartPeriod:
    """The instances that started from `begin` on and before `end`."""

    begin: Instant
    end: Instant

    def select(self, instances: Sequence[ActiveInstance]) -> tuple[ActiveInstance, ...]:
        """The instances that started in this period, in the same order."""
        return tuple(instance for instance in instances if self.begin <= instance.started_at < self.end)


@dataclass(frozen=True, slots=True)
class LongActive:
    """What a look-up has shown of the instances that have been active for long.

    - `oldest`: the oldest one that is still active, by its recorded start; None if none is.
    - `failure`: why the task hub could not be read, in one line; None if it was read.
    """

    oldest: ActiveInstance | None
    failure: str | None = None


async def record_lost_ends(
    request: ProbeRequest, context: ReaderContext, records: TaskHubRecords, period: StartPeriod
) -> LongActive:
    """Look up instances of this period that the `records` hold active, and record which of them have ended. Does not
    raise if the task hub cannot be read."""
    candidates = period.select(records.activity.active)
    others = candidates[_OLDEST_COUNT:]
    batches = (candidates[:_OLDEST_COUNT], tuple(random.sample(others, min(_SAMPLE_COUNT, len(others)))))
    active_ids: set[str] = set()
    failure: str | None = None
    reader = TaskHubReader(request, context, records)
    try:
        for batch in filter(None, batches):
            active_ids |= await _look_up(batch, request, context, reader)
    except BackendError as error:
        failure = error.message
    except TimeoutError:
        failure = "its provider did not answer in time"
    finally:
        await reader.release()
    return LongActive(next((item for item in candidates if item.instance_id in active_ids), None), failure)


async def _look_up(
    batch: tuple[ActiveInstance, ...], request: ProbeRequest, context: ReaderContext, reader: TaskHubReader
) -> set[str]:
    """Look up these instances, record those that have ended, and return the ids of those that the task hub shows
    active. Raises BackendError, and TimeoutError after the deadline."""
    state = ReadState(request.requirements(for_verdict=True))
    step: LookUp | CountMessages | Correct = LookUp(batch)
    while not isinstance(step, Correct):
        state = await reader.take(step, state)
        assert state.batch is not None, "a look-up leaves its batch"
        step = plan_batch(state.batch, backend_id=request.backend_id, now=context.clock.now())
    await reader.take(step, replace(state, batch=None))
    return {instance.instance_id for instance in step.active}
