"""The names that Azure and Durable Functions allow. Names of task hubs and apps are case-insensitive there: two names
are the same if their keys are equal."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NewType

TASK_HUB_PATTERN = r"^[A-Za-z][A-Za-z0-9]{2,44}$"
"""PLATFORM: Task hubs on Azure Storage: letters and digits, starts with a letter, 3 to 45 characters."""

APP_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])$"
"""Function App names: 2 to 60 letters, digits and hyphens, no hyphen at either end."""

SLOT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9-]{0,57}[A-Za-z0-9])?$"
"""Slot names: letters, digits and hyphens. In Azure, slot and app name together have at most 59 characters."""

MAX_INSTANCE_ID_LENGTH = 256
"""Characters in an instance id (PLATFORM: Task hubs on Azure Storage)."""

VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""The version of a release side by side. It is a part of addresses and of router configurations."""

ROUTER_PATTERN = VERSION_PATTERN
"""The name under which a router asks for the routing document."""

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
ADDRESS_PATTERN = rf"^(?:https://{_HOST}|http://(?:localhost|127\.0\.0\.1|\[::1\]))(?::{_PORT})?$"
"""The address of a release: an origin without a path. Plain http is for releases on the router's own machine."""

_ADDRESS_PATTERN_ITEM = r"https?://[A-Za-z0-9.*-]{1,253}(?::[0-9]{1,5})?"
ADDRESS_POLICY_PATTERN = f"^{_ADDRESS_PATTERN_ITEM}(?: {_ADDRESS_PATTERN_ITEM}){{0,49}}$"
"""The policy's patterns for addresses, separated by blanks. `*` is the only wildcard."""

FUNCTION_PATTERN = r"^[A-Za-z][A-Za-z0-9_]{0,126}$"
"""The name of a function that can be disabled by an app setting. On Linux, the name of a setting has no hyphen."""

RUN_URL_PATTERN = r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?([/?][A-Za-z0-9._~:/?#\[\]!$&'()*+,;=%-]*)?)?$"
"""The address of a pipeline run, which people open in a browser: http or https, without credentials."""

PATTERN_DESCRIPTIONS = {
    TASK_HUB_PATTERN: "a task hub name has 3 to 45 letters and digits and starts with a letter",
    APP_PATTERN: "an app name has 2 to 60 letters, digits and hyphens, and no hyphen at either end",
    SLOT_PATTERN: "a slot name has up to 59 letters, digits and hyphens, and no hyphen at either end",
    VERSION_PATTERN: "a version or router name has up to 64 letters, digits, dots, underscores and hyphens, and starts "
    "with a letter or digit",
    ADDRESS_PATTERN: "an address is https://host or https://host:port without a path; http only for localhost",
    ADDRESS_POLICY_PATTERN: "addressPattern is 1 to 50 addresses without a path, separated by single blanks, in which "
    "* stands for letters, digits and hyphens",
    FUNCTION_PATTERN: "a function that is quiesced has a name of letters, digits and underscores, because an app "
    "setting on Linux cannot disable a function with a hyphen in its name",
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
    """Whether both names are of one task hub. Azure ignores the case of task hub names."""
    return hub_key(left) == hub_key(right)


def matches_address_pattern(address: str, patterns: str) -> bool:
    """Whether an address matches one of the policy's patterns, compared without case. A `*` stands for letters, digits
    and hyphens, so it never covers a dot or a port."""

    def matches(pattern: str) -> bool:
        """Whether the address matches one pattern, in which `*` stands for characters of one label."""
        pieces = (re.escape(piece) for piece in pattern.split("*"))
        return re.fullmatch("[a-z0-9-]*".join(pieces), address.lower()) is not None

    return any(map(matches, patterns.lower().split(" ")))


def matches_function_pattern(function_name: str, patterns: Iterable[str]) -> bool:
    """Whether a function matches one of the policy's `ignoreFunctions`, in which `*` stands for any characters."""
    return any(fnmatchcase(function_name, pattern) for pattern in patterns)


def app_key(app: str) -> AppKey:
    """What identifies an app in dictionaries and in storage: its name in lower case."""
    return AppKey(app.lower())


def is_entity(instance_id: str) -> bool:
    """Whether the id is that of an entity. Entities share the instance table, but are not orchestrations (PLATFORM:
    Lifecycle events 6)."""
    return instance_id.startswith("@")


def entity_name(instance_id: str) -> str:
    """The name of the entity whose id is `@name@key`."""
    return instance_id[1:].partition("@")[0]
