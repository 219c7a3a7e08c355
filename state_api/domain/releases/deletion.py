"""DeleteApp: forget an app whose slots and releases have drained and whose retired task hubs are cleaned up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases import other_run_refusals, refusals
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_live_rollout
from state_api.domain.releases.side_by_side import refusals as release_refusals
from state_api.domain.releases.transition_checks import check_no_pending_swap


def check_app_deletable(app: App, now: Instant) -> Refusal | None:
    """Refuse to delete an app for a reason that needs no verdict.

    Refusals: SwapPending, RolloutInProgress, RemovalPending, DeploymentInProgress, CleanupRequired."""
    if refusal := check_no_pending_swap(app) or check_no_live_rollout(app) or _check_no_pending_removal(app, now):
        return refusal
    deployment = app.get_open_deployment(now)
    if deployment is not None:
        return other_run_refusals.deployment_in_progress(app, deployment, now)
    # Cleanup skips a task hub that a slot may still carry. The verdict on that slot covers it.
    task_hubs = [retired.task_hub for retired in app.retired if app.find_possible_slot(retired.task_hub) is None]
    return refusals.cleanup_required(app, task_hubs) if task_hubs else None


def _check_no_pending_removal(app: App, now: Instant) -> Refusal | None:
    """Refuse the deletion while a Function App is being deleted: the app that is created next could adopt its
    release and give it traffic."""
    for release in app.releases.values():
        if release.removal is not None:
            return release_refusals.removal_pending(app, release, release.removal, now)
    return None


@dataclass(frozen=True, slots=True)
class DeletionEvidence:
    """Verdicts on what the app has.

    `slots`: one for each slot, on all task hubs that it may carry. Visitors of a rollout may come to an empty one.
    `releases`: one for each release.
    """

    slots: Mapping[str, Verdict] = field(default_factory=dict)
    releases: Mapping[str, Verdict] = field(default_factory=dict)


def delete_app(app: App, evidence: DeletionEvidence, now: Instant) -> Transition | Refusal:
    """Delete the app. Its task hubs stay claimed. Refusals: those of `check_app_deletable`, AppNotDrained."""
    if refusal := check_app_deletable(app, now):
        return refusal
    assert evidence.slots.keys() == app.slots.keys(), "every slot has a verdict"
    assert evidence.releases.keys() == app.releases.keys(), "every release has a verdict"
    verdicts = [
        *((f"slot {name}", verdict) for name, verdict in evidence.slots.items()),
        *((f"release {version}", verdict) for version, verdict in evidence.releases.items()),
    ]
    not_ready = {holder: verdict for holder, verdict in verdicts if not verdict.ready}
    if not_ready:
        return refusals.app_not_drained(app, not_ready)
    slots = [slot for slot in app.slots.values() if slot is not None]
    possible_hubs = [possible.task_hub for slot in slots for possible in slot.possible_hubs()]
    details: dict[str, Any] = {"slots": app.task_hubs_by_slot(), "taskHubs": possible_hubs}
    if app.releases:
        details["releases"] = {version: release.task_hub for version, release in app.releases.items()}
    return Transition(App(app.name, revision=app.revision, deleted=True), "DeleteApp", details)
