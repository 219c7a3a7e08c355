"""Waits until a slot is ready, through restarts, overload and broken connections, up to a timeout.

Hides the polling: how long a request waits at the server, when the next one is sent, and when waiting is of no use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from safe_deploy import dead_ends, rendering
from safe_deploy.client import Json, StateServerClient
from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, NotReady, ServerUnavailable, TimedOut
from safe_deploy.next_steps import append_next_step, format_reason, format_reasons
from safe_deploy.wait_progress import BeginWait, WaitStatus

MAX_WAIT_SECONDS = 120
"""The longest time that the server holds a request of GetStagingStatus."""

SERVER_READ_SECONDS = 80
"""How long the server may take to answer after it has waited: it reads a task hub for up to 60 s."""

_GRACE_SECONDS = 10
"""How long a response may arrive after the timeout."""

_MIN_POLL_SECONDS = 1
_RETRY_INTERVAL_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PollOptions:
    """How to poll. `interval_seconds` is how long one request waits at the server. `begin_wait` shows the wait.
    `on_verdict` is called with every verdict."""

    interval_seconds: float
    verify: str
    begin_wait: BeginWait
    on_verdict: Callable[[Json], None]


@dataclass(frozen=True, slots=True)
class _Poll:
    """The result of one request: a verdict, or a failure's message. `pause_seconds`: how long to wait before the next
    one."""

    verdict: Json | None
    failure: str | None
    pause_seconds: float

    def describe(self) -> WaitStatus:
        """The result for people who wait."""
        if self.verdict is None:
            failure = f"{self.failure}; trying again"
            return WaitStatus(failure, failure, failure)
        return WaitStatus(
            rendering.format_verdict(self.verdict),
            rendering.summarize_reasons(self.verdict, rendering.current_time()),
            _comparison_key(self.verdict),
        )


def wait_until_ready(server: StateServerClient, slot: str, *, timeout_seconds: float, polling: PollOptions) -> Json:
    """Return the verdict as soon as it is Ready.

    Raises TimedOut after `timeout_seconds`, and NotReady if only a person can end the reason. Other errors end the wait
    at once, because waiting does not resolve them: an unknown app, a key without permission.
    """
    deadline = time.monotonic() + timeout_seconds
    streaks: dead_ends.Streaks = {}
    last_verdict: Json | None = None
    # The first request does not wait at the server, so that people see at once what blocks.
    wait_seconds = 0
    with polling.begin_wait(f"until slot {slot} of app {server.app} is ready", timeout_seconds) as progress:
        while True:
            poll = _poll(server, slot, polling, wait_seconds=wait_seconds, seconds_left=deadline - time.monotonic())
            progress.update(poll.describe())
            streaks = dead_ends.extend_streaks(streaks, poll.verdict)
            if poll.verdict is not None:
                polling.on_verdict(poll.verdict)
                if poll.verdict["ready"]:
                    return poll.verdict
                _check_dead_end(server, slot, streaks, poll.verdict)
                last_verdict = poll.verdict
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                raise _build_timeout(slot, timeout_seconds, poll, last_verdict)
            time.sleep(min(seconds_left, poll.pause_seconds))
            seconds_left = max(0.0, deadline - time.monotonic())
            wait_seconds = min(int(polling.interval_seconds), MAX_WAIT_SECONDS, int(seconds_left))


def _poll(
    server: StateServerClient, slot: str, polling: PollOptions, *, wait_seconds: int, seconds_left: float
) -> _Poll:
    """Ask for the verdict once. Raises the errors that waiting does not resolve."""
    began_at = time.monotonic()
    try:
        verdict = server.get_staging_status(
            slot,
            wait_seconds=wait_seconds,
            verify=polling.verify,
            retry_seconds=0,
            response_timeout_seconds=_response_timeout_seconds(wait_seconds, seconds_left),
        )
    except ServerUnavailable as error:
        pause_seconds = max(min(polling.interval_seconds, _RETRY_INTERVAL_SECONDS), error.retry_after_seconds)
        return _Poll(None, error.message, pause_seconds)
    # A server that shuts down answers at once instead of waiting.
    is_early = wait_seconds == 0 or time.monotonic() - began_at < min(wait_seconds, _MIN_POLL_SECONDS)
    return _Poll(verdict, None, _MIN_POLL_SECONDS if is_early else 0)


def _response_timeout_seconds(wait_seconds: int, seconds_left: float) -> float:
    """How long one response may take. A server that does not answer must not delay the timeout."""
    return min(wait_seconds + SERVER_READ_SECONDS, max(0.0, seconds_left) + _GRACE_SECONDS)


def _check_dead_end(server: StateServerClient, slot: str, streaks: dead_ends.Streaks, verdict: Json) -> None:
    """Raises NotReady if waiting longer is of no use."""
    code = dead_ends.find_dead_end(streaks, verdict)
    if code is None or (dead_ends.needs_app(code) and _may_app_start(server, slot)):
        return
    raise build_dead_end(f"slot {slot} of app {server.app}", code, verdict)


def _may_app_start(server: StateServerClient, slot: str) -> bool:
    """Whether a deployment into the slot is open, also this run's own, which a verdict does not show: its app may still
    start. True if that cannot be found out."""
    try:
        app, _ = server.get_app(retry_seconds=0)
    except CommandError:
        return True
    deployment = app.get("deployment")
    return deployment is not None and str(deployment["slot"] or "").lower() == slot.lower()


def build_dead_end(subject: str, code: str, verdict: Json) -> NotReady:
    """The error of a wait that only a person can help. `subject`: what does not become ready."""
    reason = next(reason for reason in verdict["reasons"] if reason["code"] == code)
    period = format_duration(dead_ends.find_period(code))
    message = f"{subject} does not become ready by waiting, unchanged for {period}. {format_reason(reason)}"
    error = NotReady(append_next_step(message, code))
    error.verdict = dict(verdict)
    return error


def _build_timeout(slot: str, timeout_seconds: float, poll: _Poll, last_verdict: Json | None) -> TimedOut:
    """The error when the time is up: why the slot was not ready at the last poll, and at the last verdict if that poll
    has failed. The end of the timeout can cut off the last response, so its failure alone may mislead."""
    last_reasons = format_reasons(last_verdict["reasons"]) if last_verdict is not None else ""
    last_result = last_reasons
    if poll.failure is not None:
        last_result = f"{poll.failure}. The verdict before was {last_reasons}" if last_reasons else poll.failure
    timeout = format_duration(timedelta(seconds=timeout_seconds))
    error = TimedOut(f"slot {slot} was not ready within {timeout}: {last_result}")
    error.verdict = poll.verdict
    return error


def _comparison_key(verdict: Json) -> object:
    """Two verdicts with the same key are reported once. How long an instance has been active is not part of it."""
    codes = [reason["code"] for reason in verdict["reasons"]]
    blockers = [blocker["instanceId"] for blocker in (*verdict["active"], *rendering.list_pending_starts(verdict))]
    return verdict["ready"], verdict["taskHub"], codes, verdict["activeCount"], blockers
