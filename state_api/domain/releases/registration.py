"""PutApp: register or correct the task hub of each slot, the policy, and the provider of the task hubs.

A slot loses its task hub only if that has drained. `side_by_side/adoption.py` decides on releases side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.names import PRODUCTION, HubKey, hub_key, same_hub
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases import other_run_refusals, refusals, slot_refusals
from state_api.domain.releases.apps import App, PendingSwap, RetiredHub, Slot, Transition
from state_api.domain.releases.commands import RegisterCommand, SlotAssignment
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_live_rollout
from state_api.domain.releases.side_by_side.adoption import (
    AdoptionEvidence,
    assign_releases,
    check_releases,
    find_moved_slots,
    find_new_versions,
    resulting_model,
)
from state_api.domain.releases.transition_checks import check_name_is_new
from state_api.domain.task_hubs.ownership import OwnershipProof


@dataclass(frozen=True, slots=True)
class RegisterEvidence:
    """What is known of the slots and of the new names.

    `verdicts`: one for each of `find_replaced_slots`. `used_hub_keys`: keys of the named task hubs that an app used
    before. `proof`: that of adopted task hubs; None if the app has no provider. `adoption`: what is known of the named
    releases.
    """

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    used_hub_keys: frozenset[HubKey] = frozenset()
    proof: OwnershipProof | None = None
    adoption: AdoptionEvidence = field(default_factory=AdoptionEvidence)


def find_replaced_slots(app: App, command: RegisterCommand) -> tuple[str, ...]:
    """The slots that lose their task hub: each needs the verdict Ready. None while a swap is pending, because then no
    slot can change."""
    if app.pending_swap is not None:
        return ()
    return tuple(name for name, _ in _reassigned_slots(app, command) if app.slots.get(name) is not None)


def _reassigned_slots(app: App, command: RegisterCommand) -> Iterator[tuple[str, SlotAssignment | None]]:
    """The registered names of the slots that get another task hub or none, with what they get. Slots whose task hubs
    become those of releases are not among them."""
    moved = find_moved_slots(app, command)
    for requested_name, assignment in command.slots.items():
        name = app.registered_slot_name(requested_name)
        if name in moved:
            continue
        slot = app.slots.get(name)
        if slot is None or assignment is None or not same_hub(slot.task_hub, assignment.task_hub):
            yield name, assignment


def register_app(app: App, command: RegisterCommand, evidence: RegisterEvidence, now: Instant) -> Transition | Refusal:
    """Register or correct an app.

    Refusals: InvalidRequest, WrongModel, SwapPending, DeploymentInProgress, TaskHubInUse, TaskHubAlreadyUsed,
    StagingNotReady, ReleaseExists, AddressNotAllowed, TooManyReleases, RolloutInProgress.
    """
    slots = _assign_slots(app, command, now)
    refusal = (
        _check_pending_swap(app, command)
        or _check_no_rollout(app, command)
        or _check_slots(app, command, evidence, now)
        or check_releases(app, command, slots, evidence.adoption, now)
    )
    if refusal is not None:
        return refusal
    updated_app = replace(
        app,
        model=resulting_model(app, command),
        slots=slots,
        releases=assign_releases(app, command, evidence.adoption, now),
        retired=(*app.retired, *_newly_retired(app, command, now)),
        # An expired deployment is dropped, so that a longer timeout does not open it again.
        deployment=app.get_open_deployment(now),
        pending_swap=_without_expired_deployment(app, now),
        policy=command.update_policy(app.policy),
        provider_config=command.resulting_provider_config(app),
    )
    if refusal := _check_adoption(updated_app, command):
        return refusal
    new_hubs = _find_new_hubs(app, command)
    adopted_hubs = _find_adopted_hubs(updated_app, command, new_hubs)
    if adopted_hubs and evidence.proof is None:
        return refusals.adoption_needs_provider()
    return Transition(
        updated_app,
        "PutApp",
        _adoption_details((*new_hubs, *adopted_hubs), evidence.proof) | _change_details(app, updated_app),
        new_hubs,
        adopted_hubs,
        evidence.proof,
        changed=updated_app != app or app.revision == 0 or bool(adopted_hubs),
    )


def _find_new_hubs(app: App, command: RegisterCommand) -> tuple[str, ...]:
    """The task hubs that enter a slot, and those of new releases. Those that move from a slot are not new."""
    in_slots = (assignment.task_hub for _, assignment in _reassigned_slots(app, command) if assignment)
    in_releases = (command.releases[version].task_hub for version in find_new_versions(app, command))
    return (*in_slots, *(task_hub for task_hub in in_releases if app.slot_holding(task_hub) is None))


def _check_pending_swap(app: App, command: RegisterCommand) -> Refusal | None:
    """Refuse to change a slot while a swap is pending."""
    if app.pending_swap is None or all(_is_slot_unchanged(app, name, slot) for name, slot in command.slots.items()):
        return None
    return other_run_refusals.swap_pending(app, app.pending_swap)


def _check_no_rollout(app: App, command: RegisterCommand) -> Refusal | None:
    """Refuse to change the slots of a live rollout, also by making their task hubs those of releases."""
    changed = {
        app.registered_slot_name(name)
        for name, assignment in command.slots.items()
        if not _is_slot_unchanged(app, name, assignment)
    }
    changed.update(find_moved_slots(app, command))
    return check_no_live_rollout(app, *changed) if changed else None


def _is_slot_unchanged(app: App, requested_name: str, assignment: SlotAssignment | None) -> bool:
    """Whether the slot already holds what the command puts into it. An assignment without a version keeps the
    version."""
    name = app.registered_slot_name(requested_name)
    slot = app.slots.get(name)
    if slot is None or assignment is None:
        return name in app.slots and slot is None and assignment is None
    return same_hub(slot.task_hub, assignment.task_hub) and (assignment.version or slot.version) == slot.version


def _check_slots(app: App, command: RegisterCommand, evidence: RegisterEvidence, now: Instant) -> Refusal | None:
    """Refuse to replace a task hub that has not drained, and to put a task hub into a slot that is not new."""
    new_hub_keys: set[HubKey] = set()
    for name, assignment in _reassigned_slots(app, command):
        if app.slots.get(name) is not None and (refusal := _check_replaceable(app, name, evidence.verdicts[name], now)):
            return refusal
        if assignment is None:
            continue
        key = hub_key(assignment.task_hub)
        if key in new_hub_keys:
            return slot_refusals.task_hub_in_two_slots(assignment.task_hub)
        if refusal := check_name_is_new(app, assignment.task_hub, used_before=key in evidence.used_hub_keys):
            return refusal
        new_hub_keys.add(key)
    return None


def _check_replaceable(app: App, name: str, verdict: Verdict, now: Instant) -> Refusal | None:
    """Refuse to take a task hub out of its slot before it has drained, or while a run deploys it."""
    slot, deployment = app.slot(name), app.get_open_deployment(now)
    if slot is not None and deployment is not None and same_hub(deployment.task_hub, slot.task_hub):
        return other_run_refusals.deployment_in_progress(app, deployment, now)
    if verdict.ready:
        return None
    return refusals.staging_not_ready(app, name, verdict, next_step="Retry once it has drained")


def _assign_slots(app: App, command: RegisterCommand, now: Instant) -> dict[str, Slot | None]:
    """What the slots hold after the command."""
    moved = find_moved_slots(app, command)
    slots = {name: None if name in moved else slot for name, slot in app.slots.items()}
    for requested_name, assignment in command.slots.items():
        name = app.registered_slot_name(requested_name)
        if name not in moved:
            slots[name] = _assign_slot(name, app.slots.get(name), assignment, now)
    return slots


def _assign_slot(name: str, slot: Slot | None, assignment: SlotAssignment | None, now: Instant) -> Slot | None:
    """What the slot holds after the command. A task hub that it holds already stays, and may get another version."""
    if assignment is None:
        return None
    if slot is not None and same_hub(slot.task_hub, assignment.task_hub):
        return replace(slot, version=assignment.version or slot.version)
    is_production = name == PRODUCTION
    prior_hubs = slot.possible_hubs() if slot is not None and not is_production else ()
    return Slot(assignment.task_hub, assignment.version, now, promoted=is_production, prior_hubs=prior_hubs)


def _newly_retired(app: App, command: RegisterCommand, now: Instant) -> list[RetiredHub]:
    """The task hubs that the command takes out of slots. They retire, so that Cleanup can remove their records."""
    slots = [app.slots.get(name) for name, _ in _reassigned_slots(app, command)]
    return [RetiredHub(slot.task_hub, slot.version, now) for slot in slots if slot is not None]


def _without_expired_deployment(app: App, now: Instant) -> PendingSwap | None:
    """The pending swap, without the deployment to reopen if that has expired."""
    pending = app.pending_swap
    if pending is None:
        return None
    return replace(pending, deployment=replace(app, deployment=pending.deployment).get_open_deployment(now))


def _task_hubs_by_key(app: App) -> dict[HubKey, str]:
    """The task hubs of the app."""
    return {hub_key(task_hub): task_hub for task_hub in app.list_task_hubs()}


def _check_adoption(app: App, command: RegisterCommand) -> Refusal | None:
    """Refuse to adopt a task hub that is neither in a slot nor retired."""
    known_keys = _task_hubs_by_key(app).keys()
    unknown = next((task_hub for task_hub in command.adopt_task_hubs if hub_key(task_hub) not in known_keys), None)
    return None if unknown is None else refusals.not_adoptable(app, unknown)


def _find_adopted_hubs(app: App, command: RegisterCommand, new_hubs: Sequence[str]) -> tuple[str, ...]:
    """The task hubs to adopt, as the app spells them. Those that this command puts into a slot are left out, because
    they are adopted together with the slot."""
    new_hub_keys = set(map(hub_key, new_hubs))
    by_key = _task_hubs_by_key(app)
    return tuple(by_key[key] for key in dict.fromkeys(map(hub_key, command.adopt_task_hubs)) if key not in new_hub_keys)


def _adoption_details(task_hubs: Sequence[str], proof: OwnershipProof | None) -> dict[str, Any]:
    """What the audit log says of adopted task hubs: their names, and the addresses of the provider."""
    if proof is None or not task_hubs:
        return {}
    return {"adopted": {"taskHubs": list(task_hubs), "addresses": list(proof.addresses)}}


def _change_details(before: App, after: App) -> dict[str, Any]:
    """The details of a registration for the audit log: only what it changed."""
    details: dict[str, Any] = {}
    if after.model is not before.model:
        details["model"] = after.model.value
    if after.releases != before.releases:
        details["releases"] = {
            version: {"taskHub": release.task_hub, "address": release.address}
            for version, release in after.releases.items()
            if release != before.releases.get(version)
        }
    if after.slots != before.slots:
        details["slots"] = {
            name: {"taskHub": slot.task_hub, "version": slot.version} if slot else None
            for name, slot in after.slots.items()
            if name not in before.slots or slot != before.slots[name]
        }
    if len(after.retired) > len(before.retired):
        details["retired"] = [retired.task_hub for retired in after.retired[len(before.retired) :]]
    if after.policy != before.policy:
        details["policy"] = _policy_changes(before.policy, after.policy)
    if after.provider_config != before.provider_config:
        details["taskHubs"] = _to_camel_case_members(asdict(after.provider_config)) if after.provider_config else None
    return details


def _policy_changes(before: Policy, after: Policy) -> dict[str, Any]:
    """The members of the policy that differ, by their JSON names, with their new values, for the audit log."""
    old, new = _to_camel_case_members(asdict(before)), _to_camel_case_members(asdict(after))
    return {name: value for name, value in new.items() if value != old[name]}


def _to_camel_case_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members under the names that they have in the API."""
    return {
        _to_camel_case(name): _to_camel_case_members(value) if isinstance(value, Mapping) else value
        for name, value in members.items()
    }


def _to_camel_case(name: str) -> str:
    """The JSON name of a member, such as `settleSeconds` for `settle_seconds`."""
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
