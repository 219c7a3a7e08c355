"""Runs `safe-deploy`, or another program, in a terminal of its own."""

import os
import pty
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.safe_deploy.processes import build_command_line, environment


@dataclass
class TerminalRun:
    """A program with a terminal as stderr, and the output that the terminal has received."""

    process: subprocess.Popen[bytes]
    output: bytearray = field(default_factory=bytearray)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(60)


@contextmanager
def run_in_terminal(
    arguments: list[str],
    variables: dict[str, str],
    *,
    terminal: bool = True,
    columns: int = 200,
    typed: str = "",
    with_stdout: bool = False,
) -> Iterator[TerminalRun]:
    """Start `safe-deploy` with a terminal of so many columns as stderr, and as stdout `with_stdout`. `typed` is typed
    in it. At the end of the block it has ended, and its output is complete."""
    with run_program_in_terminal(
        build_command_line(*arguments),
        environment({"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"} | variables),
        terminal=terminal,
        typed=typed,
        with_stdout=with_stdout,
    ) as running:
        yield running


@contextmanager
def run_program_in_terminal(
    command_line: Sequence[str],
    variables: Mapping[str, str],
    *,
    folder: Path | None = None,
    terminal: bool = True,
    typed: str = "",
    with_stdout: bool = False,
) -> Iterator[TerminalRun]:
    """The same for any command line, with these variables only."""
    terminal_end, process_end = pty.openpty() if terminal else os.pipe()
    if typed:
        os.write(terminal_end, typed.encode())
    with subprocess.Popen(
        command_line,
        env=variables,
        cwd=folder,
        stdin=process_end if terminal else subprocess.DEVNULL,
        stdout=process_end if with_stdout else subprocess.PIPE,
        stderr=process_end,
        start_new_session=True,
    ) as process:
        os.close(process_end)
        started = TerminalRun(process)

        def read_terminal_output() -> None:
            """Keep what the program draws in its terminal, until it closes the terminal."""
            # os.read raises OSError once the program has closed its end of the pseudo-terminal.
            with suppress(OSError):
                while output_part := os.read(terminal_end, 65536):
                    started.output.extend(output_part)

        reader = threading.Thread(target=read_terminal_output)
        reader.start()
        try:
            yield started
        finally:
            process.kill()
            process.wait()
            reader.join()
            os.close(terminal_end)


def run_to_end_in_terminal(arguments: list[str], variables: dict[str, str], *, columns: int = 80) -> tuple[int, str]:
    """Run `safe-deploy` with a terminal of so many columns as stdout and stderr. Returns the exit code and everything
    that the terminal received."""
    with run_in_terminal(arguments, variables, columns=columns, with_stdout=True) as running:
        code = running.wait()
    return code, running.output.decode()
