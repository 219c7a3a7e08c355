"""Runs `safe-deploy` in a terminal of its own."""

import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.safe_deploy.processes import build_command_line, environment


@dataclass
class TerminalRun:
    """`safe-deploy` with a terminal as stderr, and the output that the terminal has received."""

    process: subprocess.Popen[bytes]
    output: bytearray = field(default_factory=bytearray)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(60)


@contextmanager
def run_in_terminal(arguments: list[str], variables: dict[str, str], *, terminal: bool = True) -> Iterator[TerminalRun]:
    """Start `safe-deploy`. At the end of the block it has ended, and its output is complete."""
    terminal_end, process_end = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        build_command_line(*arguments),
        env=environment({"TERM": "xterm", "COLUMNS": "200", "LINES": "40"} | variables),
        stdin=process_end if terminal else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=process_end,
        start_new_session=True,
    ) as process:
        os.close(process_end)
        started = TerminalRun(process)

        def read_terminal_output() -> None:
            """Keep what the CLI draws in its terminal, until it closes the terminal."""
            # Reading fails when the process has closed the terminal.
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
