"""Which backend an app's task hubs live in."""

from collections.abc import Callable

from state_api.domain.apps import TaskHubSource
from state_api.settings import Connections, SettingsError
from state_api.taskhubs.backend import Backend, SourceError, Trouble


def _azure_storage(connections: Connections, source: TaskHubSource) -> Backend:
    # Each provider is loaded when an app first uses it: most servers need one of them.
    from state_api.taskhubs.azure_storage import AzureStorageBackend  # noqa: PLC0415

    tracking = source.tracking_connection
    return AzureStorageBackend(
        connections.storage(source.connection),
        source.connection,
        connections.storage(tracking) if tracking else None,
        tracking,
        source.tracking_prefix,
    )


def _scheduler(connections: Connections, source: TaskHubSource) -> Backend:
    from state_api.taskhubs.scheduler import SchedulerBackend  # noqa: PLC0415

    connection = connections.text(source.connection)
    if connection is None:
        raise SettingsError(
            f"the setting {source.connection} is not set on this server: set it to the connection string of the "
            "scheduler, such as Endpoint=https://NAME.REGION.durabletask.io;Authentication=ManagedIdentity"
        )
    return SchedulerBackend(connection, source.connection)


def _management_api(connections: Connections, source: TaskHubSource) -> Backend:
    from state_api.taskhubs.management_api import management_api_of  # noqa: PLC0415

    return management_api_of(connections, source.connection)


PROVIDERS: dict[str, Callable[[Connections, TaskHubSource], Backend]] = {
    "azureStorage": _azure_storage,
    "scheduler": _scheduler,
    "managementApi": _management_api,
}
"""The providers that PutApp can choose."""


class ConfiguredBackends:
    """One backend for each source in use, made when it is first asked for."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._made: dict[TaskHubSource, Backend] = {}

    def of(self, source: TaskHubSource) -> Backend:
        """Raises SourceError when a setting is missing or wrong."""
        if source not in self._made:
            try:
                for name in (source.connection, source.tracking_connection):
                    if name is not None:
                        self._connections.check_name(name)
                self._made[source] = PROVIDERS[source.provider](self._connections, source)
            except SettingsError as error:
                raise SourceError(Trouble.FAILED, str(error)) from None
        return self._made[source]

    async def close(self) -> None:
        for backend in self._made.values():
            await backend.close()
