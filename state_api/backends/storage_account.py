"""A storage account in which task hubs live: its clients, and what their errors mean for whoever reads a task hub."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError

from state_api.backends.protocols import ArtifactKind, BackendError, ReadFailure
from state_api.domain.task_hubs.ownership import normalize_address
from state_api.settings import StorageSettings
from state_api.storage.tables import error_code

# Only for their types: each library is loaded when it is first needed.
if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient
    from azure.identity.aio import DefaultAzureCredential
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueServiceClient

_Client = TypeVar("_Client")

_CLIENT_OPTIONS: dict[str, Any] = {
    # A status that asks to wait is for the caller to heed; only broken connections are tried again here.
    "retry_total": 2,
    "retry_status": 0,
    # The libraries for queues and blobs would wait 15 s and more between attempts.
    "initial_backoff": 0,
    "increment_base": 0,
    "random_jitter_range": 0.5,
    "retry_backoff_factor": 0.2,
    "retry_backoff_max": 2,
    "connection_timeout": 3,
    # A page of a query may take the service 5 s.
    "read_timeout": 10,
    # A redirect would take the credentials to another place.
    "permit_redirects": False,
}
# The libraries' newest version may not be known yet to a sovereign cloud or to somebody's emulator.
_API_VERSION_OPTION = {"api_version": "2024-11-04"}

NOT_FOUND_CODES = frozenset(
    f"{what}{how}" for what in ("Resource", "Table", "Queue", "Container") for how in ("NotFound", "BeingDeleted")
)
"""The service's codes for what does not exist."""

# What the libraries stumble over when an answer is not that of a storage account.
_PARSE_ERRORS = (AttributeError, KeyError, TypeError, ValueError)


_SERVICE_NAMES = {ArtifactKind.TABLE: "Table", ArtifactKind.QUEUE: "Queue", ArtifactKind.CONTAINER: "Blob"}


class StorageAccount:
    """The storage account of the setting `name`. Makes no connection until it is used."""

    def __init__(self, settings: StorageSettings, name: str) -> None:
        self._settings = settings
        self.setting_name = name
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
        """The address of the service for this kind, without secrets; None if it is not known."""
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
        from azure.data.tables.aio import TableServiceClient  # noqa: PLC0415

        return self._get_client(ArtifactKind.TABLE, TableServiceClient, TableServiceClient.from_connection_string)

    def queue_service(self) -> "QueueServiceClient":
        from azure.storage.queue.aio import QueueServiceClient  # noqa: PLC0415

        return self._get_client(
            ArtifactKind.QUEUE, QueueServiceClient, QueueServiceClient.from_connection_string, **_API_VERSION_OPTION
        )

    def blob_service(self) -> "BlobServiceClient":
        from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415

        return self._get_client(
            ArtifactKind.CONTAINER, BlobServiceClient, BlobServiceClient.from_connection_string, **_API_VERSION_OPTION
        )

    def _get_client(
        self,
        kind: ArtifactKind,
        client_type: Callable[..., _Client],
        from_connection_string: Callable[..., _Client],
        **client_options: str,
    ) -> _Client:
        if kind not in self._clients:
            self._clients[kind] = self._create_client(
                kind, client_type, from_connection_string, {**_CLIENT_OPTIONS, **client_options}
            )
        client: _Client = self._clients[kind]
        return client

    def _create_client(
        self,
        kind: ArtifactKind,
        client_type: Callable[..., _Client],
        from_connection_string: Callable[..., _Client],
        options: dict[str, Any],
    ) -> _Client:
        service = _SERVICE_NAMES[kind]
        if self._settings.connection_string is None:
            address = getattr(self._settings, f"{service.lower()}_service_uri")
            if address is None:
                raise BackendError(
                    ReadFailure.FAILED,
                    f"where the {kind}s are is not known: set {self.setting_name}__{service.lower()}ServiceUri, or "
                    f"{self.setting_name}__accountName for all services",
                )
            return client_type(address, credential=self._get_credential(), **options)
        connection = self._settings.connection_string.get_secret_value()
        names = {part.partition("=")[0].strip().upper() for part in connection.split(";")}
        endpoints = {name for name in names if name.endswith("ENDPOINT")}
        # Where one service has an address of its own, the account's name does not lead to the others: for the
        # emulator the library would go to an account in Azure.
        if f"{service}Endpoint".upper() not in names and (endpoints or "ACCOUNTNAME" not in names):
            raise BackendError(
                ReadFailure.FAILED,
                f"the connection string in the setting {self.setting_name} does not say where the {kind}s are: add "
                f"{service}Endpoint to it" + ("" if endpoints else ", or AccountName and AccountKey"),
            )
        try:
            return from_connection_string(connection, **options)
        except ValueError:
            # The library's own words can hold parts of the connection string.
            raise BackendError(
                ReadFailure.FAILED,
                f"the connection string in the setting {self.setting_name} is not complete: it needs AccountName and "
                "AccountKey, or the services' addresses and a SharedAccessSignature",
            ) from None

    def _get_credential(self) -> "DefaultAzureCredential":
        if self._credential is None:
            # By far the slowest import, and connection strings do without.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

            self._credential = DefaultAzureCredential(managed_identity_client_id=self._settings.client_id)
        return self._credential

    @asynccontextmanager
    async def translate_errors(self, kind: ArtifactKind, role: str = "Contributor") -> AsyncIterator[None]:
        """Turn the libraries' errors into BackendError. `role` is what the caller needs on data of this kind."""
        account_description = f"the storage account of the setting {self.setting_name}"
        try:
            yield
        except HttpResponseError as error:
            status, code = error.status_code, error_code(error) or type(error).__name__
            if isinstance(error, ClientAuthenticationError) or status in (401, 403):
                raise BackendError(
                    ReadFailure.DENIED,
                    f"{account_description} refuses this server its {kind}s ({code}): give its identity the "
                    f"role Storage "
                    f"{_SERVICE_NAMES[kind]} Data {role} there, or correct the connection string",
                ) from None
            if status in (429, 503) or code == "ServerBusy":
                message = f"{account_description} asks to wait before its {kind}s are used again ({status})"
                raise BackendError(ReadFailure.THROTTLED, message, retry_after_seconds(error)) from None
            if status is not None and 300 <= status < 400:
                message = f"{account_description} redirects ({status}) when its {kind}s are used, which is not followed"
                raise BackendError(ReadFailure.FAILED, message) from None
            if status is not None and status >= 400:
                message = f"{account_description} answers {status} ({code}) when its {kind}s are used"
                raise BackendError(ReadFailure.FAILED, message) from None
            raise self._unexpected_response_error(account_description, kind, error) from None
        except ServiceRequestError:
            raise BackendError(
                ReadFailure.FAILED,
                f"{account_description} cannot be reached for its {kind}s: does it exist, and does its network "
                f"let this server in?",
            ) from None
        except (AzureError, aiohttp.ClientError, OSError, *_PARSE_ERRORS) as error:
            raise self._unexpected_response_error(account_description, kind, error) from None

    @staticmethod
    def _unexpected_response_error(account_description: str, kind: ArtifactKind, error: Exception) -> BackendError:
        return BackendError(
            ReadFailure.FAILED,
            f"{account_description} does not answer as a storage account does for its {kind}s ({type(error).__name__})",
        )


def retry_after_seconds(error: HttpResponseError) -> int | None:
    """The seconds that the service asks to wait."""
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    value = headers.get("Retry-After", "")
    return int(value) if value.isdigit() else None
