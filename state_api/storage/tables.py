"""Access to the tables of the state storage: clients, table names, errors, pages and continuation tokens."""

import base64
import binascii
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.data.tables import TableEntity
from azure.data.tables.aio import TableClient, TableServiceClient

from state_api.domain.errors import InvalidRequest, StorageUnavailable
from state_api.domain.instants import Instant, instant_from, parse_instant
from state_api.domain.names import hub_key
from state_api.proxies import environment_proxy_option
from state_api.services.ports import Page
from state_api.settings import SettingsError, StorageSettings
from state_api.storage.storage_clock import StorageClock
from state_api.storage.transactions import TableOperation, send_transaction

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger(__name__)

TABLE_PREFIX = "SafeDeploy"
APPS_TABLE = f"{TABLE_PREFIX}Apps"
TASK_HUBS_TABLE = f"{TABLE_PREFIX}TaskHubs"
QUARANTINE_TABLE = f"{TABLE_PREFIX}Quarantine"

_INSTANCE_TABLE_PREFIX, _INSTANCE_TABLE_SUFFIX = f"{TABLE_PREFIX}Hub", "State"

_RETRIED_METHODS = frozenset(["HEAD", "GET", "PUT", "DELETE", "OPTIONS", "MERGE", "PATCH", "POST"])

INVALID_CONTINUATION = "continuationToken was not returned by this list: call the operation again without it"

_MAX_CACHED_CLIENTS = 64
"""Cached table clients, about 60 kB each. Publishers determine how many task hubs there are. Creating a client again
takes a millisecond and no request."""

_MAX_LOGGED_ERROR_CHARACTERS = 300

_MAX_PROPERTY_CHARACTERS = 15_000
"""Characters in one property. The service allows 32 Ki UTF-16 units, and a character can take two."""


def instance_table_name(task_hub: str) -> str:
    """The instance table of a task hub, at most 63 characters long, the service's limit. It ends differently from the
    tables of the Azure Storage provider (Instances, History, Partitions), which may be in the same account. It is the
    same for every spelling of the task hub, because the emulator distinguishes names of tables by case."""
    return f"{_INSTANCE_TABLE_PREFIX}{hub_key(task_hub)}{_INSTANCE_TABLE_SUFFIX}"


def task_hub_of_table(table: str) -> str:
    """The key of the task hub whose instance table has this name."""
    return table.removeprefix(_INSTANCE_TABLE_PREFIX).removesuffix(_INSTANCE_TABLE_SUFFIX)


class Tables:
    """The tables of a storage account, which messages call `account_name`. Connects when first used. `on_request` is
    called before each attempt to send a request. Raises SettingsError."""

    def __init__(
        self,
        settings: StorageSettings,
        account_name: str = "the state storage",
        *,
        on_request: Callable[[], None] = lambda: None,
        **client_options: Any,
    ) -> None:
        """Prepare a client for one account. `account_name` names it in messages, and `on_request` is called for each
        request."""
        self.clock = StorageClock()
        self._on_request = on_request
        self._credential: AsyncTokenCredential | None = None
        # Short retries and timeouts: Event Grid waits 30 s for a response, and it retries by itself, as pipelines do.
        options: dict[str, Any] = {
            # The library calls this hook for each attempt.
            "raw_request_hook": self._begin_request,
            "raw_response_hook": self._observe_response_date,
            "retry_total": 2,
            "retry_backoff_factor": 0.2,
            "retry_backoff_max": 2,
            "connection_timeout": 3,
            "read_timeout": 6,
            # Following a redirect would send the credentials to another server.
            "permit_redirects": False,
            **environment_proxy_option(),
            **client_options,
        }
        if settings.connection_string is not None:
            connection = settings.connection_string.get_secret_value()
            try:
                self._service = TableServiceClient.from_connection_string(connection, **options)
            except ValueError:
                # Without the library's message, which can contain parts of the connection string.
                raise SettingsError(f"the connection string of {account_name} lacks an account or a key") from None
        else:
            assert settings.table_service_uri is not None, "settings hold one of the two"
            # Imported only here, because it is the slowest import and a connection string does not need it.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

            self._credential = DefaultAzureCredential(managed_identity_client_id=settings.client_id)
            self._service = TableServiceClient(settings.table_service_uri, credential=self._credential, **options)
        self._clients: dict[str, TableClient] = {}
        # At level INFO the library logs the URL of every request, which contains instance ids.
        logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)

    def _begin_request(self, request: PipelineRequest[Any]) -> None:
        """Note when the request is sent, and count it."""
        request.context["sent_at"] = time.monotonic()
        self._on_request()

    def _observe_response_date(self, response: PipelineResponse[Any, Any]) -> None:
        """Set the storage clock by the Date header of a response."""
        date = response.http_response.headers.get("Date")
        if date:
            self.clock.observe_date(date, response.context["sent_at"])

    def client(self, table: str) -> TableClient:
        """The client of a table. The table need not exist."""
        client = self._clients.pop(table, None) or self._service.get_table_client(table)
        if len(self._clients) >= _MAX_CACHED_CLIENTS:
            del self._clients[next(iter(self._clients))]
        # The least recently used client comes first.
        self._clients[table] = client
        return client

    def invalidate_cache(self, table: str) -> None:
        """Forget the client of a table."""
        self._clients.pop(table, None)

    async def create_table(self, table: str) -> None:
        """Create the table unless it exists. Raises StorageUnavailable, also while an earlier table of this name is
        being deleted."""
        async with translate_storage_errors():
            try:
                # Without this, the library retries no POST. Creating a table twice does no harm.
                await self._service.create_table(table, retry_on_methods=_RETRIED_METHODS)
            except ResourceExistsError as error:
                if error_code(error) == "TableBeingDeleted":
                    raise

    async def delete_table(self, table: str) -> None:
        """Delete the table; a missing table is fine."""
        async with translate_storage_errors():
            with suppress(ResourceNotFoundError):
                await self._service.delete_table(table)
        self.invalidate_cache(table)

    async def close(self) -> None:
        await self._service.close()
        if self._credential is not None:
            await self._credential.close()


