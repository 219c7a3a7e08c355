"""PostStaging and DeleteStaging: put a new task hub into a slot and open a deployment, or close that deployment.

A transition is a pure function from one `App` to the next. It refuses what would break running work or another
pipeline, and returns the unchanged app if there is nothing to do, so that a pipeline can repeat every request.
"""

from dataclasses import dataclass, replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, same_hub
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases import other_run_refusals, refusals, slot_refusals
from state_api.domain.releases.apps import App, Deployment, RetiredHub, Slot, Transition
from state_api.domain.releases.commands import AbandonCommand, StageCommand
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_live_rollout, check_no_rollout_traffic
from state_api.domain.releases.side_by_side.releases import Model
from state_api.domain.releases.transition_checks import (
    check_model,
    check_name_is_new,
    check_no_pending_swap,
    check_slot_exists,
    find_blocking_deployment,
)
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis, ProviderUnavailable


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What is known of the slot and of the new name.

    - `verdict`: the verdict on all task hubs that the slot may carry, without regard to deployments. If this run has
      staged the task hub already (`is_staged_by`), the verdict is on `Slot.hubs_to_drain_before_redeployment`. None is
      allowed if there are no such task hubs, or if `needs_verdict` is false.
    - `used_before`: an app of this server or a recorded event used the name.
    - `existing`: what the provider has under the name, or why the provider is unavailable. None if the provider need
      not or must not be asked.
    """

    verdict: Verdict | None = None
    used_before: bool = False
    existing: ExistingArtifacts | ProviderUnavailable | None = None


def needs_verdict(app: App, command: StageCommand, now: Instant) -> bool:
    """Whether staging depends on a verdict on the slot. It does not if this run has staged the task hub already, while
    a swap is pending, or if a rollout may bring traffic to the slot."""
    return (
        app.pending_swap is None
        and not is_staged_by(app, command, now)
        and _check_no_rollout(app, command, now) is None
    )


def is_staged_by(app: App, command: StageCommand, now: Instant) -> bool:
    """Whether this run holds the open deployment of this task hub into this slot."""
    deployment = app.get_open_deployment(now)
    slot = app.slots.get(app.registered_slot_name(command.slot))
    return (
        deployment is not None
        # A task hub that had traffic may hold customers' work, which a second deployment would overwrite.
        and not (slot is not None and slot.had_traffic)
        and app.slot_holding(deployment.task_hub) == deployment.slot
        and deployment.run_id == command.caller.run_id(command.task_hub)
        and same_hub(deployment.task_hub, command.task_hub)
        and deployment.slot == app.registered_slot_name(command.slot)
    )


def is_staged_in_slot(app: App, command: StageCommand) -> bool:
    """Whether the slot holds this task hub and it never had traffic, from production or a rollout. Such a task hub can
    be staged again, and its name is claimed already."""
    slot = app.slots.get(app.registered_slot_name(command.slot))
    if slot is None or slot.promoted or slot.had_traffic:
        return False
    return same_hub(slot.task_hub, command.task_hub)


def stage_task_hub(app: App, command: StageCommand, evidence: StageEvidence, now: Instant) -> Transition | Refusal:
    """Put a new task hub into a slot and open a deployment for the caller's run.

    Refusals: WrongModel, InvalidRequest, SlotNotFound, SwapPending, DeploymentInProgress, TaskHubInUse,
    TaskHubAlreadyUsed, StagingNotReady, TaskHubUnavailable, RolloutInProgress.
    """
    if refusal := check_model(app, Model.SLOTS) or _check_command(command):
        return refusal
    if is_staged_by(app, command, now):
        # Nothing changes on record, but the caller will deploy over what the slot may still carry.
        refusal = _check_no_rollout(app, command, now) or _check_drained(app, command, evidence.verdict)
        return refusal or Transition(app, "PostStaging", changed=False)
    refusal = (
        # Force does not help: which task hub the platform has in the slot is unknown.
        check_no_pending_swap(app)
        or check_slot_exists(app, command.slot)
        or _check_no_rollout(app, command, now)
        or _check_other_runs(app, command, now)
        or _check_task_hub_is_new(app, command, evidence)
        or _check_drained(app, command, _require_verdict(evidence))
        # This check is the last, because a retry when the provider answers again would not end the refusals above.
        or _check_provider_answered(app, command, evidence)
    )
    return refusal or _stage(app, command, evidence, now)


def _check_command(command: StageCommand) -> Refusal | None:
    """Refuse a command that is wrong for any state of the app: for production, or an override without a reason."""
    if command.slot.lower() == PRODUCTION:
        return slot_refusals.production_not_stageable()
    if (command.force or command.take_over) and not (command.reason or "").strip():
        return refusals.reason_required("force or takeOver")
    return None


def _check_no_rollout(app: App, command: StageCommand, now: Instant) -> Refusal | None:
    """Refuse the command while a rollout uses the slot. Once the rollout has ended, force allows to overwrite the slot
    before the last pinned visitor has left."""
    name = app.registered_slot_name(command.slot)
    return check_no_live_rollout(app, name) or (None if command.force else check_no_rollout_traffic(app, name, now))


def _check_other_runs(app: App, command: StageCommand, now: Instant) -> Refusal | None:
    """Refuse the command if another run has an open deployment in the app, unless the command takes it over."""
    deployment = find_blocking_deployment(app, command.caller.run_id(command.task_hub), now)
    if deployment is None or command.take_over:
        return None
    return other_run_refusals.deployment_in_progress(app, deployment, now)


def _check_task_hub_is_new(app: App, command: StageCommand, evidence: StageEvidence) -> Refusal | None:
    """Refuse a task hub that this server or the provider already knows, unless it is staged in this slot."""
    if is_staged_in_slot(app, command):
        return None
    if refusal := check_name_is_new(app, command.task_hub, used_before=evidence.used_before):
        return refusal
    existing = evidence.existing
    if isinstance(existing, ExistingArtifacts) and existing.artifacts:
        return refusals.task_hub_exists(command.task_hub, existing)
    return None


def _require_verdict(evidence: StageEvidence) -> Verdict:
    assert evidence.verdict is not None, "a verdict is needed to stage over what is in the slot"
    return evidence.verdict


def _check_drained(app: App, command: StageCommand, verdict: Verdict | None) -> Refusal | None:
    """Refuse the command if what the slot may carry has not drained, unless the command forces it."""
    if verdict is None or verdict.ready or command.force:
        return None
    slot = app.registered_slot_name(command.slot)
    next_step = "Retry once it has drained, or stage with force and a reason"
    return refusals.staging_not_ready(app, slot, verdict, next_step=next_step)


def _check_provider_answered(app: App, command: StageCommand, evidence: StageEvidence) -> Refusal | None:
    """Refuse a new task hub name if its provider could not be asked."""
    if is_staged_in_slot(app, command) or not isinstance(evidence.existing, ProviderUnavailable):
        return None
    return refusals.provider_unavailable(command.task_hub, evidence.existing)


def _stage(app: App, command: StageCommand, evidence: StageEvidence, now: Instant) -> Transition:
    """The transition that every check allows."""
    name = app.registered_slot_name(command.slot)
    slot = app.slot(name)
    staged_again = is_staged_in_slot(app, command)
    # Only with force: the command is refused otherwise.
    visitors_may_come = check_no_rollout_traffic(app, name, now) is not None
    if slot is not None and staged_again:
        new_slot = replace(
            slot,
            version=command.version or slot.version,
            may_have_pinned_visitors=slot.may_have_pinned_visitors or visitors_may_come,
        )
        retired = app.retired
    else:
        new_slot = Slot(
            command.task_hub,
            command.version,
            now,
            prior_hubs=slot.possible_hubs() if slot else (),
            may_have_pinned_visitors=visitors_may_come,
        )
        retired = (*app.retired, RetiredHub(slot.task_hub, slot.version, now)) if slot else app.retired
    deployment = Deployment(
        task_hub=command.task_hub,
        version=command.version,
        slot=name,
        started_at=now,
        started_by=command.caller.name,
        run_url=command.caller.run_url,
        run_id=command.caller.run_id(command.task_hub),
    )
    return Transition(
        replace(app, slots={**app.slots, name: new_slot}, deployment=deployment, retired=retired),
        "PostStaging",
        _stage_details(app, command, evidence, now),
        new_hubs=() if staged_again else (command.task_hub,),
        proof=None if staged_again else _prove_unused(evidence, now),
    )


def _stage_details(app: App, command: StageCommand, evidence: StageEvidence, now: Instant) -> dict[str, Any]:
    """The details of a stage for the audit log: the command, what it retired, and what it overrode."""
    name = app.registered_slot_name(command.slot)
    slot = app.slot(name)
    verdict = _require_verdict(evidence)
    details: dict[str, Any] = {"slot": name, "taskHub": command.task_hub, "version": command.version}
    if slot is not None and not is_staged_in_slot(app, command):
        details["retired"] = slot.task_hub
    if not verdict.ready:
        details["forcedOver"] = [reason.message for reason in verdict.reasons]
    taken_over = find_blocking_deployment(app, command.caller.run_id(command.task_hub), now)
    if taken_over is not None:
        details["takenOverFrom"] = other_run_refusals.deployment_details(taken_over)
    return details


def _prove_unused(evidence: StageEvidence, now: Instant) -> OwnershipProof | None:
    """The proof of a claim on a name under which the provider has nothing; None if the provider was not asked."""
    if not isinstance(evidence.existing, ExistingArtifacts):
        return None
    return OwnershipProof(ProofBasis.NEW, evidence.existing.addresses, now)


def abandon_deployment(app: App, command: AbandonCommand, now: Instant) -> Transition | Refusal:
    """Close the open deployment of this task hub. The task hub stays in its slot and must drain there.

    Refusals: WrongModel; SlotNotFound; SwapPending if a swap with this slot is pending; RolloutInProgress if the slot
    is being rolled out; SwapMismatch if the slot holds another task hub or another run holds the deployment.
    """
    if refusal := check_model(app, Model.SLOTS) or check_slot_exists(app, command.slot):
        return refusal
    name = app.registered_slot_name(command.slot)
    if app.pending_swap is not None and app.pending_swap.slot == name:
        # The swap closes the deployment if it is done, and opens it again if it fails.
        return other_run_refusals.swap_pending(app, app.pending_swap)
    if refusal := check_no_live_rollout(app, name):
        return refusal
    deployment = app.get_open_deployment(now)
    if deployment is None or deployment.slot != name:
        slot = app.slot(name)
        if slot is not None and same_hub(slot.task_hub, command.task_hub):
            return Transition(app, "DeleteStaging", changed=False)
        return slot_refusals.swap_mismatch(app, name, command.task_hub)
    is_holder = deployment.run_id == command.caller.run_id(command.task_hub)
    if not is_holder or not same_hub(deployment.task_hub, command.task_hub):
        return other_run_refusals.deployment_of_other_run(app, deployment)
    details = {"taskHub": deployment.task_hub, "slot": deployment.slot}
    return Transition(replace(app, deployment=None), "DeleteStaging", details)
