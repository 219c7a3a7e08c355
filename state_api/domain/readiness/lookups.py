"""Look-ups: reads of only those instances that the records hold active.

The instances are looked up in batches. If the task hub does not show a start, the start is either still a message or
was purged. Such instances are looked up a second time, after the control queues were read. A start that has left the
queues by then has been written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.readiness.scans import to_active_instance
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import ObservedState, is_recent_start, observe_state, reconcile_end

LOOKUP_BATCH_SIZE = 16
"""The number of active instances in the first look-up, the oldest ones. It is small, because one instance that is
still active decides the verdict."""

_MAX_LOOKUP_BATCH_SIZE = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """Active instances that are looked up together, and what the task hub has shown of them.

    - `observed`: the result of the first look. None for an instance that the task hub does not show.
    - `sees_messages`: whether a start that is only a message can be seen.
    - `queued_messages`: the number of messages in the control queues after the first look. None if they were not
      counted.
    - `recorded_starts`: the starts of unconfirmed instances as the records held them before the second look, with their
      confirmations. Read only where messages cannot be seen.
    - `observed_again`: the result of the second look.
    """

    instances: tuple[ActiveInstance, ...]
    observed: Mapping[str, ObservedInstance | None]
    sees_messages: bool
    queued_messages: int | None = None
    recorded_starts: Mapping[str, Started] = field(default_factory=dict)
    observed_again: Mapping[str, ObservedInstance | None] | None = None

    @property
    def unconfirmed(self) -> tuple[ActiveInstance, ...]:
        """The instances whose start the first look did not show."""
        return tuple(
            instance
            for instance in self.instances
            if observe_state(start_of(instance), self.observed[instance.instance_id]) is ObservedState.UNCONFIRMED
        )

    @property
    def needs_second_look(self) -> bool:
        """Whether unconfirmed instances must be looked up again."""
        return self.observed_again is None and bool(self.unconfirmed)

    def after_second_look(
        self, observed: Mapping[str, ObservedInstance | None], recorded_starts: Mapping[str, Started]
    ) -> "Batch":
        """The batch with the outcome of the second look."""
        return replace(self, observed_again=observed, recorded_starts=recorded_starts)


@dataclass(frozen=True, slots=True)
class BatchAssessment:
    """The assessment of a batch after its look-ups.

    - `ended`: the ends to record.
    - `pending`: starts that the task hub does not show while its control queues hold messages.
    - `active`: the instances that the task hub shows active.
    - `is_undecided`: other instances of the batch have not ended, or may not have.
    - `absence_counts`: an instance ends because the task hub does not show it, so the backend must be the right one.
    - `event_instance_found`: the task hub shows an instance that events reported, so the backend is the right one.
    """

    ended: tuple[Instance, ...]
    pending: tuple[ActiveInstance, ...]
    active: tuple[ActiveInstance, ...]
    is_undecided: bool
    absence_counts: bool
    event_instance_found: bool


def next_batch(active: Sequence[ActiveInstance], position: int) -> tuple[ActiveInstance, ...]:
    """The instances to look up after the first `position` ones. Each batch is twice as large as the one before, up to
    128 instances."""
    size = min(LOOKUP_BATCH_SIZE + position, _MAX_LOOKUP_BATCH_SIZE)
    return tuple(active[position : position + size])


def assess_batch(batch: Batch, *, backend_id: str, now: Instant) -> BatchAssessment:
    """Decide for each instance of a batch whether it has ended."""
    observed = {**batch.observed, **(batch.observed_again or {})}
    states = {
        instance.instance_id: observe_state(start_of(instance), batch.observed[instance.instance_id])
        for instance in batch.instances
    }
    if batch.observed_again is not None:
        for instance in batch.unconfirmed:
            started = batch.recorded_starts.get(instance.instance_id, start_of(instance))
            states[instance.instance_id] = observe_state(started, observed[instance.instance_id], backend_id)
    unconfirmed = [
        instance for instance in batch.instances if states[instance.instance_id] is ObservedState.UNCONFIRMED
    ]
    pending: list[ActiveInstance] = []
    recent: list[ActiveInstance] = []
    if not batch.sees_messages:
        recent = [instance for instance in unconfirmed if is_recent_start(start_of(instance), now)]
    elif batch.queued_messages:
        pending = unconfirmed
    blocking = {instance.instance_id for instance in (*pending, *recent)}
    ended = [
        instance
        for instance in batch.instances
        if states[instance.instance_id] is not ObservedState.ACTIVE and instance.instance_id not in blocking
    ]
    return BatchAssessment(
        ended=tuple(record_end(instance, observed[instance.instance_id]) for instance in ended),
        pending=tuple(pending),
        active=tuple(
            to_active_instance(instance) for instance in observed.values() if instance is not None and instance.active
        ),
        is_undecided=len(ended) + len(pending) < len(batch.instances),
        absence_counts=len(unconfirmed) > len(blocking),
        event_instance_found=any(
            instance.source is EvidenceSource.EVENT and observed[instance.instance_id] is not None
            for instance in batch.instances
        ),
    )


def record_end(instance: ActiveInstance, observed: ObservedInstance | None) -> Instance:
    """The end to record of an instance that the records hold active; `observed` is None if it was purged."""
    return reconcile_end(Instance(instance.instance_id, start_of(instance)), observed)


def start_of(instance: ActiveInstance) -> Started:
    """The recorded start, without confirmation."""
    return Started(instance.started_at, instance.runtime_status, instance.function_name, instance.source)
