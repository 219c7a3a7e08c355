"""The server over HTTP: one method per operation, retries through restarts and busy times, problems as errors.

Every change that is sent here can be repeated without harm, so what was cut off is simply sent again.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from safe_deploy.errors import CommandError, ConflictError, NotAllowed, NotReady, ServerUnavailable, UsageError

RETRY_SECONDS = 120
"""How long a single request is tried again. A server that is restarted, or that starts cold, is back by then."""

RESPONSE_TIMEOUT_SECONDS = 200
"""How long an answer may take: the server reads a task hub for up to 60 s, after a wait of up to 120 s."""

_CONNECT_TIMEOUT_SECONDS = 10
_MAX_BACKOFF_SECONDS = 30
_RETRYABLE_STATUS_CODES = frozenset({429, 502, 503, 504})
_EXPECTED_MEMBERS = ("app", "taskHub", "status")
"""Every answer of a state server has one of them."""

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PipelineCaller:
    """Who asks, for the audit log; `run_url` identifies the pipeline run that deploys."""

    actor: str | None = None
    run_url: str | None = None

    def to_headers(self) -> dict[str, str]:
        named = {"X-Actor": self.actor, "X-Run-Url": self.run_url}
        return {name: value for name, value in named.items() if value}


def normalize_server_url(text: str) -> str:
    """The server's address as requests need it, from what people write: with or without /api at its end. Raises
    UsageError, also for an address that holds a secret: addresses end up in logs."""
    try:
        parts = urlsplit(text.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise UsageError("the server must be an http or https address, such as https://shop-state.azurewebsites.net")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("give the server's address without a key in it; the key goes into SAFE_DEPLOY_KEY")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api')}"


def is_unencrypted(url: str) -> bool:
    """Whether a key would travel readable over a network."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS


