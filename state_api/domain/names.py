"""The names that Azure and Durable Functions allow. Names of task hubs and apps are case-insensitive there: two names
are the same if their keys are equal."""

import re
from typing import NewType

TASK_HUB_PATTERN = r"^[A-Za-z][A-Za-z0-9]{2,44}$"
"""PLATFORM: Task hubs on Azure Storage: letters and digits, starts with a letter, 3 to 45 characters."""

APP_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])$"
"""Function App names: 2 to 60 letters, digits and hyphens, no hyphen at either end."""

SLOT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,57}[A-Za-z0-9])?$"
"""Slot names: letters, digits and hyphens. In Azure, slot and app name together have at most 59 characters."""

MAX_INSTANCE_ID_LENGTH = 256
"""Characters in an instance id (PLATFORM: Task hubs on Azure Storage)."""

RUN_URL_PATTERN = r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*)?)?$"
"""The address of a pipeline run, which people open in a browser: http or https, without credentials."""

PATTERN_DESCRIPTIONS = {
    TASK_HUB_PATTERN: "a task hub name has 3 to 45 letters and digits and starts with a letter",
    APP_PATTERN: "an app name has 2 to 60 letters, digits and hyphens, and no hyphen at either end",
    SLOT_PATTERN: "a slot name has up to 59 letters, digits and hyphens, and no hyphen at either end",
    RUN_URL_PATTERN: "X-Run-Url must be an http or https address without credentials",
}
"""The rules in words, for the message to a caller that breaks one."""

PRODUCTION = "production"
STAGING = "staging"

HubKey = NewType("HubKey", str)
AppKey = NewType("AppKey", str)


def is_task_hub_name(name: str) -> bool:
    return re.fullmatch(TASK_HUB_PATTERN, name) is not None


def hub_key(task_hub: str) -> HubKey:
    """The key under which this server stores and compares a task hub name."""
    return HubKey(task_hub.lower())


def same_hub(left: str, right: str) -> bool:
    return hub_key(left) == hub_key(right)


def app_key(app: str) -> AppKey:
    return AppKey(app.lower())


def is_entity(instance_id: str) -> bool:
    """Whether the id is that of an entity. Entities share the instance table, but are not orchestrations (PLATFORM:
    Lifecycle events 6)."""
    return instance_id.startswith("@")


def entity_name(instance_id: str) -> str:
    """The name of the entity whose id is `@name@key`."""
    return instance_id[1:].partition("@")[0]
