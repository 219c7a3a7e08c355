"""Stage, abandon, clean up: how a new task hub gets into a slot, and how old ones are forgotten.

Every transition is a pure function from one App to the next. It raises from the error tree when it would break
running work or another pipeline, and answers with an unchanged App when there is nothing to do, so that a pipeline
can always be run again. The others are in `swaps.py`, `registration.py` and `waivers.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from state_api.domain.errors import InvalidRequest, SwapMismatch, TaskHubUnavailable
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import PRODUCTION, STAGING, hub_key, same_hub
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, Deployment, RetiredHub, Slot, Transition
from state_api.domain.releases.refusals import (
    check_task_hub_unused,
    deployment_details,
    deployment_in_progress,
    describe_owner,
    staging_not_ready,
    swap_mismatch,
    swap_pending,
)
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis


@dataclass(frozen=True, slots=True)
class StageCommand:
    """What PostStaging asks for. `force` overrides a hub that is not drained, `take_over` another run's open
    deployment; both need a reason, which goes on record."""

    task_hub: str
    version: str | None = None
    slot: str = STAGING
    force: bool = False
    take_over: bool = False
    reason: str | None = None


def find_blocking_deployment(app: App, run_id: str | None, now: Instant) -> Deployment | None:
    """The open deployment of another run than this one; None as run means that the caller holds none."""
    deployment = app.get_open_deployment(now)
    return deployment if deployment is not None and deployment.run_id != run_id else None


def needs_verdict(app: App, command: StageCommand, caller: Caller, now: Instant) -> bool:
    """Whether `stage_task_hub` will look at the verdict on the slot: not if it changes nothing, nor while a swap is pending."""
    return app.pending_swap is None and not is_staged_by(app, command, caller, now)


def is_staged_in_slot(app: App, command: StageCommand) -> bool:
    """Whether the slot holds this hub already, and it was never in production: then its name is claimed, and the hub
    can be staged again."""
    held = app.slots.get(app.registered_slot_name(command.slot))
    return held is not None and same_hub(held.task_hub, command.task_hub) and not held.promoted


def stage_task_hub(
    app: App,
    command: StageCommand,
    caller: Caller,
    verdict: Verdict | None,
    used_before: bool,
    now: Instant,
    existing: ExistingArtifacts | TaskHubUnavailable | None = None,
) -> Transition:
    """Put a new task hub into a slot and open a deployment for the caller's run.

    `verdict` is that of the hub now in the slot, leaving deployments aside; None only if `needs_verdict` says so. Where
    this run has staged this hub already, it is that of what may still be beneath it.
    `used_before` says that the hub was used before, by any app. `existing` is what its provider has under the new name, or
    why the provider cannot be asked; None if it must not be asked, or need not. Raises InvalidRequest, SwapPending,
    DeploymentInProgress, TaskHubInUse, TaskHubAlreadyUsed, StagingNotReady, TaskHubUnavailable, and SlotNotFound: a
    misspelt slot must not pass for an empty one.
    """
    if command.slot.lower() == PRODUCTION:
        raise InvalidRequest("a deployment is staged into a slot other than production and then swapped")
    if (command.force or command.take_over) and not (command.reason or "").strip():
        raise InvalidRequest("force and takeOver go on record: give a reason")
    if is_staged_by(app, command, caller, now):
        if verdict is not None and not verdict.ready and not command.force:
            # It changes nothing here, but the caller goes on to deploy.
            raise staging_not_ready(app, app.registered_slot_name(command.slot), verdict)
        return Transition(app, "PostStaging", changed=False)
    if app.pending_swap is not None:
        # Not even with force: which hub the platform has in the slot is not known.
        raise swap_pending(app, app.pending_swap)
    taken_from = find_blocking_deployment(app, caller.run_id(command.task_hub), now)
    if taken_from is not None and not command.take_over:
        raise deployment_in_progress(app, taken_from, now)
    name = app.registered_slot_name(command.slot)
    held = app.slot(name)
    again = is_staged_in_slot(app, command)
    if not again:
        check_task_hub_unused(app, command.task_hub, used_before, existing)
    assert verdict is not None, "a verdict is needed to stage over what is in the slot"
    if not verdict.ready and not command.force:
        raise staging_not_ready(app, name, verdict)
    # After the refusals: waiting for the provider would not end those.
    proof = None if again else _prove_unused(existing, now)
    deployment = Deployment(
        task_hub=command.task_hub,
        version=command.version,
        slot=name,
        started_at=now,
        started_by=caller.name,
        run_url=caller.run_url,
        run_id=caller.run_id(command.task_hub),
    )
    staged = Slot(command.task_hub, command.version, now, prior_hubs=held.possible_hubs() if held else ())
    if again and held is not None:
        staged = replace(held, version=command.version or held.version)
    retired = app.retired if held is None or again else (*app.retired, RetiredHub(held.task_hub, held.version, now))
    details: dict[str, Any] = {"slot": name, "taskHub": command.task_hub, "version": command.version}
    if held is not None and not again:
        details["retired"] = held.task_hub
    if command.force and not verdict.ready:
        details["forcedOver"] = [reason.message for reason in verdict.reasons]
    if taken_from is not None:
        details["takenOverFrom"] = deployment_details(taken_from)
    return Transition(
        replace(app, slots={**app.slots, name: staged}, deployment=deployment, retired=retired),
        "PostStaging",
        details,
        new_hubs=() if again else (command.task_hub,),
        proof=proof,
    )


def _prove_unused(existing: ExistingArtifacts | TaskHubUnavailable | None, now: Instant) -> OwnershipProof | None:
    """The proof of a claim on a name under which nothing exists. Raises TaskHubUnavailable."""
    if isinstance(existing, TaskHubUnavailable):
        raise existing
    return OwnershipProof(ProofBasis.NEW, existing.addresses, now) if existing is not None else None


def abandon_deployment(app: App, task_hub: str, slot: str, caller: Caller, now: Instant) -> Transition:
    """Close the open deployment of this hub. The hub stays in its slot. Raises SwapMismatch if another holds it,
    SwapPending, SlotNotFound."""
    held = app.slot(slot)
    deployment = app.get_open_deployment(now)
    if app.pending_swap is not None and app.pending_swap.slot == app.registered_slot_name(slot):
        # Its deployment is over if the swap was done, and open if it was not.
        raise swap_pending(app, app.pending_swap)
    if deployment is None or deployment.slot != app.registered_slot_name(slot):
        if held is not None and same_hub(held.task_hub, task_hub):
            return Transition(app, "DeleteStaging", changed=False)
        raise swap_mismatch(app, slot, task_hub)
    if not same_hub(deployment.task_hub, task_hub) or deployment.run_id != caller.run_id(task_hub):
        raise SwapMismatch(
            f"the open deployment of app {app.name} is not yours to abandon: {describe_owner(deployment)} has held it for task "
            f"hub {deployment.task_hub} since {format_instant(deployment.started_at)}. Send that run's X-Run-Url to "
            "act for it, or stage with takeOver and a reason",
            deployment=deployment_details(deployment),
        )
    return Transition(
        replace(app, deployment=None), "DeleteStaging", {"taskHub": deployment.task_hub, "slot": deployment.slot}
    )


def find_hubs_kept_by_retention(app: App, now: Instant) -> frozenset[str]:
    """The names of the retired hubs that the policy keeps: the youngest ones, and those retired lately."""
    retention = app.policy.retention
    youngest_first = sorted(app.retired, key=lambda hub: hub.retired_at, reverse=True)
    # Servers agree on the time to a second: no age, not even a negative one, is young for a policy of no hours.
    period = seconds(3600 * retention.keep_for_hours)
    young = {hub.task_hub for hub in app.retired if period and now - hub.retired_at < period}
    return frozenset(young | {hub.task_hub for hub in youngest_first[: retention.keep_last]})


def remove_retired_hubs(app: App, task_hubs: Iterable[str], not_owned: Iterable[str] = ()) -> Transition:
    """Forget retired hubs whose records are removed. Those that are `not_owned` stay at their provider."""
    kept = {hub_key(hub) for hub in not_owned}
    gone = {hub_key(hub) for hub in task_hubs} | kept
    left = tuple(hub for hub in app.retired if hub_key(hub.task_hub) not in gone)
    removed = [hub.task_hub for hub in app.retired if hub_key(hub.task_hub) in gone]
    details: dict[str, Any] = {"removed": removed}
    if foreign := [hub for hub in removed if hub_key(hub) in kept]:
        details["notOwned"] = foreign
    waivers = tuple(waiver for waiver in app.waivers if hub_key(waiver.task_hub) not in gone)
    return Transition(replace(app, retired=left, waivers=waivers), "Cleanup", details, changed=bool(removed))


def is_staged_by(app: App, command: StageCommand, caller: Caller, now: Instant) -> bool:
    """Whether this very run already holds the open deployment of this hub in this slot."""
    deployment = app.get_open_deployment(now)
    return (
        deployment is not None
        and app.slot_holding(deployment.task_hub) == deployment.slot
        and deployment.run_id == caller.run_id(command.task_hub)
        and same_hub(deployment.task_hub, command.task_hub)
        and deployment.slot.lower() == command.slot.lower()
    )
