"""What a task hub leaves in the storage account of its app: which tables, queues and containers are its own, and how
they are removed (PLATFORM: Task hubs on Azure Storage).

Only exact names count, never a prefix: the hub v10 has nothing of the hub v100. Its tables may be a tracking store that
other hubs use too, and such tables stay.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError

from state_api.domain.names import hub_key, same_hub
from state_api.domain.ownership import plain_address
from state_api.settings import StorageSettings
from state_api.storage.tables import error_code, is_no_table
from state_api.taskhubs.backend import Artifact, Found, Kind, SourceError, Trouble

# Only for their types: each library is loaded when an artifact of its kind is first looked for.
if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient
    from azure.identity.aio import DefaultAzureCredential
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueServiceClient

log = logging.getLogger(__name__)

_Client = TypeVar("_Client")

# The app lease comes first: while an app that uses it runs on the hub, that container cannot be deleted, and then
# nothing is.
_CONTAINERS = ("applease", "leases", "largemessages")
_CONTROL_QUEUES = tuple(f"control-{number:02}" for number in range(16))
_QUEUES = (*_CONTROL_QUEUES, "workitems")
_PARTITIONS, _HISTORY, _INSTANCES = "Partitions", "History", "Instances"

_OPTIONS: dict[str, Any] = {
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
_VERSION = {"api_version": "2024-11-04"}

_GONE = frozenset(
    f"{what}{how}" for what in ("Resource", "Table", "Queue", "Container") for how in ("NotFound", "BeingDeleted")
)
# What the libraries stumble over when an answer is not that of a storage account.
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


_SERVICES = {Kind.TABLE: "Table", Kind.QUEUE: "Queue", Kind.CONTAINER: "Blob"}


class StorageArtifacts:
    """The storage account of the setting `name`. Makes no connection until it is used. Every method raises
    SourceError."""

    def __init__(self, settings: StorageSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._credential: DefaultAzureCredential | None = None
        self._clients: dict[Kind, Any] = {}
        self._last_reason: str | None = None

    async def find(self, task_hub: str) -> Found:
        """What exists of this hub now. Reads the whole instance table to see whether other hubs have rows there."""
        containers = await self.containers_of(task_hub)
        queues = await self.queues_of(task_hub)
        tables = await self.tables_of(task_hub)
        # In the order of their removal: partitions, history, instances.
        partitions = [table for table in tables if _is(table, _PARTITIONS)]
        tracking = tuple(table for table in tables if table not in partitions)
        instances = [table for table in tracking if _is(table, _INSTANCES)]
        own = instances and not await self._has_others(instances[0].name, task_hub)
        return Found((*containers, *queues, *partitions, *(tracking if own else ())), () if own else tracking)

    async def containers_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's containers that exist, in the order of their removal. `role` is what the caller needs there."""
        async with self._translated(Kind.CONTAINER, role):
            prefix = f"{hub_key(task_hub)}-"
            containers = [one.name async for one in self._blobs().list_containers(name_starts_with=prefix)]
        return _existing(Kind.CONTAINER, (f"{task_hub}-{suffix}" for suffix in _CONTAINERS), containers)

    async def queues_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's queues that exist."""
        return await self._queues_of(task_hub, _QUEUES, role)

    async def tables_of(self, task_hub: str, role: str = "Contributor") -> list[Artifact]:
        """The hub's tables that exist, in the order of their removal."""
        async with self._translated(Kind.TABLE, role):
            # All of them: names ignore case, but it is not said that a filter on them does, and Azurite's does not
            # (3.37, run).
            tables = [table.name async for table in self._tables().list_tables()]
        return _existing(Kind.TABLE, (f"{task_hub}{suffix}" for suffix in (_PARTITIONS, _HISTORY, _INSTANCES)), tables)

    def address(self, kind: Kind) -> str | None:
        """The address of the service that keeps artifacts of this kind, without secrets; None if it is not known."""
        try:
            match kind:
                case Kind.TABLE:
                    return plain_address(self._tables().url)
                case Kind.QUEUE:
                    return plain_address(self._queues().url)
                case Kind.CONTAINER:
                    return plain_address(self._blobs().url)
        except SourceError:
            return None

    async def remove(self, artifact: Artifact) -> None:
        """Delete it with all it holds; one that is gone already is fine. A name stays taken for a while, 30 s or
        more."""
        async with self._translated(artifact.kind):
            try:
                match artifact.kind:
                    case Kind.TABLE:
                        await self._tables().delete_table(artifact.name)
                    case Kind.QUEUE:
                        await self._queues().delete_queue(artifact.name)
                    case Kind.CONTAINER:
                        # Leases on its blobs do not hold it; only one on itself does.
                        await self._blobs().delete_container(artifact.name)
            except HttpResponseError as error:
                code = error_code(error)
                if code == "LeaseIdMissing":
                    raise SourceError(
                        Trouble.FAILED,
                        f"{artifact} is leased: an app still runs on this task hub, or did so a minute ago; stop it, "
                        "and try again",
                    ) from None
                if code not in _GONE:
                    raise

    async def in_flight(self, task_hub: str) -> bool | None:
        """Whether a control queue of this hub holds messages, those that nobody can see at the moment included. None
        if the queues cannot be read, which is optional: the log says why, once."""
        try:
            found = await self._any_messages(task_hub)
        except SourceError as error:
            if error.message != self._last_reason:
                log.info("messages on their way in task hubs cannot be seen: %s", error.message)
            self._last_reason = error.message
            return None
        self._last_reason = None
        return found

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        if self._credential is not None:
            await self._credential.close()
            self._credential = None

    async def _any_messages(self, task_hub: str) -> bool:
        for queue in await self._queues_of(task_hub, _CONTROL_QUEUES, role="Reader"):
            async with self._translated(Kind.QUEUE, role="Reader"):
                try:
                    properties = await self._queues().get_queue_client(queue.name).get_queue_properties()
                except HttpResponseError as error:
                    if error_code(error) not in _GONE:
                        raise
                    continue
            # Never lower than what is there, by the service's documentation.
            if properties.approximate_message_count:
                return True
        return False

    async def _queues_of(self, task_hub: str, suffixes: Sequence[str], role: str = "Contributor") -> list[Artifact]:
        async with self._translated(Kind.QUEUE, role):
            prefix = f"{hub_key(task_hub)}-"
            queues = [one.name async for one in self._queues().list_queues(name_starts_with=prefix)]
        return _existing(Kind.QUEUE, (f"{task_hub}-{suffix}" for suffix in suffixes), queues)

    async def _has_others(self, table: str, task_hub: str) -> bool:
        """Whether rows of other hubs are in this instance table. Rows without a hub's name are nobody else's."""
        # The filter minds case, so what it lets through is looked at again. It spares the transfer of the hub's own
        # rows, under the names that they most likely have: as it is known here, and as the table was made.
        rows = (
            self._tables()
            .get_table_client(table)
            .query_entities(
                "TaskHubName ne @known and TaskHubName ne @made",
                parameters={"known": task_hub, "made": table[: -len(_INSTANCES)]},
                select=["TaskHubName"],
            )
        )
        async with self._translated(Kind.TABLE):
            try:
                async for page in rows.by_page():
                    async for row in page:
                        hub = row.get("TaskHubName")
                        if hub and not same_hub(str(hub), task_hub):
                            return True
            except HttpResponseError as error:
                if not is_no_table(error):
                    raise
        return False

    def _tables(self) -> "TableServiceClient":
        from azure.data.tables.aio import TableServiceClient  # noqa: PLC0415

        return self._client(Kind.TABLE, TableServiceClient, TableServiceClient.from_connection_string)

    def _queues(self) -> "QueueServiceClient":
        from azure.storage.queue.aio import QueueServiceClient  # noqa: PLC0415

        return self._client(Kind.QUEUE, QueueServiceClient, QueueServiceClient.from_connection_string, **_VERSION)

    def _blobs(self) -> "BlobServiceClient":
        from azure.storage.blob.aio import BlobServiceClient  # noqa: PLC0415

        return self._client(Kind.CONTAINER, BlobServiceClient, BlobServiceClient.from_connection_string, **_VERSION)

    def _client(
        self, kind: Kind, at: Callable[..., _Client], from_connection: Callable[..., _Client], **more: str
    ) -> _Client:
        if kind not in self._clients:
            self._clients[kind] = self._connected(kind, at, from_connection, {**_OPTIONS, **more})
        client: _Client = self._clients[kind]
        return client

    def _connected(
        self,
        kind: Kind,
        at: Callable[..., _Client],
        from_connection: Callable[..., _Client],
        options: dict[str, Any],
    ) -> _Client:
        service = _SERVICES[kind]
        if self._settings.connection_string is None:
            address = getattr(self._settings, f"{service.lower()}_service_uri")
            if address is None:
                raise SourceError(
                    Trouble.FAILED,
                    f"where the {kind}s are is not known: set {self._name}__{service.lower()}ServiceUri, or "
                    f"{self._name}__accountName for all services",
                )
            return at(address, credential=self._identity(), **options)
        connection = self._settings.connection_string.get_secret_value()
        names = {part.partition("=")[0].strip().upper() for part in connection.split(";")}
        endpoints = {name for name in names if name.endswith("ENDPOINT")}
        # Where one service has an address of its own, the account's name does not lead to the others: for the
        # emulator the library would go to an account in Azure.
        if f"{service}Endpoint".upper() not in names and (endpoints or "ACCOUNTNAME" not in names):
            raise SourceError(
                Trouble.FAILED,
                f"the connection string in the setting {self._name} does not say where the {kind}s are: add "
                f"{service}Endpoint to it" + ("" if endpoints else ", or AccountName and AccountKey"),
            )
        try:
            return from_connection(connection, **options)
        except ValueError:
            # The library's own words can hold parts of the connection string.
            raise SourceError(
                Trouble.FAILED,
                f"the connection string in the setting {self._name} is not complete: it needs AccountName and "
                "AccountKey, or the services' addresses and a SharedAccessSignature",
            ) from None

    def _identity(self) -> "DefaultAzureCredential":
        if self._credential is None:
            # By far the slowest import, and connection strings do without.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

            self._credential = DefaultAzureCredential(managed_identity_client_id=self._settings.client_id)
        return self._credential

    @asynccontextmanager
    async def _translated(self, kind: Kind, role: str = "Contributor") -> AsyncIterator[None]:
        """Turn the libraries' errors into SourceError. `role` is what the caller needs on data of this kind."""
        place = f"the storage account of the setting {self._name}"
        try:
            yield
        except HttpResponseError as error:
            status, code = error.status_code, error_code(error) or type(error).__name__
            if isinstance(error, ClientAuthenticationError) or status in (401, 403):
                raise SourceError(
                    Trouble.DENIED,
                    f"{place} refuses this server its {kind}s ({code}): give its identity the role Storage "
                    f"{_SERVICES[kind]} Data {role} there, or correct the connection string",
                ) from None
            if status in (429, 503) or code == "ServerBusy":
                message = f"{place} asks to wait before its {kind}s are used again ({status})"
                raise SourceError(Trouble.THROTTLED, message, retry_after_of(error)) from None
            if status is not None and 300 <= status < 400:
                message = f"{place} redirects ({status}) when its {kind}s are used, which is not followed"
                raise SourceError(Trouble.FAILED, message) from None
            if status is not None and status >= 400:
                message = f"{place} answers {status} ({code}) when its {kind}s are used"
                raise SourceError(Trouble.FAILED, message) from None
            raise self._broken(place, kind, error) from None
        except ServiceRequestError:
            raise SourceError(
                Trouble.FAILED,
                f"{place} cannot be reached for its {kind}s: does it exist, and does its network let this server in?",
            ) from None
        except (AzureError, aiohttp.ClientError, OSError, *_UNREADABLE) as error:
            raise self._broken(place, kind, error) from None

    @staticmethod
    def _broken(place: str, kind: Kind, error: Exception) -> SourceError:
        return SourceError(
            Trouble.FAILED,
            f"{place} does not answer as a storage account does for its {kind}s ({type(error).__name__})",
        )


def retry_after_of(error: HttpResponseError) -> int | None:
    """The seconds that the service asks to wait."""
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    value = headers.get("Retry-After", "")
    return int(value) if value.isdigit() else None


def _is(table: Artifact, suffix: str) -> bool:
    return table.name.lower().endswith(suffix.lower())


def _existing(kind: Kind, wanted: Iterable[str], names: Iterable[str | None]) -> list[Artifact]:
    """Those of the wanted names that exist, in the order wanted, whatever their case."""
    found = {name.lower(): name for name in names if name is not None}
    return [Artifact(kind, found[name.lower()]) for name in wanted if name.lower() in found]
