"""The verdict: may the code in this slot be overwritten? Pure: evidence, policy and the time in, verdict out.

`Ready` needs every condition; whatever is missing, cut short, too old or failed is a reason for `NotReady`.
"""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from state_api.domain.instants import Instant, format_duration, format_instant, seconds
from state_api.domain.lifecycle import Instance, RuntimeStatus, Source

ACTIVE_LIMIT = 1000
"""Active instances that are counted one by one; above it the count is a lower bound (DESIGN: HTTP contract)."""

POLL_SECONDS = 10
"""What a caller is told to wait before it asks again, where nothing better is known."""


class Reason(StrEnum):
    """The reason codes. Pipelines rely on them: they are never renamed."""

    INSTANCES_ACTIVE = "InstancesActive"
    SETTLING = "Settling"
    DEPLOYMENT_IN_PROGRESS = "DeploymentInProgress"
    VERIFICATION_REQUIRED = "VerificationRequired"
    PROBE_PENDING = "ProbePending"
    PROBE_FAILED = "ProbeFailed"
    PROBE_INCOMPLETE = "ProbeIncomplete"
    PROBE_STALE = "ProbeStale"


REASONS: dict[Reason, str] = {
    Reason.INSTANCES_ACTIVE: "Orchestration instances are active on the slot's task hub.",
    Reason.SETTLING: "A lifecycle event was recorded within the settle window; late and follow-up events may come.",
    Reason.DEPLOYMENT_IN_PROGRESS: "Another run has staged a task hub in this app and has not swapped or abandoned it.",
    Reason.VERIFICATION_REQUIRED: "The policy requires verification, but no probe of the task hub is configured.",
    Reason.PROBE_PENDING: "A probe of the task hub is configured but has no result yet.",
    Reason.PROBE_FAILED: "The task hub's own storage could not be read.",
    Reason.PROBE_INCOMPLETE: "The probe has not read the whole task hub.",
    Reason.PROBE_STALE: "The last complete probe is older than the freshness, or began before the last event.",
}
"""What each code means, for the documentation."""


class Assurance(StrEnum):
    """What a verdict rests on: lifecycle events alone, or a read of the task hub's own storage as well."""

    EVENTS = "events"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class Retention:
    """Which retired hubs cleanup leaves alone: the `keep_last` youngest, and those retired less than
    `keep_for_hours` ago."""

    keep_last: int = 0
    keep_for_hours: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What an app asks of a verdict, with the documented defaults.

    `settle_seconds`: how long the hub must have been quiet. `freshness_seconds`: how old a probe may be.
    `require_verification`: never Ready without a probe. `deployment_timeout_minutes`: when an open deployment is
    taken for dead. `ignore_functions`: name patterns (`*`, `?`, `[…]`, case-sensitive) of orchestrators that may
    stay active.
    """

    settle_seconds: int = 30
    freshness_seconds: int = 120
    require_verification: bool = False
    deployment_timeout_minutes: int = 60
    ignore_functions: tuple[str, ...] = ()
    retention: Retention = Retention()

    def ignores(self, function_name: str) -> bool:
        return any(fnmatchcase(function_name, pattern) for pattern in self.ignore_functions)


@dataclass(frozen=True, slots=True)
class ActiveInstance:
    """An instance that blocks, or would block, a deployment."""

    instance_id: str
    function_name: str
    runtime_status: RuntimeStatus
    started_at: Instant
    last_event_at: Instant
    source: Source

    @classmethod
    def of(cls, instance: Instance) -> "ActiveInstance":
        """An active instance as a verdict shows it. Raises ValueError if it is not active."""
        if instance.started is None or not instance.active:
            raise ValueError(f"instance {instance.instance_id} is not active")
        return cls(
            instance.instance_id,
            instance.function_name,
            instance.runtime_status,
            instance.started.at,
            instance.last_event_at,
            instance.source,
        )


class ProbeStatus(StrEnum):
    """How a read of the task hub's own storage ended."""

    COMPLETE = "Complete"
    INCOMPLETE = "Incomplete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a read of the task hub's own storage saw. `scanned` counts rows; `message` says what to mend when it
    failed or how far it came when it is incomplete."""

    status: ProbeStatus
    provider: str
    began_at: Instant
    active: tuple[ActiveInstance, ...] = ()
    scanned: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class OpenDeployment:
    """The open deployment of another run, as far as a verdict needs it."""

    task_hub: str
    by: str
    run_url: str | None
    started_at: Instant


@dataclass(frozen=True, slots=True)
class Activity:
    """What the recorded events show of one task hub.

    `active` holds the oldest first, up to ACTIVE_LIMIT; `more` says that there are others. Whoever reads a hub leaves
    out what the policy ignores while it counts, and reports it as `ignored`, so that a thousand instances that may
    stay active never hide one that may not. `last_event_at` is the
    publisher's time of the last event, `last_recorded_at` the storage's time of the last write that changed
    something: the second is what the settle window counts from, because it also covers events that came late.
    """

    active: tuple[ActiveInstance, ...] = ()
    more: bool = False
    ignored_count: int = 0
    last_event_at: Instant | None = None
    last_recorded_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a verdict rests on. `task_hub` is None for an empty slot; `provider` is None where no probe is
    configured, and `probe` is None until it has a result."""

    task_hub: str | None
    activity: Activity = Activity()
    provider: str | None = None
    probe: ProbeResult | None = None
    deployment: OpenDeployment | None = None


