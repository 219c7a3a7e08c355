"""What a probe must satisfy to answer a request, and which results and scans do.

The planner decides by these rules whether to read a task hub, and readers whether to resume and store a scan.
"""

from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant, seconds
from state_api.domain.readiness.evidence import InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.scans import Scan
from state_api.domain.readiness.validity import has_settled, is_probe_valid, is_recent, is_superseded

CLOCK_TOLERANCE = seconds(1)
"""How far a server's lower bound may be ahead of the state storage's time, because the clock of its machine has gained
(docs/correctness.md, Two bounds of one clock)."""

LARGE_HUB_READ_SECONDS = 30.0
"""A task hub that takes this long to read is too large to be read from the beginning for every request."""


class VerificationMode(StrEnum):
    """How a verdict is to be verified.

    - `fresh`: by what is read after the request.
    - `cached`: a recent result is enough. Without one, the task hub is read.
    - `none`: by what is known already. The task hub is not read.
    """

    FRESH = "fresh"
    CACHED = "cached"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ReadRequirements:
    """What a probe must satisfy to answer one request.

    - `request_key`: the settings, policy and exemptions that the probe must be read under.
    - `requested_at`: a time after the request, by the state storage's clock.
    - `must_begin_after`: a time by the state storage's clock. A probe that began earlier does not count, not even one
      of a large task hub.
    - `for_verdict`: False for a list of what is active. A list needs no look-ups, and events that were recorded since
      do not invalidate it.
    """

    request_key: str
    provider: str
    backend_id: str
    policy: Policy
    exemptions: Exemptions
    mode: VerificationMode
    requested_at: Instant
    for_verdict: bool = True
    must_begin_after: Instant = Instant(0)


def must_wait(result: ProbeResult | None, now: Instant) -> bool:
    """Whether the backend has asked not to be read before a later time."""
    if result is None or result.retry_after_seconds is None:
        return False
    return now < (result.ended_at or result.began_at) + seconds(result.retry_after_seconds)


def is_scan_useful(activity: InstanceActivity, policy: Policy, now: Instant) -> bool:
    """Whether a scan that begins now can make the verdict Ready: it must begin after the settle window."""
    return has_settled(activity, policy, now) and not is_superseded(now, activity.correction_epoch, activity, policy)


def _certainly_began_after(began_at: Instant, moment: Instant) -> bool:
    """Whether a probe certainly began after a moment that another server may have noted."""
    return began_at >= moment + CLOCK_TOLERANCE


def is_fresh_enough(result: ProbeResult, requirements: ReadRequirements) -> bool:
    """Whether the result of another request, or of an earlier read of the same one, is as fresh as the request demands.

    What the request reads by itself always is, so it is not asked here."""
    if not _certainly_began_after(result.began_at, requirements.must_begin_after):
        return False
    if requirements.mode is not VerificationMode.FRESH:
        return True
    if _certainly_began_after(result.began_at, requirements.requested_at):
        return True
    # A large task hub is not read in one request. The scan that this request completes is as fresh as possible.
    is_large = result.resumed and result.read_seconds >= LARGE_HUB_READ_SECONDS
    return is_large and result.ended_at is not None and result.ended_at >= requirements.requested_at


def answers(
    result: ProbeResult | None, requirements: ReadRequirements, activity: InstanceActivity, now: Instant
) -> bool:
    """Whether the result answers the request, so that the task hub need not be read.

    A verdict never becomes Ready by a result that found something active or about to start, nor by one that the records
    supersede.
    """
    if result is None or result.status is not ProbeStatus.COMPLETE or result.request_key != requirements.request_key:
        return False
    if not is_fresh_enough(result, requirements):
        return False
    if requirements.for_verdict:
        return not result.found_blocking and is_probe_valid(result, activity, requirements.policy, now)
    return is_recent(result.began_at, requirements.policy, now)


def can_resume(scan: Scan, requirements: ReadRequirements, activity: InstanceActivity, now: Instant) -> bool:
    """Whether a stored scan can still answer the request.

    A stored scan cannot answer the request in these cases:

    - The scan was read under another key.
    - The records supersede the scan.
    - The scan is older than the freshness, and reading has taken less than half of that time.
    - The request demands a fresh read, the scan began before the request, and the task hub is not large.
    - The scan began before the time after which the request demands it.
    """
    freshness = requirements.policy.freshness_seconds
    is_young = now - scan.began_at < seconds(freshness) or scan.read_seconds >= freshness / 2
    is_fresh = (
        requirements.mode is not VerificationMode.FRESH
        or scan.read_seconds >= LARGE_HUB_READ_SECONDS
        or _certainly_began_after(scan.began_at, requirements.requested_at)
    )
    is_outdated = requirements.for_verdict and is_superseded(
        scan.began_at, scan.correction_epoch, activity, requirements.policy
    )
    is_late_enough = _certainly_began_after(scan.began_at, requirements.must_begin_after)
    is_allowed = is_young and is_fresh and is_late_enough
    return scan.request_key == requirements.request_key and is_allowed and not is_outdated


def replaces_last_result(result: ProbeResult) -> bool:
    """Whether this result is stored in place of the last one.

    An incomplete result is stored only if it found an active instance or a pending start: the records may lack that
    instance, so no earlier result may answer any more.
    """
    return result.status is not ProbeStatus.INCOMPLETE or result.found_blocking
