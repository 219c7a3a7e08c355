"""One run of a command: the server client, the slot, the CI system, and where results and progress are printed."""

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
from safe_deploy.azure_slots import DeploymentSlots, FunctionAppTarget, parse_swap_command
from safe_deploy.ci import CiSystem, Terminal, detect_ci_system, report_warning, to_ascii_name
from safe_deploy.client import (
    Json,
    PipelineCaller,
    StateServerClient,
    is_unencrypted,
    normalize_server_url,
)
from safe_deploy.errors import UsageError
from safe_deploy.option_groups import AzureOptions, CommonOptions, WaitingOptions
from safe_deploy.options import OutputFormat
from safe_deploy.sanitization import escape_markdown, format_json, sanitize_line
from safe_deploy.subprocesses import Command, command_environment
from safe_deploy.waiting import PollOptions, PollResult, wait_until_ready

_LOG_WIDTH = 1_000_000
"""Columns of a log: more than the longest table row, whose cells have at most `sanitization.MAX_CELL_LENGTH`
characters."""

_MAX_SUMMARY_ROWS = 50
"""Rows in a job summary. CI systems limit its size and discard a longer one."""


@dataclass(frozen=True)
class Session:
    """The context of one command."""

    server: StateServerClient
    slot: str
    output: OutputFormat
    ci: CiSystem
    out: Console
    err: Console
    _printed_warnings: set[str] = field(default_factory=set)
    """Codes of the server's warnings that were printed. Each is printed once a command."""

    def report(self, line: str) -> None:
        """Print progress to stderr."""
        _print_line(self.err, line)

    def warn(self, message: str) -> None:
        """Print a warning to stderr, and add it to the annotations of the run."""
        report_warning(self.ci, sys.stderr, message)

    def print_result(self, result: Any, columns: Sequence[str], rows: rendering.Rows, title: str = "") -> None:
        """Print a result to stdout (`result` as JSON, or title and rows as a table) and add it to the job summary."""
        if self.output is OutputFormat.JSON:
            # Bypasses the console, which would wrap JSON.
            self.out.file.write(format_json(result) + "\n")
        else:
            if title:
                _print_line(self.out, title)
            if rows:
                rendering.print_table(self.out, columns, rows)
        blocks = [f"**{escape_markdown(title)}**"] if title else []
        if rows:
            blocks.append(rendering.format_markdown_table(columns, rows[:_MAX_SUMMARY_ROWS]))
        self.ci.write_summary("\n\n".join(blocks))

    def print_app(self, app: Json, *, task_hub: str, title: str) -> None:
        """Print an app as the result of a command about `task_hub`, and set the step's outputs."""
        self.ci.set_outputs(rendering.app_outputs(app, self.slot, task_hub))
        self.print_result(app, rendering.SLOT_COLUMNS, rendering.build_slot_rows(app), title)

    def print_verdict(self, verdict: Json) -> None:
        """Print a verdict as the result, and set the step's outputs."""
        self.ci.set_outputs(rendering.verdict_outputs(verdict))
        self.print_warnings(verdict)
        rows = rendering.build_blocker_rows(verdict, rendering.current_time())
        self.print_result(verdict, rendering.BLOCKER_COLUMNS, rows, rendering.format_verdict(verdict))

    def print_warnings(self, verdict: Json) -> None:
        """Print the server's warnings about what the verdict does not cover."""
        for warning in verdict.get("warnings", []):
            if warning["code"] not in self._printed_warnings:
                self._printed_warnings.add(warning["code"])
                report_warning(self.ci, sys.stderr, f"{warning['code']}: {warning['message']}")


def open_session(options: CommonOptions, *, slot: str = "staging", retry_seconds: float | None = None) -> Session:
    """Detect the CI system and create the client. Sends no request. Raises UsageError for invalid options.

    `retry_seconds` None stands for `client.RETRY_SECONDS`.
    """
    if not options.app:
        raise UsageError("--app (or SAFE_DEPLOY_APP) is empty. Set it to the name of the app on the server")
    ci = detect_ci_system(os.environ, sys.stderr)
    actor = options.actor
    if not actor and ci.actor is None:
        with suppress(OSError, KeyError, ImportError):
            actor = getpass.getuser()
    err = _make_console(ci, stderr=True)

    def report(line: str) -> None:
        _print_line(err, line)

    if options.key and is_unencrypted(normalize_server_url(options.server)):
        report_warning(ci, sys.stderr, "the key is sent unencrypted over http. Use the server's https URL in --server")
    server = StateServerClient(
        options.server,
        options.app,
        key=options.key.strip(),
        caller=PipelineCaller(to_ascii_name(actor) or ci.actor, options.run_url.strip() or ci.run_url),
        report=report,
        retry_seconds=retry_seconds,
    )
    return Session(server=server, slot=slot, output=options.output, ci=ci, out=_make_console(ci, stderr=False), err=err)


