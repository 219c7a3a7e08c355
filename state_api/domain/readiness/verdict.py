"""The verdict: may the code in this slot be overwritten? Pure: evidence, policy and the time in, verdict out.

`Ready` needs every condition; whatever is missing, cut short, too old or failed is a reason for `NotReady`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from state_api.domain.instants import Instant, format_duration, format_instant, seconds
from state_api.domain.readiness.evidence import (
    ACTIVE_LIMIT,
    ActiveInstance,
    Evidence,
    InstanceActivity,
    OpenDeployment,
    OpenSwap,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.readiness.exemptions import Exemptions, Waiver
from state_api.domain.readiness.messages import MessageEvidence

MAX_RETRY_AFTER_SECONDS = 300
"""However long a task hub's storage asks to wait, it is asked again after this."""

STAMP_TOLERANCE = seconds(2)
"""How far the stamps of rows and the time that the storage tells may differ (docs/correctness.md, A2)."""

DEFAULT_RETRY_AFTER_SECONDS = 10
"""What a caller is told to wait before it asks again, where nothing better is known."""


class ReasonCode(StrEnum):
    """The reason codes. Pipelines rely on them: they are never renamed."""

    INSTANCES_ACTIVE = "InstancesActive"
    STARTS_PENDING = "StartsPending"
    SETTLING = "Settling"
    DEPLOYMENT_IN_PROGRESS = "DeploymentInProgress"
    SWAP_PENDING = "SwapPending"
    VERIFICATION_REQUIRED = "VerificationRequired"
    PROBE_PENDING = "ProbePending"
    PROBE_FAILED = "ProbeFailed"
    PROBE_DENIED = "ProbeDenied"
    PROBE_THROTTLED = "ProbeThrottled"
    TASK_HUB_MISSING = "TaskHubMissing"
    PROBE_INCOMPLETE = "ProbeIncomplete"
    PROBE_STALE = "ProbeStale"


REASON_DESCRIPTIONS: dict[ReasonCode, str] = {
    ReasonCode.INSTANCES_ACTIVE: "Orchestration instances are active on the slot's task hub.",
    ReasonCode.STARTS_PENDING: "Messages in the task hub's control queues start orchestrations, or may do so.",
    ReasonCode.SETTLING: "A lifecycle event was recorded within the settle window; late and follow-up events may come.",
    ReasonCode.DEPLOYMENT_IN_PROGRESS: "Another run has staged a task hub in this app and has not swapped or abandoned "
    "it.",
    ReasonCode.SWAP_PENDING: "A swap was begun and nobody has said how it went: which hub is in the slot is not known.",
    ReasonCode.VERIFICATION_REQUIRED: "The policy requires verification, but no probe of the task hub is configured.",
    ReasonCode.PROBE_PENDING: "A probe of the task hub is configured but has no result yet.",
    ReasonCode.PROBE_FAILED: "The task hub's own storage could not be read.",
    ReasonCode.PROBE_DENIED: "The task hub's own storage refuses this server.",
    ReasonCode.PROBE_THROTTLED: "The task hub's own storage asks to wait.",
    ReasonCode.TASK_HUB_MISSING: "The task hub does not exist where the app's task hubs live.",
    ReasonCode.PROBE_INCOMPLETE: "The probe has not read the whole task hub.",
    ReasonCode.PROBE_STALE: "The last complete probe is older than the freshness, or began before the last event or "
    "before instances were found ended of which no event had told.",
}
"""What each code means, for the documentation."""


class WarningCode(StrEnum):
    """The warning codes. A warning does not change a verdict: it says what the verdict cannot know."""

    EVENTS_ONLY = "EventsOnly"
    MESSAGES_UNSEEN = "MessagesUnseen"


WARNING_DESCRIPTIONS: dict[WarningCode, str] = {
    WarningCode.EVENTS_ONLY: "No provider is configured, so the verdict rests on lifecycle events alone.",
    WarningCode.MESSAGES_UNSEEN: "The control queues are not looked at: a start that is only a message is missed.",
}
"""What each code means, for the documentation."""


