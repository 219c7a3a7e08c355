"""Python modules as processes, each with its own log, that end together."""

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


def build_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Build an environment of these variables, PATH and HOME.

    Other variables of this process are left out: they may be settings of another server, or of a CI system."""
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | dict(variables)


@dataclass(frozen=True, slots=True)
class LoggedProcess:
    """A process and its log file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def read_output(self) -> str:
        return self.log.read_text(errors="replace")


class Processes:
    """Starts processes, and stops them at the end of its block. `folder` has their logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[LoggedProcess] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Signal all processes before waiting for the first: a demo has dozens.
        for process in self._started:
            if process.popen.poll() is None:
                process.popen.terminate()
        with ExitStack() as stack:
            for process in self._started:
                stack.enter_context(stop_after(process.popen))

    def start(self, name: str, module: str, *arguments: str, **variables: str) -> LoggedProcess:
        """Start `python -m module` with these environment variables."""
        log = self.folder / f"{len(self._started):03d}-{name}.log"
        with log.open("wb") as sink:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=build_environment(variables),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=ROOT,
                # Ctrl-C in a terminal then reaches the demo alone, which stops its processes in order.
                start_new_session=True,
            )
        self._started.append(process := LoggedProcess(name, popen, log))
        return process

    @staticmethod
    def stop(process: LoggedProcess) -> None:
        with stop_after(process.popen):
            pass