def _make_console(ci: CiSystem, *, stderr: bool) -> Console:
    """A console that wraps lines only in an interactive terminal. A log must not be wrapped."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and type(ci) is Terminal else _LOG_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def _print_line(console: Console, line: str) -> None:
    """Print a line without the characters that would act on a terminal or start a CI command."""
    console.print(sanitize_line(line), soft_wrap=True)


def resolve_deployment_slots(
    options: AzureOptions, session: Session, swap_command: Command | None = None
) -> DeploymentSlots | None:
    """The slots in Azure, found by the options or by the `az` command that swaps them; None if neither names them.

    Raises UsageError if options and command name different apps or slots.
    """
    configured = (
        FunctionAppTarget(
            resource_group=options.resource_group,
            function_app=options.function_app or session.server.app,
            task_hub_setting=options.task_hub_setting,
        )
        if options.resource_group
        else None
    )
    parsed = parse_swap_command(_split_words(swap_command), options.task_hub_setting)
    if parsed is None:
        return DeploymentSlots(configured) if configured else None
    target, slot = parsed
    if slot.lower() != session.slot.lower():
        raise UsageError(f"the command swaps slot {slot}, but --slot is {session.slot}. Change one of them")
    if configured is not None and not _is_same_function_app(configured, target):
        raise UsageError(
            f"the command swaps function app {target.function_app} in resource group {target.resource_group}, but "
            f"--function-app and --resource-group name {configured.function_app} in {configured.resource_group}. "
            "Change one of them"
        )
    return DeploymentSlots(target)


def _split_words(command: Command | None) -> list[str]:
    """The words of a command, also of text for the shell. Empty if the text cannot be split."""
    if command is None:
        return []
    if not isinstance(command.command_line, str):
        return list(command.command_line)
    try:
        return shlex.split(command.command_line)
    except ValueError:
        return []


def _is_same_function_app(first: FunctionAppTarget, second: FunctionAppTarget) -> bool:
    """Whether both are the same Function App. Azure ignores the case of its names."""
    return (first.resource_group.lower(), first.function_app.lower()) == (
        second.resource_group.lower(),
        second.function_app.lower(),
    )


def build_command(command_line: Sequence[str] | str | None, *, task_hub: str, version: str = "") -> Command | None:
    """A command with SAFE_DEPLOY_TASK_HUB and SAFE_DEPLOY_VERSION in its environment; None for an empty command."""
    if not command_line:
        return None
    return Command(command_line, command_environment(SAFE_DEPLOY_TASK_HUB=task_hub, SAFE_DEPLOY_VERSION=version))


def make_poll_reporter(session: Session, live: Live | None = None) -> Callable[[PollResult], None]:
    """Return a function that reports each poll: it prints a line if something changed, and updates the table of
    blockers in `live`, if given."""

    def report_poll(poll_result: PollResult) -> None:
        """Print what has changed since the last poll, and show what prevents Ready if the output is a terminal."""
        verdict = poll_result.verdict
        line = poll_result.failure or (rendering.format_verdict(verdict) if verdict else "")
        if poll_result.changed and line:
            session.report(f"{rendering.current_time():%H:%M:%S} {line}")
        if verdict is None:
            return
        session.print_warnings(verdict)
        if live is not None:
            rows = rendering.build_blocker_rows(verdict, rendering.current_time())
            live.update(rendering.build_table(rendering.BLOCKER_COLUMNS, rows) if rows else "", refresh=True)

    return report_poll


def make_poll_options(waiting: WaitingOptions, session: Session, live: Live | None = None) -> PollOptions:
    """How a command polls the server while it waits, by the options of the command line."""
    return PollOptions(
        interval_seconds=waiting.interval, verify=waiting.verify, on_poll=make_poll_reporter(session, live)
    )


def wait_with_progress(session: Session, waiting: WaitingOptions) -> Json:
    """Wait until the slot is ready. An interactive terminal shows a table of the blockers meanwhile."""
    is_plain = bool(os.environ.get("CI") or os.environ.get("NO_COLOR")) or session.ci.name != "terminal"
    if is_plain or not session.err.is_terminal:
        polling = make_poll_options(waiting, session)
        return wait_until_ready(session.server, session.slot, timeout_seconds=waiting.timeout, polling=polling)
    # SIGTERM raises KeyboardInterrupt, so that Live restores the terminal's cursor.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Live(console=session.err, auto_refresh=False, transient=True) as live:
        polling = make_poll_options(waiting, session, live)
        return wait_until_ready(session.server, session.slot, timeout_seconds=waiting.timeout, polling=polling)
