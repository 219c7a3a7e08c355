"""Refusals because another run holds a deployment or a pending swap, and the owner that they name."""

from typing import Any

from state_api.domain.errors import DeploymentInProgress, SwapMismatch, SwapPending
from state_api.domain.instants import Instant, format_instant
from state_api.domain.releases.apps import App, Deployment, PendingSwap
from state_api.domain.releases.refusals import Refusal, retry_after_seconds
from state_api.domain.releases.side_by_side.releases import PendingRemoval

MAX_DEPLOYMENT_RETRY_SECONDS = 60
"""The longest `retryAfterSeconds` of DeploymentInProgress, because the other run may swap or abandon at any time."""


def deployment_in_progress(app: App, deployment: Deployment, now: Instant) -> Refusal:
    """Refuses what another run's open deployment blocks, and says whose it is and when it expires."""
    expires_at = app.deployment_expires_at(deployment)
    if deployment.slot is None:
        place = f"as release {deployment.version}"
        next_step = "its promotion with PutRouting, remove its release with DeleteRelease, or register"
    else:
        place = f"into slot {deployment.slot}"
        next_step = "its swap, abandon it with DeleteStaging, or stage"
    return Refusal(
        DeploymentInProgress,
        f"{describe_owner(deployment)} has been deploying task hub {deployment.task_hub} {place} of app {app.name} "
        f"since {format_instant(deployment.started_at)}. Wait for {next_step} with takeOver and a reason. It expires "
        f"at {format_instant(expires_at)}",
        {
            "deployment": deployment_details(deployment),
            "retryAfterSeconds": retry_after_seconds(expires_at, now, longest=MAX_DEPLOYMENT_RETRY_SECONDS),
        },
    )


def deployment_of_other_run(app: App, deployment: Deployment) -> Refusal:
    """Refuses a request that only the run of the open deployment may make."""
    return Refusal(
        SwapMismatch,
        f"this run does not hold the open deployment of app {app.name}: {describe_owner(deployment)} has held it for "
        f"task hub {deployment.task_hub} since {format_instant(deployment.started_at)}. To act for that run, send its "
        "X-Run-Url. To replace it, stage with takeOver and a reason",
        {"deployment": deployment_details(deployment)},
    )


def swap_pending(app: App, pending: PendingSwap) -> Refusal:
    """Refuses every change of the slots while it is unknown whether the platform has swapped them."""
    return Refusal(
        SwapPending,
        f"{describe_owner(pending)} began to swap task hub {pending.task_hub} of app {app.name} into production at "
        f"{format_instant(pending.started_at)} and has not reported its outcome, so it is unknown what production and "
        f"slot {pending.slot} hold. Wait for that run. If it has ended, look up which task hub the platform has in "
        f"production: if it is {pending.task_hub}, send PostSwap for it with the outcome Done, otherwise with the "
        "outcome Failed, and with the ETag of GetApp in If-Match",
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


def describe_owner(owned: Deployment | PendingSwap | PendingRemoval) -> str:
    """The caller and, if known, the run that holds a deployment, a pending swap or a pending removal."""
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