@dataclass(frozen=True, slots=True)
class ReasonGiven:
    code: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with what it rests on. `active` are the blocking instances, oldest first; `ignored_count` says how
    many active ones the policy leaves out. `active_count` is exact unless `active_count_is_lower_bound`."""

    ready: bool
    assurance: Assurance
    reasons: tuple[ReasonGiven, ...]
    active: tuple[ActiveInstance, ...]
    active_count: int
    active_count_is_lower_bound: bool
    ignored_count: int
    evidence: Evidence
    checked_at: Instant
    retry_after_seconds: int | None

    @property
    def has_running(self) -> bool:
        """About instances alone: another run's open deployment does not count."""
        return self.active_count > 0


def assess(evidence: Evidence, policy: Policy, now: Instant) -> Verdict:
    """Judge the evidence. Fails closed: whatever is not known to be good is a reason for NotReady.

    `now` must be of the clock that `last_recorded_at` and the probe's times are of.
    """
    blocking = _blocking(evidence, policy)
    active = blocking[:ACTIVE_LIMIT]
    more = evidence.activity.more or len(blocking) > ACTIVE_LIMIT
    count = max(len(active), 1) if more else len(active)
    reasons: list[ReasonGiven] = []
    if evidence.deployment is not None:
        reasons.append(_deployment_reason(evidence.deployment, now))
    if evidence.task_hub is not None:
        if count:
            reasons.append(_active_reason(evidence.task_hub, active, count, more, now))
        elif (wait := _settle_ticks(evidence, policy, now)) > 0:
            reasons.append(_settling_reason(evidence, policy, wait))
        if (reason := _probe_reason(evidence, policy, now)) is not None:
            reasons.append(reason)
    verified = evidence.task_hub is not None and _probe_is_good(evidence, policy, now)
    return Verdict(
        ready=not reasons,
        assurance=Assurance.VERIFIED if verified else Assurance.EVENTS,
        reasons=tuple(reasons),
        active=active,
        active_count=count,
        active_count_is_lower_bound=more,
        ignored_count=_ignored(evidence, policy),
        evidence=evidence,
        checked_at=now,
        retry_after_seconds=_retry_after(reasons, evidence, policy, now),
    )


def _blocking(evidence: Evidence, policy: Policy) -> tuple[ActiveInstance, ...]:
    """What events and probe show together, oldest first, each instance once. One that either of them shows under a name
    that is not ignored blocks, whatever the other calls it."""
    known = {
        one.instance_id: one
        for shown in (_probed(evidence), evidence.activity.active)
        for one in shown
        if not policy.ignores(one.function_name)
    }
    return tuple(sorted(known.values(), key=lambda one: (one.started_at, one.instance_id)))


def _ignored(evidence: Evidence, policy: Policy) -> int:
    """How many active instances the policy leaves out; events and probe may show the same ones."""
    by_events = sum(policy.ignores(one.function_name) for one in evidence.activity.active)
    by_probe = sum(policy.ignores(one.function_name) for one in _probed(evidence))
    return max(evidence.activity.ignored_count + by_events, by_probe)


