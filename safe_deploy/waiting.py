"""Waiting until a slot may be overwritten: through restarts, busy times and broken connections, until the time is over.

What is new is reported; a verdict that says the same as the one before it is not.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.client import Json, StateServerClient
from safe_deploy.errors import ServerUnavailable, TimedOut
from safe_deploy.rendering import pending_starts

MAX_WAIT_SECONDS = 120
"""The longest that the server lets a caller wait for one answer."""

SERVER_READ_SECONDS = 80
"""What the server may need for an answer after it has waited: it reads a task hub for up to 60 s."""

_GRACE_SECONDS = 10
"""An answer on its way when the time is over is given so much."""

_MIN_POLL_SECONDS = 1
_RETRY_INTERVAL_SECONDS = 5


@dataclass(frozen=True, slots=True)
class PollResult:
    """What one question came to: a verdict, or what stood in its way. `changed` says that it is not as the one
    before."""

    verdict: Json | None
    failure: str | None
    changed: bool


def wait_until_ready(
    server: StateServerClient,
    slot: str,
    timeout: float,
    interval: float,
    verify: str,
    on_poll: Callable[[PollResult], None],
) -> Json:
    """The verdict Ready, within `timeout` seconds; each question waits for up to `interval` seconds.

    Raises TimedOut, and at once what waiting cannot mend: an unknown app, a key that may not ask.
    """
    deadline = time.monotonic() + timeout
    verdict: Json | None = None
    failure: str | None = None
    before: object = None
    while True:
        began = time.monotonic()
        left = deadline - began
        wait = max(0, min(int(interval), MAX_WAIT_SECONDS, int(left)))
        pause = 0.0
        try:
            verdict, failure = server.get_staging_status(slot, wait, verify, 0, _response_timeout(wait, left)), None
        except ServerUnavailable as error:
            failure = error.message
            pause = max(min(interval, _RETRY_INTERVAL_SECONDS), error.retry_after)
        said = failure or _comparison_key(verdict)
        on_poll(PollResult(None if failure else verdict, failure, said != before))
        before = said
        if verdict is not None and failure is None and verdict["ready"]:
            return verdict
        if not failure and time.monotonic() - began < min(wait, _MIN_POLL_SECONDS):
            # A server that is about to stop answers at once.
            pause = _MIN_POLL_SECONDS
        if wait == 0 and not failure:
            pause = min(interval, float((verdict or {}).get("retryAfterSeconds") or interval))
        left = deadline - time.monotonic()
        if left <= 0:
            late = TimedOut(_describe_timeout(slot, timeout, verdict, failure))
            late.verdict = None if failure else verdict
            raise late
        time.sleep(min(left, pause))


def _response_timeout(wait: int, left: float) -> float:
    """How long one answer may take, in seconds: a server that hangs must not hold up the end."""
    return min(wait + SERVER_READ_SECONDS, left + _GRACE_SECONDS)


def _comparison_key(verdict: Json | None) -> object:
    """What makes a verdict another one: not how long something has lasted."""
    if verdict is None:
        return None
    codes = [reason["code"] for reason in verdict["reasons"]]
    blockers = [one["instanceId"] for one in (*verdict["active"], *pending_starts(verdict))]
    return verdict["ready"], verdict["taskHub"], codes, verdict["activeCount"], blockers


def _describe_timeout(slot: str, timeout: float, verdict: Json | None, failure: str | None) -> str:
    last = failure or "; ".join(reason["message"] for reason in (verdict or {}).get("reasons", []))
    return f"slot {slot} was not ready within {timeout:.10g} s: {last}"
