"""Waits until a slot is ready, through restarts, overload and broken connections, up to a timeout.

Hides the polling: how long a request waits at the server, and when the next one is sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import ServerUnavailable, TimedOut
from safe_deploy.rendering import list_pending_starts

MAX_WAIT_SECONDS = 120
"""The longest time that the server holds a request of GetStagingStatus."""

SERVER_READ_SECONDS = 80
"""How long the server may take to answer after it has waited: it reads a task hub for up to 60 s."""

_GRACE_SECONDS = 10
"""How long a response may arrive after the timeout."""

_MIN_POLL_SECONDS = 1
_RETRY_INTERVAL_SECONDS = 5


@dataclass(frozen=True, slots=True)
class PollResult:
    """The result of one request: a verdict, or a failure's message. `changed`: it differs from the previous result."""

    verdict: Json | None
    failure: str | None
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PollOptions:
    """How to poll. `interval_seconds` is how long one request waits at the server. `on_poll` is called with every
    result."""

    interval_seconds: float
    verify: str
    on_poll: Callable[[PollResult], None]


def wait_until_ready(server: StateServerClient, slot: str, *, timeout_seconds: float, polling: PollOptions) -> Json:
    """Return the verdict as soon as it is Ready.

    Raises TimedOut after `timeout_seconds`. Other errors end the wait at once, because waiting does not resolve them:
    an unknown app, a key without permission.
    """
    deadline = time.monotonic() + timeout_seconds
    verdict: Json | None = None
    failure: str | None = None
    previous: object = None
    while True:
        started = time.monotonic()
        seconds_left = deadline - started
        wait_seconds = max(0, min(int(polling.interval_seconds), MAX_WAIT_SECONDS, int(seconds_left)))
        retry_after_seconds = 0.0
        try:
            verdict = server.get_staging_status(
                slot,
                wait_seconds=wait_seconds,
                verify=polling.verify,
                retry_seconds=0,
                response_timeout_seconds=_response_timeout_seconds(wait_seconds, seconds_left),
            )
            failure = None
        except ServerUnavailable as error:
            failure, retry_after_seconds = error.message, error.retry_after_seconds
        current = failure or _comparison_key(verdict)
        polling.on_poll(PollResult(None if failure else verdict, failure, current != previous))
        previous = current
        if verdict is not None and failure is None and verdict["ready"]:
            return verdict
        if failure:
            pause_seconds = max(min(polling.interval_seconds, _RETRY_INTERVAL_SECONDS), retry_after_seconds)
        else:
            pause_seconds = _pause_seconds(
                verdict or {},
                wait_seconds=wait_seconds,
                answered_after_seconds=time.monotonic() - started,
                interval_seconds=polling.interval_seconds,
            )
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            timed_out = TimedOut(_describe_timeout(slot, timeout_seconds, verdict, failure))
            timed_out.verdict = None if failure else verdict
            raise timed_out
        time.sleep(min(seconds_left, pause_seconds))


def _pause_seconds(
    verdict: Json, *, wait_seconds: int, answered_after_seconds: float, interval_seconds: float
) -> float:
    """How long to pause after a verdict: not at all if the request has waited at the server."""
    if wait_seconds == 0:
        return min(interval_seconds, float(verdict.get("retryAfterSeconds") or interval_seconds))
    # A server that shuts down answers at once instead of waiting.
    return _MIN_POLL_SECONDS if answered_after_seconds < min(wait_seconds, _MIN_POLL_SECONDS) else 0


def _response_timeout_seconds(wait_seconds: int, seconds_left: float) -> float:
    """How long one response may take. A server that does not answer must not delay the timeout."""
    return min(wait_seconds + SERVER_READ_SECONDS, seconds_left + _GRACE_SECONDS)


def _comparison_key(verdict: Json | None) -> object:
    """Two verdicts with the same key are reported once. How long an instance has been active is not part of it."""
    if verdict is None:
        return None
    codes = [reason["code"] for reason in verdict["reasons"]]
    blockers = [blocker["instanceId"] for blocker in (*verdict["active"], *list_pending_starts(verdict))]
    return verdict["ready"], verdict["taskHub"], codes, verdict["activeCount"], blockers


def _describe_timeout(slot: str, timeout_seconds: float, verdict: Json | None, failure: str | None) -> str:
    """The message when the time is up: why the slot was not ready at the last poll."""
    last_result = failure or "; ".join(reason["message"] for reason in (verdict or {}).get("reasons", []))
    return f"slot {slot} was not ready within {timeout_seconds:.10g} s: {last_result}"
