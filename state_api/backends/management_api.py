"""Task hubs of any provider, through the HTTP management API that the Durable Functions extension serves in the app
itself (PLATFORM: Other durable backends).

The API cannot be asked for what has changed. So a scan is two passes: over all instances that are active, then over all
that were created since the scan began, whatever their status. An instance that starts another and ends while the first
pass goes on can hide both from it, but not the other one from the second pass.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import SecretStr
from yarl import URL

from state_api.addresses import is_loopback
from state_api.backends.protocols import BackendError, ObservedPage, ReadFailure, ScanStart
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, instant_from, parse_instant, seconds
from state_api.domain.names import is_entity
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts, normalize_address
from state_api.settings import SettingsError, TaskHubConnections

TIMEOUT_SECONDS = 20.0
"""How long one request may take, from connecting to the last byte."""
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""Bytes of an answer that are read."""

ACTIVE_PAGE_SIZE = 500
"""Large, because fewer borders between pages are better: see ManagementApiBackend. Active instances have no output yet;
Azure Tables takes no more than 1,000."""
RECENT_PAGE_SIZE = 100
"""Instances that have ended come with their outputs, which the API cannot leave out. The extension's own size."""

_API_PATH = "/runtime/webhooks/durabletask/instances"
_KEY_HEADER = "x-functions-key"
_TOKEN_HEADER = "x-ms-continuation-token"  # noqa: S105  # the name of a header
_END_TOKENS = frozenset({"", "bnVsbA=="})
"""How the last page says that it is: empty, or in old extensions Base64 of `null` (extension issue 1174)."""

_ACTIVE = "active"
_RECENT = "recent"
_ACTIVE_STATUSES = ",".join(sorted(ACTIVE_STATUSES))
_CLOCK_SKEW_MARGIN = seconds(60)
"""Created times are by the clocks of the app's workers; a minute is far more than two clocks differ that are kept by
NTP."""
_MAX_CONCURRENT_READS = 16
_DOT_SEGMENTS = (".", "..")
"""Ids that no address can hold, escaped or not: it becomes that of the list, without pages, or of the API (extension
3.19, run)."""
_UNUSED_ID_PREFIX = "~~~"
"""A prefix of instance ids under which there is probably nothing, so that the answer is quick and small."""

_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Z0-9][A-Z0-9.-]*|\[[0-9A-F:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Z0-9._~-]+)*/?",
    re.ASCII | re.IGNORECASE,
)
_APP_SETTING = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


@dataclass(frozen=True, slots=True)
class _ApiResponse:
    """`content` is the parsed body, None unless the status is 200 or 202."""

    status: int
    headers: Mapping[str, str]
    content: Any


@dataclass(frozen=True, slots=True)
class _Page:
    instances: tuple[ObservedInstance, ...]
    token: str | None
    server_date: Instant | None


