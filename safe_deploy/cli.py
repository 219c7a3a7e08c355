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
from safe_deploy.commands.inspect import inspect_commands
from safe_deploy.commands.quiesce import quiesce_commands
from safe_deploy.commands.release import release_commands
from safe_deploy.commands.router import router_commands
from safe_deploy.errors import CommandError, ExitCode
from safe_deploy.sanitization import sanitize_line

_INTERRUPTED_EXIT_CODE = 130
"""What Typer returns after Ctrl-C."""

cli = typer.Typer(
    name="safe-deploy",
    help="Deploy Azure Durable Functions only when nothing runs on the slot's task hub.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: object) -> None:
    """Print the version of the installed package, and end."""
    if not requested:
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
    deploy_commands,
    release_commands,
    inspect_commands,
    administer_commands,
    diagnose_commands,
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
        code = cli(standalone_mode=False)
    except CommandError as error:
        is_unknown_app = error.problem_code == "AppNotFound"
        hint = ". Register the task hub in production: safe-deploy register" if is_unknown_app else ""
        _print_error(f"{error.message}{hint}")
        sys.exit(error.exit_code)
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
    if code == _INTERRUPTED_EXIT_CODE:
        _print_error("stopped")
        sys.exit(ExitCode.FAILURE)
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


def _print_error(message: str) -> None:
    """Print an error on one line to the terminal, or as an annotation of the CI system's run."""
    ci = detect_ci_system(os.environ, sys.stderr)
    if isinstance(ci, Terminal):
        sys.stderr.write(f"error: {sanitize_line(message)}\n")
    ci.error(message)
