"""What a durable app's host.json must say so that its deployments can be guarded: where the name of the task hub comes
from, and where lifecycle events go. Decides what to change, and changes nothing else. Knows no file."""

import re
from dataclasses import dataclass
from typing import Any

from safe_deploy.setup.json_text import JsonTextError, find_value, parse_json_text, set_value

TOPIC_ENDPOINT_SETTING = "LIFECYCLE_TOPIC_ENDPOINT"
TOPIC_KEY_SETTING = "LIFECYCLE_TOPIC_KEY"
"""The app settings with the endpoint and the key of the Event Grid topic."""

_DURABLE_TASK = ("extensions", "durableTask")
_HUB_NAME = (*_DURABLE_TASK, "hubName")
_EVENT_GRID = (*_DURABLE_TASK, "notifications", "eventGrid")
_SETTING_REFERENCE = re.compile(r"%([A-Za-z_][A-Za-z0-9_.:-]*)%")

_RETRIES: dict[str, Any] = {
    "publishRetryCount": 2,
    "publishRetryInterval": "00:00:00.500",
    "publishRetryHttpStatus": [408, 429, 500, 502, 503, 504],
}
"""Few and short retries, because the extension publishes on the orchestration's path. docs/azure.md says more."""

_EVENT_TYPES = frozenset({"started", "completed", "failed", "terminated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJson:
    """What a host.json says about the task hub."""

    hub_name: str | None
    """As it is written, or None if the file does not name the task hub."""

    @property
    def task_hub_setting(self) -> str | None:
        """The app setting that has the name of the task hub, or None if the name comes from no app setting."""
        match = _SETTING_REFERENCE.fullmatch(self.hub_name or "")
        return match[1] if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostJsonChange:
    """The new text, which is the old one if nothing is to be changed, and what a person should look at."""

    text: str
    remarks: tuple[str, ...] = ()


def read_host_json(text: str) -> HostJson:
    """Read a host.json. Raises JsonTextError for one that the Functions host of today could not read."""
    root = parse_json_text(text)
    version = find_value(text, ["version"])
    if root.members is None or version != "2.0":
        raise JsonTextError('it has no "version": "2.0", which the Functions host requires')
    name = find_value(text, _HUB_NAME)
    return HostJson(hub_name=name if isinstance(name, str) else None)


def find_provider(text: str) -> str:
    """The provider of the task hubs, as the server names it. Raises JsonTextError."""
    kind = find_value(text, (*_DURABLE_TASK, "storageProvider", "type"))
    return "scheduler" if str(kind).lower() == "azuremanaged" else "azureStorage"


def change_host_json(text: str, *, task_hub_setting: str | None) -> HostJsonChange:
    """The host.json with lifecycle events switched on, and with the task hub's name from an app setting.

    With `task_hub_setting` None the name of the task hub stays as it is. Members that exist keep their value. Raises
    JsonTextError.
    """
    changed = text
    if task_hub_setting is not None and find_value(text, _HUB_NAME) != f"%{task_hub_setting}%":
        changed = set_value(changed, _HUB_NAME, f"%{task_hub_setting}%")
    existing = find_value(text, _EVENT_GRID)
    if not existing:
        topic = {"topicEndpoint": f"%{TOPIC_ENDPOINT_SETTING}%", "keySettingName": TOPIC_KEY_SETTING}
        return HostJsonChange(text=set_value(changed, _EVENT_GRID, topic | _RETRIES))
    if not isinstance(existing, dict):
        raise JsonTextError("extensions.durableTask.notifications.eventGrid is no object")
    present = {name.lower() for name in existing}
    wanted = _RETRIES
    if "topicendpoint" not in present:
        wanted = {
            "topicEndpoint": f"%{TOPIC_ENDPOINT_SETTING}%",
            "keySettingName": TOPIC_KEY_SETTING,
            **_RETRIES,
        }
    for name, value in wanted.items():
        if name.lower() not in present:
            changed = set_value(changed, [*_EVENT_GRID, name], value)
    return HostJsonChange(text=changed, remarks=tuple(_list_remarks(existing)))


def _list_remarks(event_grid: dict[str, Any]) -> list[str]:
    """What differs from the values that are recommended, and stays as it is."""
    members = {name.lower(): value for name, value in event_grid.items()}
    remarks = []
    endpoint = members.get("topicendpoint")
    if endpoint is not None and endpoint != f"%{TOPIC_ENDPOINT_SETTING}%":
        remarks.append(
            "host.json sends lifecycle events to a topic of its own: the state server must be subscribed to that topic"
        )
    types = members.get("publisheventtypes")
    if isinstance(types, list) and not {str(name).lower() for name in types} >= _EVENT_TYPES:
        remarks.append(
            "publishEventTypes in host.json leaves out events that the state server needs: remove it, so that all are "
            "published"
        )
    return remarks
