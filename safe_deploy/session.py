"""One run of a command: the server client, the slot, the CI system, and where results and progress are printed."""

import getpass
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

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
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.next_steps import append_next_step, format_reason, list_next_steps
from safe_deploy.option_groups import AzureOptions, CommonOptions, ServerOptions, WaitingOptions
from safe_deploy.options import OutputFormat
from safe_deploy.rollouts.timeline_chart import BLOCKS, PLAIN, ChartStyle
from safe_deploy.sanitization import escape_markdown, sanitize_line
from safe_deploy.serialization import serialize
from safe_deploy.slot_observer import SlotObserver
from safe_deploy.subprocesses import Command, SignalGuard, command_environment
from safe_deploy.swap_executor import SwapExecutor
from safe_deploy.wait_progress import WaitProgress, show_in_log, show_in_terminal, show_nothing
from safe_deploy.waiting import PollOptions

_LOG_WIDTH = 1_000_000
"""Columns of a log: more than the longest table row, whose cells have at most `sanitization.MAX_CELL_LENGTH`
characters."""

_LOG_CHART_WIDTH = 80
_MAX_CHART_WIDTH = 120
"""Columns of a chart in a log, and in a wide terminal."""

_MAX_SUMMARY_ROWS = 50
"""Rows in a job summary. CI systems limit its size and discard a longer one."""

ErrorType = TypeVar("ErrorType", bound=CommandError)


@dataclass(frozen=True)
class Session:
    """The context of one command."""

    server: StateServerClient
    slot: str
    output: OutputFormat
    quiet: bool
    ci: CiSystem
    out: Console
    err: Console
    _printed_warnings: set[str] = field(default_factory=set)
    """Codes of the server's warnings that were printed. Each is printed once a command."""

    def report(self, line: str) -> None:
        """Print progress or a next step to stderr, unless --quiet is given."""
        if not self.quiet:
            _print_line(self.err, line)

    def show(self, line: str) -> None:
        """Print to stderr what a person must see before a question."""
        _print_line(self.err, line)

    def warn(self, message: str) -> None:
        """Print a warning to stderr, and add it to the annotations of the run."""
        report_warning(self.ci, sys.stderr, message)

    def print_result(
        self,
        result: Any,
        columns: Sequence[str],
        rows: rendering.Rows,
        title: str = "",
        *,
        notes: Sequence[str] = (),
    ) -> None:
        """Print a result to stdout and add it to the job summary: `result` as JSON or YAML, or the title, the
        rows as a table, and the notes."""
        if self.output is not OutputFormat.TABLE:
            # Bypasses the console, which would wrap it.
            self.out.file.write(serialize(result, self.output))
        else:
            if title:
                _print_line(self.out, title)
            if rows:
                rendering.print_table(self.out, columns, rows)
            for note in notes:
                _print_line(self.out, note)
        blocks = [f"**{escape_markdown(title)}**"] if title else []
        if rows:
            blocks.append(rendering.format_markdown_table(columns, rows[:_MAX_SUMMARY_ROWS]))
        blocks += map(escape_markdown, notes)
        self.ci.write_summary("\n\n".join(blocks))

    def print_chart(self, draw: Callable[[int, ChartStyle], Sequence[Text]]) -> None:
        """Draw a chart below a result that was printed as a table, and add it to the job summary.

        `draw` returns its lines for a number of columns and a style.
        """
        if self.output is OutputFormat.TABLE:
            has_blocks = (
                not wants_plain_output(self.ci) and self.out.is_terminal and self.out.encoding.startswith("utf")
            )
            width = min(self.out.width, _MAX_CHART_WIDTH) if has_blocks else _LOG_CHART_WIDTH
            for line in draw(width, BLOCKS if has_blocks else PLAIN):
                self.out.print(line, soft_wrap=True)
        plain_lines = "\n".join(line.plain for line in draw(_LOG_CHART_WIDTH, PLAIN))
        self.ci.write_summary(f"```text\n{plain_lines}\n```")

    def summarize(self, error: ErrorType, summary: str) -> ErrorType:
        """An error that says what the printed result says, and that is shortened where the result is a table."""
        if self.output is OutputFormat.TABLE:
            error.summary = summary
        return error

    def print_app(self, app: Json, *, task_hub: str, title: str) -> None:
        """Print an app as the result of a command about `task_hub`, and set the step's outputs."""
        self.ci.set_outputs(rendering.app_outputs(app, self.slot, task_hub))
        self.print_result(app, rendering.SLOT_COLUMNS, rendering.build_slot_rows(app, rendering.current_time()), title)

    def print_verdict(self, verdict: Json) -> None:
        """Print a verdict as the result, and set the step's outputs."""
        self.ci.set_outputs(rendering.verdict_outputs(verdict))
        self.print_warnings(verdict)
        rows = rendering.build_blocker_rows(verdict, rendering.current_time())
        title = rendering.format_verdict(verdict)
        self.print_result(verdict, rendering.BLOCKER_COLUMNS, rows, title, notes=list_next_steps(verdict["reasons"]))

    def begin_wait(self, subject: str, timeout_seconds: float) -> AbstractContextManager[WaitProgress]:
        """Show what the command waits for until the block ends. An interactive terminal shows one line that lives, a
        log lines. `subject` is the end of the sentence `waiting …`."""
        if self.quiet:
            return show_nothing()
        if self._prints_log():
            return show_in_log(subject, timeout_seconds, self.report)
        return show_in_terminal(subject, timeout_seconds, self.err)

    def begin_live_line(self, subject: str, timeout_seconds: float) -> AbstractContextManager[WaitProgress | None]:
        """Show one line that lives in an interactive terminal until the block ends. Elsewhere it is None, and the
        command prints lines of its own."""
        return nullcontext() if self.quiet or self._prints_log() else self.begin_wait(subject, timeout_seconds)

    def _prints_log(self) -> bool:
        """Whether progress is lines of a log, and not a line that is drawn again."""
        return wants_plain_output(self.ci) or not self.err.is_terminal or self.err.is_dumb_terminal

    def print_warnings(self, response: Json) -> None:
        """Print the server's warnings about what a verdict or a health does not cover."""
        for warning in response.get("warnings", []):
            if warning["code"] not in self._printed_warnings:
                self._printed_warnings.add(warning["code"])
                report_warning(self.ci, sys.stderr, append_next_step(format_reason(warning), warning["code"]))