class ManagementApiBackend:
    """Asks the app at `endpoint`, with its system key `durabletask_extension`. `name` is that of the setting whose
    parts are `NAME__endpoint`, `NAME__key` and `NAME__storageConnection`; `storage_connection` is the name of the app's
    own setting for the hub's storage, None for its default. Raises SettingsError for what cannot be right.

    It cannot tell a task hub that does not exist from one that is empty, and never raises ReadFailure.MISSING: on Azure
    Storage the extension makes the hub that it is asked about (provider, `EnsureTaskHubAsync`, read) and answers with
    an empty list. So a hub whose name is wrong looks drained, and asking about a deleted one brings it back. MSSQL
    takes the hub's name from its database login unless told otherwise (`TaskHubMode`, read), and then answers for that
    one whatever name is asked for. A tracking store that several hubs share answers for all of them.

    Times come cut to seconds: a change shows in a stamp if it changes the status or falls into another second. The
    extension does not tell orchestration versions (`HttpApiHandler.ConvertFrom`, read); a `version` is taken if it
    comes.

    A scan does not see an instance that was created before it, ended before its turn in the first pass, and so has
    neither been active when looked at nor been created since; nor one that an operator rewinds after its turn. Where
    the continuation token is a page number (MSSQL, read), instances that end between two pages move others across the
    border unseen; that matters only where a whole page is of instances that do not block.
    """

    provider = "managementApi"
    shows_messages = False
    artifacts = None

    def __init__(
        self,
        endpoint: str,
        key: str,
        name: str,
        storage_connection: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._base_url = _validate_endpoint(endpoint, name) + _API_PATH
        if not re.fullmatch(r"[!-~]+", key):
            raise SettingsError(f"{name}__key must be the app's system key durabletask_extension, without blanks")
        if storage_connection is not None and not _APP_SETTING.fullmatch(storage_connection):
            raise SettingsError(
                f"{name}__storageConnection must be the name of one of the app's settings, not a connection string"
            )
        self._key = SecretStr(key)
        self._setting_name = name
        self._storage_connection = storage_connection
        self._timeout = timeout
        self._app_description = f"the app at the address in {name}__endpoint"
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)
        self._session: aiohttp.ClientSession | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return (normalize_address(self._base_url.removesuffix(_API_PATH)),)

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        """None: asking about a task hub creates it."""
        return None

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Takes the earlier of two clocks, the app's and this server's: it costs little if one of them is behind, but
        with one that is ahead the second pass would begin too late."""
        page = await self._list_instances(task_hub, 1, None, instanceIdPrefix=_UNUSED_ID_PREFIX)
        now = instant_from(datetime.now(UTC))
        since = Instant(min(now, page.server_date if page.server_date is not None else now) - _CLOCK_SKEW_MARGIN)
        return ScanStart(since, (_encode_cursor(_ACTIVE, None),), (_encode_cursor(_RECENT, None),))

    async def read_page(self, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        kind, token = json.loads(cursor)
        if kind == _ACTIVE:
            page = await self._list_instances(task_hub, ACTIVE_PAGE_SIZE, token, runtimeStatus=_ACTIVE_STATUSES)
        else:
            page = await self._list_instances(task_hub, RECENT_PAGE_SIZE, token, createdTimeFrom=format_instant(since))
        onward: tuple[str, ...] = ()
        if page.token is not None:
            onward = (_encode_cursor(kind, page.token),)
        elif kind == _ACTIVE:
            onward = (_encode_cursor(_RECENT, None),)
        return ObservedPage(page.instances, onward, len(page.instances))

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        async def find_one(instance_id: str) -> ObservedInstance | None:
            if not instance_id or is_entity(instance_id):
                return None
            async with self._concurrency_limit:
                found = await self._find_by_path(task_hub, instance_id)
                return found if found is not None else await self._find_by_prefix(task_hub, instance_id)

        asked = [asyncio.ensure_future(find_one(instance_id)) for instance_id in instance_ids]
        try:
            return dict(zip(instance_ids, await asyncio.gather(*asked), strict=True))
        finally:
            for task in asked:
                task.cancel()

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """None: the API does not show messages."""
        return None

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        return known

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _find_by_path(self, task_hub: str, instance_id: str) -> ObservedInstance | None:
        """The instance under its own address; None does not mean that there is no such instance."""
        if instance_id in _DOT_SEGMENTS:
            return None
        answer = await self._send_request(task_hub, f"/{quote(instance_id, safe='')}", {})
        if answer.status not in {200, 202, 400, 404, 500}:
            raise self._unexpected_status_error(answer.status)
        # On its way through the host an address can turn into that of another instance, or of the list.
        if not isinstance(answer.content, dict) or answer.content.get("instanceId") != instance_id:
            return None
        return self._parse_instances([answer.content])[0]

    async def _find_by_prefix(self, task_hub: str, instance_id: str) -> ObservedInstance | None:
        """The instance among those whose ids begin like its own.

        The host and the extension each decode the path before they take it apart: an id with a slash is answered with
        404 though it runs, and so is every id by an app that does not serve the API at all. Only a list without the
        instance proves that there is none.
        """
        # The rest of the id is left out where a provider's own query would stumble over a quote or a bracket.
        prefix = re.split(r"['\[]", instance_id, maxsplit=1)[0]
        filters = {"instanceIdPrefix": prefix} if prefix else {}
        token: str | None = None
        while True:
            page = await self._list_instances(task_hub, RECENT_PAGE_SIZE, token, **filters)
            for observed in page.instances:
                if observed.instance_id == instance_id:
                    return observed
            if page.token is None:
                return None
            if page.token == token:
                raise self._request_error("gives the same page of instances again and again")
            token = page.token

    async def _list_instances(self, task_hub: str, top: int, token: str | None, **filters: str) -> _Page:
        """A page of the list. It can be short or empty and still have a token."""
        answer = await self._send_request(task_hub, "", {**filters, "top": str(top)}, token)
        if answer.status == 404:
            raise self._request_error(
                "does not serve the management API (404): is it the address of the app, does the app run, and does it "
                "use the Durable Functions extension 2 or later?"
            )
        if answer.status != 200:
            raise self._unexpected_status_error(answer.status)
        if not isinstance(answer.content, list):
            raise self._request_error("answers with something that is not a list of instances")
        onward = answer.headers.get(_TOKEN_HEADER, "")
        if not (onward.isascii() and onward.isprintable()):
            raise self._request_error(f"sends a header {_TOKEN_HEADER} that cannot be sent back")
        return _Page(
            tuple(one for one in self._parse_instances(answer.content) if not is_entity(one.instance_id)),
            onward if onward not in _END_TOKENS else None,
            _parse_http_date(answer.headers.get("Date", "")),
        )

    def _parse_instances(self, instances: Sequence[Any]) -> list[ObservedInstance]:
        try:
            return [_parse_instance(one) for one in instances]
        except ValueError:
            pass
        raise self._request_error("answers with something that is not an instance")

    async def _send_request(
        self, task_hub: str, path: str, parameters: Mapping[str, str], token: str | None = None
    ) -> _ApiResponse:
        """One request. The key travels in a header, which the host takes before a `code` in the query (host,
        `AuthenticationLevelHandler`, read), so that no address holds it."""
        query = {"taskHub": task_hub, **parameters, "showInput": "false"}
        if self._storage_connection is not None:
            query["connection"] = self._storage_connection
        # The address as it is: an id that was escaped must be neither escaped again nor tidied up.
        url = URL(f"{self._base_url}{path}?{urlencode(query, quote_via=quote, safe='')}", encoded=True)
        headers = {_KEY_HEADER: self._key.get_secret_value(), "Accept": "application/json"}
        if token is not None:
            headers[_TOKEN_HEADER] = token
        if self._session is None:
            # Made here because it belongs to the running event loop.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout), cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            # A redirect would take the key along.
            async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                self._check_status(answer.status, answer.headers)
                content = await self._read_json(answer) if answer.status in {200, 202} else None
                return _ApiResponse(answer.status, answer.headers, content)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._connection_error(error)
        # Raised here so that it holds no reference to an exception whose request holds the key.
        raise failure

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        if 300 <= status < 400:
            raise self._request_error(
                f"redirects ({status}), which is not followed because the key would go along: set the address that it "
                "leads to, and let no sign-in page stand in front of the API"
            )
        if status in {401, 403}:
            raise BackendError(
                ReadFailure.DENIED,
                f"{self._app_description} refuses this server ({status}): {self._setting_name}__key must be the "
                f"app's system key "
                "durabletask_extension; a stopped app and access restrictions answer in the same way",
            )
        if status in {429, 503}:
            raise BackendError(
                ReadFailure.THROTTLED,
                f"{self._app_description} asks to wait ({status})",
                _parse_retry_after(headers.get("Retry-After", "")),
            )

    async def _read_json(self, answer: aiohttp.ClientResponse) -> Any:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > MAX_RESPONSE_BYTES:
                raise self._request_error(f"answers with more than {MAX_RESPONSE_BYTES // 2**20} MiB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
        raise self._request_error("answers with something that is not JSON")

    def _connection_error(self, error: Exception) -> BackendError:
        """What a request without an answer means. The library's own words are left out: they can hold the request."""
        if isinstance(error, aiohttp.ClientSSLError):
            return self._request_error("does not offer an encrypted connection that this server trusts")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._request_error("cannot be reached: does it exist, and does its network let this server in?")
        if isinstance(error, TimeoutError):
            return self._request_error(f"did not answer within {self._timeout:g} s")
        return self._request_error(f"broke off its answer ({type(error).__name__})")

    def _unexpected_status_error(self, status: int) -> BackendError:
        return self._request_error(f"answers {status}; its own log says why")

    def _request_error(self, problem: str) -> BackendError:
        return BackendError(ReadFailure.FAILED, f"{self._app_description} {problem}")


