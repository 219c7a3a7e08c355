"""Azurite, Microsoft's storage emulator, as a child process: for development and tests, never for production."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from state_api.settings import emulator_connection_string

_START_TIMEOUT_SECONDS = 60


class EmulatorError(Exception):
    """The emulator cannot be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class EmulatorPorts:
    """Where the emulator's services listen."""

    table: int
    queue: int
    blob: int

    def connection(self, host: str = "127.0.0.1") -> str:
        """The connection string of all three services."""
        return emulator_connection_string(host, self.table, self.queue, self.blob)

    def by_service(self) -> dict[str, int]:
        """In the order in which the emulator starts them."""
        return {"blob": self.blob, "queue": self.queue, "table": self.table}


def is_listening(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _azurite_path() -> str:
    local = Path(__file__).parent.parent / "node_modules" / ".bin" / "azurite"
    found = str(local) if local.exists() else shutil.which("azurite")
    if found is None:
        raise EmulatorError("Azurite is not installed: run `make setup`, which needs Node 18 or newer")
    return found


@contextmanager
def storage_emulator(ports: EmulatorPorts, folder: Path | None, host: str = "127.0.0.1") -> Iterator[int]:
    """Run the three services until the block ends; yields the process id. Data lives in `folder`, or in memory.

    It runs in a session of its own, so that Ctrl-C in a terminal reaches the server first and requests in flight can
    still be written. Raises EmulatorError.
    """
    services = ports.by_service()
    for service, port in services.items():
        # The emulator would end without telling which of the three it was.
        if is_listening(host, port):
            raise EmulatorError(
                f"Azurite cannot start: something else listens on port {port}, where its {service} service belongs; "
                "stop that first"
            )
    listen = [option for service, port in services.items() for option in _listen_options(service, host, port)]
    where = ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
    # The client libraries ask in a newer version of the services than this emulator knows by name.
    process = subprocess.Popen(
        [_azurite_path(), *listen, *where, "--skipApiVersionCheck", "--disableTelemetry", "--silent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        for port in services.values():
            while not is_listening(host, port):
                if process.poll() is not None:
                    raise EmulatorError(f"Azurite ended with {process.returncode} instead of listening on port {port}")
                if time.monotonic() > deadline:
                    raise EmulatorError(f"Azurite does not listen on port {port} after {_START_TIMEOUT_SECONDS} s")
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


def _listen_options(service: str, host: str, port: int) -> tuple[str, str, str, str]:
    return (f"--{service}Host", host, f"--{service}Port", str(port))
