"""How what a probe saw corrects the records, as evidence like any other. docs/correctness.md has the argument.

The evidence of a probe is placed right after what it contradicts, never later: whatever happens next wins over it, by
whichever clock it is told.
"""

from dataclasses import replace
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Finished, Instance, RuntimeStatus, Started
from state_api.domain.task_hubs.observations import ObservedInstance

CLOCK_SKEW = seconds(1)
"""How far the clocks of workers and storage may differ; they do by milliseconds (PLATFORM: Lifecycle events 8)."""

START_GRACE_PERIOD = seconds(600)
"""How long a start that was published and is not in the task hub yet may still come up: a message that died with its
worker comes back after five minutes (the provider's `ControlQueueVisibilityTimeout`)."""

PURGED_REASON = "not in the task hub any more"
"""The reason of an end that shows only by the instance's absence: it was purged."""


class ObservedState(StrEnum):
    """What the task hub says of an instance that the records hold active."""

    ACTIVE = "active"
    ENDED = "ended"
    UNCONFIRMED = "unconfirmed"
    """The start that was published is later than all that the task hub holds of it: either it has yet to be written,
    because the extension publishes before it checkpoints, or it has been purged."""


def observe_state(started: Started, observed: ObservedInstance | None, place: str = "") -> ObservedState:
    """Judge a start by what the task hub shows of its instance now; None if it shows nothing. `place` is where the task
    hub was read. `started` must have been known before it was read: what confirms a start since then says nothing of
    an earlier look."""
    if observed is not None and observed.active:
        return ObservedState.ACTIVE
    if started.source is EvidenceSource.PROBE or (place and started.confirmed_backend == place):
        # The task hub itself has shown this start before. Only instances that have ended are purged.
        return ObservedState.ENDED
    if observed is None or observed.updated_at < started.at - CLOCK_SKEW:
        return ObservedState.UNCONFIRMED
    return ObservedState.ENDED


def record_seen(started: Started, observed: ObservedInstance, place: str, looked_at: Instant) -> Started | None:
    """The start with the place that has shown it; None if it is confirmed there already, or if what is shown may be an
    earlier run of the same instance id.

    `looked_at` is a moment before the look, by the storage's clock. The start must be older than it by what clocks can
    differ: then every start that is published after the look is later than this one. And the instance must have been
    written since the start was published.
    """
    if started.source is EvidenceSource.PROBE or started.confirmed_backend == place or not place:
        return None
    if not observed.active or looked_at < started.at + CLOCK_SKEW or observed.updated_at < started.at - CLOCK_SKEW:
        return None
    return replace(started, confirmed_backend=place)


def is_recent_start(started: Started, now: Instant) -> bool:
    """Whether an unconfirmed start may still come up where nobody can see the task hub's messages."""
    return now - started.at < START_GRACE_PERIOD


def reconcile_end(instance: Instance, observed: ObservedInstance | None) -> Instance:
    """The end that the task hub shows, of an instance that the records hold active: an end of this start and of no
    later one."""
    assert instance.started is not None, "only a started instance ends"
    at, outcome, reason = instance.started.at, RuntimeStatus.CANCELED, PURGED_REASON
    if observed is not None:
        at = max(at, Instant(observed.updated_at - CLOCK_SKEW))
        outcome, reason = observed.runtime_status, ""
    finished = Finished(at, outcome, reason, instance.function_name, EvidenceSource.PROBE)
    return Instance(instance.instance_id, finished=finished)


def reconcile_start(known: Instance | None, observed: ObservedInstance, now: Instant) -> Instance | None:
    """The start that the records lack, given that the task hub shows this instance active; None if they show it
    active too, under the same name: another may be one that the policy ignores."""
    if known is not None and known.active and observed.function_name in ("", known.function_name):
        return None
    at = min(observed.created_at, now)
    if known is not None:
        at = Instant(known.last_event_at + 1)
    started = Started(at, observed.runtime_status, observed.function_name, EvidenceSource.PROBE)
    return replace(known or Instance(observed.instance_id), started=started)
