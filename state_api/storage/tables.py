"""Clients for the state's tables: how they are reached, named and made, how their errors are told, and the storage's
clock."""

import base64
import binascii
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from email.utils import parsedate_to_datetime
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
from state_api.domain.instants import TICKS_PER_SECOND, Instant, instant_from, parse_instant
from state_api.services.ports import Page
from state_api.settings import SettingsError, StorageSettings
from state_api.storage.transactions import TableOperation, send_transaction

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

log = logging.getLogger(__name__)

TABLE_PREFIX = "SafeDeploy"
APPS_TABLE = f"{TABLE_PREFIX}Apps"
TASK_HUBS_TABLE = f"{TABLE_PREFIX}TaskHubs"
QUARANTINE_TABLE = f"{TABLE_PREFIX}Quarantine"

_RETRIED_METHODS = frozenset(["HEAD", "GET", "PUT", "DELETE", "OPTIONS", "MERGE", "PATCH", "POST"])

INVALID_CONTINUATION = "the continuationToken is not one that this list gave; start again without it"

_MAX_CACHED_CLIENTS = 64
"""Clients kept, some 60 kB each; publishers decide how many hubs there are. To make one again takes a millisecond and
no request."""

_MAX_PROPERTY_CHARACTERS = 15_000
"""Characters kept in one property; the service takes 32 Ki UTF-16 units, and a character can be two."""


def instance_table_name(task_hub: str) -> str:
    """The hub's own table. The state may share an account with task hubs, whose tables end in Instances, History and
    Partitions: this one ends otherwise, so that the two never meet. 63 characters at most, the service's limit."""
    return f"{TABLE_PREFIX}Hub{task_hub}State"


class StorageClock:
    """The time as the storage tells it in every answer. Servers whose own clocks differ agree on it, and it is the
    clock that rows are stamped with. Behind the storage by less than a second and a round trip, and ahead only as far
    as this machine runs fast within two minutes."""

    _SET_BACK_SECONDS = 1.0
    """Seconds that an answer must be behind what was heard before, at the very least, for the storage to have set its
    clock back."""
    _WINDOW_SECONDS = 60.0
    """Seconds that what was heard counts for, and as many again: a machine that runs fast must not get ahead."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._previous_offset: float | None = None
        self._window_offset: float | None = None
        self._window_began_at = 0.0

    def observe_date(self, date: str, sent: float) -> None:
        """Take note of the `Date` header of an answer to what was `sent`, by the machine's monotonic clock. It is cut
        to seconds and older by its way here, so of several the one that is furthest ahead is the closest."""
        now = time.monotonic()
        try:
            told = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        at_zero = told - now
        # An answer that was long on its way, or that nobody had time to read, is late, and no sign of another clock.
        at_most = told + 1 - sent
        if self._offset is not None and at_most <= self._offset - self._SET_BACK_SECONDS:
            self._previous_offset = self._window_offset = None
        if self._window_offset is None or now - self._window_began_at >= self._WINDOW_SECONDS:
            self._previous_offset = (
                self._window_offset if now - self._window_began_at < 2 * self._WINDOW_SECONDS else None
            )
            self._window_offset, self._window_began_at = at_zero, now
        self._window_offset = max(self._window_offset, at_zero)
        self._offset = (
            self._window_offset if self._previous_offset is None else max(self._previous_offset, self._window_offset)
        )

    @property
    def synchronized(self) -> bool:
        return self._offset is not None

    def now(self) -> Instant:
        """Before the first answer, the time of this machine."""
        seconds = time.time() if self._offset is None else self._offset + time.monotonic()
        return Instant(int(seconds * TICKS_PER_SECOND))


def _record_sent_at(request: PipelineRequest[Any]) -> None:
    request.context["sent"] = time.monotonic()


class Tables:
    """The tables of a storage account, called `account_name` in messages. Makes no connection until it is used. Raises
    SettingsError."""

    def __init__(
        self, settings: StorageSettings, account_name: str = "the state storage", **client_options: Any
    ) -> None:
        self.clock = StorageClock()
        self._credential: AsyncTokenCredential | None = None
        # Short: Event Grid waits no longer than 30 s, and it and pipelines come back by themselves.
        options: dict[str, Any] = {
            # Called for each attempt by itself.
            "raw_request_hook": _record_sent_at,
            "raw_response_hook": self._observe_response_date,
            "retry_total": 2,
            "retry_backoff_factor": 0.2,
            "retry_backoff_max": 2,
            "connection_timeout": 3,
            "read_timeout": 6,
            # A redirect would take the credentials, or the state, to another place.
            "permit_redirects": False,
            **client_options,
        }
        if settings.connection_string is not None:
            connection = settings.connection_string.get_secret_value()
            try:
                self._service = TableServiceClient.from_connection_string(connection, **options)
            except ValueError:
                # The library's own words can hold parts of the connection string.
                raise SettingsError(f"the connection string of {account_name} lacks an account or a key") from None
        else:
            assert settings.table_service_uri is not None, "settings hold one of the two"
            # Loaded when first used: it is by far the slowest import, and most machines never need it.
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415

            self._credential = DefaultAzureCredential(managed_identity_client_id=settings.client_id)
            self._service = TableServiceClient(settings.table_service_uri, credential=self._credential, **options)
        self._clients: dict[str, TableClient] = {}
        # At INFO the library logs every request with its address, and that holds instance ids.
        logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)

    def _observe_response_date(self, response: PipelineResponse[Any, Any]) -> None:
        date = response.http_response.headers.get("Date")
        if date:
            self.clock.observe_date(date, response.context["sent"])

    def client(self, table: str) -> TableClient:
        """The client of a table, which need not exist yet."""
        client = self._clients.pop(table, None) or self._service.get_table_client(table)
        if len(self._clients) >= _MAX_CACHED_CLIENTS:
            del self._clients[next(iter(self._clients))]
        # The one that was asked for last comes last.
        self._clients[table] = client
        return client

    def invalidate_cache(self, table: str) -> None:
        self._clients.pop(table, None)

    async def create_table(self, table: str) -> None:
        """Make the table unless it exists."""
        async with translate_storage_errors():
            try:
                await self._service.create_table(table)
            except ResourceExistsError as error:
                if error_code(error) == "TableBeingDeleted":
                    raise

    async def delete_table(self, table: str) -> None:
        """Delete the table; one that is gone already is fine."""
        async with translate_storage_errors():
            with suppress(ResourceNotFoundError):
                await self._service.delete_table(table)
        self.invalidate_cache(table)

    async def close(self) -> None:
        await self._service.close()
        if self._credential is not None:
            await self._credential.close()


async def submit_transaction(table: TableClient, operations: Sequence[TableOperation]) -> list[str | None]:
    """Write rows of one partition, all or none; for each its new ETag, None where it was deleted. Unlike single writes
    this is tried again when the connection is cut: what the lost answer would have said shows when the condition of the
    second attempt fails, and every caller reads again then. Raises the library's errors, with their code."""
    return await send_transaction(table, operations, retry_on_methods=_RETRIED_METHODS)


