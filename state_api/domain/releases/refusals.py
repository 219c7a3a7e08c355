"""Every refusal: its problem code, its message, and the facts that callers act on. The only place that words them.

A transition returns a `Refusal`; the services raise it as an error of `domain/errors.py`. A message says what blocks
the operation and why, and ends with the next step, in terms of API operations and fields.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.errors import (
    AppNotDrained,
    AppNotFound,
    CleanupRequired,
    Conflict,
    DeploymentInProgress,
    InvalidRequest,
    SlotNotFound,
    StagingNotReady,
    StateError,
    SwapMismatch,
    SwapPending,
    TaskHubAlreadyUsed,
    TaskHubClaimed,
    TaskHubInUse,
    TaskHubNotDrained,
    TaskHubNotFound,
    TaskHubUnavailable,
    WaiverNotFound,
)
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.readiness.reasons import ReadinessReason
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Deployment, PendingSwap, Slot
from state_api.domain.task_hubs.ownership import ExistingArtifacts, ProviderUnavailable

MAX_DEPLOYMENT_RETRY_SECONDS = 60
"""The longest `retryAfterSeconds` of DeploymentInProgress: the other run may swap or abandon at any time."""

_MAX_NAMED_ARTIFACTS = 3
"""How many artifacts a message names. The member `existing` of the problem lists all of them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a transition does not happen. `error` is the class of the problem, and so its code; `details` are the
    extension members of the problem document: JSON values, camelCase."""

    error: type[StateError]
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_error(self) -> StateError:
        """The error that `http/problems.py` turns into a problem document."""
        return self.error(self.message, **self.details)


# The request


def reason_required(fields: str) -> Refusal:
    return Refusal(InvalidRequest, f"{fields} goes into the audit log: send a reason")


def production_not_stageable() -> Refusal:
    return Refusal(
        InvalidRequest,
        "a task hub cannot be staged into production. Stage it into another slot, and swap that slot with PostSwap",
    )


def production_not_swappable() -> Refusal:
    return Refusal(InvalidRequest, "production cannot be swapped with itself: name the slot that it is swapped with")


def slot_not_found(app: App, slot: str) -> Refusal:
    return Refusal(
        SlotNotFound,
        f"app {app.name} has no slot {slot}; it has {', '.join(app.slots)}. Correct the name, or register the slot "
        "with PutApp",
        {"app": app.name, "slot": slot},
    )


def task_hub_in_two_slots(task_hub: str) -> Refusal:
    return Refusal(InvalidRequest, f"task hub {task_hub} cannot be in two slots: name it for one slot only")


def not_adoptable(app: App, task_hub: str) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"app {app.name} cannot adopt task hub {task_hub}: none of its slots holds it, and it is not retired. Put it "
        "into a slot in the same request, or leave it out of adoptTaskHubs",
    )


def adoption_needs_provider() -> Refusal:
    return Refusal(
        InvalidRequest,
        "adoptTaskHubs needs to know where the app's task hubs live: send taskHubs in the same request",
    )


def app_not_found(name: str) -> Refusal:
    return Refusal(
        AppNotFound, f"there is no app {name}. The first PostStaging or PutApp for this name creates it", {"app": name}
    )


def task_hub_not_found(task_hub: str) -> Refusal:
    return Refusal(
        TaskHubNotFound,
        f"the server has no record of task hub {task_hub}. Check the name, and whether its events reach the server",
        {"taskHub": task_hub},
    )


# The name of a task hub


def task_hub_in_use(app_name: str, slot: str, task_hub: str) -> Refusal:
    return Refusal(
        TaskHubInUse,
        f"slot {slot} of app {app_name} holds task hub {task_hub}. Deploy the new version with a new task hub name",
        {"app": app_name, "slot": slot, "taskHub": task_hub},
    )


def task_hub_of_other_app(task_hub: str, app_name: str) -> Refusal:
    """For a task hub that another app has claimed and that none of its slots holds."""
    return Refusal(TaskHubAlreadyUsed, *_claimed_by_other_app(task_hub, app_name))


def claimed_by_other_app(task_hub: str, app_name: str) -> Refusal:
    """For a task hub that another app claims at the same time."""
    return Refusal(TaskHubInUse, *_claimed_by_other_app(task_hub, app_name))


def _claimed_by_other_app(task_hub: str, app_name: str) -> tuple[str, dict[str, Any]]:
    """The message and details that both refusals of another app's task hub share."""
    message = f"app {app_name} has claimed task hub {task_hub}. Use a task hub name that no other app has used"
    return message, {"taskHub": task_hub, "app": app_name}


def task_hub_already_used(task_hub: str) -> Refusal:
    return Refusal(
        TaskHubAlreadyUsed,
        f"task hub {task_hub} was used before. Deploy the new version with a task hub name that was never used",
        {"taskHub": task_hub},
    )


