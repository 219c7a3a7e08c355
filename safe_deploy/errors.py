"""Everything that can end a command, with the exit code that a pipeline sees.

CommandError          1  failure: it did not work, and nothing below says it better
├── UsageError        2  what was asked cannot be understood or makes no sense
├── NotReady          3  the slot's task hub is not drained, or that cannot be verified
├── NotAllowed        4  no key, an unknown one, or one that may not do this
├── TimedOut          5  it was not ready within the time given
├── ConflictError     6  server, platform or another run disagree with what was asked
└── Unreachable       1  the server does not answer, or not now
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What a pipeline can rely on. docs/cli.md has the table."""

    DONE = 0
    FAILURE = 1
    USAGE = 2
    NOT_READY = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 5
    CONFLICT = 6


class CommandError(Exception):
    """Base of the tree. `message` is for people and holds no secret; `problem` is the server's problem document where
    there is one."""

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.problem: Mapping[str, Any] = problem or {}


class UsageError(CommandError):
    exit_code = ExitCode.USAGE


class NotReady(CommandError):
    exit_code = ExitCode.NOT_READY


class NotAllowed(CommandError):
    exit_code = ExitCode.NOT_ALLOWED


class TimedOut(CommandError):
    """`verdict` is the last one, if there was one until the end."""

    exit_code = ExitCode.TIMED_OUT
    verdict: dict[str, Any] | None = None


class ConflictError(CommandError):
    exit_code = ExitCode.CONFLICT


class ServerUnavailable(CommandError):
    """`retry_after` is in seconds: what the server asks to wait."""

    retry_after: float = 0
