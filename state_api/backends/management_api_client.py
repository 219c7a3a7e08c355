"""Sends requests to the HTTP management API of an app. Hides the address, the key, and what failed requests mean."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import SecretStr
from yarl import URL

from state_api.addresses import is_loopback
from state_api.backends.protocols import BackendError, ReadFailure
from state_api.domain.instants import TICKS_PER_SECOND, Instant, instant_from
from state_api.domain.task_hubs.ownership import normalize_address
from state_api.settings import SettingsError

TIMEOUT_SECONDS = 20.0
"""How long one request may take, from connecting to the last byte of the response."""
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""How much of a response is read."""

_API_PATH = "/runtime/webhooks/durabletask/instances"
_KEY_HEADER = "x-functions-key"
_TOKEN_HEADER = "x-ms-continuation-token"  # noqa: S105  # the name of a header
_END_TOKENS = frozenset({"", "bnVsbA=="})
"""The continuation tokens of a last page: empty, or in old extensions Base64 of `null` (extension issue 1174)."""
_ANSWERED_STATUSES = frozenset({200, 202})

_ENDPOINT = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Z0-9][A-Z0-9.-]*|\[[0-9A-F:.]+\])(:(?P<port>[0-9]{1,5}))?(/[A-Z0-9._~-]+)*/?",
    re.ASCII | re.IGNORECASE,
)
_APP_SETTING = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response. `body` is the parsed JSON; it is None unless the status is 200 or 202."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def continuation_token(self) -> str | None:
        """The token of the next page; None at the end."""
        token = self.headers.get(_TOKEN_HEADER, "")
        return token if token not in _END_TOKENS else None

    @property
    def server_date(self) -> Instant | None:
        """The time by the server's clock, in whole seconds; None if the response has no valid Date header."""
        return _parse_http_date(self.headers.get("Date", ""))


