"""ASGI middleware around every request: access keys, limits on bodies, security headers, one log line without secrets,
and a problem document for unexpected errors."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from state_api.addresses import is_loopback
from state_api.domain.errors import StateError, TooManyEvents
from state_api.http.auth import ANONYMOUS_PATHS, check_key
from state_api.http.problems import (
    Forbidden,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    internal_error,
    problem_from_error,
)
from state_api.services.admission import AdmissionController, Reservation
from state_api.settings import Settings

log = logging.getLogger("state_api.requests")

LOG_KIND = "log_kind"
"""The attribute of a log record by which serving/log_limit counts requests of different kinds separately."""

MAX_BODY_BYTES = 64 * 1024
MAX_EVENTS_BODY_BYTES = 4 * 1024 * 1024
"""Four times the 1 MB that Event Grid sends at most (docs/platform.md), because Event Grid drops deliveries that get
413."""
EVENTS_PATH = "/api/events"
BODY_TIMEOUT_SECONDS = 20
"""How long a body may take to arrive. It occupies capacity meanwhile."""
BODY_STALL_TIMEOUT_SECONDS = 5
"""How long a body may pause between two parts."""
_MAX_LOGGED_PATH_CHARACTERS = 200
REFUSAL_DELAY_SECONDS = 2
"""How long a delivery waits before it is refused for lack of capacity. Event Grid waits 30 s for a
response (docs/platform.md)."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every response that does not set them itself. They keep browsers from storing, rendering, embedding or
sharing a response. No CORS header is sent, so other origins may not read responses."""

STRICT_TRANSPORT_SECURITY = "max-age=31536000"
"""A year, in seconds. Sent with every response over https, without includeSubDomains: the parent domain may belong to
others."""


class RequestMiddleware:
    """Checks the key, reads the body, and logs each request. Turns every error into a problem document."""

    def __init__(self, app: ASGIApp, settings: Settings, admission: AdmissionController) -> None:
        self._app = app
        self._settings = settings
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request: check its key, reserve bytes for a delivery, read the body with limits, and log the status.
        Every error becomes a problem document."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.perf_counter()
        status = 0
        send_secured = _with_security_headers(scope, send)

        async def send_and_record_status(message: Message) -> None:
            """Send a message of the response, and keep the status for the log."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send_secured(message)

        try:
            try:
                key = check_key(self._settings, scope["path"], Headers(scope=scope), QueryParams(scope["query_string"]))
                scope["state"] = {**(scope.get("state") or {}), "key": key}
                with self._admission.reserve_arriving() if is_delivery(scope) else nullcontext() as reservation:
                    body = await _read_body(scope, receive, reservation)
                    if body is None:
                        return
                    if reservation:
                        reservation.finish_arrival()
                    _check_media_type(scope, body)
                    await self._app(scope, _replay_body(body, receive), send_and_record_status)
            except StateError as error:
                if isinstance(error, TooManyEvents):
                    # The delay slows down a publisher that sends too much, so that refusals do not use up the CPU.
                    await asyncio.sleep(REFUSAL_DELAY_SECONDS)
                await problem_from_error(error)(scope, receive, send_and_record_status)
            except Exception as error:  # noqa: BLE001 (every error becomes a problem document)
                # Starlette raises an error again after it has sent a response for it.
                if not status:
                    await internal_error(error)(scope, receive, send_and_record_status)
        finally:
            # The log shows no query, because it can contain a key.
            duration_milliseconds = 1000 * (time.perf_counter() - began_at)
            path = ascii(scope["path"])[1:-1][:_MAX_LOGGED_PATH_CHARACTERS]
            log.info(
                "%s %s %d %.0f ms",
                scope["method"],
                path,
                status,
                duration_milliseconds,
                extra={LOG_KIND: _log_kind(scope, status)},
            )


