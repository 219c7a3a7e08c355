"""Entries of STATE_KEYS for the keys of tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from state_api.settings import sha256_of


def key_entry(key: str, role: str, name: str | None = None, apps: Sequence[str] | None = None) -> dict[str, Any]:
    """The entry for a key. Its default name is `the-{role}`."""
    bound = {} if apps is None else {"apps": list(apps)}
    return {"name": name or f"the-{role}", "role": role, "sha256": sha256_of(key), **bound}


def key_entries(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The entries for keys by role."""
    return [key_entry(key, role) for role, key in keys.items()]
