"""What a request of PutApp changes in an app, as a person reads it, and the conditional write of what was shown.

The plan is pure. The server decides whether a change is allowed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import CommandError, ConflictError
from safe_deploy.slot_task_hubs import is_same_task_hub

CHANGE_COLUMNS = ("What", "On record", "New")
EMPTY = "empty"
_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppChange:
    """One value of an app that a request changes.

    - `replaces`: whether the value was set before.
    - `vacated_slot`: the slot that loses its task hub, which must have drained.
    """

    subject: str
    before: str
    after: str
    replaces: bool
    vacated_slot: str | None = None

    def to_row(self) -> tuple[str, str, str]:
        """The cells of the columns CHANGE_COLUMNS."""
        return self.subject, self.before, self.after


def plan_changes(app: Mapping[str, Any] | None, body: Mapping[str, Any]) -> list[AppChange]:
    """What the body of PutApp changes in an app, as GetApp shows it; None for an app that does not exist yet."""
    current: Mapping[str, Any] = app or {"model": None, "slots": {}, "releases": {}, "taskHubs": None, "policy": {}}
    return [
        *_plan_model(current, body),
        *_plan_slots(current, body),
        *_plan_releases(current, body),
        *_plan_provider(current, body),
        *plan_policy_changes(current["policy"], body.get("policy", {})),
    ]


def plan_policy_changes(current: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = "") -> list[AppChange]:
    """The members of a policy that get another value. A requested null stands for the default, which the server
    knows."""
    changes = []
    for name, value in requested.items():
        before = current.get(name)
        if isinstance(value, Mapping):
            changes += plan_policy_changes(before or {}, value, f"{prefix}{name}.")
        elif value != before or name not in current:
            after = "the default" if value is None else format_value(value)
            is_set = name in current
            before_text = format_value(before) if is_set else "the default"
            changes.append(
                AppChange(subject=f"policy {prefix}{name}", before=before_text, after=after, replaces=is_set),
            )
    return changes


def format_value(value: object) -> str:
    """A value of the policy as text: a list as names, and a text without quotation marks."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or _NONE
    return value if isinstance(value, str) else json.dumps(value)


def find_app(server: StateServerClient) -> tuple[Json, str] | tuple[None, None]:
    """The app and its ETag, or nothing of both if it does not exist."""
    try:
        return server.get_app()
    except CommandError as error:
        if error.problem_code != "AppNotFound":
            raise
        return None, None


def write_app(
    server: StateServerClient, body: Json, *, etag: str | None, is_done: Callable[[Mapping[str, Any]], bool]
) -> Json:
    """Send PutApp if the app still is what was shown to the person: it has `etag`, or does not exist if that is None.

    `is_done` says whether an app has everything that the body asks for. Then a failed condition means that the response
    to an earlier attempt was lost, or that another caller wanted the same. Raises ConflictError otherwise.
    """
    try:
        return server.put_app(body, etag=etag)
    except ConflictError as error:
        if error.problem_code != "PreconditionFailed":
            raise
        app, _ = server.get_app()
        if is_done(app):
            return app
        change = "was created" if etag is None else "was changed"
        raise ConflictError(
            f"PreconditionFailed: app {server.app} {change} by {app['updatedBy']} meanwhile. Nothing else was changed",
            error.problem,
        ) from error


def describe_slot(slot: Mapping[str, Any] | None) -> str:
    """The task hub and the version of a slot."""
    if slot is None:
        return EMPTY
    version = f" (version {slot['version']})" if slot.get("version") else ""
    return f"task hub {slot['taskHub']}{version}"


def _plan_model(current: Mapping[str, Any], body: Mapping[str, Any]) -> list[AppChange]:
    model, before = body.get("model"), current["model"]
    if model is None or model == before:
        return []
    return [AppChange(subject="model", before=before or _NONE, after=model, replaces=before is not None)]


def _plan_slots(current: Mapping[str, Any], body: Mapping[str, Any]) -> list[AppChange]:
    """The slots that get another task hub, another version, or none."""
    recorded = {name.lower(): (name, slot) for name, slot in current["slots"].items()}
    changes = []
    for requested_name, requested in body.get("slots", {}).items():
        name, before = recorded.get(requested_name.lower(), (requested_name, None))
        keeps_task_hub = bool(requested and before and is_same_task_hub(before["taskHub"], requested["taskHub"]))
        after = requested
        if keeps_task_hub:
            after = {"taskHub": before["taskHub"], "version": requested.get("version") or before["version"]}
        if describe_slot(before) == describe_slot(after):
            continue
        changes.append(
            AppChange(
                subject=f"slot {name}",
                before=describe_slot(before),
                after=describe_slot(after),
                replaces=before is not None and (not keeps_task_hub or before["version"] is not None),
                vacated_slot=name if before is not None and not keeps_task_hub else None,
            )
        )
    return changes


def _plan_releases(current: Mapping[str, Any], body: Mapping[str, Any]) -> list[AppChange]:
    """The releases that are adopted or get another address, and the slots whose task hubs they take."""
    changes = []
    for version, requested in body.get("releases", {}).items():
        before = current["releases"].get(version)
        before_text, after_text = (_describe_release(release) for release in (before, requested))
        if before_text == after_text:
            continue
        changes.append(
            AppChange(subject=f"release {version}", before=before_text, after=after_text, replaces=before is not None)
        )
        changes += [
            AppChange(
                subject=f"slot {name}",
                before=describe_slot(slot),
                after=f"{EMPTY}: its task hub is that of release {version}",
                replaces=True,
            )
            for name, slot in current["slots"].items()
            if slot is not None and is_same_task_hub(slot["taskHub"], requested["taskHub"])
        ]
    return changes


def _describe_release(release: Mapping[str, Any] | None) -> str:
    return f"task hub {release['taskHub']} at {release['address'].rstrip('/')}" if release else _NONE


def _plan_provider(current: Mapping[str, Any], body: Mapping[str, Any]) -> list[AppChange]:
    """The provider, which is always replaced as a whole."""
    if "taskHubs" not in body:
        return []
    before, after = (describe_provider(provider) for provider in (current["taskHubs"], body["taskHubs"]))
    replaces = current["taskHubs"] is not None
    return [] if before == after else [AppChange(subject="provider", before=before, after=after, replaces=replaces)]


def describe_provider(provider: Mapping[str, Any] | None) -> str:
    """Where the task hubs of an app are: the provider, and the names of the server's settings."""
    if provider is None:
        return _NONE
    tracking = provider.get("trackingConnection")
    prefix = provider.get("trackingPrefix")
    return (
        f"{provider['provider']} by {provider['connection']}"
        f"{f', tracking store by {tracking}' if tracking else ''}{f' with prefix {prefix}' if prefix else ''}"
    )