class Assurance(StrEnum):
    """What a verdict rests on: lifecycle events alone, or a read of the task hub's own storage as well."""

    EVENTS = "events"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
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
    stay active, and of entities. `missing_task_hub_is_drained`: a hub that does not exist at its provider, and that
    nothing was ever seen of, counts as drained. `message_visibility_seconds`: the app's `controlQueueVisibilityTimeout`
    (5 minutes unless its host.json says otherwise). `ignore_messages`: do not look at the control queues.
    """

    settle_seconds: int = 30
    freshness_seconds: int = 120
    require_verification: bool = False
    deployment_timeout_minutes: int = 60
    ignore_functions: tuple[str, ...] = ()
    retention: RetentionPolicy = RetentionPolicy()
    missing_task_hub_is_drained: bool = False
    message_visibility_seconds: int = 300
    ignore_messages: bool = False

    def ignores(self, function_name: str) -> bool:
        return Exemptions(self.ignore_functions).ignores(function_name)


@dataclass(frozen=True, slots=True)
class WaivedInstance:
    """An active instance that would block, were it not for a waiver."""

    active: ActiveInstance
    waiver: Waiver


@dataclass(frozen=True, slots=True)
class ReadinessReason:
    code: ReasonCode
    message: str


@dataclass(frozen=True, slots=True)
class ReadinessWarning:
    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with what it rests on. `active` are the blocking instances, oldest first; `ignored_count` says how
    many active ones the policy leaves out. `active_count` is exact unless `active_count_is_lower_bound`."""

    ready: bool
    assurance: Assurance
    reasons: tuple[ReadinessReason, ...]
    active: tuple[ActiveInstance, ...]
    active_count: int
    active_count_is_lower_bound: bool
    ignored_count: int
    evidence: Evidence
    checked_at: Instant
    retry_after_seconds: int | None
    waived: tuple[WaivedInstance, ...] = ()
    warnings: tuple[ReadinessWarning, ...] = ()
    starts_pending: bool = False

    @property
    def has_running(self) -> bool:
        """Whether an instance is active or about to start. Another run's open deployment does not count."""
        return self.active_count > 0 or self.starts_pending


def assess_readiness(evidence: Evidence, policy: Policy, now: Instant) -> Verdict:
    """Judge the evidence. Fails closed: whatever is not known to be good is a reason for NotReady.

    `now` must be of the clock that `last_recorded_at` and the probe's times are of.
    """
    # By now: one may have expired while the hub was read.
    in_force = tuple(waiver for waiver in evidence.waivers if now < waiver.expires_at)
    exemptions = Exemptions(policy.ignore_functions, in_force)
    shown = _merge_active_instances(evidence, policy, now)
    blocking = [one for one in shown if not exemptions.exempts(one.function_name, one.instance_id)]
    active = tuple(blocking[:ACTIVE_LIMIT])
    probed = _usable_probe(evidence, policy, now)
    has_more = (
        evidence.activity.has_more
        or len(blocking) > ACTIVE_LIMIT
        or _count_blocking(probed, exemptions) > len(blocking)
    )
    count = max(len(active), 1) if has_more else len(active)
    pending = probed.messages if probed is not None and probed.starts_pending else None
    reasons: list[ReadinessReason] = []
    if evidence.deployment is not None:
        reasons.append(_deployment_reason(evidence.deployment, now))
    if evidence.pending_swap is not None:
        reasons.append(_swap_reason(evidence.pending_swap, now))
    if evidence.task_hub is not None:
        wait = _remaining_settle_ticks(evidence, policy, now)
        if count:
            reasons.append(_active_reason(evidence.task_hub, active, count, has_more, now))
        elif wait > 0:
            reasons.append(_settling_reason(evidence, policy, wait))
        if pending is not None:
            reasons.append(_starts_reason(evidence.task_hub, pending, now))
        reason = _probe_reason(evidence, policy, now)
        if reason is not None and not ((count or wait > 0) and reason.code in _OMITTED_WHILE_NOT_SETTLED):
            reasons.append(reason)
    read = evidence.probe is not None and evidence.probe.status is ProbeStatus.COMPLETE
    verified = evidence.task_hub is not None and (
        evidence.active_instance_seen or (read and _is_probe_valid(evidence, policy, now))
    )
    return Verdict(
        ready=not reasons,
        assurance=Assurance.VERIFIED if verified else Assurance.EVENTS,
        reasons=tuple(reasons),
        active=active,
        active_count=count,
        active_count_is_lower_bound=has_more,
        ignored_count=_count_ignored(evidence, policy, now),
        evidence=evidence,
        checked_at=now,
        retry_after_seconds=_retry_after(reasons, evidence, policy, now),
        waived=_list_waived(shown, exemptions),
        warnings=_warnings(evidence, policy),
        starts_pending=pending is not None,
    )