async def submit_transaction(table: TableClient, operations: Sequence[TableOperation]) -> list[str | None]:
    """Write rows of one partition, all or none. Returns the new ETag of each; None for a row that was deleted.

    The library retries this request when the connection breaks, although the first attempt may have succeeded. Then the
    condition of the second attempt fails, and every caller reads again after a conflict. Raises the library's errors,
    with their code."""
    return await send_transaction(table, operations, retry_on_methods=_RETRIED_METHODS)


def error_code(error: HttpResponseError) -> str:
    """The service's error code as text; empty if there is none. The library gives a text or an enumeration. Only
    errors of transactions always have a code, so single rows are written as transactions, too (azure-data-tables 12.7,
    tried)."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def is_write_conflict(error: HttpResponseError) -> bool:
    """Whether a conditional write failed because another writer was faster. Any code that a conflict can have counts,
    because a mistake only costs another read."""
    if is_table_missing(error):
        return False
    return error.status_code in (409, 412) or error_code(error) in (
        "UpdateConditionNotSatisfied",
        "EntityAlreadyExists",
        "ResourceNotFound",
    )


def is_table_missing(error: HttpResponseError) -> bool:
    """Whether the error says that the table does not exist, or is being deleted."""
    return error_code(error) in ("TableNotFound", "TableBeingDeleted")


@asynccontextmanager
async def translate_storage_errors() -> AsyncIterator[None]:
    """Turn the library's errors that leave the block into StorageUnavailable, and log their details."""
    try:
        yield
    except ClientAuthenticationError as error:
        log.error("the state storage refuses this server's credentials: %s", error_code(error) or type(error).__name__)
        raise StorageUnavailable(
            "the state storage refuses the credentials of this server: see the server's log"
        ) from error
    except AzureError as error:
        status = getattr(error, "status_code", None)
        log.warning("state storage: %s %s: %s", status or "", type(error).__name__, _first_line(error))
        raise StorageUnavailable("the state storage cannot be used at the moment: try again") from error


def _first_line(error: AzureError) -> str:
    """The first line of the error's message, shortened for the log. The lines after it repeat the whole response."""
    return str(error.message if hasattr(error, "message") else error).split("\n", 1)[0][:_MAX_LOGGED_ERROR_CHARACTERS]


def etag_of(entity: TableEntity) -> str:
    """The ETag of a row that was read. A write on the condition of this ETag fails if the row has changed since."""
    return str(entity.metadata["etag"])


def if_match(etag: str) -> dict[str, Any]:
    """The condition of a write that fails if another writer has changed the row."""
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def timestamp_of(entity: TableEntity) -> Instant:
    """When the row was last written, by the storage's clock, with a precision of 100 ns."""
    stamp = entity.metadata["timestamp"]
    assert stamp is not None, "a row that is read without `select` has its Timestamp"
    precise = getattr(stamp, "tables_service_value", None)
    return parse_instant(precise) if precise else instant_from(stamp)


def split_property(name: str, text: str) -> dict[str, str]:
    """Split a long text into the properties `name0`, `name1` and so on."""
    pieces = [text[at : at + _MAX_PROPERTY_CHARACTERS] for at in range(0, len(text), _MAX_PROPERTY_CHARACTERS)] or [""]
    return {f"{name}{number}": piece for number, piece in enumerate(pieces)}


def join_property(name: str, entity: Mapping[str, Any]) -> str:
    """Join the properties `name0`, `name1` and so on, which `split_property` wrote, into one text. Return an empty text
    if the entity has no such property."""
    pieces: list[str] = []
    while (piece := entity.get(f"{name}{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def encode_token(members: Mapping[str, Any]) -> str:
    """An opaque continuation token."""
    return base64.urlsafe_b64encode(json.dumps(members, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_token(token: str, *kinds: str) -> dict[str, Any]:
    """The members that `encode_token` has encoded. Raises InvalidRequest unless its `kind` is one of `kinds`."""
    try:
        members = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        # Raises ValueError for lone surrogates, which cannot be sent to the storage.
        json.dumps(members, ensure_ascii=False).encode()
    except (binascii.Error, ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or members.get("kind") not in kinds:
        raise InvalidRequest(INVALID_CONTINUATION)
    return members


async def read_page(
    table: TableClient, query: str, parameters: Mapping[str, Any], *, top: int, token: str | None, list_name: str
) -> Page[TableEntity]:
    """One page of a query, in key order, as the service returns it: it may have fewer than `top` rows although more
    follow. A missing table is empty. `list_name` is the kind of the continuation token. Raises InvalidRequest for a
    `token` of another list."""
    start: Any = None
    if token is not None:
        members = decode_token(token, list_name)
        start = {name: members.get(name) for name in ("PartitionKey", "RowKey")}
        if not all(isinstance(key, str) for key in start.values()):
            raise InvalidRequest(INVALID_CONTINUATION)
    # The iterator's continuation token is a mapping of keys, contrary to the library's annotations.
    pages: Any = table.query_entities(query, parameters=dict(parameters), results_per_page=top).by_page(start)
    async with translate_storage_errors():
        try:
            rows = [row async for row in await anext(pages)]
        except (ResourceNotFoundError, StopAsyncIteration):
            return Page((), None)
    following = pages.continuation_token
    return Page(tuple(rows), encode_token({"kind": list_name, **following}) if following else None)
