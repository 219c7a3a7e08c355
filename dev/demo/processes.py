"""Python modules as processes, each with a log of its own, that end together."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.processes import stop_after

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What is given, and no more than what a process cannot do without: settings of the server or the app that are
    meant for something else, and the CI system's variables, are left out."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | dict(variables)


@dataclass(frozen=True, slots=True)
class LoggedProcess:
    """A process, and what it has printed so far."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def read_output(self) -> str:
        return self.log.read_text(errors="replace")


class Processes:
    """Starts processes, and ends with its block those that run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[LoggedProcess] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All are told before the first is waited for: a story has dozens.
        for process in self._started:
            if process.popen.poll() is None:
                process.popen.terminate()
        with ExitStack() as ends:
            for process in self._started:
                ends.enter_context(stop_after(process.popen))

    def start(self, name: str, module: str, *arguments: str, **variables: str) -> LoggedProcess:
        """`python -m module`, with these variables."""
        log = self._folder / f"{len(self._started):03d}-{name}.log"
        with log.open("wb") as sink:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=ROOT,
            )
        self._started.append(process := LoggedProcess(name, popen, log))
        return process

    @staticmethod
    def stop(process: LoggedProcess) -> None:
        with stop_after(process.popen):
            pass
