"""`safe-deploy keys create_key`: makes an access key for a state server, and the entry of the server's setting
STATE_KEYS for
it. Asks no server: whoever runs the server adds the entry."""

import hashlib
import json
import re
import secrets
import sys
from enum import StrEnum
from typing import Annotated

import typer

from safe_deploy.client import Json
from safe_deploy.errors import UsageError
from safe_deploy.options import OutputFormat
from safe_deploy.sanitization import format_json

KEY_BYTES = 32
"""Random bytes in a key: too many to guess, so its SHA-256 needs no salt."""

_KEY_NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_APP_NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])")

keys = typer.Typer(name="keys", help="Access keys for a state server.", no_args_is_help=True, rich_markup_mode=None)


class KeyRole(StrEnum):
    """The roles that the server knows (docs/settings.md)."""

    READER = "reader"
    ROUTER = "router"
    DEPLOYER = "deployer"
    PUBLISHER = "publisher"
    ADMIN = "admin"


@keys.callback()
def _group() -> None:
    """Access keys for a state server."""


@keys.command("new")
def create_key(
    name: Annotated[
        str, typer.Option("--name", show_default="role and app", help="The key's name, for the server's audit log.")
    ] = "",
    role: Annotated[KeyRole, typer.Option("--role", help="What the key may do.")] = KeyRole.DEPLOYER,
    apps: Annotated[
        list[str] | None,
        typer.Option("--app", help="App that the key is limited to; repeat for several. Default: all apps."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", help="How the key and its entry are printed.")
    ] = OutputFormat.TABLE,
) -> None:
    """Print a new key and its STATE_KEYS entry. Neither is stored."""
    key = secrets.token_urlsafe(KEY_BYTES)
    entry = build_key_entry(key, name, role, apps or [])
    if output is OutputFormat.JSON:
        sys.stdout.write(format_json({"key": key, "entry": entry}) + "\n")
        return
    sys.stdout.write(f"key:   {key}\nentry: {json.dumps(entry)}\n")
    sys.stderr.write(
        "The key is not shown again: put it into the secret store of the pipeline or person that it is for. Add the "
        "entry to the JSON list in the server's setting STATE_KEYS and restart the server.\n"
    )


def build_key_entry(key: str, name: str, role: KeyRole, apps: list[str]) -> Json:
    """The entry of STATE_KEYS for this key. Without a name it is named by its role and app. Raises UsageError."""
    named = name or "-".join([role, *apps])[:64]
    if not _KEY_NAME_PATTERN.fullmatch(named):
        raise UsageError("--name takes 1 to 64 letters, digits, dots, underscores and hyphens")
    if not all(_APP_NAME_PATTERN.fullmatch(app) for app in apps):
        raise UsageError("--app takes the name of an app: 2 to 60 letters, digits and hyphens, no hyphen at either end")
    if apps and role is KeyRole.PUBLISHER:
        raise UsageError("a publisher's key cannot be bound to apps, because an event names no app: leave out --app")
    bound = {"apps": apps} if apps else {}
    return {"name": named, "role": role.value, **bound, "sha256": hashlib.sha256(key.encode()).hexdigest()}
