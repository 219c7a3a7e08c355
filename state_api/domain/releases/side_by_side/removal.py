"""DeleteRelease: remove a release in two steps around the deletion of its Function App.

A pipeline announces the removal (outcome Pending), deletes the Function App, and reports the outcome (Done or Failed).
From Pending on, no traffic can be given to the release, because its Function App may be gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from state_api.domain.instants import Instant
from state_api.domain.names import same_hub
from state_api.domain.readiness.evidence import ProbeStatus
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases import other_run_refusals
from state_api.domain.releases.apps import App, RetiredHub, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_live_rollout
from state_api.domain.releases.side_by_side import refusals as release_refusals
from state_api.domain.releases.side_by_side.commands import RemovalOutcome, RemoveReleaseCommand
from state_api.domain.releases.side_by_side.documents import next_routing_revision
from state_api.domain.releases.side_by_side.releases import (
    MAX_REMOVED_RELEASES,
    Model,
    PendingRemoval,
    Release,
    RemovedRelease,
    RouterAcknowledgement,
    RoutingChange,
)
from state_api.domain.releases.side_by_side.verdicts import (
    ReleaseUse,
    assess_release,
    find_blocking_release_deployment,
    find_use,
)
from state_api.domain.releases.transition_checks import check_model


@dataclass(frozen=True, slots=True)
class RemovalEvidence:
    """What is known of the release.

    - `verdict`: that on its task hub, which was read after the app and the acknowledgements; None if
      `needs_removal_verdict` is false.
    - `backend_id`: identifies where the task hub was read; None without a provider.
    - `missing_at`: as in `ReleaseUse`.
    """

    verdict: Verdict | None = None
    acknowledgements: Sequence[RouterAcknowledgement] = ()
    backend_id: str | None = None
    missing_at: str | None = None


def needs_removal_verdict(app: App, command: RemoveReleaseCommand, now: Instant) -> bool:
    """Whether the command depends on a verdict on the release's task hub."""
    release = app.releases.get(command.version)
    return (
        release is not None
        and release.removal is None
        and command.outcome is not RemovalOutcome.FAILED
        and _check_unused(app, release, command, now) is None
    )


def remove_release(
    app: App, command: RemoveReleaseCommand, evidence: RemovalEvidence, now: Instant
) -> Transition | Refusal:
    """Begin to remove a release, or report on the deletion of its Function App.

    Done without Pending removes a release whose Function App is deleted already, under the same conditions as Pending.

    Refusals: WrongModel, ReleaseNotFound, ReleaseRemoved, RemovalPending, RolloutInProgress, DeploymentInProgress,
    ReleaseInUse, ReleaseNotDrained.
    """
    if refusal := check_model(app, Model.SIDE_BY_SIDE):
        return refusal
    release = app.releases.get(command.version)
    if release is None:
        return _repeat(app, command)
    if refusal := _check_outcome_of_pending_removal(app, release, command, now):
        return refusal
    if command.outcome is RemovalOutcome.FAILED:
        return _revert(app, release)
    if release.removal is None and (refusal := _check_removable(app, release, command, evidence, now)):
        return refusal
    if command.outcome is RemovalOutcome.DONE:
        return _finish(app, release, now)
    return _begin(app, release, command, evidence, now)


def _repeat(app: App, command: RemoveReleaseCommand) -> Transition | Refusal:
    """The answer for a release that the app does not have: a repeated Done changes nothing."""
    if all(removed.version != command.version for removed in app.removed_releases):
        return release_refusals.release_not_found(app, command.version)
    if command.outcome is RemovalOutcome.DONE:
        return Transition(app, "DeleteRelease", changed=False)
    return release_refusals.release_removed(app, command.version)


def _check_outcome_of_pending_removal(
    app: App, release: Release, command: RemoveReleaseCommand, now: Instant
) -> Refusal | None:
    """Refuse an outcome that may be about another removal than the pending one.

    An outcome may be sent again because its response was lost, while another run has begun the next removal. So an
    outcome of another run must name the revision of the app."""
    pending = release.removal
    if pending is None or command.outcome is RemovalOutcome.PENDING or command.is_conditional:
        return None
    is_own_run = command.caller.run_url == pending.run_url
    return None if is_own_run else release_refusals.removal_pending(app, release, pending, now)