class StateServerClient:
    """The state server, for one app. `report` is told, in a line, whenever something has to be tried again."""

    def __init__(
        self,
        url: str,
        app: str,
        key: str | None,
        caller: PipelineCaller,
        report: Callable[[str], None],
        retry_for: float = RETRY_SECONDS,
    ) -> None:
        headers = {"Accept": "application/json", "User-Agent": "safe-deploy", **caller.to_headers()}
        if key:
            if not (key.isascii() and key.isprintable()):
                raise UsageError("the key has characters that no key has; look at how SAFE_DEPLOY_KEY is set")
            headers["x-functions-key"] = key
        if caller.run_url and not (caller.run_url.isascii() and caller.run_url.isprintable()):
            raise UsageError("the address of the run has characters that no address has")
        self.url = normalize_server_url(url)
        self.app = app
        self.caller = caller
        self.app_path = f"/api/apps/{quote(app, safe='')}"
        self._report = report
        self._retry_for = retry_for
        try:
            # A redirect is not followed: it would carry the key to wherever it points. So without https there is
            # nothing to verify, and the authorities, which take long to load, are left out.
            self._http = httpx.Client(base_url=self.url, headers=headers, verify=self.url.startswith("https:"))
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise UsageError("the server's address cannot be read") from None

    def __enter__(self) -> "StateServerClient":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get_staging_status(
        self,
        slot: str,
        wait: int = 0,
        verify: str = "cached",
        retry_for: float | None = None,
        response_timeout: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> Json:
        """The verdict on a slot. `wait` is in seconds, at most 120; with `retry_for` 0 it is asked for only once; an
        answer that takes more than `response_timeout` seconds is given up."""
        query = {"slot": slot, "wait": wait, "verify": verify}
        response = self._send_with_retries(
            "GET",
            f"{self.app_path}/staging",
            None,
            query,
            None,
            self._retry_for_or_default(retry_for),
            response_timeout,
        )
        return _parse_object(response)

    def get_app(self, retry_for: float | None = None) -> tuple[Json, str]:
        """The app and its ETag."""
        response = self._send_with_retries("GET", self.app_path, retry_for=self._retry_for_or_default(retry_for))
        return _parse_object(response), response.headers.get("ETag", "")

    def put_app(self, body: Json) -> Json:
        return self.request_json("PUT", self.app_path, body)

    def post_staging(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/staging", body)

    def delete_staging(self, task_hub: str, slot: str) -> Json:
        return self.request_json("DELETE", f"{self.app_path}/staging", query={"taskHub": task_hub, "slot": slot})

    def post_swap(
        self, task_hub: str, slot: str, outcome: str | None, rollback: bool = False, etag: str | None = None
    ) -> Json:
        """`outcome` is Pending, Done or Failed; None exchanges at once. With `etag` only if the app is still that one;
        else ConflictError."""
        body: Json = {"taskHub": task_hub, "slot": slot, "rollback": rollback}
        body |= {"outcome": outcome} if outcome else {}
        return self.request_json("POST", f"{self.app_path}/swap", body, headers={"If-Match": etag} if etag else None)

    def post_cleanup(self, dry_run: bool, delete_task_hubs: bool) -> Json:
        return self.request_json(
            "POST", f"{self.app_path}/cleanup", {"dryRun": dry_run, "deleteTaskHubs": delete_task_hubs}
        )

    def get_history(self, top: int, token: str | None = None) -> Json:
        return self.request_json("GET", f"{self.app_path}/history", query={"top": top, "continuationToken": token})

    def post_waiver(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/waivers", body)

    def get_task_hub(self, hub: str) -> Json:
        return self.request_json("GET", f"/api/taskhubs/{quote(hub, safe='')}")

    def list_instances(self, hub: str, query: Mapping[str, Any]) -> Json:
        return self.request_json("GET", f"/api/taskhubs/{quote(hub, safe='')}/instances", query=query)

    def request_json(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry_for: float | None = None,
    ) -> Json:
        """Send a request until it is answered, for `retry_for` seconds. Raises from the tree in `errors.py`."""
        return _parse_object(
            self._send_with_retries(method, path, body, query, headers, self._retry_for_or_default(retry_for))
        )

    def _retry_for_or_default(self, retry_for: float | None) -> float:
        return self._retry_for if retry_for is None else retry_for

    def _send_with_retries(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry_for: float = 0,
        response_timeout: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> httpx.Response:
        timeout = httpx.Timeout(response_timeout, connect=min(response_timeout, _CONNECT_TIMEOUT_SECONDS))
        deadline = time.monotonic() + retry_for
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        attempt = 0
        while True:
            pause = min(2.0**attempt, _MAX_BACKOFF_SECONDS)
            try:
                request = self._http.build_request(
                    method, path, json=body, params=parameters, headers=headers, timeout=timeout
                )
                response = self._receive_response(request, response_timeout)
                if response.status_code not in _RETRYABLE_STATUS_CODES:
                    return _require_success(response, self.url)
                trouble = ServerUnavailable(_describe_unavailability(response), _parse_problem(response))
                trouble.retry_after = _parse_retry_after(response)
                pause = max(pause, trouble.retry_after)
            except httpx.RequestError as error:
                trouble = ServerUnavailable(
                    f"the server {self.url} cannot be reached: {_describe_request_error(error)}"
                )
            if time.monotonic() + pause >= deadline:
                raise trouble
            self._report(f"{trouble.message}; trying again")
            time.sleep(pause)
            attempt += 1

    def _receive_response(self, request: httpx.Request, response_timeout: float) -> httpx.Response:
        """The whole answer, within so many seconds: a timeout of httpx is about each part of one."""
        deadline = time.monotonic() + response_timeout
        response = self._http.send(request, stream=True)
        try:
            content = b""
            for part in response.iter_raw():
                content += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer takes too long", request=request)
        finally:
            response.close()
        return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)


def _require_success(response: httpx.Response, url: str) -> httpx.Response:
    """The answer if it is a good one. Raises what the problem document stands for."""
    if response.is_success:
        return response
    if response.is_redirect:
        raise CommandError(f"{url} sends callers elsewhere; give the address that it leads to as the server")
    problem = _parse_problem(response)
    detail = str(problem.get("detail") or f"{url} answered with status {response.status_code}")
    code = problem.get("code")
    if code == "InvalidRequest":
        raise UsageError(detail, problem)
    if code == "StagingNotReady":
        raise NotReady(detail, problem)
    if response.status_code in (401, 403):
        hint = "" if code else "; check SAFE_DEPLOY_KEY, and that it is a key of this function"
        raise NotAllowed(f"{detail}{hint}", problem)
    if response.status_code in (409, 412):
        raise ConflictError(detail, problem)
    if response.status_code == 404 and code is None:
        raise CommandError(f"there is no state server at {url}: it does not know {response.request.url.path}")
    trace = f" (traceId {problem['traceId']})" if "traceId" in problem else ""
    raise CommandError(f"{detail}{trace}", problem)


def _parse_object(response: httpx.Response) -> Json:
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.keys().isdisjoint(_EXPECTED_MEMBERS):
        raise CommandError(f"{response.request.url.host} answers, but not as a state server does; check the address")
    return content


def _parse_problem(response: httpx.Response) -> Json:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("code"), str) else {}


def _describe_unavailability(response: httpx.Response) -> str:
    detail = _parse_problem(response).get("detail")
    return str(detail) if detail else f"the server answered with status {response.status_code}"


def _parse_retry_after(response: httpx.Response) -> float:
    """Seconds, from Retry-After. Its other form, a date, is not what the server sends."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return 0
    return min(seconds, _MAX_BACKOFF_SECONDS) if math.isfinite(seconds) and seconds > 0 else 0


def _describe_request_error(error: httpx.RequestError) -> str:
    """What went wrong, in a line. The text of the error names addresses at the most, never headers."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
