"""Waiting until a slot may be overwritten: through restarts, busy times and broken connections, until the time is over.

What is new is reported; a verdict that says the same as the one before it is not.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from safe_deploy.client import Json, Server
from safe_deploy.errors import TimedOut, Unreachable
from safe_deploy.rendering import pending_starts

LONGEST_INTERVAL_SECONDS = 120
"""The longest that the server lets a caller wait for one answer."""

READING_SECONDS = 80
"""What the server may need for an answer after it has waited: it reads a task hub for up to 60 s."""

_LATE_SECONDS = 10
"""An answer on its way when the time is over is given so much."""

_SHORTEST_LOOK_SECONDS = 1
_AGAIN_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Look:
    """What one question came to: a verdict, or what stood in its way. `new` says that it is not as the one before."""

    verdict: Json | None
    trouble: str | None
    new: bool


def wait_until_ready(
    server: Server,
    slot: str,
    timeout: float,
    interval: float,
    verify: str,
    report: Callable[[Look], None],
) -> Json:
    """The verdict Ready, within `timeout` seconds; each question waits for up to `interval` seconds.

    Raises TimedOut, and at once what waiting cannot mend: an unknown app, a key that may not ask.
    """
    deadline = time.monotonic() + timeout
    verdict: Json | None = None
    trouble: str | None = None
    before: object = None
    while True:
        began = time.monotonic()
        left = deadline - began
        wait = max(0, min(int(interval), LONGEST_INTERVAL_SECONDS, int(left)))
        pause = 0.0
        try:
            verdict, trouble = server.staging_status(slot, wait, verify, 0, _within(wait, left)), None
        except Unreachable as error:
            trouble = error.message
            pause = max(min(interval, _AGAIN_SECONDS), error.retry_after)
        said = trouble or _gist(verdict)
        report(Look(None if trouble else verdict, trouble, said != before))
        before = said
        if verdict is not None and trouble is None and verdict["ready"]:
            return verdict
        if not trouble and time.monotonic() - began < min(wait, _SHORTEST_LOOK_SECONDS):
            # A server that is about to stop answers at once.
            pause = _SHORTEST_LOOK_SECONDS
        if wait == 0 and not trouble:
            pause = min(interval, float((verdict or {}).get("retryAfterSeconds") or interval))
        left = deadline - time.monotonic()
        if left <= 0:
            late = TimedOut(_overdue(slot, timeout, verdict, trouble))
            late.verdict = None if trouble else verdict
            raise late
        time.sleep(min(left, pause))


def _within(wait: int, left: float) -> float:
    """How long one answer may take, in seconds: a server that hangs must not hold up the end."""
    return min(wait + READING_SECONDS, left + _LATE_SECONDS)


def _gist(verdict: Json | None) -> object:
    """What makes a verdict another one: not how long something has lasted."""
    if verdict is None:
        return None
    codes = [reason["code"] for reason in verdict["reasons"]]
    blockers = [one["instanceId"] for one in (*verdict["active"], *pending_starts(verdict))]
    return verdict["ready"], verdict["taskHub"], codes, verdict["activeCount"], blockers


def _overdue(slot: str, timeout: float, verdict: Json | None, trouble: str | None) -> str:
    last = trouble or "; ".join(reason["message"] for reason in (verdict or {}).get("reasons", []))
    return f"slot {slot} was not ready within {timeout:.10g} s: {last}"
