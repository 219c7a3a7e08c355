"""Refusals: the problem code, the message and the facts of each, in this module and the modules `…_refusals`.

A transition returns a `Refusal`; the services raise it as an error of `domain/errors.py`. A message says what blocks
the operation and why, and ends with the next step, in terms of API operations and fields.

This module has the refusals about apps, task hub names, and task hubs that have not drained.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.errors import (
    AppNotDrained,
    AppNotFound,
    CleanupRequired,
    Conflict,
    InvalidRequest,
    StagingNotReady,
    StateError,
    TaskHubAlreadyUsed,
    TaskHubClaimed,
    TaskHubInUse,
    TaskHubNotDrained,
    TaskHubNotFound,
    TaskHubUnavailable,
)
from state_api.domain.instants import Instant
from state_api.domain.readiness.reasons import ReadinessReason, ceil_seconds
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, TaskHubHolder
from state_api.domain.task_hubs.ownership import ExistingArtifacts, ProviderUnavailable

_MAX_NAMED_ARTIFACTS = 3
"""How many artifacts a message names. The member `existing` of the problem lists all of them."""


def retry_after_seconds(end: Instant, now: Instant, *, longest: int) -> int:
    """The `retryAfterSeconds` of a refusal that ends at this time: rounded up, so that a retry does not come before
    it."""
    return min(longest, max(1, ceil_seconds(end - now)))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a transition does not happen.

    `error` is the class of the problem, whose name is the problem code. `details` are the extension members of the
    problem document: JSON values, camelCase."""

    error: type[StateError]
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_error(self) -> StateError:
        """The error that `http/problems.py` turns into a problem document."""
        return self.error(self.message, **self.details)


# The request


def reason_required(fields: str) -> Refusal:
    return Refusal(InvalidRequest, f"{fields} goes into the audit log: send a reason")


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


def task_hub_in_use(app_name: str, holder: TaskHubHolder, task_hub: str) -> Refusal:
    return Refusal(
        TaskHubInUse,
        f"{holder} of app {app_name} holds task hub {task_hub}. Deploy the new version with a new task hub name",
        {"app": app_name, holder.kind: holder.name, "taskHub": task_hub},
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
    """Refuses a task hub name that is in use at the provider, although this server has no record of it."""
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


# Task hubs that have not drained


def staging_not_ready(app: App, slot: str, verdict: Verdict, *, next_step: str) -> Refusal:
    return Refusal(
        StagingNotReady,
        f"slot {slot} of app {app.name} must not be overwritten: {_join_messages(verdict.reasons)}. {next_step}",
        {"slot": slot, **verdict_details(verdict.evidence.task_hub, verdict)},
    )


def task_hub_not_drained(task_hub: str, verdict: Verdict) -> Refusal:
    return Refusal(
        TaskHubNotDrained,
        f"the records of task hub {task_hub} must not be removed: {_join_messages(verdict.reasons)}. Retry "
        "DeleteTaskHub once it has drained",
        verdict_details(task_hub, verdict),
    )


def app_not_drained(app: App, verdicts: Mapping[str, Verdict]) -> Refusal:
    """`verdicts`: those that are NotReady, by what they are on, such as `slot staging`."""
    reasons = [
        ReadinessReason(reason.code, f"{holder}: {reason.message}")
        for holder, verdict in verdicts.items()
        for reason in verdict.reasons
    ]
    return Refusal(
        AppNotDrained,
        f"app {app.name} must not be deleted: {_join_messages(reasons)}. Retry DeleteApp once it has drained",
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


def verdict_details(task_hub: str | None, verdict: Verdict) -> dict[str, Any]:
    """The members of a problem document that say why a task hub has not drained."""
    return {
        "taskHub": task_hub,
        "hasRunning": verdict.has_running,
        "activeCount": verdict.active_count,
        "reasons": _reason_details(verdict.reasons),
        "retryAfterSeconds": verdict.retry_after_seconds,
    }


def changed_concurrently(app_name: str, updated_by: str | None) -> Refusal:
    """Refuses a change that has lost against other callers several times."""
    return Refusal(
        Conflict,
        f"{updated_by or 'another caller'} changed app {app_name} at the same time, several times. Retry",
        {"updatedBy": updated_by},
    )
