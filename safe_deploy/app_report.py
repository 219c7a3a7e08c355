"""How an app looks to a person: its slots or releases, and what is open, pending, retired or waived. Pure, except for
`print_registered_app`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from safe_deploy import rendering
from safe_deploy.client import Json
from safe_deploy.policy import describe_policy
from safe_deploy.registration import describe_provider, describe_slot
from safe_deploy.rendering import format_age
from safe_deploy.rollouts.messages import describe_rollout, has_ended, name_candidate
from safe_deploy.session import Session
from safe_deploy.side_by_side.app_state import is_side_by_side
from safe_deploy.side_by_side.rendering import RELEASE_COLUMNS, build_release_rows

Rows = rendering.Rows
App = Mapping[str, Any]

APP_COLUMNS = ("App", "Model", "Production", "In progress", "Changed", "By")
APP_SLOT_COLUMNS = ("Slot", "Task hub", "Version", "Since", "Active")
APP_RELEASE_COLUMNS = ("Version", "Task hub", "State", "Traffic", "Registered", "Address")
CONTENT_COLUMNS = ("Slot or release", "Content")
TASK_HUB_COLUMNS = ("Task hub", "App", "Place", "Active", "Last event", "Belongs to the app")


def print_registered_app(session: Session, app: Json, *, task_hub: str, title: str) -> None:
    """Print an app of either model as the result of a command, and set the step's outputs."""
    if is_side_by_side(app):
        session.print_result(app, RELEASE_COLUMNS, build_release_rows(app["releases"].items()), title)
    else:
        session.print_app(app, task_hub=task_hub, title=title)


def build_app_rows(apps: Sequence[App], now: datetime) -> Rows:
    """A row for each app of a list."""
    return [
        [
            app["app"],
            app["model"],
            _describe_production(app),
            "; ".join(_list_short_activities(app)),
            format_age(app["updatedAt"], now),
            app["updatedBy"],
        ]
        for app in apps
    ]


def build_app_slot_rows(app: App, active: Mapping[str, str], now: datetime) -> Rows:
    """A row for each slot. `active` has what is active in the slots by their names."""
    return [
        [
            name,
            slot["taskHub"] if slot else "",
            (slot["version"] or "") if slot else "",
            format_age(slot["since"], now) if slot else "",
            active.get(name, ""),
        ]
        for name, slot in app["slots"].items()
    ]


def build_app_release_rows(response: App, now: datetime, *, with_removed: bool = False) -> Rows:
    """A row for each release in a response of ListReleases."""
    rows = [
        [
            release["version"],
            release["taskHub"],
            release["state"],
            f"{release['traffic']} %",
            format_age(release["registeredAt"], now),
            release["address"],
        ]
        for release in response["releases"]
    ]
    if with_removed:
        rows += [
            [
                release["version"],
                release["taskHub"],
                release["state"],
                "",
                format_age(release["registeredAt"], now),
                release["address"],
            ]
            for release in response["removed"]
        ]
    return rows


def describe_routers(response: App, now: datetime) -> list[str]:
    """A line for each router: which revision of the routing it has acknowledged, and when it asked last."""
    newest = response["routing"]["revision"]
    return [
        f"router {router['router']} has revision {router['revision']} of {newest}, and asked "
        f"{format_age(router['seenAt'], now)} ago"
        for router in response["routers"]
    ]


def build_content_rows(app: App) -> Rows:
    """A row for each slot, release and retired task hub of an app."""
    return [
        *([f"slot {name}", describe_slot(slot)] for name, slot in app["slots"].items()),
        *(
            [f"release {version}", f"task hub {release['taskHub']}, {release['state']}"]
            for version, release in app["releases"].items()
        ),
        *([f"retired task hub {retired['taskHub']}", retired["version"] or ""] for retired in app["retired"]),
    ]


def describe_app(app: App, now: datetime) -> str:
    """An app in a line."""
    return f"app {app['app']} ({app['model']}), changed {format_age(app['updatedAt'], now)} ago by {app['updatedBy']}"


def list_app_notes(app: App, now: datetime) -> list[str]:
    """What else is on record: what is in progress, where the task hubs are, the policy, what is retired and waived."""
    retired = ", ".join(task_hub["taskHub"] for task_hub in app["retired"])
    provider = "none, so verdicts rest on lifecycle events alone" if app["taskHubs"] is None else ""
    return [
        *_list_activities(app, now),
        f"provider: {provider or describe_provider(app['taskHubs'])}",
        f"policy: {describe_policy(app['policy'])}",
        *([f"retired task hubs: {retired}"] if retired else []),
        *(
            f"waived in task hub {waiver['taskHub']}: {rendering.describe_waived(waiver)}, "
            f"for {rendering.format_remaining(waiver['expiresAt'], now)} more, by {waiver['by']}: {waiver['reason']}"
            for waiver in app["waivers"]
        ),
    ]


def build_task_hub_rows(response: App, now: datetime) -> Rows:
    """The row of a task hub."""
    place = f"slot {response['slot']}" if response["slot"] else ""
    place = f"release {response['release']}" if response["release"] else place
    proof = response["proof"]
    return [
        [
            response["taskHub"],
            response["app"] or "none",
            "closed" if response["closed"] else place,
            rendering.format_active_count(response),
            format_age(response["lastEventAt"], now),
            f"{proof['basis']}, {format_age(proof['at'], now)}" if proof else "not proven",
        ]
    ]


def list_task_hub_notes(response: App) -> list[str]:
    """The sentences to print under the table of a task hub."""
    return ["events of it wait in quarantine until an app claims it"] if response["eventsInQuarantine"] else []


def _describe_production(app: App) -> str:
    """What has the traffic: the version of the active release, or the content of the slot production."""
    if app["routing"] is not None:
        return f"release {app['routing']['active']}" if app["routing"]["active"] else ""
    slot = app["slots"].get("production")
    return describe_slot(slot).removeprefix("task hub ") if slot else ""


def _list_short_activities(app: App) -> Iterator[str]:
    """What is in progress, for a cell."""
    if app["pendingSwap"]:
        yield f"swap of {app['pendingSwap']['taskHub']}"
    elif app["deployment"]:
        yield f"deployment of {app['deployment']['taskHub']}"
    if app["rollout"] and not has_ended(app["rollout"]):
        yield f"rollout of {name_candidate(app['rollout'])}"


def _list_activities(app: App, now: datetime) -> Iterator[str]:
    """What is in progress, a line for each."""
    if (swap := app["pendingSwap"]) is not None:
        yield f"pending swap of task hub {swap['taskHub']} in slot {swap['slot']}, {_describe_begin(swap, now)}"
    if (deployment := app["deployment"]) is not None:
        place = f" into slot {deployment['slot']}" if deployment["slot"] else ""
        yield (f"open deployment of {describe_slot(deployment)}{place}, {_describe_begin(deployment, now)}")
    if app["rollout"] and not has_ended(app["rollout"]):
        yield describe_rollout(app["rollout"])


def _describe_begin(activity: Mapping[str, Any], now: datetime) -> str:
    run = f", {activity['runUrl']}" if activity.get("runUrl") else ""
    return f"begun {format_age(activity['startedAt'], now)} ago by {activity['by']}{run}"
