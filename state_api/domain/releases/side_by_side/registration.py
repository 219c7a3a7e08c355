"""PostRelease: register a new release and open a deployment for the caller's run."""

from dataclasses import dataclass, replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.names import matches_address_pattern, same_hub
from state_api.domain.releases import other_run_refusals, refusals
from state_api.domain.releases.apps import App, Deployment, Transition
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side import refusals as release_refusals
from state_api.domain.releases.side_by_side.commands import RegisterReleaseCommand
from state_api.domain.releases.side_by_side.releases import (
    MAX_RELEASES,
    Model,
    Release,
    ReleaseTokens,
)
from state_api.domain.releases.transition_checks import check_model, check_name_is_new, find_blocking_deployment
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis, ProviderUnavailable


@dataclass(frozen=True, slots=True)
class RegisterReleaseEvidence:
    """What is known of the new names.

    - `tokens`: new random tokens.
    - `earlier_task_hub`: the task hub of the release that had this version before; None for a new version.
    - `used_before`: an app of this server or a recorded event used the task hub's name.
    - `existing`: what the provider has under the task hub's name, or why the provider is unavailable. None if the
      provider need not be asked.
    """

    tokens: ReleaseTokens
    earlier_task_hub: str | None = None
    used_before: bool = False
    existing: ExistingArtifacts | ProviderUnavailable | None = None


def find_staged_release(app: App, command: RegisterReleaseCommand) -> Release | None:
    """The release of this version and task hub, if it never had traffic and is not being removed. It can be registered
    again, and its names are claimed already."""
    release = app.releases.get(command.version)
    if release is None or release.had_traffic or release.removal is not None:
        return None
    return release if same_hub(release.task_hub, command.task_hub) else None


def register_release(
    app: App, command: RegisterReleaseCommand, evidence: RegisterReleaseEvidence, now: Instant
) -> Transition | Refusal:
    """Register a new release and open a deployment for the caller's run.

    Refusals: WrongModel, InvalidRequest, DeploymentInProgress, ReleaseExists, AddressNotAllowed, TaskHubInUse,
    TaskHubAlreadyUsed, TooManyReleases, TaskHubUnavailable.
    """
    refusal = (
        check_model(app, Model.SIDE_BY_SIDE)
        or _check_reason(command)
        or _check_other_runs(app, command, now)
        or check_address(app, command.version, command.address)
    )
    if refusal is not None:
        return refusal
    staged = find_staged_release(app, command)
    if staged is not None:
        return _register_again(app, staged, command, now)
    refusal = (
        _check_version_is_new(app, command, evidence)
        or _check_task_hub_is_new(app, command, evidence)
        or check_capacity(app, 1)
        # This check is the last, because a retry when the provider answers again would not end the refusals above.
        or _check_provider_answered(command, evidence)
    )
    return refusal or _register(app, command, evidence, now)


def _check_reason(command: RegisterReleaseCommand) -> Refusal | None:
    """Refuse to take over another run's deployment without a reason for the audit log."""
    is_missing = command.take_over and not (command.reason or "").strip()
    return refusals.reason_required("takeOver") if is_missing else None


def _check_other_runs(app: App, command: RegisterReleaseCommand, now: Instant) -> Refusal | None:
    """Refuse while another run deploys into the app, unless the command takes over."""
    deployment = find_blocking_deployment(app, command.caller.run_id(command.task_hub), now)
    if deployment is None or command.take_over:
        return None
    return other_run_refusals.deployment_in_progress(app, deployment, now)


def check_address(app: App, version: str, address: str) -> Refusal | None:
    """Refuse an address that the policy does not allow, or that another release has."""
    if refusal := check_address_allowed(app, address):
        return refusal
    holder = next((release for release in app.releases.values() if release.address == address), None)
    if holder is None or holder.version == version:
        return None
    return release_refusals.address_used(app, holder)


