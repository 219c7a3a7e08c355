"""The rules of time: whether what was read of a task hub is still valid, and whether the task hub has settled.

The verdict and the planner of reads both call these functions, so that a probe that the planner accepts is never stale
in the verdict.
"""

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.policy import Policy

STAMP_TOLERANCE = seconds(2)
"""Maximum difference between the stamps of rows and the time that the storage reports (docs/correctness.md, A2)."""


def is_probe_valid(
    probe: ProbeResult, activity: InstanceActivity, policy: Policy, now: Instant, *, seen_before: bool = True
) -> bool:
    """Whether the probe proves what it says: it is complete, recent, and began after everything that is recorded.

    A probe that found no task hub is valid too if the policy allows missing task hubs and this one was never seen.
    All times are by the state storage's clock.
    """
    missing_is_drained = probe.status is ProbeStatus.MISSING and policy.missing_task_hub_is_drained and not seen_before
    if probe.status is not ProbeStatus.COMPLETE and not missing_is_drained:
        return False
    return is_recent(probe.began_at, policy, now) and not is_superseded(
        probe.began_at, probe.correction_epoch, activity, policy
    )


def is_recent(began_at: Instant, policy: Policy, now: Instant) -> bool:
    """Whether a read that began then is younger than the freshness. A time in the future is never valid."""
    return 0 <= now - began_at < seconds(policy.freshness_seconds)


def is_superseded(began_at: Instant, correction_epoch: str, activity: InstanceActivity, policy: Policy) -> bool:
    """Whether the records have changed in a way that a read which began then may have missed.

    Either an event was recorded since. Or a look-up has closed instances since, which shows as another
    `correction_epoch`: such an instance may have started another one before it ended.
    """
    if correction_epoch != activity.correction_epoch:
        return True
    return remaining_supersession_ticks(activity, policy, began_at) > 0


def remaining_supersession_ticks(activity: InstanceActivity, policy: Policy, now: Instant) -> int:
    """Ticks of 100 ns until a read can begin that the last recorded event does not supersede; 0 or less after that."""
    last = activity.last_recorded_at
    # An app with a shorter settle window accepts that smaller differences of the clocks decide.
    return 0 if last is None else last + min(STAMP_TOLERANCE, seconds(policy.settle_seconds)) + 1 - now


def has_settled(activity: InstanceActivity, policy: Policy, now: Instant) -> bool:
    """Whether no event was recorded within the settle window."""
    return remaining_settle_ticks(activity, policy, now) <= 0


def remaining_settle_ticks(activity: InstanceActivity, policy: Policy, now: Instant) -> int:
    """Ticks of 100 ns until the settle window ends; 0 or less after that. At most the whole window, although `now` can
    be slightly behind the clock that stamped the last event."""
    last = activity.last_recorded_at
    window = seconds(policy.settle_seconds)
    return 0 if last is None else min(window, last + window - now)
