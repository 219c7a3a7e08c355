"""The settings that apps may name as the connections of their task hubs, as host.json names them."""

from collections.abc import Mapping

from state_api.settings.base import SettingsError, reject_unresolved_reference
from state_api.settings.names import STATE_STORAGE, STATE_TASKHUB_SETTINGS, TASK_HUB_CONNECTION_PREFIX
from state_api.settings.storage_accounts import StorageSettings, is_emulator, read_storage_settings


class TaskHubConnections:
    """The environment of the server, limited to the settings that apps may name."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Keep the environment, and the names of the settings that an operator allows apps to use."""
        self._environment = dict(environment)
        self._allowed_names = {
            name.strip() for name in environment.get(STATE_TASKHUB_SETTINGS, "").split(",") if name.strip()
        }

    def check_allowed(self, name: str) -> None:
        """Raises SettingsError unless an app may name this setting.

        Without this check, a caller that may register apps could find out which settings exist, and make the server
        send their values to an address of the caller's choice. The message is the same whether or not the setting
        exists.
        """
        if name.startswith(TASK_HUB_CONNECTION_PREFIX) or name in self._allowed_names:
            return
        if name == STATE_STORAGE and is_emulator(self._environment.get(STATE_STORAGE, "")):
            return
        raise SettingsError(
            f"a connection must be a setting whose name begins with {TASK_HUB_CONNECTION_PREFIX}, or one that "
            f"{STATE_TASKHUB_SETTINGS} lists; {name} is neither"
        )

    def get_storage_settings(self, name: str) -> StorageSettings:
        """The storage account of the setting `name`, with the addresses of its tables, queues and blobs. Raises
        SettingsError if the setting is missing or wrong."""
        storage = read_storage_settings(self._environment, name, services=("table", "queue", "blob"))
        if storage is None:
            raise SettingsError(
                f"the setting {name} is not set on this server: set it to the storage connection string of the app's "
                f"task hubs, or set {name}__accountName for a managed identity"
            )
        return storage

    def get_text(self, name: str) -> str | None:
        """The value of the setting `name`; None if it is not set or empty. Raises SettingsError for an unresolved Key
        Vault reference."""
        value = self._environment.get(name) or None
        if value is not None:
            reject_unresolved_reference(name, value)
        return value