def create_management_api_backend(connections: TaskHubConnections, name: str) -> ManagementApiBackend:
    """The backend that the settings NAME__endpoint, NAME__key and NAME__storageConnection describe. Raises
    SettingsError."""
    endpoint, key = connections.get_text(f"{name}__endpoint"), connections.get_text(f"{name}__key")
    if endpoint is None:
        raise SettingsError(
            f"the setting {name}__endpoint is not set on this server: set it to the address of the app whose task hubs "
            "are asked about, such as https://APP.azurewebsites.net"
        )
    if key is None:
        raise SettingsError(
            f"the setting {name}__key is not set on this server: set it to the system key durabletask_extension of the "
            f"app at the address in {name}__endpoint"
        )
    return ManagementApiBackend(endpoint, key, name, connections.get_text(f"{name}__storageConnection"))


def _validate_endpoint(endpoint: str, name: str) -> str:
    """The address without a slash at its end."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or int(match["port"] or 0) > 65_535:
        raise SettingsError(
            f"{name}__endpoint must be the address of the app, such as https://APP.azurewebsites.net, without "
            "credentials and query"
        )
    if match["scheme"].lower() != "https" and not is_loopback(match["host"].strip("[]").lower()):
        raise SettingsError(
            f"{name}__endpoint must begin with https, because the key travels in every request; plain http is for an "
            "app on this machine"
        )
    return endpoint.rstrip("/")


def _parse_instance(instance: Any) -> ObservedInstance:
    """An instance as the API shows it. Raises ValueError for anything else."""
    match instance:
        case {"instanceId": str(instance_id), "createdTime": str(created), "lastUpdatedTime": str(updated)}:
            name, version, status = instance.get("name"), instance.get("version"), instance.get("runtimeStatus")
            return ObservedInstance(
                instance_id=instance_id,
                function_name=name if isinstance(name, str) else "",
                version=version if isinstance(version, str) and version else None,
                runtime_status=_parse_status(status),
                created_at=parse_instant(created),
                updated_at=parse_instant(updated),
                stamp=f"{created} {updated} {status}",
            )
    raise ValueError("not an instance")


def _parse_status(value: Any) -> RuntimeStatus:
    """A status that is missing or not known counts as running."""
    try:
        return RuntimeStatus(value)
    except ValueError:
        return RuntimeStatus.RUNNING


def _parse_retry_after(value: str) -> int | None:
    """Seconds, from either form of the header."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    date = _parse_http_date(value)
    # Up, so that nobody comes back too early.
    return None if date is None else max(0, -((instant_from(datetime.now(UTC)) - date) // TICKS_PER_SECOND))


def _parse_http_date(value: str) -> Instant | None:
    try:
        return instant_from(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None


def _encode_cursor(kind: str, token: str | None) -> str:
    return json.dumps([kind, token])
