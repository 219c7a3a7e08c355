"""Creates the backend of an app's provider from the server's settings."""

from collections.abc import Callable

from state_api.backends.protocols import Backend, BackendError, ReadFailure, ReadStorageTime
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import SettingsError, TaskHubConnections

# Each provider's module is imported when an app first uses it: most servers need one of them, and their libraries are
# slow to import.


def _create_azure_storage_backend(
    connections: TaskHubConnections, config: ProviderConfig, _storage_time: ReadStorageTime
) -> Backend:
    """The backend for `azureStorage`. Its libraries are imported only where an app uses this provider."""
    from state_api.backends.azure_storage import AzureStorageBackend, TrackingStore  # noqa: PLC0415

    tracking = config.tracking_connection
    return AzureStorageBackend(
        connections.get_storage_settings(config.connection),
        config.connection,
        TrackingStore(connections.get_storage_settings(tracking), tracking, config.tracking_prefix)
        if tracking
        else None,
    )


def _create_scheduler_backend(
    connections: TaskHubConnections, config: ProviderConfig, storage_time: ReadStorageTime
) -> Backend:
    """The backend of a Durable Task Scheduler. Its libraries are imported only where one is used."""
    from state_api.backends.scheduler import SchedulerBackend  # noqa: PLC0415

    connection = connections.get_text(config.connection)
    if connection is None:
        raise SettingsError(
            f"the setting {config.connection} is not set on this server: set it to the connection string of the "
            "scheduler, such as Endpoint=https://NAME.REGION.durabletask.io;Authentication=ManagedIdentity"
        )
    return SchedulerBackend(connection, config.connection, storage_time=storage_time)


def _create_management_api_backend(
    connections: TaskHubConnections, config: ProviderConfig, _storage_time: ReadStorageTime
) -> Backend:
    from state_api.backends.management_api import create_management_api_backend  # noqa: PLC0415

    return create_management_api_backend(connections, config.connection)


PROVIDERS: dict[str, Callable[[TaskHubConnections, ProviderConfig, ReadStorageTime], Backend]] = {
    "azureStorage": _create_azure_storage_backend,
    "scheduler": _create_scheduler_backend,
    "managementApi": _create_management_api_backend,
}
"""The providers that PutApp accepts."""


class ConfiguredBackendRegistry:
    """Keeps one backend for each provider configuration in use, created at its first use."""

    def __init__(self, connections: TaskHubConnections, storage_time: ReadStorageTime) -> None:
        """Create no backend yet."""
        self._connections = connections
        self._storage_time = storage_time
        self._backends: dict[ProviderConfig, Backend] = {}

    def backend_for(self, provider_config: ProviderConfig) -> Backend:
        """Return the backend of a provider. Raises BackendError if a setting is missing or wrong."""
        if provider_config not in self._backends:
            try:
                self._backends[provider_config] = self._create_backend(provider_config)
            except SettingsError as error:
                raise BackendError(ReadFailure.FAILED, str(error)) from None
        return self._backends[provider_config]

    def _create_backend(self, provider_config: ProviderConfig) -> Backend:
        """The backend for an app's provider. Raises SettingsError if this server does not allow its settings."""
        for setting_name in (provider_config.connection, provider_config.tracking_connection):
            if setting_name is not None:
                self._connections.check_allowed(setting_name)
        return PROVIDERS[provider_config.provider](self._connections, provider_config, self._storage_time)

    async def close(self) -> None:
        for backend in self._backends.values():
            await backend.close()
