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
from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant, instant_from, parse_instant, seconds
from state_api.domain.lifecycle import RUNNING_STATUSES, RuntimeStatus
from state_api.domain.messages import KnownTimers, QueueSnapshot
from state_api.domain.names import is_entity
from state_api.domain.ownership import Existing, plain_address
from state_api.domain.sightings import Sighting
from state_api.settings import Connections, SettingsError
from state_api.taskhubs.backend import SourceError, SourcePage, Start, Trouble

TIMEOUT_SECONDS = 20.0
"""How long one request may take, from connecting to the last byte."""
LARGEST_BODY = 32 * 1024 * 1024
"""Bytes of an answer that are read."""

ACTIVE_PAGE = 500
"""Large, because fewer borders between pages are better: see ManagementApiBackend. Active instances have no output yet;
Azure Tables takes no more than 1,000."""
RECENT_PAGE = 100
"""Instances that have ended come with their outputs, which the API cannot leave out. The extension's own size."""

_API = "/runtime/webhooks/durabletask/instances"
_KEY_HEADER = "x-functions-key"
_TOKEN_HEADER = "x-ms-continuation-token"  # noqa: S105  # the name of a header
_NO_TOKEN = frozenset({"", "bnVsbA=="})
"""How the last page says that it is: empty, or in old extensions Base64 of `null` (extension issue 1174)."""

_ACTIVE = "active"
_RECENT = "recent"
_ACTIVE_STATUSES = ",".join(sorted(RUNNING_STATUSES))
_MARGIN = seconds(60)
"""Created times are by the clocks of the app's workers; a minute is far more than two clocks differ that are kept by
NTP."""
_AT_ONCE = 16
_NO_SEGMENTS = (".", "..")
"""Ids that no address can hold, escaped or not: it becomes that of the list, without pages, or of the API (extension
3.19, run)."""
_NOBODY = "~~~"
"""A prefix of instance ids under which there is probably nothing, so that the answer is quick and small."""

_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Z0-9][A-Z0-9.-]*|\[[0-9A-F:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Z0-9._~-]+)*/?",
    re.ASCII | re.IGNORECASE,
)
_APP_SETTING = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


@dataclass(frozen=True, slots=True)
class _Answer:
    """`content` is the parsed body, None unless the status is 200 or 202."""

    status: int
    headers: Mapping[str, str]
    content: Any


@dataclass(frozen=True, slots=True)
class _Page:
    sightings: tuple[Sighting, ...]
    token: str | None
    date: Instant | None


