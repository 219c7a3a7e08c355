"""The storage account in which an app's task hubs live. Creates a client for each of its services at its first use, and
hides how the settings lead to them."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from state_api.backends.protocols import ArtifactKind, BackendError, ReadFailure
from state_api.backends.storage_errors import SERVICE_NAMES, DataRole, translate_account_errors
from state_api.domain.task_hubs.ownership import normalize_address
from state_api.proxies import environment_proxy_option
from state_api.settings import StorageSettings

# Only for annotations: each library is slow to import, and is imported when it is first needed.
if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient
    from azure.identity.aio import DefaultAzureCredential
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueServiceClient

_Client = TypeVar("_Client")

_CLIENT_OPTIONS: dict[str, Any] = {
    # The caller obeys a status that asks to wait; the client retries broken connections only.
    "retry_total": 2,
    "retry_status": 0,
    # Without these the libraries for queues and blobs wait 15 s and more between attempts.
    "initial_backoff": 0,
    "increment_base": 0,
    "random_jitter_range": 0.5,
    "retry_backoff_factor": 0.2,
    "retry_backoff_max": 2,
    "connection_timeout": 3,
    # The service may take 5 s for a page of a query (Azure Table storage, query timeout).
    "read_timeout": 10,
    # A redirect would send the credentials to another address.
    "permit_redirects": False,
}
# A sovereign cloud or an emulator may not support the newest API version, which the libraries use by default.
_API_VERSION_OPTION = {"api_version": "2024-11-04"}


class StorageAccount:
    """The storage account that the setting `setting_name` leads to. Opens no connection until it is used."""

    def __init__(self, settings: StorageSettings, setting_name: str) -> None:
        self._settings = settings
        self.setting_name = setting_name
        self._credential: DefaultAzureCredential | None = None
        self._clients: dict[ArtifactKind, Any] = {}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        if self._credential is not None:
            await self._credential.close()
            self._credential = None

    def service_address(self, kind: ArtifactKind) -> str | None:
        """Return the address of the service for this kind of artifact, without secrets; None if it is not known."""
        try:
            match kind:
                case ArtifactKind.TABLE:
                    return normalize_address(self.table_service().url)
                case ArtifactKind.QUEUE:
                    return normalize_address(self.queue_service().url)
                case ArtifactKind.CONTAINER:
                    return normalize_address(self.blob_service().url)
        except BackendError:
            return None

    def table_service(self) -> "TableServiceClient":
        """Return the client of the table service. Raises BackendError if the settings do not lead to it."""
        from azure.data.tables.aio import TableServiceClient  # noqa: PLC0415

        return self._get_client(ArtifactKind.TABLE, TableServiceClient, TableServiceClient.from_connection_string)

    def queue_service(self) -> "QueueServiceClient":
        """Return the client of the queue service. Raises BackendError if the settings do not lead to it."""
        from azure.storage.queue.aio import QueueServiceClient  # noqa: PLC0415

        return self._get_client(
            ArtifactKind.QUEUE, QueueServiceClient, QueueServiceClient.from_connection_string, **_API_VERSION_OPTION
        )

    def blob_service(self) -> "BlobServiceClient":
        """Return the client of the blob service. Raises BackendError if the settings do not lead to it."""
        from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415

        return self._get_client(
            ArtifactKind.CONTAINER, BlobServiceClient, BlobServiceClient.from_connection_string, **_API_VERSION_OPTION
        )

    def translate_errors(self, kind: ArtifactKind, role: DataRole = "Contributor") -> AbstractAsyncContextManager[None]:
        """Turn errors of this account's clients into BackendError. `role` is what the caller needs on this kind of
        artifact."""
        return translate_account_errors(self.setting_name, kind, role)

    def _get_client(
        self,
        kind: ArtifactKind,
        client_type: Callable[..., _Client],
        from_connection_string: Callable[..., _Client],
        **client_options: str,
    ) -> _Client:
        """The client of one service of the account, created at its first use: with the connection string, or with an
        identity. Raises BackendError."""
        if kind not in self._clients:
            options = {**_CLIENT_OPTIONS, **environment_proxy_option(), **client_options}
            if self._settings.connection_string is None:
                address = self._service_uri(kind)
                self._clients[kind] = client_type(address, credential=self._get_credential(), **options)
            else:
                connection_string = self._connection_string_for(
                    kind, self._settings.connection_string.get_secret_value()
                )
                try:
                    self._clients[kind] = from_connection_string(connection_string, **options)
                except ValueError:
                    # The library's text can contain parts of the connection string.
                    raise self._settings_error(
                        "is not complete: it needs AccountName and AccountKey, or the services' addresses and a "
                        "SharedAccessSignature"
                    ) from None
        client: _Client = self._clients[kind]
        return client

    def _service_uri(self, kind: ArtifactKind) -> str:
        """The address of a service for an identity. Raises BackendError if no setting gives it."""
        service = SERVICE_NAMES[kind].lower()
        address: str | None = getattr(self._settings, f"{service}_service_uri")
        if address is None:
            raise BackendError(
                ReadFailure.FAILED,
                f"the address of the {kind}s is not known: set {self.setting_name}__{service}ServiceUri, or "
                f"{self.setting_name}__accountName for all services",
            )
        return address

    def _connection_string_for(self, kind: ArtifactKind, connection_string: str) -> str:
        """Return the connection string if it leads to the service for this kind of artifact; otherwise raise
        BackendError.

        If a connection string gives one service an address of its own, its AccountName does not lead to the others.
        With a connection string of the emulator, the library would connect to an account in Azure.
        """
        names = {part.partition("=")[0].strip().upper() for part in connection_string.split(";")}
        has_endpoints = any(name.endswith("ENDPOINT") for name in names)
        endpoint_name = f"{SERVICE_NAMES[kind]}Endpoint"
        if endpoint_name.upper() in names or ("ACCOUNTNAME" in names and not has_endpoints):
            return connection_string
        alternative = "" if has_endpoints else ", or AccountName and AccountKey"
        raise self._settings_error(f"does not say where the {kind}s are: add {endpoint_name} to it{alternative}")

    def _settings_error(self, problem: str) -> BackendError:
        return BackendError(ReadFailure.FAILED, f"the connection string in the setting {self.setting_name} {problem}")

    def _get_credential(self) -> "DefaultAzureCredential":
        """The server's identity, which all services share."""
        if self._credential is None:
            # By far the slowest import. Servers with connection strings never need it.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

            self._credential = DefaultAzureCredential(managed_identity_client_id=self._settings.client_id)
        return self._credential
