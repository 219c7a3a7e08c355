"""Running the pipeline's own commands, and what happens to them when somebody stops the pipeline.

While a `SignalGuard` is entered, SIGINT, SIGTERM and SIGHUP no longer end this process: they are passed on to
the command
that runs, and noted, so that what was begun can be brought to an end.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType

from safe_deploy.errors import UsageError

SECRET_VARIABLES = ("SAFE_DEPLOY_KEY",)
"""Variables that a command has no use for."""

_SIGNAL_POLL_SECONDS = 0.5
"""A signal does not end a sleep by itself."""

_KILL_SIGNAL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
_HANDLED_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the pipeline: words, or a text for the shell; and the environment that it gets. As a text it is
    its program alone, because there can be a secret among its words."""

    command_line: Sequence[str] | str
    env: Mapping[str, str]

    def __str__(self) -> str:
        return "the command" if isinstance(self.command_line, str) else PurePath(self.command_line[0]).name


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. `interrupted` says that somebody wanted it to stop."""

    code: int
    interrupted: bool

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.code < 0:
            names = {known.value: known.name for known in signal.Signals}
            return f"was ended by {names.get(-self.code, f'signal {-self.code}')}"
        return f"ended with exit code {self.code}"


def command_environment(**extra: str) -> dict[str, str]:
    """This process's environment for a command, without secrets that it has no use for."""
    return {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES} | extra


class SignalGuard:
    """Keeps this process alive through signals until the block ends. `interrupted` says that one came."""

    def __init__(self) -> None:
        self._signal_count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._previous_handlers: dict[int, object] = {}
        # In a terminal, Ctrl-C goes to the command by itself, and it may have to ask something. Elsewhere it gets a
        # process group of its own, so that a signal reaches what it has started, too.
        self._uses_process_group = os.name == "posix" and not sys.stdin.isatty()

    @property
    def interrupted(self) -> bool:
        return self._signal_count > 0

    def __enter__(self) -> "SignalGuard":
        self._previous_handlers = {number: signal.signal(number, self._handle_signal) for number in _HANDLED_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal.signal gave back

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once a signal has come."""
        deadline = time.monotonic() + seconds
        while not self.interrupted and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _SIGNAL_POLL_SECONDS))

    def run(self, asked: Command) -> CommandResult:
        """Run a command, a text by the shell, and wait for its end. What it prints goes to stderr: stdout is for
        results. Raises UsageError if there is no such command."""
        command = asked.command_line
        by_shell = isinstance(command, str)
        if isinstance(command, str) and os.name == "posix":
            # As in a step of a pipeline: the first line that fails ends it.
            command, by_shell = ["/bin/sh", "-ec", command], False
        try:
            self._process = subprocess.Popen(
                command,
                shell=by_shell,
                env=dict(asked.env),
                stdout=sys.stderr.fileno(),
                process_group=0 if self._uses_process_group else None,
            )
        except OSError as error:
            name = command if isinstance(command, str) else command[0]
            raise UsageError(f"cannot run {name}: {error.strerror}") from None
        if self.interrupted:
            # It came before there was a process to pass it on to.
            self._send_signal(_KILL_SIGNAL if self._signal_count > 1 else signal.SIGTERM)
        try:
            code = self._process.wait()
            if self.interrupted and self._uses_process_group:
                # A shell has what it started in the background ignore Ctrl-C.
                self._send_signal(signal.SIGTERM)
        finally:
            self._process = None
        return CommandResult(code, self.interrupted)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal_count += 1
        if self._process is None or self._process.poll() is not None:
            return
        if self._signal_count > 1:
            # Whoever asks twice has no time left: what comes after must still be done.
            self._send_signal(_KILL_SIGNAL)
        elif self._uses_process_group or number != signal.SIGINT:
            self._send_signal(number)

    def _send_signal(self, number: int) -> None:
        assert self._process is not None, "only while a command runs"
        try:
            if self._uses_process_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            pass