class ManagementApiBackend:
    """Asks the app at `endpoint`, with its system key `durabletask_extension`. `name` is that of the setting whose
    parts are `NAME__endpoint`, `NAME__key` and `NAME__storageConnection`; `storage_connection` is the name of the app's
    own setting for the hub's storage, None for its default. Raises SettingsError for what cannot be right.

    It cannot tell a task hub that does not exist from one that is empty, and never raises Trouble.MISSING: on Azure
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
        self._base = _checked_endpoint(endpoint, name) + _API
        if not re.fullmatch(r"[!-~]+", key):
            raise SettingsError(f"{name}__key must be the app's system key durabletask_extension, without blanks")
        if storage_connection is not None and not _APP_SETTING.fullmatch(storage_connection):
            raise SettingsError(
                f"{name}__storageConnection must be the name of one of the app's settings, not a connection string"
            )
        self._key = SecretStr(key)
        self._name = name
        self._storage_connection = storage_connection
        self._timeout = timeout
        self._app = f"the app at the address in {name}__endpoint"
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        return (plain_address(self._base.removesuffix(_API)),)

    async def existing(self, task_hub: str) -> Existing | None:
        """None: asking about a task hub creates it."""
        return None

    async def start(self, task_hub: str) -> Start:
        """Takes the earlier of two clocks, the app's and this server's: it costs little if one of them is behind, but
        with one that is ahead the second pass would begin too late."""
        page = await self._list(task_hub, 1, None, instanceIdPrefix=_NOBODY)
        now = instant_from(datetime.now(UTC))
        since = Instant(min(now, page.date if page.date is not None else now) - _MARGIN)
        return Start(since, (_cursor(_ACTIVE, None),), (_cursor(_RECENT, None),))

    async def page(self, task_hub: str, since: Instant, cursor: str) -> SourcePage:
        kind, token = json.loads(cursor)
        if kind == _ACTIVE:
            page = await self._list(task_hub, ACTIVE_PAGE, token, runtimeStatus=_ACTIVE_STATUSES)
        else:
            page = await self._list(task_hub, RECENT_PAGE, token, createdTimeFrom=format_instant(since))
        onward: tuple[str, ...] = ()
        if page.token is not None:
            onward = (_cursor(kind, page.token),)
        elif kind == _ACTIVE:
            onward = (_cursor(_RECENT, None),)
        return SourcePage(page.sightings, onward, len(page.sightings))

    async def find(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, Sighting | None]:
        async def find_one(instance_id: str) -> Sighting | None:
            if not instance_id or is_entity(instance_id):
                return None
            async with self._at_once:
                found = await self._by_path(task_hub, instance_id)
                return found if found is not None else await self._by_prefix(task_hub, instance_id)

        asked = [asyncio.ensure_future(find_one(instance_id)) for instance_id in instance_ids]
        try:
            return dict(zip(instance_ids, await asyncio.gather(*asked), strict=True))
        finally:
            for task in asked:
                task.cancel()

    async def snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """None: the API does not show messages."""
        return None

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        return known

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _by_path(self, task_hub: str, instance_id: str) -> Sighting | None:
        """The instance under its own address; None does not mean that there is no such instance."""
        if instance_id in _NO_SEGMENTS:
            return None
        answer = await self._ask(task_hub, f"/{quote(instance_id, safe='')}", {})
        if answer.status not in {200, 202, 400, 404, 500}:
            raise self._unexpected(answer.status)
        # On its way through the host an address can turn into that of another instance, or of the list.
        if not isinstance(answer.content, dict) or answer.content.get("instanceId") != instance_id:
            return None
        return self._understood([answer.content])[0]

    async def _by_prefix(self, task_hub: str, instance_id: str) -> Sighting | None:
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
            page = await self._list(task_hub, RECENT_PAGE, token, **filters)
            for sighting in page.sightings:
                if sighting.instance_id == instance_id:
                    return sighting
            if page.token is None:
                return None
            if page.token == token:
                raise self._failed("gives the same page of instances again and again")
            token = page.token

    async def _list(self, task_hub: str, top: int, token: str | None, **filters: str) -> _Page:
        """A page of the list. It can be short or empty and still have a token."""
        answer = await self._ask(task_hub, "", {**filters, "top": str(top)}, token)
        if answer.status == 404:
            raise self._failed(
                "does not serve the management API (404): is it the address of the app, does the app run, and does it "
                "use the Durable Functions extension 2 or later?"
            )
        if answer.status != 200:
            raise self._unexpected(answer.status)
        if not isinstance(answer.content, list):
            raise self._failed("answers with something that is not a list of instances")
        onward = answer.headers.get(_TOKEN_HEADER, "")
        if not (onward.isascii() and onward.isprintable()):
            raise self._failed(f"sends a header {_TOKEN_HEADER} that cannot be sent back")
        return _Page(
            tuple(one for one in self._understood(answer.content) if not is_entity(one.instance_id)),
            onward if onward not in _NO_TOKEN else None,
            _http_date(answer.headers.get("Date", "")),
        )

    def _understood(self, instances: Sequence[Any]) -> list[Sighting]:
        try:
            return [_sighting(one) for one in instances]
        except ValueError:
            pass
        raise self._failed("answers with something that is not an instance")

    async def _ask(self, task_hub: str, path: str, parameters: Mapping[str, str], token: str | None = None) -> _Answer:
        """One request. The key travels in a header, which the host takes before a `code` in the query (host,
        `AuthenticationLevelHandler`, read), so that no address holds it."""
        query = {"taskHub": task_hub, **parameters, "showInput": "false"}
        if self._storage_connection is not None:
            query["connection"] = self._storage_connection
        # The address as it is: an id that was escaped must be neither escaped again nor tidied up.
        url = URL(f"{self._base}{path}?{urlencode(query, quote_via=quote, safe='')}", encoded=True)
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
                self._check(answer.status, answer.headers)
                content = await self._content(answer) if answer.status in {200, 202} else None
                return _Answer(answer.status, answer.headers, content)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._broken(error)
        # Raised here so that it holds no reference to an exception whose request holds the key.
        raise failure

    def _check(self, status: int, headers: Mapping[str, str]) -> None:
        if 300 <= status < 400:
            raise self._failed(
                f"redirects ({status}), which is not followed because the key would go along: set the address that it "
                "leads to, and let no sign-in page stand in front of the API"
            )
        if status in {401, 403}:
            raise SourceError(
                Trouble.DENIED,
                f"{self._app} refuses this server ({status}): {self._name}__key must be the app's system key "
                "durabletask_extension; a stopped app and access restrictions answer in the same way",
            )
        if status in {429, 503}:
            raise SourceError(
                Trouble.THROTTLED, f"{self._app} asks to wait ({status})", _retry_after(headers.get("Retry-After", ""))
            )

    async def _content(self, answer: aiohttp.ClientResponse) -> Any:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise self._failed(f"answers with more than {LARGEST_BODY // 2**20} MiB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
        raise self._failed("answers with something that is not JSON")

    def _broken(self, error: Exception) -> SourceError:
        """What a request without an answer means. The library's own words are left out: they can hold the request."""
        if isinstance(error, aiohttp.ClientSSLError):
            return self._failed("does not offer an encrypted connection that this server trusts")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._failed("cannot be reached: does it exist, and does its network let this server in?")
        if isinstance(error, TimeoutError):
            return self._failed(f"did not answer within {self._timeout:g} s")
        return self._failed(f"broke off its answer ({type(error).__name__})")

    def _unexpected(self, status: int) -> SourceError:
        return self._failed(f"answers {status}; its own log says why")

    def _failed(self, what: str) -> SourceError:
        return SourceError(Trouble.FAILED, f"{self._app} {what}")