_OMITTED_WHILE_NOT_SETTLED = frozenset({ReasonCode.PROBE_PENDING, ReasonCode.PROBE_INCOMPLETE, ReasonCode.PROBE_STALE})
"""What nobody needs to be told of a hub that is active or settling anyway: it is read through after that."""


def _merge_active_instances(evidence: Evidence, policy: Policy, now: Instant) -> list[ActiveInstance]:
    """What events and probe show active together, oldest first. One that either of them shows under a name that is not
    ignored is shown so, whatever the other calls it. Of one that both show, the probe knows status and version."""
    probed = _usable_probe(evidence, policy, now)
    by_probe = {one.instance_id: one for one in (*probed.active, *probed.waived)} if probed else {}
    looked_up = {one.instance_id: one for one in evidence.looked_up_instances}
    shown = dict(by_probe)
    for one in (*evidence.activity.active, *evidence.activity.waived):
        seen = looked_up.get(one.instance_id) or by_probe.get(one.instance_id)
        if seen is None:
            shown[one.instance_id] = one
        elif policy.ignores(seen.function_name) or seen.function_name == one.function_name:
            shown[one.instance_id] = replace(one, runtime_status=seen.runtime_status, version=seen.version)
        else:
            shown[one.instance_id] = seen
    return sorted(shown.values(), key=lambda one: (one.started_at, one.instance_id))


def _count_blocking(probed: ProbeResult | None, exemptions: Exemptions) -> int:
    """How many blocking instances the probe has counted."""
    if probed is None:
        return 0
    listed = (one for one in probed.active if not exemptions.exempts(one.function_name, one.instance_id))
    return sum(1 for _ in listed) + probed.unlisted_count


def _list_waived(shown: list[ActiveInstance], exemptions: Exemptions) -> tuple[WaivedInstance, ...]:
    waivers = ((one, exemptions.find_waiver(one.instance_id)) for one in shown)
    return tuple(
        WaivedInstance(one, waiver)
        for one, waiver in waivers
        if waiver is not None and not exemptions.ignores(one.function_name)
    )


def _count_ignored(evidence: Evidence, policy: Policy, now: Instant) -> int:
    """How many active instances the policy leaves out; events and probe may show the same ones."""
    by_events = sum(policy.ignores(one.function_name) for one in evidence.activity.active)
    probed = _usable_probe(evidence, policy, now)
    by_probe = 0
    if probed is not None:
        by_probe = probed.ignored_count + sum(policy.ignores(one.function_name) for one in probed.active)
    return max(evidence.activity.ignored_count + by_events, by_probe)


def _usable_probe(evidence: Evidence, policy: Policy, now: Instant) -> ProbeResult | None:
    """The probe, if what it saw still counts: not that of a complete one that is out of date, which is a reason of its
    own."""
    probe = evidence.probe
    if probe is None or _is_probe_stale(evidence, policy, now):
        return None
    return probe


def _is_probe_stale(evidence: Evidence, policy: Policy, now: Instant) -> bool:
    return (
        evidence.provider is not None
        and evidence.probe is not None
        and evidence.probe.status is ProbeStatus.COMPLETE
        and not _is_probe_valid(evidence, policy, now)
    )


def _remaining_settle_ticks(evidence: Evidence, policy: Policy, now: Instant) -> int:
    """Ticks until the settle window is over; 0 or less once it is. Never more than the window: `now` may be a little
    behind the clock that stamped the last event."""
    last = evidence.activity.last_recorded_at
    window = seconds(policy.settle_seconds)
    return 0 if last is None else min(window, last + window - now)


