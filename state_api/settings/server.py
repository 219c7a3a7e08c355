"""The settings of the server as one value, read from environment variables."""

import re
from collections.abc import Mapping

from pydantic import ConfigDict, Field

from state_api.settings.access_keys import AccessKey, parse_access_keys, reject_published_keys
from state_api.settings.base import FrozenModel, SettingsError
from state_api.settings.names import (
    AZURE_WEB_JOBS_STORAGE,
    STATE_KEYS,
    STATE_SHARDS,
    STATE_STORAGE,
    STATE_UNCLAIMED_TASK_HUBS,
    WEBSITE_AUTH_ENABLED,
    WEBSITE_SITE_NAME,
)
from state_api.settings.storage_accounts import DEVELOPMENT_STORAGE, StorageSettings, read_storage_settings
from state_api.settings.task_hub_connections import TaskHubConnections

_DEFAULT_SHARDS = 1
_MAX_SHARDS = 64
DEFAULT_UNCLAIMED_TASK_HUBS = 200


class Settings(FrozenModel):
    """All settings of one server.

    - `shards`: the number of table partitions of a new task hub.
    - `max_unclaimed_task_hubs`: limits the task hubs that the server records events for although no app has claimed
      them. None means no limit. The function `read_settings` never returns None.
    - `trust_platform_identity`: true where App Service authentication removes the identity headers that callers send.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    storage: StorageSettings
    connections: TaskHubConnections = Field(default_factory=lambda: TaskHubConnections({}), repr=False, exclude=True)
    keys: tuple[AccessKey, ...] = ()
    keys_required: bool = False
    shards: int = Field(default=_DEFAULT_SHARDS, ge=1, le=_MAX_SHARDS)
    max_unclaimed_task_hubs: int | None = Field(default=None, ge=0)
    trust_platform_identity: bool = False


def read_settings(environment: Mapping[str, str], *, keys_required: bool = False) -> Settings:
    """The settings in these environment variables. Raises SettingsError.

    With `keys_required`, sample keys from the documentation are rejected, and a server without keys answers only
    Health. Without it, the caller must ensure that a server without keys is reachable from this machine only.
    """
    keys = parse_access_keys(environment.get(STATE_KEYS, ""))
    if environment.get(WEBSITE_SITE_NAME):
        reject_published_keys(keys, "this server runs in Azure")
    if keys_required:
        reject_published_keys(keys, "other machines may reach this Functions host")
    return Settings(
        storage=_read_state_storage(environment),
        connections=TaskHubConnections(environment),
        keys=keys,
        keys_required=keys_required,
        shards=_parse_shards(environment.get(STATE_SHARDS, "")),
        max_unclaimed_task_hubs=_parse_max_unclaimed_task_hubs(environment.get(STATE_UNCLAIMED_TASK_HUBS, "")),
        trust_platform_identity=environment.get(WEBSITE_AUTH_ENABLED, "").lower() == "true",
    )


def _read_state_storage(environment: Mapping[str, str]) -> StorageSettings:
    """The storage account that holds the server's state. Raises SettingsError if none is set."""
    for name in (STATE_STORAGE, AZURE_WEB_JOBS_STORAGE):
        storage = read_storage_settings(environment, name, services=("table",))
        if storage is not None:
            return storage
    raise SettingsError(
        f"no state storage is set: set {STATE_STORAGE} to a connection string or to {DEVELOPMENT_STORAGE}, "
        f"or {STATE_STORAGE}__tableServiceUri for a managed identity"
    )


def _parse_shards(text: str) -> int:
    """The number of partitions of a new task hub's records. Raises SettingsError."""
    if not text:
        return _DEFAULT_SHARDS
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= _MAX_SHARDS:
        raise SettingsError(f"{STATE_SHARDS} must be a number from 1 to {_MAX_SHARDS}")
    return int(text)


def _parse_max_unclaimed_task_hubs(text: str) -> int:
    """How many task hubs may have records without an app. Raises SettingsError."""
    if not text:
        return DEFAULT_UNCLAIMED_TASK_HUBS
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise SettingsError(f"{STATE_UNCLAIMED_TASK_HUBS} must be a number from 0 to 999999")
    return int(text)
