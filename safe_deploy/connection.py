"""Sends requests to a state server: retries them while it restarts or is busy, and soon reports a wrong address.

A request that was cut off is sent again, because every change is safe to repeat.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from safe_deploy.connection_errors import describe_request_error, find_address_error
from safe_deploy.durations import Seconds
from safe_deploy.errors import ConflictError, ServerNotFound, ServerUnavailable, UsageError
from safe_deploy.server_responses import MAX_BACKOFF_SECONDS, build_unavailability, require_success

_WRONG_ADDRESS_SECONDS = 4
"""How long the first request of a command is retried if no restart can be the reason of its failure."""

_SLOW_RESPONSE_SECONDS = 5
"""After which time a command says that it waits for its first response."""

_CONNECT_TIMEOUT_SECONDS = 10
_FIRST_CONNECT_TIMEOUT_SECONDS = 4
"""A command says after this time that the server does not answer. Later a server that restarts may take longer."""

_RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request. Parameters without a value are left out of the query."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


class ServerConnection:
    """The connection of one command to a state server. `report` receives a line when a request is retried."""

    def __init__(self, url: str, headers: Mapping[str, str], report: Callable[[str], None]) -> None:
        """Raises UsageError for a URL that cannot be used. Sends no request."""
        self._url = url
        self._report = report
        self._has_answered = False
        try:
            # Redirects are not followed, because they would send the key to another server. Certificates are loaded
            # only for https, because loading them is slow.
            self._http = httpx.Client(base_url=url, headers=headers, verify=url.startswith("https:"))
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise UsageError("--server is not a valid URL") from None

    def close(self) -> None:
        self._http.close()

    def send(self, request: Request, *, retry_seconds: float, response_timeout_seconds: float) -> httpx.Response:
        """The first response that is not a temporary failure. `retry_seconds` 0 sends the request once.

        Raises ServerNotFound after a few seconds if no request of this client has got a response, and a restart cannot
        be the reason.
        """
        began_at = time.monotonic()
        deadline = began_at + retry_seconds
        attempt = 0
        reported = ""
        while True:
            try:
                response = self._send(request, response_timeout_seconds)
                self._has_answered = True
                if response.status_code not in _RETRYABLE_STATUS_CODES:
                    return require_success(response, self._url)
                failure: ServerNotFound | ServerUnavailable = build_unavailability(response)
            except ConflictError as error:
                error.is_repeated = attempt > 0
                raise
            except httpx.RequestError as error:
                failure = self._build_connection_failure(error)
            is_address_wrong = isinstance(failure, ServerNotFound)
            pause_seconds = max(min(2.0**attempt, MAX_BACKOFF_SECONDS), failure.retry_after_seconds)
            give_up_at = began_at + _WRONG_ADDRESS_SECONDS if is_address_wrong else deadline
            seconds_left = give_up_at - time.monotonic()
            if pause_seconds >= seconds_left:
                raise failure
            if failure.message != reported and not is_address_wrong:
                reported = failure.message
                self._report(f"{reported}; trying again for up to {Seconds(math.ceil(seconds_left))}")
            time.sleep(pause_seconds)
            attempt += 1

    def _build_connection_failure(self, error: httpx.RequestError) -> ServerNotFound | ServerUnavailable:
        """The error of a request that got no response. Without any response before, the address may be wrong."""
        address_error = None if self._has_answered else find_address_error(error, self._url)
        if address_error is not None:
            return ServerNotFound(address_error)
        message = f"the server {self._url} cannot be reached: {describe_request_error(error)}"
        if self._has_answered:
            return ServerUnavailable(message)
        return ServerUnavailable(f"{message}. Check --server, and whether this machine may connect to it")

    def _send(self, request: Request, response_timeout_seconds: float) -> httpx.Response:
        """Send once and read the whole response within `response_timeout_seconds`. httpx's own timeout starts anew
        with every part of a response."""
        connect_seconds = _CONNECT_TIMEOUT_SECONDS if self._has_answered else _FIRST_CONNECT_TIMEOUT_SECONDS
        timeout = httpx.Timeout(response_timeout_seconds, connect=min(response_timeout_seconds, connect_seconds))
        http_request = self._http.build_request(
            request.method,
            request.path,
            json=request.body,
            params={name: value for name, value in (request.query or {}).items() if value is not None},
            headers=request.headers,
            timeout=timeout,
        )
        deadline = time.monotonic() + response_timeout_seconds
        with self._reporting_slow_response(request):
            response = self._http.send(http_request, stream=True)
        try:
            body_bytes = b""
            for part in response.iter_raw():
                body_bytes += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the response takes too long", request=http_request)
        finally:
            response.close()
        return httpx.Response(response.status_code, headers=response.headers, content=body_bytes, request=http_request)

    @contextmanager
    def _reporting_slow_response(self, request: Request) -> Iterator[None]:
        """Report that the first response is late, unless the request asks the server to wait."""
        if self._has_answered or (request.query or {}).get("wait"):
            yield
            return
        text = f"no response from {self._url} yet. A server that starts from zero instances takes up to a minute"
        timer = threading.Timer(_SLOW_RESPONSE_SECONDS, self._report, [text])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
