"""The server's access keys: how `STATE_KEYS` lists them, and what makes an entry invalid. A key is stored as its
SHA-256 only."""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from state_api.domain.names import APP_PATTERN, app_key
from state_api.settings.base import FrozenModel, SettingsError, reject_unresolved_reference
from state_api.settings.names import STATE_KEYS


class Role(StrEnum):
    """What a key may do. `deployer` and `admin` include `reader`; only `admin` may do everything. `router` may read
    the routing of releases, and nothing else."""

    READER = "reader"
    ROUTER = "router"
    DEPLOYER = "deployer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


_ROLES_WITHOUT_APPS = (Role.PUBLISHER,)
"""Roles that cannot be bound to apps, because their operations name no app."""


class AccessKey(FrozenModel):
    """One entry of `STATE_KEYS`. The audit log shows `name`. A key with `apps` may read and change these apps only;
    None means all apps."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    role: Role
    sha256: Annotated[
        str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}$", to_lower=True), Field(repr=False, exclude=True)
    ]
    apps: Annotated[tuple[Annotated[str, Field(pattern=APP_PATTERN)], ...] | None, Field(min_length=1)] = None

    def may_access(self, app: str) -> bool:
        """Whether `apps` lets the key read and change this app. Compares names without case."""
        return self.apps is None or app_key(app) in {app_key(bound_app) for bound_app in self.apps}


def sha256_of(key: str) -> str:
    """The SHA-256 of an access key as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


PUBLISHED_KEYS = frozenset(
    [
        *(sha256_of(f"change-me-{number}-0123456789abcdef") for number in range(1, 10)),
        *(digit * 64 for digit in "0123456789abcdef"),
        sha256_of(""),
    ]
)
"""SHA-256 digests that are public: those in the documentation, those of sample keys, and that of the empty key."""


def reject_published_keys(keys: Sequence[AccessKey], exposure: str) -> None:
    """Raises SettingsError if the documentation contains one of the keys. `exposure` completes the message: it says why
    other machines can reach the server."""
    for key in keys:
        if key.sha256 in PUBLISHED_KEYS:
            raise SettingsError(
                f"{STATE_KEYS}: key {key.name} is a sample from the documentation, which is public, and {exposure}: "
                "make a key with `safe-deploy keys new`"
            )


def parse_access_keys(text: str) -> tuple[AccessKey, ...]:
    """The keys in the value of `STATE_KEYS`, none if it is blank. Raises SettingsError."""
    if not text.strip():
        return ()
    reject_unresolved_reference(STATE_KEYS, text)
    expected = (
        f'{STATE_KEYS} must be a JSON list of {{"name": …, "role": …, "sha256": …}}, each with "apps": [ … ] if the '
        "key is for some apps only"
    )
    try:
        entries: Any = json.loads(text, object_pairs_hook=_reject_duplicate_members)
    except (ValueError, RecursionError):
        raise SettingsError(expected) from None
    _reject_plain_keys(entries)
    _reject_null_apps(entries)
    try:
        keys = TypeAdapter(tuple[AccessKey, ...]).validate_python(entries)
    except ValidationError as error:
        problems = ", ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise SettingsError(f"{expected} ({problems})") from None
    _reject_conflicting_keys(keys)
    return keys


def _reject_conflicting_keys(keys: Sequence[AccessKey]) -> None:
    """Raises SettingsError if two entries share a name or a key, or if a key is bound to apps that cannot be."""
    if len({key.name for key in keys}) < len(keys):
        raise SettingsError(f"{STATE_KEYS} has two entries with the same name: give each entry its own name")
    if len({key.sha256 for key in keys}) < len(keys):
        # The role of one of the two entries would be ignored.
        raise SettingsError(f"{STATE_KEYS} has two entries with the same key: give each entry its own key")
    for key in keys:
        if key.role in _ROLES_WITHOUT_APPS and key.apps is not None:
            raise SettingsError(
                f"{STATE_KEYS}: key {key.name} has the role {key.role}, which cannot be bound to apps, because an "
                "event names no app: leave out apps"
            )


def _reject_plain_keys(entries: Any) -> None:
    """Raises SettingsError if an entry contains the key itself instead of its digest."""
    if isinstance(entries, list) and any(isinstance(entry, dict) and "key" in entry for entry in entries):
        raise SettingsError(
            f"{STATE_KEYS} contains a key itself, in the member key: put its SHA-256 into the member sha256 instead. "
            "Make a new key and its entry with `safe-deploy keys new`, or compute the digest with "
            '`printf %s "$KEY" | sha256sum`'
        )


def _reject_null_apps(entries: Any) -> None:
    """Raises SettingsError if `apps` of an entry is null. Null would mean all apps, which a template that lost its list
    of apps does not intend."""
    if isinstance(entries, list) and any(
        isinstance(entry, dict) and entry.get("apps", ()) is None for entry in entries
    ):
        raise SettingsError(
            f"{STATE_KEYS} has an entry whose member apps is null: leave out apps if the key is for all apps"
        )


def _reject_duplicate_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object with these members. Raises SettingsError if a member occurs twice, because JSON parsers silently
    keep the last one. The message does not name the member, because a misplaced secret can be its name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise SettingsError(f"{STATE_KEYS} has an entry with the same member twice: keep one of the two")
    return members