class LoopbackOnlyMiddleware:
    """Protects a server without keys, which listens on loopback only, from web pages in a browser on the same machine.
    Without it, a page could reach the server by a host name that resolves to loopback (DNS rebinding) or with a
    form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request whose Host or Origin is not this machine, so that no web page can use a server without
        keys."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            addresses = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
            if not all(_is_loopback_address(address) for address in addresses):
                error = Forbidden(
                    "a server without keys answers only requests to localhost: use that address, or set STATE_KEYS"
                )
                await problem_from_error(error)(scope, receive, _with_security_headers(scope, send))
                return
        await self._app(scope, receive, send)


def security_headers(scheme: str) -> dict[str, str]:
    """The security headers of a response to a request over this scheme, `http` or `https`."""
    return SECURITY_HEADERS | ({"Strict-Transport-Security": STRICT_TRANSPORT_SECURITY} if scheme == "https" else {})


def _with_security_headers(scope: Scope, send: Send) -> Send:
    """`send`, with the security headers added to a response that lacks them."""
    headers = _HTTPS_HEADERS if scope.get("scheme") == "https" else _HTTP_HEADERS

    async def send_secured(message: Message) -> None:
        """Send a message of the response, and add the headers that the response does not set itself."""
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((name, value) for name, value in headers if name not in present),
            ]
        await send(message)

    return send_secured


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers in the form of ASGI: names in lower case, both parts as bytes."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_HTTP_HEADERS, _HTTPS_HEADERS = _encode_headers(security_headers("http")), _encode_headers(security_headers("https"))


def _is_loopback_address(address: str) -> bool:
    """Whether the URL leads to this machine. One that cannot be parsed does not."""
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


def is_delivery(scope: Scope) -> bool:
    """Whether an HTTP request delivers events, whose bytes count towards the limit of deliveries in progress."""
    return bool(scope["path"] == EVENTS_PATH and scope["method"] == "POST")


def _log_kind(scope: Scope, status: int) -> str:
    """The operation and its status. The path is no part of it, because callers can choose any number of paths."""
    return f"{getattr(scope.get('route'), 'operation_id', None)} {status}"


async def _read_body(scope: Scope, receive: Receive, reservation: Reservation | None) -> bytes | None:
    """The complete body; None if the client disconnected before it had sent all of it. Raises PayloadTooLarge,
    RequestTimeout, and TooManyEvents if the reservation is refused or revoked.

    Returns an empty body without waiting if no operation at the path takes one. The server never closes a connection
    with an unanswered request to make place for a new one, so callers without a key could otherwise occupy all
    connections with unfinished bodies.
    """
    if scope["method"] in ("GET", "HEAD") or scope["path"] in ANONYMOUS_PATHS:
        return b""
    limit = MAX_EVENTS_BODY_BYTES if scope["path"] == EVENTS_PATH else MAX_BODY_BYTES
    loop = asyncio.get_running_loop()
    end = loop.time() + BODY_TIMEOUT_SECONDS
    body = bytearray()
    try:
        async with asyncio.timeout_at(end) as deadline:
            if reservation is not None:
                reservation.on_revoked = partial(_expire_deadline, deadline)
            while True:
                deadline.reschedule(min(end, loop.time() + BODY_STALL_TIMEOUT_SECONDS))
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                if reservation is not None:
                    reservation.add_bytes(len(part))
                body += part
                if len(body) > limit:
                    raise PayloadTooLarge(f"the body is larger than {limit} bytes", limit=limit)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        if reservation is not None:
            # Raises TooManyEvents if the reservation was revoked.
            reservation.add_bytes(0)
        raise RequestTimeout(
            f"the body did not arrive within {BODY_TIMEOUT_SECONDS} s, or paused for {BODY_STALL_TIMEOUT_SECONDS} s: "
            "send the request again"
        ) from None
    finally:
        # An error keeps this frame and its body in memory until its delayed response is sent.
        body.clear()
        if reservation is not None:
            reservation.on_revoked = None


def _expire_deadline(deadline: asyncio.Timeout) -> None:
    """Let the deadline pass now, unless it has passed already."""
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())


def _check_media_type(scope: Scope, body: bytes) -> None:
    """Raises UnsupportedMediaType unless the body is declared as JSON. A web page cannot send this media type to
    another origin without a preflight request, which this server refuses. PostEvents accepts more media types and
    checks them itself."""
    media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if body and scope["path"] != EVENTS_PATH and media_type != "application/json":
        raise UnsupportedMediaType("the Content-Type must be application/json")


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns `body` first. Later parts of the request's own body are dropped."""
    replayed = False

    async def receive_replayed() -> Message:
        """Return the whole body once, as if it arrived now, and then only what follows it, such as a disconnect."""
        nonlocal replayed
        if replayed:
            # The body has been sent in full, so later parts from the client are dropped.
            while (message := await receive())["type"] == "http.request":
                pass
            return message
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_replayed
