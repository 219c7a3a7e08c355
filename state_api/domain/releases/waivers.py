"""Waiving a single instance, or messages of the control queues that nothing explains, and taking that back."""

from dataclasses import replace

from state_api.domain.errors import InvalidRequest, TaskHubNotFound, WaiverNotFound
from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import hub_key, same_hub
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.releases.apps import App, Transition

MAX_WAIVER_DAYS = 90
"""A waiver is for an instance that somebody looks after, not for ever."""
MAX_WAIVERS = 100
"""Waivers in force for one app at a time."""


def add_waiver(app: App, waiver: Waiver, now: Instant) -> Transition:
    """Let an instance of one of the app's hubs stay active until the waiver expires, or let so many invisible messages
    not block; a second waiver of the same takes the place of the first. Raises InvalidRequest, TaskHubNotFound."""
    if not waiver.reason.strip():
        raise InvalidRequest("a waiver goes on record: give a reason")
    if waiver.instance_id.startswith("@"):
        raise InvalidRequest("an entity never blocks and needs no waiver")
    if not now < waiver.expires_at <= now + seconds(86_400 * MAX_WAIVER_DAYS):
        raise InvalidRequest(f"expiresAt must lie ahead, at most {MAX_WAIVER_DAYS} days")
    held = {hub_key(slot.task_hub) for slot in app.slots.values() if slot}
    if hub_key(waiver.task_hub) not in held | {hub_key(hub.task_hub) for hub in app.retired}:
        raise TaskHubNotFound(
            f"no slot of app {app.name} holds task hub {waiver.task_hub}, and none held it before",
            taskHub=waiver.task_hub,
        )
    others = tuple(
        one
        for one in app.waivers
        if now < one.expires_at and not _is_same_waiver(one, waiver.task_hub, _waived_instance_id(waiver))
    )
    if len(others) >= MAX_WAIVERS:
        raise InvalidRequest(
            f"app {app.name} has {MAX_WAIVERS} waivers already: find out what keeps so many instances active"
        )
    what = (
        {"unexplainedMessages": waiver.unexplained_messages}
        if waiver.is_for_messages
        else {"instanceId": waiver.instance_id}
    )
    details = {"taskHub": waiver.task_hub, **what, "expiresAt": format_instant(waiver.expires_at)}
    return Transition(replace(app, waivers=(*others, waiver)), "PostWaiver", details)


def remove_waiver(app: App, task_hub: str, instance_id: str | None) -> Transition:
    """Take back the waiver of an instance, or with None that of messages. Raises WaiverNotFound."""
    left = tuple(one for one in app.waivers if not _is_same_waiver(one, task_hub, instance_id))
    if len(left) == len(app.waivers):
        raise WaiverNotFound(
            f"app {app.name} has no waiver for "
            f"{'messages' if instance_id is None else 'this instance'} of task hub {task_hub}",
            taskHub=task_hub,
            instanceId=instance_id,
        )
    what = {"unexplainedMessages": 0} if instance_id is None else {"instanceId": instance_id}
    details = {"taskHub": task_hub, **what}
    return Transition(replace(app, waivers=left), "DeleteWaiver", details)


def _waived_instance_id(waiver: Waiver) -> str | None:
    return None if waiver.is_for_messages else waiver.instance_id


def _is_same_waiver(waiver: Waiver, task_hub: str, instance_id: str | None) -> bool:
    return same_hub(waiver.task_hub, task_hub) and _waived_instance_id(waiver) == instance_id
