"""What PutApp does for releases side by side: choose the model, adopt releases, and move task hubs from slots."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from state_api.domain.instants import Instant
from state_api.domain.names import HubKey, hub_key, same_hub
from state_api.domain.releases import other_run_refusals
from state_api.domain.releases.apps import App, Slot
from state_api.domain.releases.commands import RegisterCommand, ReleaseAssignment
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.rollout_checks import check_no_rollout_traffic
from state_api.domain.releases.side_by_side import refusals as release_refusals
from state_api.domain.releases.side_by_side.registration import check_address_allowed, check_capacity
from state_api.domain.releases.side_by_side.releases import Model, Release, ReleaseTokens
from state_api.domain.releases.transition_checks import check_name_is_new, check_no_pending_swap

_MANAGEMENT_API = "managementApi"
"""The provider that reads all task hubs through one Function App."""


@dataclass(frozen=True, slots=True)
class AdoptionEvidence:
    """What is known of the versions that the command names.

    - `tokens`: new random tokens for each of `find_new_versions`.
    - `earlier_task_hubs`: the task hub of the release that had a version before, by version.
    - `used_hub_keys`: keys of the named task hubs that an app used before.
    """

    tokens: Mapping[str, ReleaseTokens] = field(default_factory=dict)
    earlier_task_hubs: Mapping[str, str] = field(default_factory=dict)
    used_hub_keys: frozenset[HubKey] = frozenset()


def find_new_versions(app: App, command: RegisterCommand) -> tuple[str, ...]:
    """The versions in the command that the app does not have."""
    return tuple(version for version in command.releases if version not in app.releases)


def find_moved_slots(app: App, command: RegisterCommand) -> tuple[str, ...]:
    """The slots whose task hubs become those of releases."""
    task_hubs = [assignment.task_hub for assignment in command.releases.values()]
    return tuple(
        name
        for name, slot in app.slots.items()
        if slot is not None and any(same_hub(slot.task_hub, task_hub) for task_hub in task_hubs)
    )


def resulting_model(app: App, command: RegisterCommand) -> Model:
    """The app's model after the command."""
    return app.model if command.model is None else command.model


def check_releases(
    app: App,
    command: RegisterCommand,
    slots: Mapping[str, Slot | None],
    evidence: AdoptionEvidence,
    now: Instant,
) -> Refusal | None:
    """Refuse a model that does not fit to what the app has, and releases that cannot be adopted. `slots`: what the
    slots hold after the command."""
    if resulting_model(app, command) is Model.SLOTS:
        if command.releases:
            return release_refusals.wrong_model(app, Model.SIDE_BY_SIDE)
        return release_refusals.model_fixed(app) if app.releases else None
    return (
        _check_slots_empty(app, slots)
        or _check_provider(app, command)
        or _check_leaving_slots(app, command, now)
        or _check_adopted_releases(app, command, evidence)
    )


def _check_slots_empty(app: App, slots: Mapping[str, Slot | None]) -> Refusal | None:
    """Refuse slots with a task hub in an app with releases side by side."""
    filled = [f"{name} ({slot.task_hub})" for name, slot in slots.items() if slot is not None]
    if not filled:
        return None
    if app.model is Model.SIDE_BY_SIDE:
        return release_refusals.slots_in_wrong_model(app)
    return release_refusals.slots_filled(app, filled)


def _check_provider(app: App, command: RegisterCommand) -> Refusal | None:
    """Refuse the provider that reads all task hubs through one Function App: releases side by side are several."""
    provider_config = command.resulting_provider_config(app)
    if provider_config is None or provider_config.provider != _MANAGEMENT_API:
        return None
    return release_refusals.provider_impossible(provider_config.provider)


def _check_leaving_slots(app: App, command: RegisterCommand, now: Instant) -> Refusal | None:
    """Refuse that an app leaves its slots during a swap or a deployment."""
    if app.model is Model.SIDE_BY_SIDE:
        return None
    if refusal := check_no_pending_swap(app):
        return refusal
    deployment = app.get_open_deployment(now)
    if deployment is not None:
        return other_run_refusals.deployment_in_progress(app, deployment, now)
    for name in find_moved_slots(app, command):
        slot = app.slots[name]
        if slot is not None and slot.prior_hubs:
            return release_refusals.slot_may_carry_prior_hub(app, name, slot)
        if refusal := check_no_rollout_traffic(app, name, now):
            # A release has no such reason for its verdict, because a router pins no visitors by itself.
            return refusal
    return None


def _check_adopted_releases(app: App, command: RegisterCommand, evidence: AdoptionEvidence) -> Refusal | None:
    """Refuse releases whose address, version or task hub the app must not use. A task hub that moves from a slot of the
    app to a release need not be new."""
    moved_hubs = {
        hub_key(slot.task_hub) for name in find_moved_slots(app, command) if (slot := app.slots[name]) is not None
    }
    allowed_by = replace(app, policy=command.update_policy(app.policy))
    for version, assignment in command.releases.items():
        present = app.releases.get(version)
        refusal = (
            check_address_allowed(allowed_by, assignment.address)
            if present is None or present.address != assignment.address
            else None
        )
        if refusal is not None:
            return refusal
        if present is not None:
            if not same_hub(present.task_hub, assignment.task_hub):
                return release_refusals.release_exists(app, present)
            continue
        earlier = evidence.earlier_task_hubs.get(version)
        if earlier is not None and not same_hub(earlier, assignment.task_hub):
            return release_refusals.version_used(app, version, earlier)
        if hub_key(assignment.task_hub) in moved_hubs:
            continue
        used_before = hub_key(assignment.task_hub) in evidence.used_hub_keys
        if refusal := check_name_is_new(app, assignment.task_hub, used_before=used_before):
            return refusal
    return _check_differ(app, command) or check_capacity(allowed_by, len(find_new_versions(app, command)))


def _check_differ(app: App, command: RegisterCommand) -> Refusal | None:
    """Refuse releases of which two would have the same task hub or address."""
    kept = (
        ReleaseAssignment(release.task_hub, release.address)
        for version, release in app.releases.items()
        if version not in command.releases
    )
    seen: set[str] = set()
    for assignment in (*kept, *command.releases.values()):
        for name in (hub_key(assignment.task_hub), assignment.address):
            if name in seen:
                return release_refusals.release_named_twice(name)
            seen.add(name)
    return None


def assign_releases(app: App, command: RegisterCommand, evidence: AdoptionEvidence, now: Instant) -> dict[str, Release]:
    """The releases after a command that `check_releases` allows.

    An adopted release may have traffic that no routing gives it, so it is not staged. Only a task hub that was never in
    production in its slot is known to have had none."""
    return {**app.releases, **dict(_iterate_assigned(app, command, evidence, now))}


def _iterate_assigned(
    app: App, command: RegisterCommand, evidence: AdoptionEvidence, now: Instant
) -> Iterator[tuple[str, Release]]:
    """Each release that the command names, with its version, as it is after the command."""
    for version, assignment in command.releases.items():
        present = app.releases.get(version)
        if present is not None:
            yield version, replace(present, address=assignment.address)
        else:
            slot_name = app.slot_holding(assignment.task_hub)
            slot = None if slot_name is None else app.slots[slot_name]
            is_staged = slot is not None and not slot.promoted and not slot.had_traffic
            tokens = evidence.tokens[version]
            yield (
                version,
                Release(version, assignment.task_hub, assignment.address, tokens, now, adopted=not is_staged),
            )
