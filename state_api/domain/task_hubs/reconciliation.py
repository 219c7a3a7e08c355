"""Reconciliation: how a probe corrects the records, by evidence like that of events. docs/correctness.md has the
argument.

The evidence of a probe is dated immediately after what it contradicts. So every later event takes precedence over it,
even if another clock dates that event.
"""

from dataclasses import replace
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Finished, Instance, RuntimeStatus, Started
from state_api.domain.task_hubs.observations import ObservedInstance

CLOCK_SKEW = seconds(1)
"""Maximum difference between the clocks of workers and storage. They differ by milliseconds (docs/platform.md)."""

START_GRACE_PERIOD = seconds(600)
"""How long a published start that the task hub does not show may still be a message, where messages cannot be seen. A
message whose worker died returns after five minutes (the provider's `ControlQueueVisibilityTimeout`)."""

PURGED_REASON = "not in the task hub any more"
"""The recorded reason of the end of an instance that the task hub does not show any more, because it was purged."""


class ObservedState(StrEnum):
    """What the task hub shows of an instance that the records hold active."""

    ACTIVE = "active"
    ENDED = "ended"
    UNCONFIRMED = "unconfirmed"
    """The published start is later than everything that the task hub shows of the instance.

    Either the start is not written yet, because the extension publishes before it checkpoints, or the instance was
    purged."""


def observe_state(started: Started, observed: ObservedInstance | None, backend_id: str = "") -> ObservedState:
    """What the task hub shows of a recorded start. `observed` is None if the task hub does not show the instance.

    The `backend_id` identifies where the task hub was read. Pass the start as the records held it before that read,
    because a confirmation since then proves nothing about the earlier read.
    """
    if observed is not None and observed.active:
        return ObservedState.ACTIVE
    if started.source is EvidenceSource.PROBE or (backend_id and started.confirmed_backend == backend_id):
        # The task hub itself has shown this start before. Only instances that have ended are purged.
        return ObservedState.ENDED
    if observed is None or observed.updated_at < started.at - CLOCK_SKEW:
        return ObservedState.UNCONFIRMED
    return ObservedState.ENDED


def confirm_start(
    started: Started, observed: ObservedInstance, *, backend_id: str, observed_at: Instant
) -> Started | None:
    """The start, confirmed by this backend. None if it is confirmed already, or if `observed` may be an earlier run of
    the same instance id.

    `observed_at` is a time before the read, by the storage's clock. The start must be older than it by CLOCK_SKEW: then
    every start that is published after the read is later than this one. And the instance must have been written since
    the start was published.
    """
    if started.source is EvidenceSource.PROBE or started.confirmed_backend == backend_id or not backend_id:
        return None
    is_older_than_read = observed_at >= started.at + CLOCK_SKEW
    is_written_since = observed.updated_at >= started.at - CLOCK_SKEW
    if not (observed.active and is_older_than_read and is_written_since):
        return None
    return replace(started, confirmed_backend=backend_id)


def is_recent_start(started: Started, now: Instant) -> bool:
    """Whether an unconfirmed start may still be a message, where messages cannot be seen."""
    return now - started.at < START_GRACE_PERIOD


def reconcile_end(instance: Instance, observed: ObservedInstance | None) -> Instance:
    """The end to record of an instance that the records hold active and the task hub does not.

    It ends the recorded start and no later one."""
    assert instance.started is not None, "only a started instance ends"
    at, outcome, reason = instance.started.at, RuntimeStatus.CANCELED, PURGED_REASON
    if observed is not None:
        at = max(at, Instant(observed.updated_at - CLOCK_SKEW))
        outcome, reason = observed.runtime_status, ""
    finished = Finished(at, outcome, reason, instance.function_name, EvidenceSource.PROBE)
    return Instance(instance.instance_id, finished=finished)


def reconcile_start(recorded: Instance | None, observed: ObservedInstance, now: Instant) -> Instance | None:
    """The start to record of an instance that the task hub shows active.

    None if the records hold it active under the same function name. Another name counts as missing, because the policy
    may ignore the recorded name.
    """
    if recorded is not None and recorded.active and observed.function_name in ("", recorded.function_name):
        return None
    at = min(observed.created_at, now)
    if recorded is not None:
        at = Instant(recorded.last_event_at + 1)
    started = Started(at, observed.runtime_status, observed.function_name, EvidenceSource.PROBE)
    return replace(recorded or Instance(observed.instance_id), started=started)