def _probe_reason(evidence: Evidence, policy: Policy, now: Instant) -> ReadinessReason | None:
    if evidence.provider is None:
        if not policy.require_verification:
            return None
        return ReadinessReason(
            ReasonCode.VERIFICATION_REQUIRED,
            "the app's policy requires verification, but no probe of its task hubs is configured; "
            "configure taskHubs, or set requireVerification to false",
        )
    probe = evidence.probe
    if probe is None:
        return ReadinessReason(
            ReasonCode.PROBE_PENDING, f"task hub {evidence.task_hub} has not been verified by {evidence.provider} yet"
        )
    if (reason := _FAILURE_REASONS.get(probe.status)) is not None and not _is_probe_valid(evidence, policy, now):
        message = f"task hub {evidence.task_hub} could not be read: {probe.message}"
        if (
            reason is ReasonCode.TASK_HUB_MISSING
            and not evidence.seen_before
            and not policy.missing_task_hub_is_drained
        ):
            message += (
                ". If a version that was staged and never started may be overwritten, set missingTaskHubIsDrained in "
                "the app's policy"
            )
        return ReadinessReason(reason, message)
    if probe.status is ProbeStatus.INCOMPLETE:
        return ReadinessReason(
            ReasonCode.PROBE_INCOMPLETE, f"the probe of task hub {evidence.task_hub} is not done: {probe.message}"
        )
    if _is_probe_stale(evidence, policy, now):
        message = (
            f"the last complete probe of task hub {evidence.task_hub} began at {format_instant(probe.began_at)}; "
            f"it must be younger than {policy.freshness_seconds} s and have begun after the last event"
        )
        if probe.correction_epoch != evidence.activity.correction_epoch:
            message += ", and instances were found ended since of which no event had told"
        if probe.read_seconds >= policy.freshness_seconds:
            message += (
                f". It took {probe.read_seconds} s to read this hub: set freshnessSeconds well above that, or purge "
                "finished instances"
            )
        return ReadinessReason(ReasonCode.PROBE_STALE, message)
    return None


_FAILURE_REASONS = {
    ProbeStatus.FAILED: ReasonCode.PROBE_FAILED,
    ProbeStatus.DENIED: ReasonCode.PROBE_DENIED,
    ProbeStatus.THROTTLED: ReasonCode.PROBE_THROTTLED,
    ProbeStatus.MISSING: ReasonCode.TASK_HUB_MISSING,
}


def _is_probe_valid(evidence: Evidence, policy: Policy, now: Instant) -> bool:
    probe = evidence.probe
    if probe is None or evidence.provider is None:
        return False
    nothing_there = (
        probe.status is ProbeStatus.MISSING and policy.missing_task_hub_is_drained and not evidence.seen_before
    )
    if probe.status is not ProbeStatus.COMPLETE and not nothing_there:
        return False
    # Its time is of the same clock as `now`; one that is yet to come is wrong and proves nothing.
    young = 0 <= now - probe.began_at < seconds(policy.freshness_seconds)
    return young and not is_superseded(probe.began_at, probe.correction_epoch, evidence.activity, policy)


def is_superseded(began_at: Instant, correction_epoch: str, activity: InstanceActivity, policy: Policy) -> bool:
    """Whether what was read from then on proves nothing any more: an event has told of something since; or, if the
    records had other `correction_epoch` before, a look-up has closed what ran, and it may have started another one."""
    if correction_epoch != activity.correction_epoch:
        return True
    last = activity.last_recorded_at
    # A shorter settle window trusts that the storage's clocks agree better.
    return last is not None and began_at <= last + min(STAMP_TOLERANCE, seconds(policy.settle_seconds))


def _active_reason(
    task_hub: str, active: tuple[ActiveInstance, ...], count: int, has_more: bool, now: Instant
) -> ReadinessReason:
    number = f"at least {count}" if has_more else str(count)
    noun = "orchestration instance is" if number == "1" else "orchestration instances are"
    message = f"{number} {noun} active on task hub {task_hub}"
    if active:
        oldest = active[0]
        name = f"{oldest.function_name} {oldest.instance_id}".strip()
        message += f"; the oldest, {name}, for {format_duration(now - oldest.started_at)}"
    return ReadinessReason(ReasonCode.INSTANCES_ACTIVE, message)


