"""The command line `safe-deploy`: composes the command groups, and turns errors into one line and an exit code.

Results go to stdout, everything else to stderr.
"""

import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

from safe_deploy.ci import Terminal, detect_ci_system
from safe_deploy.commands.administer import administer_commands
from safe_deploy.commands.deploy import deploy_commands
from safe_deploy.commands.diagnose import diagnose_commands
from safe_deploy.commands.explain import explain_commands
from safe_deploy.commands.init import init_commands
from safe_deploy.commands.inspect import inspect_commands
from safe_deploy.commands.observe import observe_commands
from safe_deploy.commands.policy import policy_commands
from safe_deploy.commands.quarantine import quarantine_commands
from safe_deploy.commands.quiesce import quiesce_commands
from safe_deploy.commands.register import register_commands
from safe_deploy.commands.release import release_commands
from safe_deploy.commands.rollout import rollout_commands
from safe_deploy.commands.router import router_commands
from safe_deploy.commands.task_hubs import task_hub_commands
from safe_deploy.errors import CommandError, ExitCode
from safe_deploy.next_steps import append_next_step
from safe_deploy.sanitization import sanitize_line

_PROGRAM = "safe-deploy"
"""How usage and completion scripts name the program, also if it runs as `python -m safe_deploy`."""

cli = typer.Typer(
    name=_PROGRAM,
    help="Deploy Azure Durable Functions only when nothing runs on the slot's task hub.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(context: typer.Context, requested: object) -> None:
    """Print the version of the installed package, and end. Shell completion parses the option without running it."""
    if not requested or context.resilient_parsing:
        return
    try:
        print(f"safe-deploy {version('safe-deploy')}")
    except PackageNotFoundError:
        print("safe-deploy, not installed: it runs from a checkout")
    raise typer.Exit


@cli.callback()
def shared_options(
    *,
    show_version: Annotated[  # its callback handles it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Deploy Azure Durable Functions only when nothing runs on the slot's task hub."""


for command_group in (
    init_commands,
    deploy_commands,
    release_commands,
    rollout_commands,
    observe_commands,
    inspect_commands,
    register_commands,
    policy_commands,
    administer_commands,
    task_hub_commands,
    quarantine_commands,
    diagnose_commands,
    explain_commands,
    router_commands,
    quiesce_commands,
):
    cli.add_typer(command_group)


def main() -> NoReturn:
    """The entry point. Every error is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # An encoding without a character is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        # After Ctrl-C, Typer returns 130, and raises nothing.
        code = cli(prog_name=_PROGRAM, standalone_mode=False)
    except CommandError as error:
        _print_error(append_next_step(error.message, error.problem_code), error.summary)
        sys.exit(error.exit_code)
    except UnicodeEncodeError:
        # Python decodes arguments and variables that are not UTF-8 to lone surrogates, which no request can carry.
        _print_error("an option or variable has bytes that are not UTF-8. Check how the command line is made")
        sys.exit(ExitCode.USAGE)
    except Exception as error:  # noqa: BLE001  # the last resort: the error is printed with its traceback
        # Typer vendors click, so the class of a usage error has no public name.
        if hasattr(error, "format_message"):
            _print_usage_error(error)
            detect_ci_system(os.environ, sys.stderr).error("the command line is invalid. The log of this step says why")
            sys.exit(ExitCode.USAGE)
        # The traceback goes to the log, one line to the annotations of the run.
        _print_traceback(error)
        _print_error(f"unexpected error {type(error).__name__}: the log of this step has the traceback")
        sys.exit(ExitCode.FAILURE)
    if code == ExitCode.INTERRUPTED:
        _print_error("stopped")
    sys.exit(code)


def _print_usage_error(error: Any) -> None:
    """Print click's message about an invalid command line, sanitized, because it quotes arguments and variables."""
    message = error.format_message()
    if error.ctx is None or message == error.ctx.get_help():
        # Without a command the message is the help text.
        error.show()
        return
    usage = f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help."
    sys.stderr.write("".join(f"{sanitize_line(line)}\n" for line in [*usage.splitlines(), "", f"Error: {message}"]))


def _print_traceback(error: BaseException) -> None:
    """Print the tracebacks of an error and its causes. The messages are sanitized, because they may hold foreign
    text."""
    cause = error.__cause__ or error.__context__
    if cause is not None:
        _print_traceback(cause)
    sys.stderr.write("Traceback (most recent call last):\n")
    sys.stderr.writelines(traceback.format_tb(error.__traceback__))
    sys.stderr.write(f"{sanitize_line(f'{type(error).__name__}: {error}')}\n")


def _print_error(message: str, summary: str | None = None) -> None:
    """Print an error on one line to the terminal, or as an annotation of the CI system's run. A terminal gets the
    summary, if there is one."""
    ci = detect_ci_system(os.environ, sys.stderr)
    if isinstance(ci, Terminal):
        sys.stderr.write(f"error: {sanitize_line(summary or message)}\n")
    ci.error(message)