def task_hub_exists(task_hub: str, existing: ExistingArtifacts) -> Refusal:
    named = list(existing.artifacts[:_MAX_NAMED_ARTIFACTS])
    if (unnamed := len(existing.artifacts) - len(named)) > 0:
        named.append(f"{unnamed} more")
    return Refusal(
        TaskHubAlreadyUsed,
        f"task hub {task_hub} already exists at its provider: {', '.join(named)}, at {', '.join(existing.addresses)}. "
        "Another app uses this name, or the new version was started before it was staged. Stage with a task hub name "
        "that was never used, and start the new version afterwards. If this task hub belongs to this app, an "
        "administrator can register it with PutApp",
        {"taskHub": task_hub, "existing": list(existing.artifacts), "addresses": list(existing.addresses)},
    )


def provider_unavailable(task_hub: str, provider: ProviderUnavailable) -> Refusal:
    return Refusal(
        TaskHubUnavailable,
        f"task hub {task_hub} was not claimed: the server could not check whether it already exists at its provider "
        f"({provider.message}). Retry later",
        {"retry_after": provider.retry_after_seconds, "taskHub": task_hub},
    )


def task_hub_claimed(task_hub: str, app_name: str) -> Refusal:
    return Refusal(
        TaskHubClaimed,
        f"app {app_name} has claimed task hub {task_hub}. Take the task hub out of its slot and call Cleanup for that "
        "app. If the app was deleted, create it again with PutApp first",
        {"taskHub": task_hub, "app": app_name},
    )


# What has not drained


def staging_not_ready(app: App, slot: str, verdict: Verdict, *, next_step: str) -> Refusal:
    return Refusal(
        StagingNotReady,
        f"slot {slot} of app {app.name} must not be overwritten: {_join_messages(verdict.reasons)}. {next_step}",
        {"slot": slot, **_verdict_details(verdict.evidence.task_hub, verdict)},
    )


def task_hub_not_drained(task_hub: str, verdict: Verdict) -> Refusal:
    return Refusal(
        TaskHubNotDrained,
        f"the records of task hub {task_hub} must not be removed: {_join_messages(verdict.reasons)}. Retry "
        "DeleteTaskHub once it has drained",
        _verdict_details(task_hub, verdict),
    )


def app_not_drained(app: App, verdicts: Mapping[str, Verdict]) -> Refusal:
    """`verdicts`: those that are NotReady, by slot name."""
    reasons = [
        ReadinessReason(reason.code, f"slot {slot}: {reason.message}")
        for slot, verdict in verdicts.items()
        for reason in verdict.reasons
    ]
    return Refusal(
        AppNotDrained,
        f"app {app.name} must not be deleted: {_join_messages(reasons)}. Retry DeleteApp once its slots have drained",
        {
            "app": app.name,
            "hasRunning": any(verdict.has_running for verdict in verdicts.values()),
            "reasons": _reason_details(reasons),
            "retryAfterSeconds": max(verdict.retry_after_seconds or 0 for verdict in verdicts.values()) or None,
        },
    )


def cleanup_required(app: App, task_hubs: list[str]) -> Refusal:
    return Refusal(
        CleanupRequired,
        f"app {app.name} still has retired task hubs: {', '.join(task_hubs)}. Call Cleanup until GetApp lists none of "
        "them, then delete the app. Cleanup skips those that the policy's retention keeps",
        {"app": app.name, "taskHubs": task_hubs},
    )


def _join_messages(reasons: Iterable[ReadinessReason]) -> str:
    return "; ".join(reason.message for reason in reasons)


def _reason_details(reasons: Iterable[ReadinessReason]) -> list[dict[str, str]]:
    return [{"code": reason.code.value, "message": reason.message} for reason in reasons]


def _verdict_details(task_hub: str | None, verdict: Verdict) -> dict[str, Any]:
    return {
        "taskHub": task_hub,
        "hasRunning": verdict.has_running,
        "activeCount": verdict.active_count,
        "reasons": _reason_details(verdict.reasons),
        "retryAfterSeconds": verdict.retry_after_seconds,
    }


# Other runs


