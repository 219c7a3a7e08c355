"""Checks that more than one transition makes. Each returns the refusal, or None if the transition may go on."""

from state_api.domain.instants import Instant
from state_api.domain.names import same_hub
from state_api.domain.releases import other_run_refusals, refusals, slot_refusals
from state_api.domain.releases.apps import App, Deployment
from state_api.domain.releases.refusals import Refusal
from state_api.domain.releases.side_by_side.refusals import wrong_model
from state_api.domain.releases.side_by_side.releases import Model


def check_model(app: App, model: Model) -> Refusal | None:
    """The operation is for apps of this model."""
    return None if app.model is model else wrong_model(app, model)


def check_no_pending_swap(app: App) -> Refusal | None:
    """Refuse the transition while a swap is pending."""
    return other_run_refusals.swap_pending(app, app.pending_swap) if app.pending_swap is not None else None


def check_slot_exists(app: App, slot: str) -> Refusal | None:
    """Refuse a slot that the app does not have, so that a misspelt name does not look like an empty slot."""
    return None if app.has_slot(slot) else slot_refusals.slot_not_found(app, slot)


def check_name_is_new(app: App, task_hub: str, *, used_before: bool) -> Refusal | None:
    """Refuse a task hub that was in a slot or in a release before.

    `used_before`: any app or event has used its name before."""
    holder = app.find_holder(task_hub)
    if holder is not None:
        return refusals.task_hub_in_use(app.name, holder, task_hub)
    if used_before or any(same_hub(retired.task_hub, task_hub) for retired in app.retired):
        return refusals.task_hub_already_used(task_hub)
    return None


def find_blocking_deployment(app: App, run_id: str | None, now: Instant) -> Deployment | None:
    """The open deployment of any other run than this one. None as `run_id` stands for a caller that has no run."""
    deployment = app.get_open_deployment(now)
    return deployment if deployment is not None and deployment.run_id != run_id else None
