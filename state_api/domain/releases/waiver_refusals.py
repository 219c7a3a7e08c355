"""Refusals of a waiver."""

from state_api.domain.errors import InvalidRequest, TaskHubNotFound, WaiverNotFound
from state_api.domain.releases.apps import App
from state_api.domain.releases.refusals import Refusal


def waiver_for_entity() -> Refusal:
    return Refusal(InvalidRequest, "instanceId names an entity. Entities never block a verdict and need no waiver")


def waiver_expiry_invalid(max_days: int) -> Refusal:
    return Refusal(InvalidRequest, f"expiresAt must be in the future, and at most {max_days} days from now")


def task_hub_not_of_app(app: App, task_hub: str) -> Refusal:
    return Refusal(
        TaskHubNotFound,
        f"no slot or release of app {app.name} holds task hub {task_hub}, and it is not retired. GetApp lists the task "
        "hubs that a waiver can be for",
        {"taskHub": task_hub},
    )


def too_many_waivers(app: App, max_waivers: int) -> Refusal:
    return Refusal(
        InvalidRequest,
        f"app {app.name} already has {max_waivers} waivers. Find out what keeps so many instances active, or remove "
        "waivers with DeleteWaiver",
    )


def waiver_not_found(app: App, task_hub: str, instance_id: str | None) -> Refusal:
    subject = "messages" if instance_id is None else "this instance"
    return Refusal(
        WaiverNotFound,
        f"app {app.name} has no waiver for {subject} of task hub {task_hub}. GetApp lists its waivers",
        {"taskHub": task_hub, "instanceId": instance_id},
    )
