"""Follows a rollout until it has ended or is paused, and reports what changes. A server that restarts ends nothing."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta

from safe_deploy.client import Json, StateServerClient
from safe_deploy.durations import format_duration
from safe_deploy.errors import CommandError, ServerUnavailable, TimedOut
from safe_deploy.rendering import current_time, format_moment
from safe_deploy.rollouts.health_report import describe_comparison
from safe_deploy.rollouts.messages import RolloutState, describe_rollout, has_ended, name_candidate
from safe_deploy.rollouts.rollout_identity import require_same_rollout
from safe_deploy.wait_progress import WaitProgress, WaitStatus

POLL_SECONDS = 15
"""How often the rollout and its health are read. The server decides every 30 seconds."""

HEARTBEAT_SECONDS = 60
"""How long nothing is printed at most, up to a poll. CI systems end jobs that print nothing, and people take them for
dead."""


BeginLiveLine = Callable[[str, float], AbstractContextManager[WaitProgress | None]]
"""Begins a line that lives in a terminal, as `wait_progress.BeginWait` does; None if the output is a log."""


@dataclass(kw_only=True)
class RolloutReporter:
    """Prints a line when a rollout or the health of its candidate has changed. The current numbers are in the line that
    lives, and without one in a heartbeat."""

    report: Callable[[str], None]
    live_line: WaitProgress | None = None
    _last_printed: float = field(default_factory=time.monotonic)
    _rollout: object = None
    _health: object = None
    _share: str = ""
    """Step and share, the begin of the line that lives."""

    def print_rollout(self, rollout: Json) -> None:
        """Print state, step and share if one of them differs from the last time."""
        self._share = f"step {rollout['step']} of {len(rollout['steps'])}, {rollout['weight']} %"
        self._show(rollout["state"])
        state = (rollout["state"], rollout["step"], rollout["weight"], rollout["confirmed"])
        if state == self._rollout:
            return
        self._rollout = state
        ends_at = rollout["stepEndsAt"]
        until = f", until {format_moment(ends_at, current_time())}" if ends_at and not has_ended(rollout) else ""
        self._print(f"{describe_rollout(rollout)}{until}")

    def print_health(self, health: Json) -> None:
        """Print status and numbers if the status has changed, or if nothing was printed for long."""
        comparison = describe_comparison(health)
        self._show(comparison)
        self._print_health_state((health["status"], health["decidedBy"]["code"]), comparison)

    def print_failure(self, message: str) -> None:
        """Print that the server could not be asked, once for each message until nothing was printed for long."""
        self._show(message)
        self._print_health_state(message, f"{message}; trying again")

    def _print_health_state(self, state: object, line: str) -> None:
        """Print a line if `state` differs from the last time, or if nothing was printed for long."""
        is_heartbeat_due = time.monotonic() - self._last_printed >= HEARTBEAT_SECONDS and self.live_line is None
        if state == self._health and not is_heartbeat_due:
            return
        self._health = state
        self._print(line)

    def _show(self, text: str) -> None:
        """Show step, share and this text in the line that lives."""
        if self.live_line is not None:
            line = f"{self._share}: {text}"
            self.live_line.update(WaitStatus(line, line, line))

    def _print(self, line: str) -> None:
        self._last_printed = time.monotonic()
        self.report(f"{current_time():%H:%M:%S} {line}")


def describe_end(rollout: Json) -> str:
    """What a command that follows a rollout waits for, as the end of the sentence `waiting …`."""
    return f"until the rollout of {name_candidate(rollout)} has ended"


def follow_rollout(
    server: StateServerClient,
    rollout: Json,
    *,
    timeout_seconds: float,
    begin_live_line: BeginLiveLine,
    report: Callable[[str], None],
) -> Json:
    """Return the rollout as soon as it has ended or is paused. Raises TimedOut after `timeout_seconds`: the rollout
    goes on without this command. Raises ConflictError when another rollout has taken its place."""
    with begin_live_line(describe_end(rollout), timeout_seconds) as live_line:
        reporter = RolloutReporter(report=report, live_line=live_line)
        return _poll_until_ended(server, rollout, timeout_seconds, reporter)


def _poll_until_ended(
    server: StateServerClient, rollout: Json, timeout_seconds: float, reporter: RolloutReporter
) -> Json:
    """Read the rollout and its health, until it has ended or is paused. Raises TimedOut, and ConflictError for another
    rollout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        reporter.print_rollout(rollout)
        if has_ended(rollout) or rollout["state"] == RolloutState.PAUSED:
            return rollout
        _print_health(server, reporter)
        seconds_left = deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimedOut(
                f"the rollout has not ended within {format_duration(timedelta(seconds=timeout_seconds))}, and goes on: "
                f"{describe_rollout(rollout)}. Run the same command again to follow it"
            )
        time.sleep(min(POLL_SECONDS, seconds_left))
        try:
            current = server.get_rollout()
        except ServerUnavailable as error:
            reporter.print_failure(error.message)
        else:
            require_same_rollout(rollout, current, consequence="It is not followed.")
            rollout = current


def _print_health(server: StateServerClient, reporter: RolloutReporter) -> None:
    """Report the health of the candidate. A server that cannot answer now ends nothing, because it decides itself."""
    try:
        reporter.print_health(server.get_rollout_health(candidate=None, baseline=None, since=None))
    except CommandError as error:
        reporter.print_failure(f"the health of the candidate is not known: {error.message}")
