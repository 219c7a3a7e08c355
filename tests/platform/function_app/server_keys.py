"""The state server's keys in these tests, and their entries in STATE_KEYS."""

from typing import Any

from tests.keys import key_entries, key_entry

KEYS_BY_ROLE = {
    role: f"key-of-the-{role}-for-all-apps" for role in ("reader", "router", "deployer", "publisher", "admin")
}
"""Keys for all apps, by role."""

OWN_APP = "shop-of-the-key"
OWN_APP_KEYS_BY_ROLE = {role: f"key-of-the-{role}-for-one-app" for role in ("reader", "router", "deployer", "admin")}
"""Keys for OWN_APP alone, by role."""

DEPLOYED_APP = "shop-of-the-deployment"
DEPLOYED_APP_KEYS_BY_ROLE = {role: f"key-of-the-{role}-for-a-deployment" for role in OWN_APP_KEYS_BY_ROLE}
"""Keys for DEPLOYED_APP alone, by role. One test deploys this app, so that no other test depends on its slots."""

OTHER_APP_KEYS_BY_ROLE = {role: f"key-of-the-{role}-for-another" for role in OWN_APP_KEYS_BY_ROLE}
"""Keys for an app that no test uses, by role."""


def server_key_entries() -> list[dict[str, Any]]:
    """Return the entries of STATE_KEYS for all these keys."""
    return [
        *key_entries(KEYS_BY_ROLE),
        *(key_entry(key, role, f"own-{role}", [OWN_APP]) for role, key in OWN_APP_KEYS_BY_ROLE.items()),
        *(
            key_entry(key, role, f"deployment-{role}", [DEPLOYED_APP])
            for role, key in DEPLOYED_APP_KEYS_BY_ROLE.items()
        ),
        *(key_entry(key, role, f"other-{role}", ["another-app"]) for role, key in OTHER_APP_KEYS_BY_ROLE.items()),
    ]


def key_header(key: str) -> dict[str, str]:
    """Return the header with a key."""
    return {"x-functions-key": key}
