"""Runs the pipeline's own commands, and keeps this process alive through signals while they run.

While a `SignalGuard` is entered, SIGINT, SIGTERM and SIGHUP do not end this process. They are forwarded to the running
command and remembered, so that a swap that has started can be finished or reported. Only a second Ctrl-C of a person,
while no command runs, ends the process at once.
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
"""Environment variables that are withheld from every command."""

_SIGNAL_POLL_SECONDS = 0.5
"""How often `SignalGuard.sleep` checks for a signal, because a handled signal does not end `time.sleep`."""

_KILL_SIGNAL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
_HANDLED_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the pipeline: a list of words, or text for the shell. Messages show only its program, because its
    arguments may hold a secret."""

    command_line: Sequence[str] | str
    environment: Mapping[str, str]

    def __str__(self) -> str:
        """The name of the program, for messages. A command line for a shell is not shown."""
        return "the command" if isinstance(self.command_line, str) else PurePath(self.command_line[0]).name


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. A negative code is a signal. `interrupted`: a signal asked the command to stop."""

    code: int
    interrupted: bool

    @property
    def succeeded(self) -> bool:
        """Whether the command ended with exit code 0."""
        return self.code == 0

    def __str__(self) -> str:
        """How the command ended, to complete a sentence: an exit code, or the signal that ended it."""
        if self.code < 0:
            names = {known.value: known.name for known in signal.Signals}
            return f"was ended by {names.get(-self.code, f'signal {-self.code}')}"
        return f"ended with exit code {self.code}"


def command_environment(**variables: str) -> dict[str, str]:
    """This process's environment without secrets, and with additional variables."""
    return {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES} | variables


class SignalGuard:
    """Keeps this process alive through signals until the `with` block ends."""

    def __init__(self) -> None:
        """Prepare to keep this process alive through signals. The guard acts only inside its `with` block."""
        self._signal_count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._previous_handlers: dict[int, object] = {}
        # In a terminal, the command shares the terminal's process group: it receives Ctrl-C directly, and may prompt.
        # Elsewhere it gets its own process group, so that a forwarded signal reaches its children, too.
        self._uses_process_group = os.name == "posix" and not sys.stdin.isatty()
        self._is_interactive = sys.stdin.isatty() and not os.environ.get("CI")

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come."""
        return self._signal_count > 0

    def __enter__(self) -> "SignalGuard":
        """Handle signals until the block ends."""
        self._previous_handlers = {number: signal.signal(number, self._handle_signal) for number in _HANDLED_SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        """Restore the signal handlers that were there before."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # signal.signal returned it

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a signal has come."""
        deadline = time.monotonic() + seconds
        while not self.interrupted and (seconds_left := deadline - time.monotonic()) > 0:
            time.sleep(min(seconds_left, _SIGNAL_POLL_SECONDS))

    def run(self, command: Command) -> CommandResult:
        """Run a command and wait until it ends. Raises UsageError if it cannot be started.

        The command's stdout becomes this process's stderr, because stdout is for results.
        """
        arguments = command.command_line
        uses_shell = isinstance(arguments, str)
        if isinstance(arguments, str) and os.name == "posix":
            # `-e` ends the script at the first command that fails, as in a step of a pipeline.
            arguments, uses_shell = ["/bin/sh", "-ec", arguments], False
        try:
            self._process = subprocess.Popen(
                arguments,
                shell=uses_shell,
                env=dict(command.environment),
                stdout=sys.stderr.fileno(),
                process_group=0 if self._uses_process_group else None,
            )
        except OSError as error:
            name = arguments if isinstance(arguments, str) else arguments[0]
            raise UsageError(f"cannot run {name}: {error.strerror}") from None
        if self.interrupted:
            # The signal came before the process existed.
            self._send_signal(_KILL_SIGNAL if self._signal_count > 1 else signal.SIGTERM)
        try:
            code = self._process.wait()
            if self.interrupted and self._uses_process_group:
                # Background processes of a shell ignore SIGINT.
                self._send_signal(signal.SIGTERM)
        finally:
            self._process = None
        return CommandResult(code, self.interrupted)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Forward the first signal to the command; kill the command at the second."""
        self._signal_count += 1
        if self._process is None or self._process.poll() is not None:
            if number == signal.SIGINT and self._is_interactive:
                self._obey_person()
            return
        if self._signal_count > 1:
            # CI systems send a second signal shortly before they kill the job. The outcome must be reported before.
            self._send_signal(_KILL_SIGNAL)
        elif self._uses_process_group or number != signal.SIGINT:
            self._send_signal(number)

    def _obey_person(self) -> None:
        """Announce at the first Ctrl-C that what was begun is still finished. Raises KeyboardInterrupt at the next."""
        if self._signal_count > 1:
            raise KeyboardInterrupt
        # Not through sys.stderr, which may be in use: a handler runs between any two instructions.
        os.write(sys.stderr.fileno(), b"\nstopping when the outcome is known; press Ctrl-C again to stop at once\n")

    def _send_signal(self, number: int) -> None:
        """Send a signal to the command and the processes that it has started, unless they have ended."""
        assert self._process is not None, "called only while a command runs"
        try:
            if self._uses_process_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
        except ProcessLookupError:
            pass
