"""What every command needs: the server, who asks, how to look at the platform, and where to print."""

import getpass
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live

from safe_deploy import rendering
from safe_deploy.ci import CiSystem, Terminal, detect_ci_system, report_warning, to_ascii_name
from safe_deploy.client import (
    RETRY_SECONDS,
    Json,
    PipelineCaller,
    StateServerClient,
    is_unencrypted,
    normalize_server_url,
)
from safe_deploy.deployment_slots import DeploymentSlots, FunctionAppTarget, parse_swap_command
from safe_deploy.errors import UsageError
from safe_deploy.options import OutputFormat, VerificationMode
from safe_deploy.sanitization import escape_markdown, format_json, sanitize_line
from safe_deploy.subprocesses import Command, command_environment
from safe_deploy.waiting import PollResult, wait_until_ready

_LOG_WIDTH = 1_000_000
"""Wider than any row: see LONGEST_CELL in `text.py`."""

_MAX_SUMMARY_ROWS = 50
"""Rows in the summary of a run: a CI system takes only so much, and drops what is longer."""


@dataclass(frozen=True)
class Session:
    """One command: the server, who asks, and where to print."""

    server: StateServerClient
    slot: str
    output: OutputFormat
    ci: CiSystem
    out: Console
    err: Console
    _printed_warnings: set[str] = field(default_factory=set)
    """The codes of the server's warnings that were printed: each is printed once."""

    def report(self, line: str) -> None:
        _print_line(self.err, line)

    def print_result(self, content: Any, columns: Sequence[str], rows: rendering.Rows, title: str = "") -> None:
        """Print a result, and put it on the page of the run."""
        if self.output is OutputFormat.JSON:
            # Not through the console: JSON must not be wrapped.
            self.out.file.write(format_json(content) + "\n")
        else:
            if title:
                _print_line(self.out, title)
            if rows:
                rendering.print_table(self.out, columns, rows)
        summary = [f"**{escape_markdown(title)}**"] if title else []
        self.ci.write_summary(
            "\n\n".join(
                [*summary, *([rendering.format_markdown_table(columns, rows[:_MAX_SUMMARY_ROWS])] if rows else [])]
            )
        )

    def print_app(self, app: Json, task_hub: str, title: str) -> None:
        self.ci.set_outputs(rendering.app_outputs(app, self.slot, task_hub))
        self.print_result(app, rendering.SLOT_COLUMNS, rendering.build_slot_rows(app), title)

    def print_verdict(self, verdict: Json) -> None:
        self.ci.set_outputs(rendering.verdict_outputs(verdict))
        self.print_warnings(verdict)
        rows = rendering.build_blocker_rows(verdict, rendering.current_time())
        self.print_result(verdict, rendering.BLOCKER_COLUMNS, rows, rendering.format_verdict(verdict))

    def print_warnings(self, verdict: Json) -> None:
        """Print what the server says that this verdict does not cover."""
        for warning in verdict.get("warnings", []):
            if warning["code"] not in self._printed_warnings:
                self._printed_warnings.add(warning["code"])
                report_warning(self.ci, sys.stderr, f"{warning['code']}: {warning['message']}")


def open_session(
    server: str,
    app: str,
    key: str,
    slot: str,
    output: OutputFormat,
    actor: str,
    run_url: str,
    retry_for: float = RETRY_SECONDS,
) -> Session:
    if not app:
        raise UsageError("name the app: --app or SAFE_DEPLOY_APP is empty")
    ci = detect_ci_system(os.environ, sys.stderr)
    if not actor and ci.actor is None:
        with suppress(OSError, KeyError, ImportError):
            actor = getpass.getuser()
    caller = PipelineCaller(to_ascii_name(actor) or ci.actor, run_url.strip() or ci.run_url)
    err = _make_console(ci, stderr=True)

    def report(line: str) -> None:
        _print_line(err, line)

    if key and is_unencrypted(normalize_server_url(server)):
        report_warning(ci, sys.stderr, "the key travels unprotected over http; use the server's https address")
    opened = StateServerClient(server, app, key.strip(), caller, report, retry_for)
    return Session(opened, slot, output, ci, _make_console(ci, stderr=False), err)


def _make_console(ci: CiSystem, *, stderr: bool) -> Console:
    """Where nobody sits at a terminal lines are as long as they are: a log must not be wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and type(ci) is Terminal else _LOG_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def _print_line(console: Console, line: str) -> None:
    console.print(sanitize_line(line), soft_wrap=True)


def resolve_deployment_slots(
    resource_group: str, function_app: str, task_hub_setting: str, session: Session, command: Command | None
) -> DeploymentSlots | None:
    """What looks at the platform: as the options say, or as the `az` command of the swap itself says. Raises
    UsageError where the two disagree: then it would be another app or slot that is swapped."""
    words = command.command_line if command else []
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError:
            words = []
    named = parse_swap_command(words, task_hub_setting)
    asked = (
        FunctionAppTarget(resource_group, function_app or session.server.app, task_hub_setting)
        if resource_group
        else None
    )
    if named is not None:
        target, slot = named
        if slot.lower() != session.slot.lower():
            raise UsageError(f"the command swaps slot {slot}, but --slot is {session.slot}")
        if asked is not None and not _is_same_function_app(asked, target):
            raise UsageError(
                f"the command swaps {target.function_app} in {target.resource_group}, but the options name "
                f"{asked.function_app} in {asked.resource_group}"
            )
        return DeploymentSlots(target)
    return DeploymentSlots(asked) if asked else None


def _is_same_function_app(one: FunctionAppTarget, other: FunctionAppTarget) -> bool:
    return (one.resource_group.lower(), one.function_app.lower()) == (
        other.resource_group.lower(),
        other.function_app.lower(),
    )


def build_command(command_line: Sequence[str] | str | None, task_hub: str, version: str) -> Command | None:
    if not command_line:
        return None
    return Command(command_line, command_environment(SAFE_DEPLOY_TASK_HUB=task_hub, SAFE_DEPLOY_VERSION=version))


def make_poll_reporter(session: Session, live: Live | None) -> Callable[[PollResult], None]:
    """Prints a line only where something is new; in a terminal a table of the blockers stays up to date below."""

    def report_poll(poll_result: PollResult) -> None:
        line = poll_result.failure or (rendering.format_verdict(poll_result.verdict) if poll_result.verdict else "")
        if poll_result.changed and line:
            session.report(f"{rendering.current_time():%H:%M:%S} {line}")
        if poll_result.verdict is not None:
            session.print_warnings(poll_result.verdict)
        if live is not None and poll_result.verdict is not None:
            rows = rendering.build_blocker_rows(poll_result.verdict, rendering.current_time())
            live.update(rendering.build_table(rendering.BLOCKER_COLUMNS, rows) if rows else "", refresh=True)

    return report_poll


def wait_with_progress(session: Session, timeout: float, interval: float, verify: VerificationMode) -> Json:
    plain = bool(os.environ.get("CI") or os.environ.get("NO_COLOR")) or session.ci.name != "terminal"
    if plain or not session.err.is_terminal:
        return wait_until_ready(
            session.server, session.slot, timeout, interval, verify, make_poll_reporter(session, None)
        )
    # Whoever ends it gets the terminal back as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Live(console=session.err, auto_refresh=False, transient=True) as live:
        return wait_until_ready(
            session.server, session.slot, timeout, interval, verify, make_poll_reporter(session, live)
        )
