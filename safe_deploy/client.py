"""The state server over HTTP: one method an operation. Retries while the server restarts or is busy, and turns problem
documents into the errors of `errors.py`.

A request that was cut off is sent again, because every change is safe to repeat.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from safe_deploy.addresses import is_on_this_machine
from safe_deploy.errors import ServerUnavailable, UsageError
from safe_deploy.server_responses import (
    MAX_BACKOFF_SECONDS,
    describe_unavailability,
    parse_object,
    parse_problem,
    parse_retry_after,
    require_success,
)

RETRY_SECONDS = 120
"""How long one request is retried. A server that restarts, or that starts from zero instances, answers by then."""

RESPONSE_TIMEOUT_SECONDS = 200
"""How long a response may take: the server reads a task hub for up to 60 s, after it has waited for up to 120 s."""

_CONNECT_TIMEOUT_SECONDS = 10
_ROUTING_TIMEOUT_SECONDS = 10
"""How long the response with a routing document may take after the time that the server waits."""

_RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PipelineCaller:
    """The caller, for the audit log. `run_url` identifies the pipeline run that deploys."""

    actor: str | None = None
    run_url: str | None = None

    def to_headers(self) -> dict[str, str]:
        """The headers by which the audit log names the caller. Unknown parts are left out."""
        headers = {"X-Actor": self.actor, "X-Run-Url": self.run_url}
        return {name: value for name, value in headers.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str
    path: str
    body: Json | None = None
    query: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


def normalize_server_url(text: str) -> str:
    """The server's base URL, without /api at its end.

    Raises UsageError for text that is no http or https URL, and for a URL that holds a secret, because URLs end up in
    logs.
    """
    try:
        parts = urlsplit(text.strip())
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise UsageError("--server must be an http or https URL, such as https://shop-state.azurewebsites.net")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("--server must be a URL without a key in it. Set the key in SAFE_DEPLOY_KEY")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api')}"


def is_unencrypted(url: str) -> bool:
    """Whether a key would cross a network in plain text."""
    return urlsplit(url).scheme == "http" and not is_on_this_machine(url)


class StateServerClient:
    """The operations of a state server for one app. `report` receives one line for every retry. `retry_seconds` None
    stands for RETRY_SECONDS."""

    def __init__(
        self,
        url: str,
        app: str,
        *,
        key: str | None,
        caller: PipelineCaller,
        report: Callable[[str], None],
        retry_seconds: float | None = None,
    ) -> None:
        """Raises UsageError for a key, run URL or server URL that cannot be sent. `retry_seconds` limits the repeats of
        a request."""
        headers = {"Accept": "application/json", "User-Agent": "safe-deploy", **caller.to_headers()}
        if key:
            if not _is_printable_ascii(key):
                raise UsageError("the key has characters that no key has. Check how SAFE_DEPLOY_KEY is set")
            headers["x-functions-key"] = key
        if caller.run_url and not _is_printable_ascii(caller.run_url):
            raise UsageError("--run-url has characters that no URL has. Check how SAFE_DEPLOY_RUN_URL is set")
        self.url = normalize_server_url(url)
        self.app = app
        self.caller = caller
        self.app_path = f"/api/apps/{quote(app, safe='')}"
        self._report = report
        self._retry_seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        try:
            # Redirects are not followed, because they would send the key to another server. Certificates are loaded
            # only for https, because loading them is slow.
            self._http = httpx.Client(base_url=self.url, headers=headers, verify=self.url.startswith("https:"))
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise UsageError("--server is not a valid URL") from None

    def __enter__(self) -> "StateServerClient":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get_staging_status(
        self,
        slot: str,
        *,
        wait_seconds: int = 0,
        verify: str = "cached",
        retry_seconds: float | None = None,
        response_timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> Json:
        """The verdict on a slot. `wait_seconds`: how long the server waits for Ready, at most 120. `retry_seconds` 0
        sends the request once."""
        query = {"slot": slot, "wait": wait_seconds, "verify": verify}
        response = self._send_with_retries(
            _Request(method="GET", path=f"{self.app_path}/staging", query=query),
            retry_seconds=retry_seconds,
            response_timeout_seconds=response_timeout_seconds,
        )
        return parse_object(response)

    def get_app(self, *, retry_seconds: float | None = None) -> tuple[Json, str]:
        """The app and its ETag."""
        response = self._send_with_retries(_Request(method="GET", path=self.app_path), retry_seconds=retry_seconds)
        return parse_object(response), response.headers.get("ETag", "")

    def put_app(self, body: Json) -> Json:
        return self.request_json("PUT", self.app_path, body)

    def post_staging(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/staging", body)

    def delete_staging(self, task_hub: str, slot: str) -> Json:
        """Give up the open deployment of this task hub into the slot."""
        return self.request_json("DELETE", f"{self.app_path}/staging", query={"taskHub": task_hub, "slot": slot})

    def post_swap(
        self, task_hub: str, *, slot: str, outcome: str | None, rollback: bool = False, etag: str | None = None
    ) -> Json:
        """Record a swap. Returns the app.

        `outcome` is Pending, Done or Failed; None records a completed swap in one step. With `etag`, raises
        ConflictError if the app has changed.
        """
        body: Json = {"taskHub": task_hub, "slot": slot, "rollback": rollback}
        body |= {"outcome": outcome} if outcome else {}
        return self.request_json("POST", f"{self.app_path}/swap", body, headers={"If-Match": etag} if etag else None)

    def post_cleanup(self, *, dry_run: bool, delete_task_hubs: bool) -> Json:
        """Remove the records of drained, retired task hubs, and with `delete_task_hubs` the task hubs at their provider
        too."""
        return self.request_json(
            "POST", f"{self.app_path}/cleanup", {"dryRun": dry_run, "deleteTaskHubs": delete_task_hubs}
        )

    def get_history(self, top: int, token: str | None = None) -> Json:
        """A page of the app's audit log, newest first. `token` is the continuation token of the previous page."""
        return self.request_json("GET", f"{self.app_path}/history", query={"top": top, "continuationToken": token})

    def list_releases(self) -> Json:
        """The releases side by side with their states, and what routers have acknowledged."""
        return self.request_json("GET", f"{self.app_path}/releases")

    def post_release(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/releases", body)

    def get_release_status(
        self,
        version: str,
        *,
        wait_seconds: int = 0,
        verify: str = "cached",
        retry_seconds: float | None = None,
        response_timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> Json:
        """The verdict: may this release be removed? The parameters are those of `get_staging_status`."""
        query = {"wait": wait_seconds, "verify": verify}
        response = self._send_with_retries(
            _Request(method="GET", path=f"{self._release_path(version)}/status", query=query),
            retry_seconds=retry_seconds,
            response_timeout_seconds=response_timeout_seconds,
        )
        return parse_object(response)

    def delete_release(self, version: str, *, outcome: str) -> Json:
        """Record a step of a release's removal. `outcome` is Pending, Done or Failed. Returns the app."""
        return self.request_json("DELETE", self._release_path(version), query={"outcome": outcome})

    def _release_path(self, version: str) -> str:
        return f"{self.app_path}/releases/{quote(version, safe='')}"

    def put_routing(self, body: Json, *, etag: str) -> Json:
        """Change the routing if its document still has `etag`. Returns the document.

        Raises ConflictError with the code PreconditionFailed if it has another one. This also happens if the response
        to a first attempt was lost: the change may have been made.
        """
        return self.request_json("PUT", f"{self.app_path}/routing", body, headers={"If-Match": etag})

    def read_routing(self) -> tuple[Json, str]:
        """The routing document and its ETag. It holds tokens, which must not be printed."""
        response = self._send_with_retries(_Request(method="GET", path=f"{self.app_path}/routing"))
        return parse_object(response), response.headers.get("ETag", "")

    def get_routing(self, *, wait_seconds: int, etag: str | None, router: str | None) -> tuple[Json, str] | None:
        """The routing document and its ETag, for a router; None if it still has `etag` after `wait_seconds`.

        With `router`, the request acknowledges that this router routes by the document of `etag`. Sends the request
        once. Raises the errors of `errors.py`.
        """
        request = _Request(
            method="GET",
            path=f"{self.app_path}/routing",
            query={"wait": wait_seconds, "router": router},
            headers={"If-None-Match": etag} if etag else None,
        )
        timeout_seconds = wait_seconds + _ROUTING_TIMEOUT_SECONDS
        response = self._send_with_retries(request, retry_seconds=0, response_timeout_seconds=timeout_seconds)
        return None if response.status_code == 304 else (parse_object(response), response.headers.get("ETag", ""))

    def post_waiver(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/waivers", body)

    def get_task_hub(self, task_hub: str) -> Json:
        return self.request_json("GET", f"/api/taskhubs/{quote(task_hub, safe='')}")

    def list_instances(self, task_hub: str, query: Mapping[str, Any]) -> Json:
        return self.request_json("GET", f"/api/taskhubs/{quote(task_hub, safe='')}/instances", query=query)

    def request_json(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """Send a request, retry it while the server is unavailable, and return the response's JSON object. Raises the
        errors of `errors.py`."""
        request = _Request(method=method, path=path, body=body, query=query, headers=headers)
        return parse_object(self._send_with_retries(request))

    def _send_with_retries(
        self,
        request: _Request,
        *,
        retry_seconds: float | None = None,
        response_timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> httpx.Response:
        """The first response that is not a temporary failure. `retry_seconds` None: as the client was created with."""
        deadline = time.monotonic() + (self._retry_seconds if retry_seconds is None else retry_seconds)
        attempt = 0
        while True:
            try:
                response = self._send(request, response_timeout_seconds)
                if response.status_code not in _RETRYABLE_STATUS_CODES:
                    return require_success(response, self.url)
                failure = ServerUnavailable(describe_unavailability(response), parse_problem(response))
                failure.retry_after_seconds = parse_retry_after(response)
            except httpx.RequestError as error:
                failure = ServerUnavailable(
                    f"the server {self.url} cannot be reached: {_describe_request_error(error)}"
                )
            pause_seconds = max(min(2.0**attempt, MAX_BACKOFF_SECONDS), failure.retry_after_seconds)
            if time.monotonic() + pause_seconds >= deadline:
                raise failure
            self._report(f"{failure.message}; trying again")
            time.sleep(pause_seconds)
            attempt += 1

    def _send(self, request: _Request, response_timeout_seconds: float) -> httpx.Response:
        """Send once and read the whole response within `response_timeout_seconds`. httpx's own timeout starts anew
        with every part of a response."""
        timeout = httpx.Timeout(
            response_timeout_seconds, connect=min(response_timeout_seconds, _CONNECT_TIMEOUT_SECONDS)
        )
        http_request = self._http.build_request(
            request.method,
            request.path,
            json=request.body,
            params={name: value for name, value in (request.query or {}).items() if value is not None},
            headers=request.headers,
            timeout=timeout,
        )
        deadline = time.monotonic() + response_timeout_seconds
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


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _describe_request_error(error: httpx.RequestError) -> str:
    """The error's first line. httpx puts URLs into it, but never headers."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
