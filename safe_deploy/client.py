"""The state server over HTTP: one method an operation. Problem documents become the errors of `errors.py`."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from safe_deploy.addresses import is_on_this_machine
from safe_deploy.connection import Request, ServerConnection
from safe_deploy.errors import CommandError, ConflictError, NotAllowed, UsageError
from safe_deploy.server_responses import parse_object
from safe_deploy.unknown_apps import describe_apps_of_key, describe_unknown_app

RETRY_SECONDS = 120
"""How long one request is retried. A server that restarts, or that starts from zero instances, answers by then."""

RESPONSE_TIMEOUT_SECONDS = 200
"""How long a response may take: the server reads a task hub for up to 60 s, after it has waited for up to 120 s."""

_ROUTING_TIMEOUT_SECONDS = 10
"""How long the response with a routing document may take after the time that the server waits."""

_MAX_LISTED_APPS = 1000
"""Names among which one that is close to an unknown name is looked for: those of one page."""

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


@dataclass(frozen=True, slots=True)
class RoutingResponse:
    """The response to GetRouting.

    - `document`: the routing document and its ETag; None if it still has the ETag that the caller knows.
    - `server_time`: the time by which the server decides when visitors have left a release.
    """

    document: tuple[Json, str] | None
    server_time: datetime


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
        self._retry_seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        self._connection = ServerConnection(self.url, headers, report)

    def __enter__(self) -> "StateServerClient":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

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
            Request(method="GET", path=f"{self.app_path}/staging", query=query),
            retry_seconds=retry_seconds,
            response_timeout_seconds=response_timeout_seconds,
        )
        return parse_object(response)

    def get_app(self, *, retry_seconds: float | None = None) -> tuple[Json, str]:
        """The app and its ETag."""
        response = self._send_with_retries(Request(method="GET", path=self.app_path), retry_seconds=retry_seconds)
        return _parse_with_etag(response)

    def put_app(self, body: Json, *, etag: str | None) -> Json:
        """Change the app if it still has `etag`; with None, create it. Raises ConflictError with the code
        PreconditionFailed if it has another one, or exists. This also happens if the response to a first attempt was
        lost: the change may have been made."""
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
        return self.request_json("PUT", self.app_path, body, headers=condition)

    def post_staging(self, body: Json, *, create: bool = False) -> Json:
        """Stage a task hub. Raises CommandError with the code AppNotFound for an app that the server does not know,
        unless `create`."""
        try:
            condition = None if create else {"If-Match": "*"}
            return self.request_json("POST", f"{self.app_path}/staging", body, headers=condition)
        except ConflictError as error:
            if error.problem_code != "PreconditionFailed":
                raise
            raise self.build_unknown_app_error() from error

    def list_apps(self, top: int, token: str | None = None, *, retry_seconds: float | None = None) -> Json:
        """A page of the apps that the key may see, by name."""
        request = Request(method="GET", path="/api/apps", query={"top": top, "continuationToken": token})
        return parse_object(self._send_with_retries(request, retry_seconds=retry_seconds))

    def build_unknown_app_error(self) -> CommandError:
        """The error for an app that the server does not know, with the names that are close."""
        message = describe_unknown_app(self.app, self._list_app_names())
        return CommandError(f"AppNotFound: {message}", {"code": "AppNotFound", "app": self.app})

    def _list_app_names(self) -> list[str]:
        """Names of the apps that the key may see; none if they cannot be listed now."""
        with suppress(CommandError):
            return [app["app"] for app in self.list_apps(_MAX_LISTED_APPS, retry_seconds=0)["apps"]]
        return []

    def delete_staging(self, task_hub: str, slot: str) -> Json:
        """Give up the open deployment of this task hub into the slot."""
        return self.request_json("DELETE", f"{self.app_path}/staging", query={"taskHub": task_hub, "slot": slot})

    def post_swap(
        self, task_hub: str, *, slot: str, outcome: str | None, rollback: bool = False, etag: str | None = None
    ) -> tuple[Json, str]:
        """Record a swap. Returns the app and its ETag.

        `outcome` is Pending, Done or Failed; None records a completed swap in one step. With `etag`, raises
        ConflictError with the code PreconditionFailed if the app has another one. This also happens if the response to
        a first attempt was lost: the swap may be recorded.
        """
        body: Json = {"taskHub": task_hub, "slot": slot, "rollback": rollback}
        body |= {"outcome": outcome} if outcome else {}
        headers = {"If-Match": etag} if etag else None
        request = Request(method="POST", path=f"{self.app_path}/swap", body=body, headers=headers)
        response = self._send_with_retries(request)
        return _parse_with_etag(response)

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
            Request(method="GET", path=f"{self._release_path(version)}/status", query=query),
            retry_seconds=retry_seconds,
            response_timeout_seconds=response_timeout_seconds,
        )
        return parse_object(response)

    def delete_release(self, version: str, *, outcome: str, etag: str) -> tuple[Json, str]:
        """Record a step of a release's removal if the app still has `etag`. `outcome` is Pending, Done or Failed.
        Returns the app and its ETag.

        Raises ConflictError with the code PreconditionFailed if the app has another one. This also happens if the
        response to a first attempt was lost: the step may be on record.
        """
        request = Request(
            method="DELETE",
            path=self._release_path(version),
            query={"outcome": outcome},
            headers={"If-Match": etag},
        )
        response = self._send_with_retries(request)
        return _parse_with_etag(response)

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
        response = self._send_with_retries(Request(method="GET", path=f"{self.app_path}/routing"))
        return _parse_with_etag(response)

    def get_routing(self, *, wait_seconds: int, etag: str | None, router: str | None) -> RoutingResponse:
        """The routing document, for a router, unless it still has `etag` after `wait_seconds`.

        With `router`, the request acknowledges that this router routes by the document of `etag`. Sends the request
        once. Raises the errors of `errors.py`.
        """
        request = Request(
            method="GET",
            path=f"{self.app_path}/routing",
            query={"wait": wait_seconds, "router": router},
            headers={"If-None-Match": etag} if etag else None,
        )
        timeout_seconds = wait_seconds + _ROUTING_TIMEOUT_SECONDS
        response = self._send_with_retries(request, retry_seconds=0, response_timeout_seconds=timeout_seconds)
        server_time = _parse_server_time(response)
        if response.status_code == 304:
            return RoutingResponse(None, server_time)
        return RoutingResponse(_parse_with_etag(response), server_time)

    def get_rollout(self, *, retry_seconds: float | None = None) -> Json:
        """The app's rollout that is in progress, or the last one. Raises CommandError with the code RolloutNotFound if
        there was none."""
        request = Request(method="GET", path=f"{self.app_path}/rollout")
        return parse_object(self._send_with_retries(request, retry_seconds=retry_seconds))

    def put_rollout(self, body: Json, *, etag: str) -> Json:
        """Begin a rollout if the app still has `etag`. Returns it.

        Raises ConflictError with the code PreconditionFailed if it has another one. This also happens if the response
        to a first attempt was lost: the rollout may have begun.
        """
        return self.request_json("PUT", f"{self.app_path}/rollout", body, headers={"If-Match": etag})

    def post_rollout(self, action: str, body: Json, *, etag: str, retry_seconds: float | None = None) -> Json:
        """Change the rollout if the app still has `etag`: `action` is pause, resume, abort, finish or confirm. Returns
        the rollout. Raises ConflictError as `put_rollout` does."""
        headers = {"If-Match": etag}
        request = Request(method="POST", path=f"{self.app_path}/rollout/{action}", body=body, headers=headers)
        return parse_object(self._send_with_retries(request, retry_seconds=retry_seconds))

    def advance_rollout(self) -> Json:
        """Let the server evaluate the rollout that is in progress, as it does by itself. Returns it,
        or the last one."""
        return self.request_json("POST", f"{self.app_path}/rollout/advance", {})

    def get_rollout_health(self, *, candidate: str | None, baseline: str | None, since: str | None) -> Json:
        """How the instances of the candidate end, compared with those of the baseline. Without names and time, those
        of the rollout."""
        query = {"candidate": candidate, "baseline": baseline, "since": since}
        return self.request_json("GET", f"{self.app_path}/health", query=query)

    def get_timeline(self, task_hub: str, query: Mapping[str, Any]) -> Json:
        """Started and ended instances of a task hub over time. `query` has from, to, step and functionName."""
        return self.request_json("GET", f"{task_hub_path(task_hub)}/timeline", query=query)

    def post_waiver(self, body: Json) -> Json:
        return self.request_json("POST", f"{self.app_path}/waivers", body)

    def read_clock(self) -> datetime | None:
        """The time at the server, in whole seconds; None if its response does not say."""
        response = self._send_with_retries(Request(method="GET", path="/api/health"))
        try:
            return parsedate_to_datetime(response.headers.get("Date", "")).astimezone(UTC)
        except ValueError:
            return None

    def get_task_hub(self, task_hub: str) -> Json:
        return self.request_json("GET", task_hub_path(task_hub))

    def list_instances(self, task_hub: str, query: Mapping[str, Any]) -> Json:
        return self.request_json("GET", f"{task_hub_path(task_hub)}/instances", query=query)

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
        request = Request(method=method, path=path, body=body, query=query, headers=headers)
        return parse_object(self._send_with_retries(request))

    def _send_with_retries(
        self,
        request: Request,
        *,
        retry_seconds: float | None = None,
        response_timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
    ) -> httpx.Response:
        """The first response that is not a temporary failure. `retry_seconds` None: as the client was created with."""
        try:
            return self._connection.send(
                request,
                retry_seconds=self._retry_seconds if retry_seconds is None else retry_seconds,
                response_timeout_seconds=response_timeout_seconds,
            )
        except NotAllowed as error:
            # The server does not say to a key that is bound to apps whether another one exists.
            if "requestedApp" not in error.problem or not (names := self._list_app_names()):
                raise
            raise NotAllowed(describe_apps_of_key(error.message, self.app, names), error.problem) from error
        except CommandError as error:
            if error.problem_code != "AppNotFound":
                raise
            raise self.build_unknown_app_error() from error


def task_hub_path(task_hub: str) -> str:
    """The path of a task hub's operations."""
    return f"/api/taskhubs/{quote(task_hub, safe='')}"


def _parse_with_etag(response: httpx.Response) -> tuple[Json, str]:
    """The JSON object in a response, and its ETag; empty if a proxy has removed the ETag."""
    return parse_object(response), response.headers.get("ETag", "")


def _parse_server_time(response: httpx.Response) -> datetime:
    """The time of the server in its response to GetRouting. Raises CommandError without one."""
    try:
        return datetime.fromisoformat(response.headers.get("X-Server-Time", "")).astimezone(UTC)
    except ValueError:
        raise CommandError(
            "the response to GetRouting does not say the time of the server (header X-Server-Time). Update the server "
            "to the version of safe-deploy, and let no proxy remove the header"
        ) from None


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()
