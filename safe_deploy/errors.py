"""Every error that ends a command, with the exit code that a pipeline sees.

CommandError            1  failure: the command did not succeed, for a reason that has no code of its own
| UsageError            2  the command line is invalid or contradicts itself
| NotReady              3  not drained, or not verified; the rollout is paused; the candidate is not healthy
| NotAllowed            4  the key is missing, unknown, or does not permit the operation
| TimedOut              5  the slot was not ready, or the rollout has not ended, within --timeout
| ConflictError         6  the request contradicts the server's records, Azure, or another run
| Interrupted         130  Ctrl-C, or the CI system, stopped the command, and no swap is left pending
| ServerNotFound        1  there is no server at the address, or this machine cannot find it
| ServerUnavailable     1  the server cannot be reached, or cannot answer at the moment
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of `safe-deploy`, a contract with pipelines. docs/cli.md documents them."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    NOT_READY = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 5
    CONFLICT = 6
    INTERRUPTED = 130


class CommandError(Exception):
    """Base of the tree. `message` is for people and holds no secret. `problem` is the server's problem document, or
    empty if the error does not come from the server."""

    exit_code = ExitCode.FAILURE
    summary: str | None = None
    """What is printed in place of `message` below a result that says the same. Annotations of a run have `message`."""

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.problem: Mapping[str, Any] = problem or {}

    @property
    def problem_code(self) -> str | None:
        """The code of the server's problem document, such as `AppNotFound`."""
        return self.problem.get("code")


class UsageError(CommandError):
    exit_code = ExitCode.USAGE


class NotReady(CommandError):
    """`verdict` is the last verdict of a wait that was of no use; None where nothing was waited for."""

    exit_code = ExitCode.NOT_READY
    verdict: dict[str, Any] | None = None


class NotAllowed(CommandError):
    exit_code = ExitCode.NOT_ALLOWED


class TimedOut(CommandError):
    """`verdict` is the last verdict, or None if the last request was not answered."""

    exit_code = ExitCode.TIMED_OUT
    verdict: dict[str, Any] | None = None


class ConflictError(CommandError):
    """`is_repeated`: the request was sent more than once, so an earlier attempt may be what it conflicts with."""

    exit_code = ExitCode.CONFLICT
    is_repeated = False


class Interrupted(CommandError):
    """A signal, such as SIGTERM, stopped the command after the request or subprocess in progress had ended."""

    exit_code = ExitCode.INTERRUPTED


class ServerNotFound(CommandError):
    """No request has reached a server, and the reason is none that passes by itself."""

    retry_after_seconds: float = 0


class ServerUnavailable(CommandError):
    """`retry_after_seconds` is how long the server asks callers to wait; 0 if it does not say."""

    retry_after_seconds: float = 0