def open_session(options: ServerOptions, *, slot: str = "staging", retry_seconds: float | None = None) -> Session:
    """Detect the CI system and create the client. Sends no request. Raises UsageError for invalid options.

    `retry_seconds` None stands for `client.RETRY_SECONDS`. Without an app in the options, only the operations that are
    about no app can be used.
    """
    app = options.app if isinstance(options, CommonOptions) else None
    if app == "":
        raise UsageError("--app (or SAFE_DEPLOY_APP) is empty. Set it to the name of the app on the server")
    ci = detect_ci_system(os.environ, sys.stderr)
    actor = options.actor
    if not actor and ci.actor is None:
        with suppress(OSError, KeyError, ImportError):
            actor = getpass.getuser()
    err = make_console(ci, stderr=True)

    def report(line: str) -> None:
        """What `Session.report` does, for the client, which is created before the session."""
        if not options.quiet:
            _print_line(err, line)

    if options.key and is_unencrypted(normalize_server_url(options.server)):
        report_warning(ci, sys.stderr, "the key is sent unencrypted over http. Use the server's https URL in --server")
    server = StateServerClient(
        options.server,
        app or "",
        key=options.key.strip(),
        caller=PipelineCaller(to_ascii_name(actor) or ci.actor, options.run_url.strip() or ci.run_url),
        report=report,
        retry_seconds=retry_seconds,
    )
    return Session(
        server=server,
        slot=slot,
        output=options.output,
        quiet=options.quiet,
        ci=ci,
        out=make_console(ci, stderr=False),
        err=err,
    )


def make_console(ci: CiSystem, *, stderr: bool) -> Console:
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


def build_swap_executor(
    session: Session, deployment_slots: DeploymentSlots | None, stabilization_seconds: float, guard: SignalGuard
) -> SwapExecutor:
    """The executor of swaps of the session's slot, which watches Azure if its slots can be queried."""
    observer = SlotObserver(deployment_slots, slot=session.slot, guard=guard, report=session.report)
    return SwapExecutor(
        session.server,
        slot=session.slot,
        observer=observer,
        stabilization_seconds=stabilization_seconds,
        guard=guard,
        report=session.report,
    )


def make_poll_options(waiting: WaitingOptions, session: Session) -> PollOptions:
    """How a command polls the server while it waits, by the options of the command line."""
    return PollOptions(
        interval_seconds=waiting.interval,
        verify=waiting.verify,
        begin_wait=session.begin_wait,
        on_verdict=session.print_warnings,
    )


def wants_plain_output(ci: CiSystem) -> bool:
    """Whether the output must be plain text: it is for a log, or the user wants no colors."""
    return bool(os.environ.get("CI") or os.environ.get("NO_COLOR")) or ci.name != "terminal"