def error_code(error: HttpResponseError) -> str:
    """The service's code, as text: the library gives it as text or as an enumeration. Only transactions always carry
    it, which is why single rows are written as transactions too (azure-data-tables 12.7, run)."""
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def is_write_conflict(error: HttpResponseError) -> bool:
    """Whether a conditional write failed because somebody else wrote first. A second look costs a read, so whatever
    code a conflict comes with, it is taken for one."""
    if is_table_missing(error):
        return False
    return error.status_code in (409, 412) or error_code(error) in (
        "UpdateConditionNotSatisfied",
        "EntityAlreadyExists",
        "ResourceNotFound",
    )


def is_table_missing(error: HttpResponseError) -> bool:
    return error_code(error) in ("TableNotFound", "TableBeingDeleted")


@asynccontextmanager
async def translate_storage_errors() -> AsyncIterator[None]:
    """Turn what is left of the library's errors into StorageUnavailable, with the facts in the log."""
    try:
        yield
    except ClientAuthenticationError as error:
        log.error("the state storage refuses this server's credentials: %s", error_code(error) or type(error).__name__)
        raise StorageUnavailable("the state storage refuses this server; its log says why") from error
    except AzureError as error:
        status = getattr(error, "status_code", None)
        log.warning("state storage: %s %s: %s", status or "", type(error).__name__, _first_line(error))
        raise StorageUnavailable("the state storage cannot be used at the moment") from error


def _first_line(error: AzureError) -> str:
    return str(error.message if hasattr(error, "message") else error).split("\n", 1)[0][:300]


def etag_of(entity: TableEntity) -> str:
    return str(entity.metadata["etag"])


def if_match(etag: str) -> dict[str, Any]:
    """The condition of a write that must not overwrite what somebody else wrote."""
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def timestamp_of(entity: TableEntity) -> Instant:
    """When the storage last wrote the row, by its own clock, to 100 ns."""
    stamp = entity.metadata["timestamp"]
    assert stamp is not None, "every row that is read whole carries its time stamp"
    precise = getattr(stamp, "tables_service_value", None)
    return parse_instant(precise) if precise else instant_from(stamp)


def split_property(name: str, text: str) -> dict[str, str]:
    """A long text as properties `name0`, `name1`, …"""
    pieces = [text[at : at + _MAX_PROPERTY_CHARACTERS] for at in range(0, len(text), _MAX_PROPERTY_CHARACTERS)] or [""]
    return {f"{name}{number}": piece for number, piece in enumerate(pieces)}


def join_property(name: str, entity: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    while (piece := entity.get(f"{name}{len(pieces)}")) is not None:
        pieces.append(piece)
    return "".join(pieces)


def encode_token(content: Mapping[str, Any]) -> str:
    """An opaque continuation token."""
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_token(token: str, *kinds: str) -> dict[str, Any]:
    """What `encode_token` was given. Raises InvalidRequest unless it is a token of one of these kinds of list."""
    try:
        content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        # What cannot be encoded cannot be sent to the storage either.
        json.dumps(content, ensure_ascii=False).encode()
    except (binascii.Error, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("kind") not in kinds:
        raise InvalidRequest(INVALID_CONTINUATION)
    return content


async def read_page(
    table: TableClient, query: str, parameters: Mapping[str, Any], *, top: int, token: str | None, list_name: str
) -> Page[TableEntity]:
    """One page of a range in key order: exactly what the service gives, which may be fewer than `top` with more to
    come. A table that does not exist is empty."""
    start: Any = None
    if token is not None:
        content = decode_token(token, list_name)
        start = {name: content.get(name) for name in ("PartitionKey", "RowKey")}
        if not all(isinstance(key, str) for key in start.values()):
            raise InvalidRequest(INVALID_CONTINUATION)
    # The library's iterator carries the service's continuation as a mapping, which its annotations do not say.
    pages: Any = table.query_entities(query, parameters=dict(parameters), results_per_page=top).by_page(start)
    async with translate_storage_errors():
        try:
            rows = [row async for row in await anext(pages)]
        except (ResourceNotFoundError, StopAsyncIteration):
            return Page((), None)
    following = pages.continuation_token
    return Page(tuple(rows), encode_token({"kind": list_name, **following}) if following else None)