def check_address_allowed(app: App, address: str) -> Refusal | None:
    """Refuse an address that the policy does not allow."""
    pattern = app.policy.address_pattern
    if pattern is None or matches_address_pattern(address, pattern):
        return None
    return release_refusals.address_not_allowed(app, address)


def check_capacity(app: App, new_count: int) -> Refusal | None:
    """Refuse `new_count` further releases if the app would have more than it may."""
    limit = app.policy.max_releases
    allowed = MAX_RELEASES if limit is None else min(limit, MAX_RELEASES)
    return release_refusals.too_many_releases(app) if new_count and len(app.releases) + new_count > allowed else None


def _check_version_is_new(
    app: App, command: RegisterReleaseCommand, evidence: RegisterReleaseEvidence
) -> Refusal | None:
    """Refuse a version that a release has, or that a removed one had."""
    release = app.releases.get(command.version)
    if release is not None:
        return release_refusals.release_exists(app, release)
    if evidence.earlier_task_hub is not None:
        return release_refusals.version_used(app, command.version, evidence.earlier_task_hub)
    return None


def _check_task_hub_is_new(
    app: App, command: RegisterReleaseCommand, evidence: RegisterReleaseEvidence
) -> Refusal | None:
    """Refuse a task hub that the server has seen before, or that exists at its provider."""
    if refusal := check_name_is_new(app, command.task_hub, used_before=evidence.used_before):
        return refusal
    existing = evidence.existing
    if isinstance(existing, ExistingArtifacts) and existing.artifacts:
        return refusals.task_hub_exists(command.task_hub, existing)
    return None


def _check_provider_answered(command: RegisterReleaseCommand, evidence: RegisterReleaseEvidence) -> Refusal | None:
    """Refuse while it is unknown whether the task hub exists at its provider."""
    if isinstance(evidence.existing, ProviderUnavailable):
        return refusals.provider_unavailable(command.task_hub, evidence.existing)
    return None


def _register_again(app: App, staged: Release, command: RegisterReleaseCommand, now: Instant) -> Transition:
    """Open the deployment of a staged release again, and correct its address. Nothing changes if it is open."""
    deployment = app.get_open_deployment(now)
    is_open = deployment is not None and deployment.run_id == command.caller.run_id(command.task_hub)
    is_deployed = is_open and deployment is not None and same_hub(deployment.task_hub, command.task_hub)
    if is_deployed and staged.address == command.address:
        return Transition(app, "PostRelease", changed=False)
    # Its app is deployed again, so it may start.
    return _open_deployment(app, replace(staged, address=command.address, drained_backend=None), command, now)


def _register(app: App, command: RegisterReleaseCommand, evidence: RegisterReleaseEvidence, now: Instant) -> Transition:
    """The transition that adds the release, opens the run's deployment, and claims the task hub."""
    release = Release(command.version, command.task_hub, command.address, evidence.tokens, now)
    proof = None
    if isinstance(evidence.existing, ExistingArtifacts):
        proof = OwnershipProof(ProofBasis.NEW, evidence.existing.addresses, now)
    opened = _open_deployment(app, release, command, now)
    return replace(opened, new_hubs=(release.task_hub,), proof=proof)


def _open_deployment(app: App, release: Release, command: RegisterReleaseCommand, now: Instant) -> Transition:
    """Add the release to the app, and open a deployment for the caller's run. It replaces that of a run that is taken
    over."""
    run_id = command.caller.run_id(command.task_hub)
    deployment = Deployment(
        task_hub=release.task_hub,
        version=release.version,
        slot=None,
        started_at=now,
        started_by=command.caller.name,
        run_url=command.caller.run_url,
        run_id=run_id,
    )
    details: dict[str, Any] = {"version": release.version, "taskHub": release.task_hub, "address": release.address}
    taken_over = find_blocking_deployment(app, run_id, now)
    if taken_over is not None:
        details["takenOverFrom"] = other_run_refusals.deployment_details(taken_over)
    updated_app = replace(app, releases={**app.releases, release.version: release}, deployment=deployment)
    return Transition(updated_app, "PostRelease", details)
