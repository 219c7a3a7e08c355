"""Creates access keys for a state server, with their entries for the server's setting STATE_KEYS. Contacts no server.
An administrator adds the entry."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from safe_deploy.client import Json
from safe_deploy.errors import UsageError

KEY_BYTES = 32
"""Random bytes in a key. 256 bits cannot be guessed, so the SHA-256 needs no salt."""

_KEY_NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_APP_NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])")


class KeyRole(StrEnum):
    """The roles of the server (docs/settings.md)."""

    READER = "reader"
    ROUTER = "router"
    DEPLOYER = "deployer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key, and its entry of STATE_KEYS, which holds only the key's SHA-256."""

    key: str
    entry: Json


def create_key(*, name: str, role: KeyRole, apps: list[str]) -> CreatedKey:
    """Create a random key. An empty name becomes role and apps, an empty list of apps permits all apps. Raises
    UsageError for what the server would refuse."""
    key_name = name or "-".join([role, *apps])[:64]
    if not _KEY_NAME_PATTERN.fullmatch(key_name):
        raise UsageError("--name takes 1 to 64 letters, digits, dots, underscores and hyphens")
    for app in apps:
        require_app_name(app)
    if apps and role is KeyRole.PUBLISHER:
        raise UsageError("a publisher's key cannot be bound to apps, because an event names no app. Omit --app")
    key = secrets.token_urlsafe(KEY_BYTES)
    binding = {"apps": apps} if apps else {}
    digest = hashlib.sha256(key.encode()).hexdigest()
    return CreatedKey(key, {"name": key_name, "role": role.value, **binding, "sha256": digest})


def require_app_name(name: str) -> None:
    """Raises UsageError for a name of an app that the server would refuse."""
    if not _APP_NAME_PATTERN.fullmatch(name):
        raise UsageError("--app takes the name of an app: 2 to 60 letters, digits and hyphens, no hyphen at either end")
