"""The codes of reasons and warnings, with the description and the message of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.instants import Instant, format_duration, format_instant, seconds
from state_api.domain.readiness.evidence import (
    ActiveInstance,
    InstanceActivity,
    OpenDeployment,
    OpenRollout,
    OpenSwap,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.readiness.policy import Policy


class ReasonCode(StrEnum):
    """Why a verdict is NotReady. Pipelines rely on the codes, so they are never renamed."""

    INSTANCES_ACTIVE = "InstancesActive"
    STARTS_PENDING = "StartsPending"
    SETTLING = "Settling"
    DEPLOYMENT_IN_PROGRESS = "DeploymentInProgress"
    SWAP_PENDING = "SwapPending"
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    RELEASE_IN_USE = "ReleaseInUse"
    ROUTERS_BEHIND = "RoutersBehind"
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
    ReasonCode.SETTLING: "A lifecycle event was recorded within the settle window, so others may follow.",
    ReasonCode.DEPLOYMENT_IN_PROGRESS: "Another run has staged a task hub in this app, and neither swapped nor "
    "abandoned it.",
    ReasonCode.SWAP_PENDING: "A swap has begun and its outcome is not reported: the task hub in the slot is unknown.",
    ReasonCode.ROLLOUT_IN_PROGRESS: "A rollout may bring requests to the slot or release, or visitors whom the "
    "platform sends back to the slot may still come.",
    ReasonCode.RELEASE_IN_USE: "The release has traffic, or was adopted and may have some.",
    ReasonCode.ROUTERS_BEHIND: "A router may still send requests to the release, because it has not confirmed the "
    "change, or because the change was made less than 60 seconds ago.",
    ReasonCode.VERIFICATION_REQUIRED: "The policy requires verification, but no probe of the task hub is configured.",
    ReasonCode.PROBE_PENDING: "A probe of the task hub is configured but has no result yet.",
    ReasonCode.PROBE_FAILED: "The task hub's own storage could not be read.",
    ReasonCode.PROBE_DENIED: "The task hub's own storage denies access to this server.",
    ReasonCode.PROBE_THROTTLED: "The task hub's own storage throttles this server.",
    ReasonCode.TASK_HUB_MISSING: "The task hub does not exist at the provider that is configured for the app.",
    ReasonCode.PROBE_INCOMPLETE: "The probe has not read the whole task hub.",
    ReasonCode.PROBE_STALE: "The last complete probe is too old, or the records have changed since it began.",
}
"""The meaning of each code, in one sentence."""


class WarningCode(StrEnum):
    """What a verdict does not cover. A warning does not make a verdict NotReady."""

    EVENTS_ONLY = "EventsOnly"
    MESSAGES_UNSEEN = "MessagesUnseen"


WARNING_DESCRIPTIONS: dict[WarningCode, str] = {
    WarningCode.EVENTS_ONLY: "No provider is configured, so the verdict rests on lifecycle events alone.",
    WarningCode.MESSAGES_UNSEEN: "The control queues are not read, so a start that is only a message is missed.",
}
"""The meaning of each code, in one sentence."""


@dataclass(frozen=True, slots=True)
class ReadinessReason:
    """One reason for NotReady. The message names the task hub and the next step."""

    code: ReasonCode
    message: str


@dataclass(frozen=True, slots=True)
class ReadinessWarning:
    """One warning. The message names the task hub and what to configure."""

    code: WarningCode
    message: str


PROBE_FAILURE_CODES = {
    ProbeStatus.FAILED: ReasonCode.PROBE_FAILED,
    ProbeStatus.DENIED: ReasonCode.PROBE_DENIED,
    ProbeStatus.THROTTLED: ReasonCode.PROBE_THROTTLED,
    ProbeStatus.MISSING: ReasonCode.TASK_HUB_MISSING,
}
"""The reason for each status of a probe that could not read the task hub."""


def instances_active_reason(
    task_hub: str, active: Sequence[ActiveInstance], *, count: int, is_lower_bound: bool, now: Instant
) -> ReadinessReason:
    """The reason InstancesActive. `active` are the instances that block, oldest first. `count` can be larger."""
    number = f"at least {count}" if is_lower_bound else str(count)
    noun = "orchestration instance is" if number == "1" else "orchestration instances are"
    message = f"{number} {noun} active on task hub {task_hub}"
    if active:
        oldest = active[0]
        name = f"{oldest.function_name} {oldest.instance_id}".strip()
        message += f"; the oldest, {name}, for {format_duration(now - oldest.started_at)}"
    return ReadinessReason(ReasonCode.INSTANCES_ACTIVE, message)


def settling_reason(task_hub: str, policy: Policy, remaining_ticks: int) -> ReadinessReason:
    """The reason Settling. `remaining_ticks`: ticks of 100 ns until the settle window ends."""
    return ReadinessReason(
        ReasonCode.SETTLING,
        f"the last event of task hub {task_hub} was recorded less than {policy.settle_seconds} s ago; the task hub "
        f"counts as drained after {ceil_seconds(remaining_ticks)} s more without an event",
    )


def starts_pending_reason(task_hub: str, messages: MessageEvidence, now: Instant) -> ReadinessReason:
    """The reason StartsPending. Its message names a visible start, or says how long invisible messages will block."""
    if messages.start_count or messages.more_visible:
        message = _visible_starts_message(task_hub, messages)
    else:
        message = _invisible_messages_message(task_hub, messages, now)
    return ReadinessReason(ReasonCode.STARTS_PENDING, message)


def _visible_starts_message(task_hub: str, messages: MessageEvidence) -> str:
    """The message about starts that wait as visible messages."""
    if not messages.start_count:
        return f"the control queues of task hub {task_hub} hold more messages than can be peeked"
    number = f"at least {messages.start_count}" if messages.more_visible else str(messages.start_count)
    noun = "message that starts work waits" if number == "1" else "messages that start work wait"
    message = f"{number} {noun} in the control queues of task hub {task_hub}"
    names = [f"{start.function_name} {start.instance_id}".strip() for start in messages.starts]
    first_name = next((name for name in names if name), None)
    return f"{message}; one is for {first_name}" if first_name else message


def _invisible_messages_message(task_hub: str, messages: MessageEvidence, now: Instant) -> str:
    """The message about invisible messages that no recorded work explains, with when they stop blocking."""
    is_single = messages.unexplained_count == 1
    noun, starts = ("message", "a start") if is_single else ("messages", "starts")
    message = (
        f"{messages.unexplained_count} invisible {noun} in the control queues of task hub {task_hub} may be {starts} "
        "that a worker took and did not finish"
    )
    if messages.unblocks_at is None:
        return message
    stop, know, waive = ("it stops", "it is", "it") if is_single else ("they stop", "they are", "them")
    remaining_ticks = messages.unblocks_at - now
    # The queues were read before that moment, and only a later read can show that nothing has changed.
    is_due = remaining_ticks < seconds(1)
    when = "as soon as the control queues are read again" if is_due else f"in {format_duration(remaining_ticks)}"
    return (
        f"{message}. If nothing changes, {stop} blocking {when}. If you know what {know}, waive {waive} with "
        "PostWaiver (unexplainedMessages)"
    )


def deployment_in_progress_reason(deployment: OpenDeployment, now: Instant) -> ReadinessReason:
    """The reason DeploymentInProgress. Its message names the run that deploys, and for how long it has."""
    run = f", run {deployment.run_url}" if deployment.run_url else ""
    return ReadinessReason(
        ReasonCode.DEPLOYMENT_IN_PROGRESS,
        f"{deployment.by}{run} has been deploying task hub {deployment.task_hub} "
        f"for {format_duration(now - deployment.started_at)}",
    )


def swap_pending_reason(swap: OpenSwap, now: Instant) -> ReadinessReason:
    """The reason SwapPending. Its message names the run that began the swap, and how long ago."""
    run = f", run {swap.run_url}," if swap.run_url else ""
    return ReadinessReason(
        ReasonCode.SWAP_PENDING,
        f"{swap.by}{run} began to swap task hub {swap.task_hub} into production "
        f"{format_duration(now - swap.started_at)} ago and has not reported the outcome, "
        "so the task hub in the slot is unknown",
    )


def rollout_in_progress_reason(rollout: OpenRollout) -> ReadinessReason:
    """The reason RolloutInProgress. Its message says who rolls out what, the step and what it waits for, or until when
    visitors may still come."""
    if rollout.until is not None:
        message = (
            f"the rollout of {rollout.candidate} is {rollout.state}, but visitors whom the platform sends back there "
            f"may still start work until {format_instant(rollout.until)}"
        )
    else:
        run = f", run {rollout.run_url}," if rollout.run_url else ""
        message = (
            f"{rollout.by}{run} rolls out {rollout.candidate}, and the rollout is {rollout.state}, so requests may "
            f"start work there: {rollout.wait}. Wait until it has ended, or abort it with PostRollout"
        )
    return ReadinessReason(ReasonCode.ROLLOUT_IN_PROGRESS, message)


def verification_required_reason() -> ReadinessReason:
    """The reason VerificationRequired: the policy requires a probe, and no provider is configured."""
    return ReadinessReason(
        ReasonCode.VERIFICATION_REQUIRED,
        "the app's policy requires verification, but no probe of its task hubs is configured; "
        "configure taskHubs, or set requireVerification to false",
    )


def probe_pending_reason(task_hub: str, provider: str) -> ReadinessReason:
    """The reason ProbePending: the configured probe has no result yet."""
    return ReadinessReason(ReasonCode.PROBE_PENDING, f"task hub {task_hub} has not been verified by {provider} yet")


def probe_failed_reason(task_hub: str, probe: ProbeResult, *, suggests_missing_is_drained: bool) -> ReadinessReason:
    """The reason for a probe whose status is in PROBE_FAILURE_CODES. `suggests_missing_is_drained`: the message names
    the policy with which this task hub would count as drained."""
    message = f"task hub {task_hub} could not be read: {probe.message}"
    if suggests_missing_is_drained:
        message += (
            ". If a version that was staged and never started may be overwritten, set missingTaskHubIsDrained in the "
            "app's policy"
        )
    return ReadinessReason(PROBE_FAILURE_CODES[probe.status], message)


def probe_incomplete_reason(task_hub: str, probe: ProbeResult) -> ReadinessReason:
    """The reason ProbeIncomplete. Its message says how far the probe came."""
    return ReadinessReason(
        ReasonCode.PROBE_INCOMPLETE, f"the probe of task hub {task_hub} is not complete: {probe.message}"
    )


def probe_stale_reason(
    task_hub: str, probe: ProbeResult, activity: InstanceActivity, policy: Policy
) -> ReadinessReason:
    """The reason ProbeStale. Its message says when the probe began.

    If probes take longer than the freshness, the message also says what to change."""
    message = (
        f"the last complete probe of task hub {task_hub} began at {format_instant(probe.began_at)}; "
        f"it must be younger than {policy.freshness_seconds} s and have begun after the last event"
    )
    if probe.correction_epoch != activity.correction_epoch:
        message += ", and since then a look-up has closed instances whose end no event reported"
    if probe.read_seconds >= policy.freshness_seconds:
        message += (
            f". Reading this task hub took {probe.read_seconds} s: set freshnessSeconds well above that, or purge "
            "finished instances"
        )
    return ReadinessReason(ReasonCode.PROBE_STALE, message)


def events_only_warning(task_hub: str) -> ReadinessWarning:
    """The warning EventsOnly: no provider is configured."""
    return ReadinessWarning(
        WarningCode.EVENTS_ONLY,
        f"the verdict on task hub {task_hub} rests on lifecycle events alone, and events get lost: an instance whose "
        "start is lost is missed, and one whose end is never published, such as a Python orchestration that cancels a "
        "timer in its last step, stays active for ever. Configure taskHubs",
    )


def messages_unseen_warning(task_hub: str, cause: str) -> ReadinessWarning:
    """The warning MessagesUnseen. `cause` says why the control queues are not read."""
    return ReadinessWarning(
        WarningCode.MESSAGES_UNSEEN,
        f"the messages of task hub {task_hub} are not read, because {cause}: an orchestration whose start is still a "
        "message is missed",
    )


def ceil_seconds(ticks: int) -> int:
    """The ticks of 100 ns as seconds, rounded up."""
    return -(-ticks // seconds(1))
