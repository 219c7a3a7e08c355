"""Runs Azurite, Microsoft's storage emulator, as a child process. For development and tests only."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from state_api.settings import emulator_connection_string

_START_TIMEOUT_SECONDS = 60
_STOP_TIMEOUT_SECONDS = 20
_POLL_INTERVAL_SECONDS = 0.05


class EmulatorError(Exception):
    """The emulator cannot be started. The message says what to do."""


@dataclass(frozen=True, slots=True)
class EmulatorPorts:
    """The ports of the emulator's three services."""

    table: int
    queue: int
    blob: int

    def connection_string(self, host: str = "127.0.0.1") -> str:
        """The connection string of all three services."""
        return emulator_connection_string(host, self.table, queue_port=self.queue, blob_port=self.blob)

    def by_service(self) -> dict[str, int]:
        """The port of each service, in the order in which the emulator starts them."""
        return {"blob": self.blob, "queue": self.queue, "table": self.table}


def is_listening(host: str, port: int) -> bool:
    """Whether a connection to this port succeeds within a second."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def storage_emulator(ports: EmulatorPorts, folder: Path | None, host: str = "127.0.0.1") -> Iterator[int]:
    """Run the emulator until the block ends; yields its process id. Stores its data in `folder`, or in memory if it is
    None. Raises EmulatorError.

    The emulator has its own session: Ctrl-C in a terminal then stops the server only, which needs the emulator until
    its requests in progress are written.
    """
    port_by_service = ports.by_service()
    _check_ports_are_free(host, port_by_service)
    process = subprocess.Popen(
        _azurite_command(host, port_by_service, folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_listening(process, host, port_by_service)
        yield process.pid
    finally:
        _stop_process(process)


def _check_ports_are_free(host: str, port_by_service: Mapping[str, int]) -> None:
    """Raises EmulatorError that names the occupied port. Azurite itself would exit without saying which one it is."""
    for service, port in port_by_service.items():
        if is_listening(host, port):
            raise EmulatorError(
                f"Azurite cannot start: another process listens on port {port}, which its {service} service needs; "
                "stop that process first"
            )


def _azurite_command(host: str, port_by_service: Mapping[str, int], folder: Path | None) -> list[str]:
    """The command line of Azurite with its services at these ports. Without a folder, it keeps its data in memory."""
    addresses = [
        option
        for service, port in port_by_service.items()
        for option in (f"--{service}Host", host, f"--{service}Port", str(port))
    ]
    location = ["--inMemoryPersistence"] if folder is None else ["--location", str(folder)]
    # The client libraries use a newer API version than this emulator accepts by default.
    return [_azurite_path(), *addresses, *location, "--skipApiVersionCheck", "--disableTelemetry", "--silent"]


def _azurite_path() -> str:
    """The Azurite of this project's node_modules, or the installed one. Raises EmulatorError if there is none."""
    local_path = Path(__file__).parent.parent / "node_modules" / ".bin" / "azurite"
    path = str(local_path) if local_path.exists() else shutil.which("azurite")
    if path is None:
        raise EmulatorError("Azurite is not installed: run `make setup`, which needs Node 18 or newer")
    return path


def _wait_until_listening(process: subprocess.Popen[bytes], host: str, port_by_service: Mapping[str, int]) -> None:
    """Wait until each service accepts connections. Raises EmulatorError if Azurite ends or takes too long."""
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    for port in port_by_service.values():
        while not is_listening(host, port):
            if process.poll() is not None:
                raise EmulatorError(
                    f"Azurite ended with exit code {process.returncode} before it listened on port {port}"
                )
            if time.monotonic() > deadline:
                raise EmulatorError(f"Azurite does not listen on port {port} after {_START_TIMEOUT_SECONDS} s")
            time.sleep(_POLL_INTERVAL_SECONDS)


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    """End the process with SIGTERM, or with SIGKILL if it does not end in time."""
    if process.poll() is not None:
        return
    os.kill(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
