"""What surrounds every request, as plain ASGI: keys, the limit on bodies, headers that keep answers out of caches and
pages, a log line without secrets, and an answer when something unforeseen happens."""

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
"""The attribute of a log record that tells requests apart where the log is limited (serving/log_limit)."""

MAX_BODY_BYTES = 64 * 1024
MAX_EVENTS_BODY_BYTES = 4 * 1024 * 1024
"""Event Grid sends up to 1 MB (PLATFORM: Event Grid delivery). Generous, because what is refused with 413 is lost."""
EVENTS_PATH = "/api/events"
BODY_TIMEOUT_SECONDS = 20
"""How long a body may take to arrive: it holds capacity meanwhile."""
BODY_STALL_TIMEOUT_SECONDS = 5
"""How long a body may pause."""
REFUSAL_DELAY_SECONDS = 2
"""How long a delivery waits before it is refused for lack of capacity. Event Grid waits 30 s."""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""With every answer that has no header of its own by that name: nothing here is for a browser to show, to keep, to
embed or to hand to another site. No header allows other origins anything (CORS)."""

STRICT_TRANSPORT_SECURITY = "max-age=31536000"
"""In seconds, a year, with every answer over https; for this host alone, because the domain above it is not ours."""


class RequestMiddleware:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, admission: AdmissionController) -> None:
        self._app = app
        self._settings = settings
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0
        secured = _with_security_headers(scope, send)

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await secured(message)

        try:
            try:
                key = check_key(self._settings, scope["path"], Headers(scope=scope), QueryParams(scope["query_string"]))
                scope["state"] = {**(scope.get("state") or {}), "key": key}
                with self._admission.reserve_arriving() if _is_delivery(scope) else nullcontext() as reservation:
                    body = await _read_body(scope, receive, reservation)
                    if body is None:
                        return
                    if reservation:
                        reservation.finish_arrival()
                    _check_media_type(scope, body)
                    await self._app(scope, _replay_body(body, receive), send_and_record_status)
            except StateError as error:
                if isinstance(error, TooManyEvents):
                    # Whoever sends too much is slowed down, and refusing does not itself take all the time there is.
                    await asyncio.sleep(REFUSAL_DELAY_SECONDS)
                await problem_from_error(error)(scope, receive, send_and_record_status)
            except Exception as error:  # noqa: BLE001 (whatever it is, the caller gets a problem document)
                # Starlette raises again what it has answered; only what it has not is answered here.
                if not status:
                    await internal_error(error)(scope, receive, send_and_record_status)
        finally:
            # The path only: a query can hold a key.
            took = 1000 * (time.perf_counter() - began)
            path = ascii(scope["path"])[1:-1][:200]
            log.info(
                "%s %s %d %.0f ms", scope["method"], path, status, took, extra={LOG_KIND: _log_kind(scope, status)}
            )


class LoopbackOnlyMiddleware:
    """Around a server without keys, which listens on loopback only: a page in a browser on this machine could reach it,
    under a name of its own that leads here or by sending a form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            named = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
            if not all(_is_loopback_address(address) for address in named):
                refused = Forbidden("without keys this server answers only under localhost; set STATE_KEYS for others")
                await problem_from_error(refused)(scope, receive, _with_security_headers(scope, send))
                return
        await self._app(scope, receive, send)


def security_headers(scheme: str) -> dict[str, str]:
    """The headers of every answer to a request that came by http or https."""
    return SECURITY_HEADERS | ({"Strict-Transport-Security": STRICT_TRANSPORT_SECURITY} if scheme == "https" else {})


def _with_security_headers(scope: Scope, send: Send) -> Send:
    headers = _HTTPS_HEADERS if scope.get("scheme") == "https" else _HTTP_HEADERS

    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(one for one in headers if one[0] not in own)]
        await send(message)

    return secured


def _encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


_HTTP_HEADERS, _HTTPS_HEADERS = _encode_headers(security_headers("http")), _encode_headers(security_headers("https"))


def _is_loopback_address(address: str) -> bool:
    try:
        return is_loopback(urlsplit(address).hostname or "")
    except ValueError:
        return False


def _is_delivery(scope: Scope) -> bool:
    return bool(scope["path"] == EVENTS_PATH and scope["method"] == "POST")


def _log_kind(scope: Scope, status: int) -> str:
    """The operation and its status. A path would not do: callers choose it."""
    return f"{getattr(scope.get('route'), 'operation_id', None)} {status}"


async def _read_body(scope: Scope, receive: Receive, reservation: Reservation | None) -> bytes | None:
    """The body, read whole up to the limit; None if the client went away before it was sent, because half of an order
    is no order. Raises PayloadTooLarge, RequestTimeout, and TooManyEvents if the reservation is refused or revoked.

    Empty, without waiting, where no operation takes a body: a connection with an unanswered request is never closed for
    a new one, so callers without a key could otherwise hold every connection."""
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
            # Raises TooManyEvents if it was revoked.
            reservation.add_bytes(0)
        raise RequestTimeout(
            f"the body did not come within {BODY_TIMEOUT_SECONDS} s, or paused for {BODY_STALL_TIMEOUT_SECONDS} s"
        ) from None
    finally:
        # The error keeps this frame, and with it the body, while its answer is delayed.
        body.clear()
        if reservation is not None:
            reservation.on_revoked = None


def _expire_deadline(deadline: asyncio.Timeout) -> None:
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time())


def _check_media_type(scope: Scope, body: bytes) -> None:
    """A body is JSON and says so: a page in a browser cannot send that to this server unasked. Deliveries of events
    know more types and check for themselves. Raises UnsupportedMediaType."""
    media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
    if body and scope["path"] != EVENTS_PATH and media_type != "application/json":
        raise UnsupportedMediaType("send the body as application/json")


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that was read already, or is ignored: what arrives of it later is dropped."""
    handed = False

    async def receive_replayed() -> Message:
        nonlocal handed
        if handed:
            while (message := await receive())["type"] == "http.request":
                pass
            return message
        handed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_replayed