def _starts_reason(task_hub: str, messages: MessageEvidence, now: Instant) -> ReadinessReason:
    if messages.start_count or messages.more_visible:
        number = f"at least {messages.start_count}" if messages.more_visible else str(messages.start_count)
        noun = "message that starts work waits" if number == "1" else "messages that start work wait"
        message = f"{number} {noun} in the control queues of task hub {task_hub}"
        names = [f"{start.function_name} {start.instance_id}".strip() for start in messages.starts]
        if first := next((name for name in names if name), None):
            message += f"; one is for {first}"
        if messages.more_visible and not messages.start_count:
            message = f"the control queues of task hub {task_hub} hold more messages than can be peeked"
    else:
        number = str(messages.unexplained_count)
        one = number == "1"
        noun, starts = ("message", "a start") if one else ("messages", "starts")
        message = (
            f"{number} invisible {noun} in the control queues of task hub {task_hub} may be {starts} that a worker "
            "took and did not finish"
        )
        if messages.unblocks_at is not None:
            wait = format_duration(max(0, messages.unblocks_at - now))
            stop, know, waive = ("it stops", "it is", "it") if one else ("they stop", "they are", "them")
            message += (
                f". If nothing changes, {stop} blocking in {wait}. If you know what {know}, waive {waive} with "
                "PostWaiver (unexplainedMessages)"
            )
    return ReadinessReason(ReasonCode.STARTS_PENDING, message)


def _warnings(evidence: Evidence, policy: Policy) -> tuple[ReadinessWarning, ...]:
    if evidence.task_hub is None:
        return ()
    if evidence.provider is None:
        return (
            ReadinessWarning(
                WarningCode.EVENTS_ONLY,
                f"the verdict on task hub {evidence.task_hub} rests on lifecycle events alone, and events get lost: an "
                "instance whose start is lost is missed, and one whose end is never published, such as a Python "
                "orchestration that cancels a timer in its last step, stays active for ever. Configure taskHubs",
            ),
        )
    if policy.ignore_messages:
        why = "the policy says ignoreMessages"
    elif evidence.probe is not None and evidence.probe.status is ProbeStatus.COMPLETE and not evidence.probe.messages:
        why = f"{evidence.provider} does not show them"
    else:
        return ()
    message = (
        f"the messages of task hub {evidence.task_hub} are not looked at, because {why}: an orchestration whose start "
        "is still a message is missed"
    )
    return (ReadinessWarning(WarningCode.MESSAGES_UNSEEN, message),)


def _settling_reason(evidence: Evidence, policy: Policy, wait: int) -> ReadinessReason:
    return ReadinessReason(
        ReasonCode.SETTLING,
        f"the last event of task hub {evidence.task_hub} was recorded less than {policy.settle_seconds} s ago; "
        f"quiet for {_ceil_seconds(wait)} s more, it counts as drained",
    )


def _deployment_reason(deployment: OpenDeployment, now: Instant) -> ReadinessReason:
    run = f", run {deployment.run_url}" if deployment.run_url else ""
    return ReadinessReason(
        ReasonCode.DEPLOYMENT_IN_PROGRESS,
        f"{deployment.by}{run} has been deploying task hub {deployment.task_hub} "
        f"for {format_duration(now - deployment.started_at)}",
    )


def _swap_reason(swap: OpenSwap, now: Instant) -> ReadinessReason:
    run = f", run {swap.run_url}," if swap.run_url else ""
    return ReadinessReason(
        ReasonCode.SWAP_PENDING,
        f"{swap.by}{run} began to swap task hub {swap.task_hub} into production "
        f"{format_duration(now - swap.started_at)} ago and has not said how it went, "
        "so what is in the slot is not known",
    )


def _retry_after(reasons: list[ReadinessReason], evidence: Evidence, policy: Policy, now: Instant) -> int | None:
    if not reasons:
        return None
    if [reason.code for reason in reasons] == [ReasonCode.SETTLING]:
        return max(1, _ceil_seconds(_remaining_settle_ticks(evidence, policy, now)))
    asked = evidence.probe.retry_after_seconds if evidence.probe is not None else None
    return max(DEFAULT_RETRY_AFTER_SECONDS, min(asked or 0, MAX_RETRY_AFTER_SECONDS))


def _ceil_seconds(ticks: int) -> int:
    return -(-ticks // seconds(1))
