"""The server's settings, read from environment variables. Each kind of setting has its own module; this package exports
what the rest of the server uses. docs/settings.md documents every setting."""

from state_api.settings.access_keys import PUBLISHED_KEYS, AccessKey, Role, reject_published_keys, sha256_of
from state_api.settings.base import SettingsError
from state_api.settings.names import (
    DOCUMENTED_SETTINGS,
    STATE_KEYS,
    STATE_SHARDS,
    STATE_STORAGE,
    STATE_TASKHUB_SETTINGS,
    STATE_UNCLAIMED_TASK_HUBS,
    TASK_HUB_CONNECTION_PREFIX,
)
from state_api.settings.server import DEFAULT_UNCLAIMED_TASK_HUBS, Settings, read_settings
from state_api.settings.storage_accounts import (
    DEVELOPMENT_STORAGE,
    EMULATOR_BLOB_PORT,
    EMULATOR_QUEUE_PORT,
    EMULATOR_TABLE_PORT,
    StorageSettings,
    emulator_connection_string,
)
from state_api.settings.task_hub_connections import TaskHubConnections

__all__ = [
    "DEFAULT_UNCLAIMED_TASK_HUBS",
    "DEVELOPMENT_STORAGE",
    "DOCUMENTED_SETTINGS",
    "EMULATOR_BLOB_PORT",
    "EMULATOR_QUEUE_PORT",
    "EMULATOR_TABLE_PORT",
    "PUBLISHED_KEYS",
    "STATE_KEYS",
    "STATE_SHARDS",
    "STATE_STORAGE",
    "STATE_TASKHUB_SETTINGS",
    "STATE_UNCLAIMED_TASK_HUBS",
    "TASK_HUB_CONNECTION_PREFIX",
    "AccessKey",
    "Role",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "TaskHubConnections",
    "emulator_connection_string",
    "read_settings",
    "reject_published_keys",
    "sha256_of",
]