def _check_removable(
    app: App, release: Release, command: RemoveReleaseCommand, evidence: RemovalEvidence, now: Instant
) -> Refusal | None:
    """Refuse to remove a release that is in use, or whose task hub has not drained."""
    if refusal := _check_unused(app, release, command, now):
        return refusal
    assert evidence.verdict is not None, "a verdict is needed to remove a release"
    use = ReleaseUse(evidence.acknowledgements, None, now, evidence.missing_at)
    verdict = assess_release(app, release, use, evidence.verdict)
    return None if verdict.ready else release_refusals.release_not_drained(app, release, verdict)


def _check_unused(app: App, release: Release, command: RemoveReleaseCommand, now: Instant) -> Refusal | None:
    """Refuse to remove a release that has traffic or is rolled out, or that a run other than the caller's is
    deploying."""
    if refusal := check_no_live_rollout(app, release.version):
        return refusal
    deployment = find_blocking_release_deployment(app, release, command.caller.run_id(release.task_hub), now)
    if deployment is not None:
        return other_run_refusals.deployment_in_progress(app, deployment, now)
    reason = find_use(release, app.routing, now)
    return None if reason is None else release_refusals.release_in_use(app, release, reason)


def _begin(
    app: App, release: Release, command: RemoveReleaseCommand, evidence: RemovalEvidence, now: Instant
) -> Transition | Refusal:
    """Record the removal as pending. While it is pending, only its run may begin it again, until the policy's timeout
    for deployments has ended."""
    run_id = command.caller.run_id(release.task_hub)
    pending = release.removal
    if pending is not None and command.caller.run_url and pending.run_id == run_id:
        return Transition(app, "DeleteRelease", changed=False)
    if pending is not None and now < app.removal_expires_at(pending):
        return release_refusals.removal_pending(app, release, pending, now)
    # Routers know the revision of a removal that another run continues.
    change = RoutingChange(next_routing_revision(app) if pending is None else pending.change.revision, now)
    removal = PendingRemoval(change, command.caller.name, command.caller.run_url, run_id)
    begun = replace(release, removal=removal, drained_backend=_find_drained_backend(release, evidence))
    return _replace_release(app, begun, RemovalOutcome.PENDING)


def _find_drained_backend(release: Release, evidence: RemovalEvidence) -> str | None:
    """Where a probe has shown the task hub drained when the removal began, now or before. Only a complete probe proves
    that the task hub existed there."""
    probe = evidence.verdict.evidence.probe if evidence.verdict is not None else None
    is_shown = probe is not None and probe.status is ProbeStatus.COMPLETE
    return evidence.backend_id if is_shown else release.drained_backend


def _revert(app: App, release: Release) -> Transition:
    """The Function App was not deleted: the release is as it was before."""
    if release.removal is None:
        return Transition(app, "DeleteRelease", changed=False)
    return _replace_release(app, replace(release, removal=None), RemovalOutcome.FAILED)


def _replace_release(app: App, release: Release, outcome: RemovalOutcome) -> Transition:
    """Put the release into the app in its new state, as a step of its removal."""
    updated_app = replace(app, releases={**app.releases, release.version: release})
    return Transition(updated_app, "DeleteRelease", _removal_details(release, outcome))


def _finish(app: App, release: Release, now: Instant) -> Transition:
    """The Function App is deleted: the release is removed, and its task hub retires."""
    removed = RemovedRelease(
        release.version,
        release.task_hub,
        release.address,
        release.registered_at,
        release.first_traffic_at,
        release.traffic_end.at if release.traffic_end is not None else None,
        now,
    )
    deployment = app.get_open_deployment(now)
    is_closed = deployment is not None and same_hub(deployment.task_hub, release.task_hub)
    updated_app = replace(
        app,
        releases={version: other for version, other in app.releases.items() if version != release.version},
        removed_releases=(removed, *app.removed_releases)[:MAX_REMOVED_RELEASES],
        retired=(*app.retired, RetiredHub(release.task_hub, release.version, now)),
        deployment=None if is_closed else deployment,
    )
    return Transition(updated_app, "DeleteRelease", _removal_details(release, RemovalOutcome.DONE))


def _removal_details(release: Release, outcome: RemovalOutcome) -> dict[str, str]:
    """What the audit log says of a step of a removal."""
    return {"outcome": outcome.value, "version": release.version, "taskHub": release.task_hub}
