"""Which backend an app's task hubs live in."""

from collections.abc import Callable

from state_api.backends.protocols import Backend, BackendError, ReadFailure
from state_api.domain.releases.apps import ProviderConfig
from state_api.settings import SettingsError, TaskHubConnections


def _create_azure_storage_backend(connections: TaskHubConnections, source: ProviderConfig) -> Backend:
    # Each provider is loaded when an app first uses it: most servers need one of them.
    from state_api.backends.azure_storage import AzureStorageBackend  # noqa: PLC0415

    tracking = source.tracking_connection
    return AzureStorageBackend(
        connections.get_storage_settings(source.connection),
        source.connection,
        connections.get_storage_settings(tracking) if tracking else None,
        tracking,
        source.tracking_prefix,
    )


def _create_scheduler_backend(connections: TaskHubConnections, source: ProviderConfig) -> Backend:
    from state_api.backends.scheduler import SchedulerBackend  # noqa: PLC0415

    connection = connections.get_text(source.connection)
    if connection is None:
        raise SettingsError(
            f"the setting {source.connection} is not set on this server: set it to the connection string of the "
            "scheduler, such as Endpoint=https://NAME.REGION.durabletask.io;Authentication=ManagedIdentity"
        )
    return SchedulerBackend(connection, source.connection)


def _create_management_api_backend(connections: TaskHubConnections, source: ProviderConfig) -> Backend:
    from state_api.backends.management_api import create_management_api_backend  # noqa: PLC0415

    return create_management_api_backend(connections, source.connection)


PROVIDERS: dict[str, Callable[[TaskHubConnections, ProviderConfig], Backend]] = {
    "azureStorage": _create_azure_storage_backend,
    "scheduler": _create_scheduler_backend,
    "managementApi": _create_management_api_backend,
}
"""The providers that PutApp can choose."""


class ConfiguredBackendRegistry:
    """One backend for each source in use, made when it is first asked for."""

    def __init__(self, connections: TaskHubConnections) -> None:
        self._connections = connections
        self._backends: dict[ProviderConfig, Backend] = {}

    def backend_for(self, source: ProviderConfig) -> Backend:
        """Raises BackendError when a setting is missing or wrong."""
        if source not in self._backends:
            try:
                for name in (source.connection, source.tracking_connection):
                    if name is not None:
                        self._connections.check_allowed(name)
                self._backends[source] = PROVIDERS[source.provider](self._connections, source)
            except SettingsError as error:
                raise BackendError(ReadFailure.FAILED, str(error)) from None
        return self._backends[source]

    async def close(self) -> None:
        for backend in self._backends.values():
            await backend.close()
