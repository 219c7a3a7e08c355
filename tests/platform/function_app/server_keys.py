"""The server's keys in these tests, and the entries of STATE_KEYS for them."""

from typing import Any

from tests.keys import key_entries, key_entry

KEYS = {role: f"key-of-the-{role}-for-all-apps" for role in ("reader", "router", "deployer", "publisher", "admin")}
"""A key for all apps, by role."""

OWN_APP = "shop-of-the-key"
KEYS_OF_OWN_APP = {role: f"key-of-the-{role}-for-one-app" for role in ("reader", "router", "deployer", "admin")}
"""A key for OWN_APP alone, by role."""

KEYS_OF_OTHER_APP = {role: f"key-of-the-{role}-for-another" for role in KEYS_OF_OWN_APP}
"""A key for an app that no test asks for, by role."""


def server_key_entries() -> list[dict[str, Any]]:
    """All these keys as STATE_KEYS holds them."""
    return [
        *key_entries(KEYS),
        *(key_entry(key, role, f"own-{role}", [OWN_APP]) for role, key in KEYS_OF_OWN_APP.items()),
        *(key_entry(key, role, f"other-{role}", ["another-app"]) for role, key in KEYS_OF_OTHER_APP.items()),
    ]


def key_header(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"x-functions-key": key}
