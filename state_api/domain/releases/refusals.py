"""The words in which transitions refuse: one error per case, with the facts that callers act on."""

from typing import Any

from state_api.domain.errors import (
    DeploymentInProgress,
    StagingNotReady,
    SwapMismatch,
    SwapPending,
    TaskHubAlreadyUsed,
    TaskHubClaimed,
    TaskHubInUse,
    TaskHubNotDrained,
    TaskHubUnavailable,
)
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import same_hub
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Deployment, PendingSwap
from state_api.domain.task_hubs.ownership import ExistingArtifacts


def check_task_hub_unused(
    app: App, task_hub: str, used_before: bool, existing: ExistingArtifacts | TaskHubUnavailable | None = None
) -> None:
    """Raises TaskHubInUse or TaskHubAlreadyUsed for a name that is not new to the app, to this server (`used_before`) or to
    its provider (`existing`)."""
    slot = app.slot_holding(task_hub)
    if slot is not None:
        raise TaskHubInUse(
            f"slot {slot} of app {app.name} holds task hub {task_hub}; deploy a new version with a new task hub name",
            app=app.name,
            slot=slot,
            taskHub=task_hub,
        )
    if used_before or any(same_hub(hub.task_hub, task_hub) for hub in app.retired):
        raise TaskHubAlreadyUsed(
            f"task hub {task_hub} was used before; deploy a new version with a task hub name that never was",
            taskHub=task_hub,
        )
    if isinstance(existing, ExistingArtifacts) and existing.artifacts:
        raise _task_hub_already_exists(task_hub, existing)


_MAX_NAMED_ARTIFACTS = 3
"""Artifacts that a message names; the member `existing` of the problem lists all."""


def _task_hub_already_exists(task_hub: str, existing: ExistingArtifacts) -> TaskHubAlreadyUsed:
    named = list(existing.artifacts[:_MAX_NAMED_ARTIFACTS])
    if (more := len(existing.artifacts) - len(named)) > 0:
        named.append(f"{more} more")
    return TaskHubAlreadyUsed(
        f"task hub {task_hub} exists already at its provider: {', '.join(named)}, at {', '.join(existing.addresses)}. "
        "Another app uses this name, or the new version has started before it was staged. Stage with a task hub name "
        "that was never used, and start the new version afterwards. If this task hub belongs to this app, an "
        "administrator can register it with PutApp",
        taskHub=task_hub,
        existing=list(existing.artifacts),
        addresses=list(existing.addresses),
    )


def staging_not_ready(app: App, slot: str, verdict: Verdict) -> StagingNotReady:
    return StagingNotReady(
        f"slot {slot} of app {app.name} must not be overwritten: "
        + "; ".join(reason.message for reason in verdict.reasons),
        taskHub=verdict.evidence.task_hub,
        slot=slot,
        hasRunning=verdict.has_running,
        activeCount=verdict.active_count,
        reasons=[{"code": reason.code.value, "message": reason.message} for reason in verdict.reasons],
        retryAfterSeconds=verdict.retry_after_seconds,
    )


def task_hub_claimed(task_hub: str, app: str) -> TaskHubClaimed:
    return TaskHubClaimed(
        f"app {app} has claimed task hub {task_hub}. Take the task hub out of its slot and call Cleanup for that app. "
        "If the app was deleted, create it again with PutApp before",
        taskHub=task_hub,
        app=app,
    )


def task_hub_not_drained(task_hub: str, verdict: Verdict) -> TaskHubNotDrained:
    return TaskHubNotDrained(
        f"the records of task hub {task_hub} must not be removed: "
        + "; ".join(reason.message for reason in verdict.reasons),
        taskHub=task_hub,
        hasRunning=verdict.has_running,
        activeCount=verdict.active_count,
        reasons=[{"code": reason.code.value, "message": reason.message} for reason in verdict.reasons],
        retryAfterSeconds=verdict.retry_after_seconds,
    )


def swap_pending(app: App, pending: PendingSwap) -> SwapPending:
    return SwapPending(
        f"{describe_owner(pending)} began to swap task hub {pending.task_hub} of app {app.name} into production at "
        f"{format_instant(pending.started_at)} and has not said how it went, so what production and slot "
        f"{pending.slot} hold is not known. Wait for that run. If it is over, see what the platform holds in "
        f"production: if it is {pending.task_hub}, send PostSwap for it with the outcome Done, and if not, with the "
        "outcome Failed",
        pendingSwap={
            "taskHub": pending.task_hub,
            "swappedOut": pending.swapped_out,
            "slot": pending.slot,
            "startedAt": format_instant(pending.started_at),
            "by": pending.started_by,
            "runUrl": pending.run_url,
            "rollback": pending.rollback,
        },
    )


def deployment_in_progress(app: App, deployment: Deployment, now: Instant) -> DeploymentInProgress:
    until = deployment.started_at + seconds(60 * app.policy.deployment_timeout_minutes)
    return DeploymentInProgress(
        f"{describe_owner(deployment)} has been deploying task hub {deployment.task_hub} into slot {deployment.slot} of app "
        f"{app.name} since {format_instant(deployment.started_at)}. Wait for its swap, abandon it, or stage with "
        f"takeOver and a reason; it ends by itself at {format_instant(Instant(until))}",
        deployment=deployment_details(deployment),
        retryAfterSeconds=min(60, max(1, (until - now) // seconds(1))),
    )


def describe_owner(owned: Deployment | PendingSwap) -> str:
    return f"{owned.started_by} (run {owned.run_url})" if owned.run_url else owned.started_by


def deployment_details(deployment: Deployment) -> dict[str, Any]:
    return {
        "taskHub": deployment.task_hub,
        "version": deployment.version,
        "slot": deployment.slot,
        "startedAt": format_instant(deployment.started_at),
        "by": deployment.started_by,
        "runUrl": deployment.run_url,
    }


def swap_mismatch(app: App, slot: str, task_hub: str) -> SwapMismatch:
    holds = app.task_hubs_by_slot()
    name = app.registered_slot_name(slot)
    return SwapMismatch(
        f"slot {name} of app {app.name} does not hold task hub {task_hub} but {holds.get(name) or 'nothing'}",
        taskHub=task_hub,
        slots=holds,
    )
