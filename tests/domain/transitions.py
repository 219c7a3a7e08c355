"""Functions that make the transitions of an app, with defaults, so that a test names only what it is about.

A refusal is raised as its error, as in the services, so that a test can expect it with `pytest.raises`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from state_api.domain.instants import Instant
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, ProviderConfig, RetiredHub, Slot, Transition
from state_api.domain.releases.commands import (
    AbandonCommand,
    RegisterCommand,
    RemoveRetiredHubsCommand,
    RemoveWaiverCommand,
    SlotAssignment,
    StageCommand,
    SwapCommand,
    SwapOutcome,
    WaiveCommand,
)
from state_api.domain.releases.deletion import DeletionEvidence, delete_app
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.registration import RegisterEvidence, register_app
from state_api.domain.releases.retirement import remove_retired_hubs
from state_api.domain.releases.staging import StageEvidence, abandon_deployment, stage_task_hub
from state_api.domain.releases.swaps import swap_slots
from state_api.domain.releases.waivers import add_waiver, remove_waiver
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProviderUnavailable
from tests.domain.builders import ANNA, NOON, build_app, build_production_slot, build_ready_verdict, noon_plus

READY = build_ready_verdict()


def require_transition(result: Transition | Refusal) -> Transition:
    """The result if it is a transition. Raises the error of a refusal."""
    if isinstance(result, Refusal):
        raise result.to_error()
    return result


# PostStaging and DeleteStaging


def build_stage_command(
    task_hub: str = "v42",
    version: str | None = None,
    *,
    caller: Caller = ANNA,
    slot: str = "staging",
    force: bool = False,
    take_over: bool = False,
    reason: str | None = None,
) -> StageCommand:
    """The command to stage a task hub, by Anna unless another caller is given."""
    return StageCommand(
        caller=caller,
        task_hub=task_hub,
        version=version,
        slot=slot,
        force=force,
        take_over=take_over,
        reason=reason,
    )


def stage(
    app: App,
    command: StageCommand | None = None,
    *,
    caller: Caller | None = None,
    verdict: Verdict | None = READY,
    used_before: bool = False,
    existing: ExistingArtifacts | ProviderUnavailable | None = None,
    now: Instant = NOON,
) -> Transition:
    """Stage v42 over a slot that has drained, unless the arguments say otherwise."""
    command = command or build_stage_command()
    if caller is not None:
        command = replace(command, caller=caller)
    evidence = StageEvidence(verdict, used_before, existing)
    return require_transition(stage_task_hub(app, command, evidence, now))


def stage_new_hub(
    app: App, task_hub: str = "v42", caller: Caller = ANNA, now: Instant = NOON, slot: str = "staging"
) -> Transition:
    """Stage version 1.5.0 with a new task hub over a slot that has drained."""
    return stage(app, build_stage_command(task_hub, "1.5.0", caller=caller, slot=slot), now=now)


def build_app_with_open_deployment(
    caller: Caller = ANNA,
    policy: Policy | None = None,
    *,
    more_slots: dict[str, Slot | None] | None = None,
    retired: tuple[RetiredHub, ...] = (),
) -> App:
    """An app with v41 in production, into which the caller's run staged v42 at noon. It has not swapped v42 yet."""
    app = build_app(build_production_slot(), policy=policy, more_slots=more_slots, retired=retired)
    return stage_new_hub(app, caller=caller).app


def abandon_staging(
    app: App, task_hub: str, now: Instant = NOON, *, slot: str = "staging", caller: Caller = ANNA
) -> Transition:
    """Abandon the deployment of a task hub, as DeleteStaging does."""
    return require_transition(abandon_deployment(app, AbandonCommand(caller=caller, task_hub=task_hub, slot=slot), now))


# PostSwap


def _post_swap(app: App, task_hub: str, now: Instant, outcome: SwapOutcome | None, **fields: Any) -> Transition:
    command = SwapCommand(task_hub=task_hub, outcome=outcome, **{"caller": ANNA, **fields})
    return require_transition(swap_slots(app, command, now))


def swap_at_once(
    app: App, task_hub: str, now: Instant = NOON, *, slot: str = "staging", rollback: bool = False
) -> Transition:
    """Swap as PostSwap without an outcome does, by a caller who names the revision of the app."""
    return _post_swap(app, task_hub, now, None, slot=slot, rollback=rollback, is_conditional=True)


