"""DeleteApp: forget an app of which nothing runs any more."""

from collections.abc import Mapping

from state_api.domain.errors import AppNotDrained, CleanupRequired
from state_api.domain.instants import Instant
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.refusals import deployment_in_progress, swap_pending


def check_app_deletable(app: App, now: Instant) -> None:
    """Refuse what needs no verdict. Raises SwapPending, DeploymentInProgress, CleanupRequired."""
    if app.pending_swap is not None:
        raise swap_pending(app, app.pending_swap)
    deployment = app.get_open_deployment(now)
    if deployment is not None:
        raise deployment_in_progress(app, deployment, now)
    # Cleanup leaves alone what a slot may still carry. The verdict on that slot covers it.
    left = [retired.task_hub for retired in app.retired if app.find_possible_slot(retired.task_hub) is None]
    if left:
        raise CleanupRequired(
            f"app {app.name} still has retired task hubs: {', '.join(left)}. Call Cleanup until GetApp lists none of "
            "them, then delete the app. Cleanup skips those that the policy's retention keeps",
            app=app.name,
            taskHubs=left,
        )


def delete_app(app: App, verdicts: Mapping[str, Verdict], now: Instant) -> Transition:
    """Delete the app. `verdicts` has one for each slot that holds a task hub, on all that the slot may carry. The task
    hubs stay claimed. Raises what `check_app_deletable` raises, AppNotDrained."""
    check_app_deletable(app, now)
    held = {name: slot for name, slot in app.slots.items() if slot is not None}
    assert verdicts.keys() == held.keys(), "every slot that holds a task hub has a verdict"
    blocking = {name: verdict for name, verdict in verdicts.items() if not verdict.ready}
    if blocking:
        retries = [verdict.retry_after_seconds or 0 for verdict in blocking.values()]
        reasons = [(name, reason) for name, verdict in blocking.items() for reason in verdict.reasons]
        raise AppNotDrained(
            f"app {app.name} must not be deleted: "
            + "; ".join(f"slot {name}: {reason.message}" for name, reason in reasons),
            app=app.name,
            hasRunning=any(verdict.has_running for verdict in blocking.values()),
            reasons=[
                {"code": reason.code.value, "message": f"slot {name}: {reason.message}"} for name, reason in reasons
            ],
            retryAfterSeconds=max(retries) or None,
        )
    carried = [one.task_hub for slot in held.values() for one in slot.possible_hubs()]
    return Transition(
        App(app.name, revision=app.revision, deleted=True),
        "DeleteApp",
        {"slots": app.task_hubs_by_slot(), "taskHubs": carried},
    )
