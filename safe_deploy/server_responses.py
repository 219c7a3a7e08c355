"""What a response of the state server means: a JSON object, or one of the errors of `errors.py`."""

import math
from typing import Any

import httpx

from safe_deploy.command_words import describe_problem
from safe_deploy.errors import CommandError, ConflictError, NotAllowed, NotReady, ServerUnavailable, UsageError

MAX_BACKOFF_SECONDS = 30
"""The longest pause before a request is sent again, also if the server asks for a longer one."""

_EXPECTED_MEMBERS = ("app", "taskHub", "status", "apps", "events", "removed")
"""Every successful response of a state server has one of these members."""


def require_success(response: httpx.Response, url: str) -> httpx.Response:
    """Return a successful response. Raises the error that the problem document or the status code stands for."""
    if response.is_success or response.status_code == 304:
        return response
    if response.is_redirect:
        raise CommandError(f"{url} redirects to another server, and redirects are not followed. Check --server")
    problem = parse_problem(response)
    code = problem.get("code")
    detail = _describe_refusal(response, url)
    if code == "InvalidRequest":
        raise UsageError(detail, problem)
    if code == "StagingNotReady":
        raise NotReady(detail, problem)
    if response.status_code in (401, 403):
        hint = "" if code else ". Check SAFE_DEPLOY_KEY: it must be a key of this server"
        if response.status_code == 403 and not code:
            hint += ". If it is, the Function App may be stopped, or refuse the network of this machine"
        raise NotAllowed(f"{detail}{hint}", problem)
    if response.status_code in (409, 412):
        raise ConflictError(detail, problem)
    if response.status_code == 404 and code is None:
        raise CommandError(
            f"there is no state server at {url}: it does not know {response.request.url.path}. Check --server"
        )
    trace = f" (traceId {problem['traceId']})" if "traceId" in problem else ""
    raise CommandError(f"{detail}{trace}", problem)


def parse_object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response. Raises CommandError if the response does not come from a state server."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or body.keys().isdisjoint(_EXPECTED_MEMBERS):
        raise CommandError(f"{response.request.url.host} answers, but is not a state server. Check --server")
    return body


def parse_problem(response: httpx.Response) -> dict[str, Any]:
    """The problem document of a response, empty if there is none with a code."""
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) and isinstance(body.get("code"), str) else {}


def build_unavailability(response: httpx.Response) -> ServerUnavailable:
    """Why the server could not answer: the problem's code and text if it gave any."""
    error = ServerUnavailable(_describe_refusal(response, "the server"), parse_problem(response))
    error.retry_after_seconds = parse_retry_after(response)
    return error


def _describe_refusal(response: httpx.Response, server: str) -> str:
    """The problem document of a response as `CODE: text`, or else its status."""
    problem = parse_problem(response)
    detail = describe_problem(problem) or f"{server} answered with status {response.status_code}"
    return f"{problem['code']}: {detail}" if problem else detail


def parse_retry_after(response: httpx.Response) -> float:
    """The seconds of Retry-After, at most `MAX_BACKOFF_SECONDS`; 0 without a usable value. The server never sends a
    date."""
    try:
        seconds = float(response.headers.get("Retry-After", ""))
    except ValueError:
        return 0
    return min(seconds, MAX_BACKOFF_SECONDS) if math.isfinite(seconds) and seconds > 0 else 0