def deployment_in_progress(app: App, deployment: Deployment, now: Instant) -> Refusal:
    expires_at = app.deployment_expires_at(deployment)
    return Refusal(
        DeploymentInProgress,
        f"{describe_owner(deployment)} has been deploying task hub {deployment.task_hub} into slot {deployment.slot} "
        f"of app {app.name} since {format_instant(deployment.started_at)}. Wait for its swap, abandon it with "
        f"DeleteStaging, or stage with takeOver and a reason. It expires at {format_instant(expires_at)}",
        {
            "deployment": deployment_details(deployment),
            "retryAfterSeconds": min(MAX_DEPLOYMENT_RETRY_SECONDS, max(1, (expires_at - now) // seconds(1))),
        },
    )


def deployment_of_other_run(app: App, deployment: Deployment) -> Refusal:
    return Refusal(
        SwapMismatch,
        f"this run does not hold the open deployment of app {app.name}: {describe_owner(deployment)} has held it for "
        f"task hub {deployment.task_hub} since {format_instant(deployment.started_at)}. To act for that run, send its "
        "X-Run-Url. To replace it, stage with takeOver and a reason",
        {"deployment": deployment_details(deployment)},
    )


def swap_pending(app: App, pending: PendingSwap) -> Refusal:
    return Refusal(
        SwapPending,
        f"{describe_owner(pending)} began to swap task hub {pending.task_hub} of app {app.name} into production at "
        f"{format_instant(pending.started_at)} and has not reported its outcome, so it is unknown what production and "
        f"slot {pending.slot} hold. Wait for that run. If it has ended, look up which task hub the platform has in "
        f"production: if it is {pending.task_hub}, send PostSwap for it with the outcome Done, otherwise with the "
        "outcome Failed",
        {
            "pendingSwap": {
                "taskHub": pending.task_hub,
                "swappedOut": pending.swapped_out,
                "slot": pending.slot,
                "startedAt": format_instant(pending.started_at),
                "by": pending.started_by,
                "runUrl": pending.run_url,
                "rollback": pending.rollback,
            }
        },
    )


def changed_concurrently(app_name: str, updated_by: str | None) -> Refusal:
    return Refusal(
        Conflict,
        f"{updated_by or 'another caller'} changed app {app_name} at the same time, several times. Retry",
        {"updatedBy": updated_by},
    )


def describe_owner(owned: Deployment | PendingSwap) -> str:
    """The caller and, if known, the run that holds a deployment or a pending swap."""
    return f"{owned.started_by} (run {owned.run_url})" if owned.run_url else owned.started_by


def deployment_details(deployment: Deployment) -> dict[str, Any]:
    """The deployment as a JSON object, for problems and the audit log."""
    return {
        "taskHub": deployment.task_hub,
        "version": deployment.version,
        "slot": deployment.slot,
        "startedAt": format_instant(deployment.started_at),
        "by": deployment.started_by,
        "runUrl": deployment.run_url,
    }


# What a slot holds


def _mismatch(app: App, task_hub: str, message: str) -> Refusal:
    return Refusal(SwapMismatch, message, {"taskHub": task_hub, "slots": app.task_hubs_by_slot()})


def swap_mismatch(app: App, slot_name: str, task_hub: str) -> Refusal:
    """For a slot that is empty or holds another task hub than the request names."""
    name = app.registered_slot_name(slot_name)
    slot = app.slots.get(name)
    return _mismatch(
        app,
        task_hub,
        f"slot {name} of app {app.name} does not hold task hub {task_hub} but {slot.task_hub if slot else 'nothing'}. "
        "Do not swap; read GetHistory for what changed the slot",
    )


def swap_outdated(app: App, slot_name: str, slot: Slot) -> Refusal:
    """For the outcome Done of a swap that has been swapped back since."""
    return _mismatch(
        app,
        slot.task_hub,
        f"task hub {slot.task_hub} in slot {slot_name} of app {app.name} was swapped out of production, and no swap of "
        "it is pending: this outcome belongs to an earlier swap. If production holds the task hub again, send PostSwap "
        "for it without an outcome",
    )


def rollback_to_prior_hub_not_begun(app: App, slot_name: str, slot: Slot, task_hub: str) -> Refusal:
    """For a rollback in two steps to a task hub that another one replaced on record."""
    return _mismatch(
        app,
        task_hub,
        f"slot {slot_name} of app {app.name} may still carry task hub {task_hub}, but {slot.task_hub} was staged over "
        "it. If the platform's slot carries it, swap there. Once production carries it, send PostSwap with rollback "
        "and the outcome Done",
    )


def never_promoted(app: App, slot_name: str, slot: Slot) -> Refusal:
    """For a rollback to a task hub that was only staged."""
    promoted_prior_hub = next((prior.task_hub for prior in slot.prior_hubs if prior.promoted), None)
    next_step = (
        f"The slot may still carry {promoted_prior_hub}, which was"
        if promoted_prior_hub
        else "To promote it, send PostSwap without rollback"
    )
    return _mismatch(
        app,
        slot.task_hub,
        f"task hub {slot.task_hub} in slot {slot_name} of app {app.name} was never in production, so a rollback to it "
        f"is not possible. {next_step}",
    )


# Waivers


def waiver_for_entity() -> Refusal:
    return Refusal(InvalidRequest, "instanceId names an entity. Entities never block a verdict and need no waiver")


def waiver_expiry_invalid(max_days: int) -> Refusal:
    return Refusal(InvalidRequest, f"expiresAt must be in the future, and at most {max_days} days from now")


def task_hub_not_of_app(app: App, task_hub: str) -> Refusal:
    return Refusal(
        TaskHubNotFound,
        f"no slot of app {app.name} holds task hub {task_hub}, and it is not retired. GetApp lists the task hubs that "
        "a waiver can be for",
        {"taskHub": task_hub},
    )


def too_many_waivers(app: App, max_waivers: int) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"app {app.name} already has {max_waivers} waivers. Find out what keeps so many instances active, or remove "
        "waivers with DeleteWaiver",
    )


def waiver_not_found(app: App, task_hub: str, instance_id: str | None) -> Refusal:
    subject = "messages" if instance_id is None else "this instance"
    return Refusal(
        WaiverNotFound,
        f"app {app.name} has no waiver for {subject} of task hub {task_hub}. GetApp lists its waivers",
        {"taskHub": task_hub, "instanceId": instance_id},
    )
