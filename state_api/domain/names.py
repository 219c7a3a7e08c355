"""The names that the platform allows, checked in one place. Task hub and app names are case-insensitive there, so
two names are the same when their keys are."""

import re
from typing import NewType

TASK_HUB_PATTERN = r"^[A-Za-z][A-Za-z0-9]{2,44}$"
"""PLATFORM: Task hubs on Azure Storage: letters and digits, starts with a letter, 3 to 45 characters."""

APP_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])$"
"""Function App names: 2 to 60 letters, digits and hyphens, no hyphen at either end."""

SLOT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,57}[A-Za-z0-9])?$"
"""Slot names: letters, digits and hyphens; together with the app's name at most 59 characters in Azure."""

MAX_INSTANCE_ID_LENGTH = 256
"""Characters in an instance id (PLATFORM: Task hubs on Azure Storage)."""

RUN_URL_PATTERN = r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*)?)?$"
"""The address of a pipeline run: http or https, without credentials; somebody will follow it."""

PATTERN_DESCRIPTIONS = {
    TASK_HUB_PATTERN: "a task hub name has 3 to 45 letters and digits and starts with a letter",
    APP_PATTERN: "an app name has 2 to 60 letters, digits and hyphens, and no hyphen at either end",
    SLOT_PATTERN: "a slot name has up to 59 letters, digits and hyphens, and no hyphen at either end",
    RUN_URL_PATTERN: "X-Run-Url must be an http or https address without credentials",
}
"""The rules in words, for whoever breaks one."""

PRODUCTION = "production"
STAGING = "staging"

HubKey = NewType("HubKey", str)
AppKey = NewType("AppKey", str)


def is_task_hub_name(name: str) -> bool:
    return re.fullmatch(TASK_HUB_PATTERN, name) is not None


def hub_key(task_hub: str) -> HubKey:
    return HubKey(task_hub.lower())


def same_hub(left: str, right: str) -> bool:
    return hub_key(left) == hub_key(right)


def app_key(app: str) -> AppKey:
    return AppKey(app.lower())


def is_entity(instance_id: str) -> bool:
    """Entities share the instance table but are never orchestrations (PLATFORM: Lifecycle events 6)."""
    return instance_id.startswith("@")


def entity_name(instance_id: str) -> str:
    """The name of the entity with this id, `@name@key`."""
    return instance_id[1:].partition("@")[0]
