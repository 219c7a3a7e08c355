"""Azurite, Microsoft's storage emulator, as a child process: for development and tests, never for production."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 60


class EmulatorError(Exception):
    """The emulator cannot be started; the message says what to do."""


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _program() -> str:
    local = Path(__file__).parent.parent / "node_modules" / ".bin" / "azurite-table"
    found = str(local) if local.exists() else shutil.which("azurite-table")
    if found is None:
        raise EmulatorError("Azurite is not installed: run `make setup`, which needs Node 18 or newer")
    return found


@contextmanager
def table_emulator(port: int, folder: Path | None, host: str = "127.0.0.1") -> Iterator[int]:
    """Run the table service until the block ends; yields its process id. Data lives in `folder`, or in memory.

    It runs in a session of its own, so that Ctrl-C in a terminal reaches the server first and requests in flight can
    still be written. Raises EmulatorError.
    """
    where = ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
    process = subprocess.Popen(
        [_program(), "--tableHost", host, "--tablePort", str(port), *where, "--disableTelemetry", "--silent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not answers(host, port):
            if process.poll() is not None:
                raise EmulatorError(f"Azurite ended with {process.returncode} instead of listening on port {port}")
            if time.monotonic() > deadline:
                raise EmulatorError(f"Azurite does not listen on port {port} after {_START_SECONDS} s")
            time.sleep(0.05)
        yield process.pid
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
