"""PostWaiver and DeleteWaiver: let an instance, or unexplained messages of the control queues, not block for a time."""

from dataclasses import replace
from typing import Any

from state_api.domain.instants import Instant, format_instant, seconds
from state_api.domain.names import hub_key, is_entity, same_hub
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.releases import refusals, waiver_refusals
from state_api.domain.releases.apps import App, Transition
from state_api.domain.releases.commands import RemoveWaiverCommand, WaiveCommand
from state_api.domain.releases.refusals import Refusal

MAX_WAIVER_DAYS = 90
"""How long a waiver may last. A longer one must be renewed, so that it is not forgotten."""
MAX_WAIVERS = 100
"""How many waivers of an app may be in force at a time."""


def add_waiver(app: App, command: WaiveCommand, now: Instant) -> Transition | Refusal:
    """Add a waiver for a task hub of the app. It replaces the waiver of the same instance, or that of messages.

    Refusals: InvalidRequest, TaskHubNotFound.
    """
    if refusal := _check_waiver(app, command, now):
        return refusal
    others = tuple(
        waiver
        for waiver in app.waivers
        if now < waiver.expires_at and not _is_waiver_of(waiver, command.task_hub, command.instance_id)
    )
    if len(others) >= MAX_WAIVERS:
        return waiver_refusals.too_many_waivers(app, MAX_WAIVERS)
    waiver = Waiver(
        task_hub=command.task_hub,
        instance_id=command.instance_id or "",
        reason=command.reason or "",
        by=command.caller.name,
        created_at=now,
        expires_at=command.expires_at,
        unexplained_messages=command.unexplained_messages,
    )
    details = {
        "taskHub": command.task_hub,
        **_subject_details(command.instance_id, command.unexplained_messages),
        "expiresAt": format_instant(command.expires_at),
    }
    return Transition(replace(app, waivers=(*others, waiver)), "PostWaiver", details)


def _check_waiver(app: App, command: WaiveCommand, now: Instant) -> Refusal | None:
    """Refuse a waiver without a reason, for an entity, for too long, or for a task hub of another app."""
    if not (command.reason or "").strip():
        return refusals.reason_required("a waiver")
    if is_entity(command.instance_id or ""):
        return waiver_refusals.waiver_for_entity()
    if not now < command.expires_at <= now + seconds(86_400 * MAX_WAIVER_DAYS):
        return waiver_refusals.waiver_expiry_invalid(MAX_WAIVER_DAYS)
    if hub_key(command.task_hub) not in map(hub_key, app.list_task_hubs()):
        return waiver_refusals.task_hub_not_of_app(app, command.task_hub)
    return None


def remove_waiver(app: App, command: RemoveWaiverCommand) -> Transition | Refusal:
    """Remove the waiver of an instance, or that of messages: what it was for blocks again. Refusal: WaiverNotFound."""
    others = tuple(waiver for waiver in app.waivers if not _is_waiver_of(waiver, command.task_hub, command.instance_id))
    if len(others) == len(app.waivers):
        return waiver_refusals.waiver_not_found(app, command.task_hub, command.instance_id)
    details = {"taskHub": command.task_hub, **_subject_details(command.instance_id, 0)}
    return Transition(replace(app, waivers=others), "DeleteWaiver", details)


def _subject_details(instance_id: str | None, unexplained_messages: int) -> dict[str, Any]:
    """The subject of a waiver for the audit log."""
    return {"unexplainedMessages": unexplained_messages} if instance_id is None else {"instanceId": instance_id}


def _is_waiver_of(waiver: Waiver, task_hub: str, instance_id: str | None) -> bool:
    """Whether the waiver is for this instance, or with None for the messages of the task hub."""
    waived_instance_id = None if waiver.is_for_messages else waiver.instance_id
    return same_hub(waiver.task_hub, task_hub) and waived_instance_id == instance_id
