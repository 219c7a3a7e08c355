"""A person at a terminal: runs a command on a pseudo-terminal, and types answers."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.processes import wait_until
from tests.safe_deploy.terminal import run_program_in_terminal


@dataclass(frozen=True, slots=True)
class Conversation:
    """How the command ended: its exit code, its stdout, and what the terminal showed."""

    code: int
    stdout: str
    terminal: str


def answer_in_terminal(
    command_line: Sequence[str],
    typed: str,
    *,
    variables: Mapping[str, str],
    folder: Path | None = None,
    interrupt_at: bytes | None = None,
) -> Conversation:
    """Run a command whose stdin and stderr are a terminal in which `typed` is typed. With `interrupt_at`, interrupt it
    once the terminal shows this text."""
    with run_program_in_terminal(command_line, variables, folder=folder, typed=typed) as running:
        if interrupt_at is not None:
            wait_until(lambda: interrupt_at in running.output, "the question is shown")
            running.process.send_signal(signal.SIGINT)
        stdout, _ = running.process.communicate(timeout=60)
    return Conversation(running.process.returncode, stdout.decode(), running.output.decode().replace("\r\n", "\n"))