class ManagementApiClient:
    """Sends requests to the app at `endpoint` with its system key `durabletask_extension`.

    The settings of both are `{setting_name}__endpoint` and `{setting_name}__key`. `storage_connection` is the name of
    the app's own setting for the task hub's storage; None stands for the app's default. Raises SettingsError for values
    that cannot be right.
    """

    def __init__(
        self,
        endpoint: str,
        key: str,
        setting_name: str,
        *,
        storage_connection: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Raises SettingsError for an address, a key or a connection that cannot be right."""
        self._base_url = _validate_endpoint(endpoint, setting_name) + _API_PATH
        if not re.fullmatch(r"[!-~]+", key):
            raise SettingsError(
                f"{setting_name}__key must be the app's system key durabletask_extension, without blanks"
            )
        if storage_connection is not None and not _APP_SETTING.fullmatch(storage_connection):
            raise SettingsError(
                f"{setting_name}__storageConnection must be the name of one of the app's settings, not a connection "
                "string"
            )
        self._key = SecretStr(key)
        self._setting_name = setting_name
        self._storage_connection = storage_connection
        self._timeout_seconds = timeout_seconds
        self._app = f"the app at the address in {setting_name}__endpoint"
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """The normalized address of the app, without the path of the management API."""
        return normalize_address(self._base_url.removesuffix(_API_PATH))

    async def get_instance(self, task_hub: str, instance_id: str) -> ApiResponse:
        """Request one instance by its path. Raises BackendError, also for a status that this request does not have."""
        response = await self._send_request(task_hub, f"/{quote(instance_id, safe='')}", {})
        if response.status not in {200, 202, 400, 404, 500}:
            raise self._unexpected_status_error(response.status)
        return response

    async def list_instances(
        self, task_hub: str, *, page_size: int, token: str | None, filters: Mapping[str, str]
    ) -> ApiResponse:
        """Request a page of the list; its body is a list. A page can be short or empty and still have a continuation
        token. Raises BackendError."""
        response = await self._send_request(task_hub, "", {**filters, "top": str(page_size)}, token)
        if response.status == 404:
            raise self.response_error(
                "does not serve the management API (404): check that this is the address of the app, that the app "
                "runs, and that it uses the Durable Functions extension 2 or later"
            )
        if response.status != 200:
            raise self._unexpected_status_error(response.status)
        if not isinstance(response.body, list):
            raise self.response_error("answers with something that is not a list of instances")
        next_token = response.headers.get(_TOKEN_HEADER, "")
        if not (next_token.isascii() and next_token.isprintable()):
            raise self.response_error(f"sends a header {_TOKEN_HEADER} that cannot be sent back")
        return response

    def response_error(self, problem: str) -> BackendError:
        """Return the error for a response with this problem, which continues a sentence that begins with the app."""
        return BackendError(ReadFailure.FAILED, f"{self._app} {problem}")

    async def close(self) -> None:
        """Close the session. A later request opens another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send_request(
        self, task_hub: str, path: str, parameters: Mapping[str, str], token: str | None = None
    ) -> ApiResponse:
        """Send one request. The key is in a header, so that no address contains it. The host prefers the header to a
        `code` in the query (host, `AuthenticationLevelHandler`, read)."""
        query = {"taskHub": task_hub, **parameters, "showInput": "false"}
        if self._storage_connection is not None:
            query["connection"] = self._storage_connection
        # `encoded`: an id that is escaped already must not be escaped again or normalized.
        url = URL(f"{self._base_url}{path}?{urlencode(query, quote_via=quote, safe='')}", encoded=True)
        headers = {_KEY_HEADER: self._key.get_secret_value(), "Accept": "application/json"}
        if token is not None:
            headers[_TOKEN_HEADER] = token
        try:
            # A redirect would send the key to another address.
            async with self._get_session().get(url, headers=headers, allow_redirects=False) as response:
                self._check_status(response.status, response.headers)
                body = await self._read_json(response) if response.status in _ANSWERED_STATUSES else None
                return ApiResponse(response.status, response.headers, body)
        except (aiohttp.ClientError, OSError) as error:
            failure = self._connection_error(error)
        # Raised outside of the handler: its context would be an exception whose request contains the key.
        raise failure

    def _get_session(self) -> aiohttp.ClientSession:
        """The session that all requests share."""
        if self._session is None:
            # Created at the first request, because a session belongs to the running event loop.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        """Raise BackendError for a redirect, a refusal, or a request to wait."""
        if 300 <= status < 400:
            raise self.response_error(
                f"redirects ({status}), and this server does not follow, because it would send the key along: set "
                f"{self._setting_name}__endpoint to the address of the app itself, and exclude the API from sign-in "
                "pages"
            )
        if status in {401, 403}:
            raise BackendError(
                ReadFailure.DENIED,
                f"{self._app} refuses this server ({status}): {self._setting_name}__key must be the app's system key "
                "durabletask_extension. A stopped app and access restrictions answer in the same way",
            )
        if status in {429, 503}:
            raise BackendError(
                ReadFailure.THROTTLED,
                f"{self._app} asks to wait ({status})",
                _parse_retry_after(headers.get("Retry-After", "")),
            )

    async def _read_json(self, response: aiohttp.ClientResponse) -> Any:
        """The JSON body of a response. Raises BackendError if it is too large or not JSON."""
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_RESPONSE_BYTES:
                raise self.response_error(f"answers with more than {MAX_RESPONSE_BYTES // 2**20} MiB")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
        # Raised outside of the handler: its context would contain the response.
        raise self.response_error("answers with something that is not JSON")

    def _connection_error(self, error: Exception) -> BackendError:
        """Return the error for a request without a response, without the library's text, which can contain the
        request."""
        if isinstance(error, aiohttp.ClientSSLError):
            return self.response_error("does not offer an encrypted connection that this server trusts")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self.response_error(
                "cannot be reached: check that the app exists and that its network lets this server in"
            )
        if isinstance(error, TimeoutError):
            return self.response_error(f"did not answer within {self._timeout_seconds:g} s")
        return self.response_error(f"sent an incomplete or unexpected response ({type(error).__name__})")

    def _unexpected_status_error(self, status: int) -> BackendError:
        """The error for a status that the management API does not document."""
        return self.response_error(f"answers {status}: see the app's own log")


def _validate_endpoint(endpoint: str, setting_name: str) -> str:
    """Return the address without a slash at its end. Raises SettingsError that contains no part of the address."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or int(match["port"] or 0) > 65_535:
        raise SettingsError(
            f"{setting_name}__endpoint must be the address of the app, such as https://APP.azurewebsites.net, without "
            "credentials and query"
        )
    if match["scheme"].lower() != "https" and not is_loopback(match["host"].strip("[]").lower()):
        raise SettingsError(
            f"{setting_name}__endpoint must begin with https, because each request contains the key; plain http is "
            "for an app on this machine"
        )
    return endpoint.rstrip("/")


def _parse_retry_after(value: str) -> int | None:
    """Return the seconds to wait, from either form of the header; None for anything else."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    date = _parse_http_date(value)
    # The difference is rounded up, so that the next request is not too early.
    return None if date is None else max(0, -((instant_from(datetime.now(UTC)) - date) // TICKS_PER_SECOND))


def _parse_http_date(value: str) -> Instant | None:
    """The time in an HTTP header such as Date; None if it is not one."""
    try:
        return instant_from(parsedate_to_datetime(value))
    except (ValueError, OverflowError):
        return None