def begin_swap(
    app: App,
    task_hub: str,
    now: Instant = NOON,
    *,
    slot: str = "staging",
    caller: Caller = ANNA,
    rollback: bool = False,
) -> Transition:
    """Begin a swap as PostSwap with the outcome Pending does."""
    return _post_swap(app, task_hub, now, SwapOutcome.PENDING, slot=slot, caller=caller, rollback=rollback)


def confirm_swap(
    app: App, task_hub: str, now: Instant = NOON, *, slot: str = "staging", rollback: bool = False
) -> Transition:
    """Report with PostSwap that a swap is done, by a caller who names the revision of the app."""
    return _post_swap(app, task_hub, now, SwapOutcome.DONE, slot=slot, rollback=rollback, is_conditional=True)


def revert_swap(app: App, task_hub: str, *, slot: str = "staging", rollback: bool = False) -> Transition:
    """Report a swap as failed, with the outcome Failed of PostSwap, by a caller who names the revision of the app."""
    return _post_swap(app, task_hub, NOON, SwapOutcome.FAILED, slot=slot, rollback=rollback, is_conditional=True)


def begin_swap_of_staged_hub(
    *, more_slots: dict[str, Slot | None] | None = None, retired: tuple[RetiredHub, ...] = ()
) -> Transition:
    """Let Anna's run stage v42 at noon, and begin to swap it with v41 a minute later."""
    return begin_swap(build_app_with_open_deployment(more_slots=more_slots, retired=retired), "v42", noon_plus(60))


# PutApp and DeleteApp

SlotContent = tuple[str, str | None] | None
"""The task hub and the version of a slot; None for an empty slot."""


def build_register_command(
    slots: Mapping[str, SlotContent] | None = None,
    *,
    update_policy: Callable[[Policy], Policy] = lambda policy: policy,
    provider_config: ProviderConfig | None = None,
    clear_provider_config: bool = False,
    adopt_task_hubs: tuple[str, ...] = (),
) -> RegisterCommand:
    """The command of PutApp, by Anna. Without arguments it changes nothing."""
    return RegisterCommand(
        caller=ANNA,
        slots={name: SlotAssignment(*assignment) if assignment else None for name, assignment in (slots or {}).items()},
        update_policy=update_policy,
        provider_config=provider_config,
        clear_provider_config=clear_provider_config,
        adopt_task_hubs=adopt_task_hubs,
    )


def register(
    app: App,
    command: RegisterCommand,
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    used_hub_keys: frozenset[Any] = frozenset(),
    proof: OwnershipProof | None = None,
    now: Instant = NOON,
) -> Transition:
    """Register an app. Fails if that is refused."""
    return require_transition(register_app(app, command, RegisterEvidence(verdicts or {}, used_hub_keys, proof), now))


def delete_registered_app(app: App, verdicts: Mapping[str, Verdict], now: Instant = NOON) -> Transition:
    """Delete an app with these verdicts on its slots, as DeleteApp does. Empty slots are Ready unless a verdict says
    otherwise."""
    evidence = DeletionEvidence({**empty_slot_verdicts(app), **verdicts})
    return require_transition(delete_app(app, evidence, now))


def empty_slot_verdicts(app: App) -> dict[str, Verdict]:
    """The verdict Ready for each empty slot."""
    return {name: READY for name, slot in app.slots.items() if slot is None}


# Waivers and Cleanup


def post_waiver(app: App, waiver: Waiver, now: Instant = NOON) -> Transition:
    """Add this waiver as PostWaiver does."""
    command = WaiveCommand(
        caller=Caller(waiver.by),
        reason=waiver.reason,
        task_hub=waiver.task_hub,
        expires_at=waiver.expires_at,
        instance_id=None if waiver.is_for_messages else waiver.instance_id,
        unexplained_messages=waiver.unexplained_messages,
    )
    return require_transition(add_waiver(app, command, now))


def delete_waiver(app: App, task_hub: str, instance_id: str | None) -> Transition:
    """Remove a waiver as DeleteWaiver does."""
    return require_transition(
        remove_waiver(app, RemoveWaiverCommand(caller=ANNA, task_hub=task_hub, instance_id=instance_id))
    )


def forget_retired_hubs(app: App, removed: Iterable[str], not_owned: Iterable[str] = ()) -> Transition:
    """Remove retired task hubs from the app, as Cleanup does at its end."""
    command = RemoveRetiredHubsCommand(caller=ANNA, removed=tuple(removed), not_owned=tuple(not_owned))
    return remove_retired_hubs(app, command)