def _probed(evidence: Evidence) -> tuple[ActiveInstance, ...]:
    return evidence.probe.active if evidence.probe is not None else ()


def _settle_ticks(evidence: Evidence, policy: Policy, now: Instant) -> int:
    """Ticks until the settle window is over; 0 or less once it is. Never more than the window: `now` may be a little
    behind the clock that stamped the last event."""
    last = evidence.activity.last_recorded_at
    window = seconds(policy.settle_seconds)
    return 0 if last is None else min(window, last + window - now)


def _probe_reason(evidence: Evidence, policy: Policy, now: Instant) -> ReasonGiven | None:
    if evidence.provider is None:
        if not policy.require_verification:
            return None
        return ReasonGiven(
            Reason.VERIFICATION_REQUIRED,
            "the app's policy requires verification, but no probe of its task hubs is configured; "
            "configure taskHubs, or set requireVerification to false",
        )
    probe = evidence.probe
    if probe is None:
        return ReasonGiven(
            Reason.PROBE_PENDING, f"task hub {evidence.task_hub} has not been verified by {evidence.provider} yet"
        )
    if probe.status is ProbeStatus.FAILED:
        return ReasonGiven(Reason.PROBE_FAILED, f"task hub {evidence.task_hub} could not be read: {probe.message}")
    if probe.status is ProbeStatus.INCOMPLETE:
        return ReasonGiven(
            Reason.PROBE_INCOMPLETE,
            f"the probe of task hub {evidence.task_hub} has read {probe.scanned} rows and is not done: {probe.message}",
        )
    if not _probe_is_good(evidence, policy, now):
        return ReasonGiven(
            Reason.PROBE_STALE,
            f"the last complete probe of task hub {evidence.task_hub} began at {format_instant(probe.began_at)}; "
            f"it must be younger than {policy.freshness_seconds} s and have begun after the last event",
        )
    return None


def _probe_is_good(evidence: Evidence, policy: Policy, now: Instant) -> bool:
    probe = evidence.probe
    if probe is None or evidence.provider is None or probe.status is not ProbeStatus.COMPLETE:
        return False
    last = evidence.activity.last_recorded_at
    # Its time is of the same clock as `now`; one that is yet to come is wrong and proves nothing.
    young = 0 <= now - probe.began_at < seconds(policy.freshness_seconds)
    return young and (last is None or probe.began_at > last)


def _active_reason(
    task_hub: str, active: tuple[ActiveInstance, ...], count: int, more: bool, now: Instant
) -> ReasonGiven:
    number = f"at least {count}" if more else str(count)
    noun = "orchestration instance is" if number == "1" else "orchestration instances are"
    message = f"{number} {noun} active on task hub {task_hub}"
    if active:
        oldest = active[0]
        name = f"{oldest.function_name} {oldest.instance_id}".strip()
        message += f"; the oldest, {name}, for {format_duration(now - oldest.started_at)}"
    return ReasonGiven(Reason.INSTANCES_ACTIVE, message)


def _settling_reason(evidence: Evidence, policy: Policy, wait: int) -> ReasonGiven:
    return ReasonGiven(
        Reason.SETTLING,
        f"the last event of task hub {evidence.task_hub} was recorded less than {policy.settle_seconds} s ago; "
        f"quiet for {_whole_seconds(wait)} s more, it counts as drained",
    )


def _deployment_reason(deployment: OpenDeployment, now: Instant) -> ReasonGiven:
    run = f", run {deployment.run_url}" if deployment.run_url else ""
    return ReasonGiven(
        Reason.DEPLOYMENT_IN_PROGRESS,
        f"{deployment.by}{run} has been deploying task hub {deployment.task_hub} "
        f"for {format_duration(now - deployment.started_at)}",
    )


def _retry_after(reasons: list[ReasonGiven], evidence: Evidence, policy: Policy, now: Instant) -> int | None:
    if not reasons:
        return None
    if [reason.code for reason in reasons] == [Reason.SETTLING]:
        return max(1, _whole_seconds(_settle_ticks(evidence, policy, now)))
    return POLL_SECONDS


def _whole_seconds(ticks: int) -> int:
    return -(-ticks // seconds(1))