def management_api_of(connections: Connections, name: str) -> ManagementApiBackend:
    """The backend that the settings NAME__endpoint, NAME__key and NAME__storageConnection describe. Raises
    SettingsError."""
    endpoint, key = connections.text(f"{name}__endpoint"), connections.text(f"{name}__key")
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
    return ManagementApiBackend(endpoint, key, name, connections.text(f"{name}__storageConnection"))


def _checked_endpoint(endpoint: str, name: str) -> str:
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


def _sighting(instance: Any) -> Sighting:
    """An instance as the API shows it. Raises ValueError for anything else."""
    match instance:
        case {"instanceId": str(instance_id), "createdTime": str(created), "lastUpdatedTime": str(updated)}:
            name, version, status = instance.get("name"), instance.get("version"), instance.get("runtimeStatus")
            return Sighting(
                instance_id=instance_id,
                function_name=name if isinstance(name, str) else "",
                version=version if isinstance(version, str) and version else None,
                runtime_status=_status(status),
                created_at=parse_instant(created),
                updated_at=parse_instant(updated),
                stamp=f"{created} {updated} {status}",
            )
    raise ValueError("not an instance")


def _status(value: Any) -> RuntimeStatus:
    """A status that is missing or not known counts as running."""
    try:
        return RuntimeStatus(value)
    except ValueError:
        return RuntimeStatus.RUNNING


def _retry_after(value: str) -> int | None:
    """Seconds, from either form of the header."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    date = _http_date(value)
    # Up, so that nobody comes back too early.
    return None if date is None else max(0, -((instant_from(datetime.now(UTC)) - date) // TICKS_PER_SECOND))


def _http_date(value: str) -> Instant | None:
    try:
        return instant_from(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None


def _cursor(kind: str, token: str | None) -> str:
    return json.dumps([kind, token])
