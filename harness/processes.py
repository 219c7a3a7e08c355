"""Helpers for local processes: free ports, waiting for a condition, stopping a process."""

import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from harness.interruption import check_interruption

_POLL_SECONDS = 0.05


def free_port() -> int:
    """Find a port of loopback without a listener."""
    return free_ports(1)[0]


_PORT_RANGE = range(10_000, 32_000)
"""Below the ports of outgoing connections, which begin at 32,768 in Linux.

An outgoing connection could otherwise take the port before the server does. A client that polls the port could even
connect to itself."""


def free_ports(count: int) -> list[int]:
    """Find this number of different ports of loopback without listeners."""
    with ExitStack() as listeners:
        # Ports stay bound until the last is chosen, so that all are different.
        return [listeners.enter_context(_bind_free_port()).getsockname()[1] for _ in range(count)]


def _bind_free_port() -> socket.socket:
    """A socket that is bound to a free port, outside the range from which the system chooses ports."""
    while True:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", secrets.choice(_PORT_RANGE)))
        except OSError:
            listener.close()
        else:
            return listener


def wait_until(condition: Callable[[], bool], description: str, timeout_seconds: float = 60) -> None:
    """Wait for a condition. Raises TimeoutError with its description, KeyboardInterrupt if the program is
    interrupted."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        check_interruption()
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds} s: {description}")
        time.sleep(_POLL_SECONDS)


def pause(seconds: float) -> None:
    """Wait for a while. Raises KeyboardInterrupt if the program is interrupted meanwhile."""
    end = time.monotonic() + seconds
    while (seconds_left := end - time.monotonic()) > 0:
        check_interruption()
        time.sleep(min(seconds_left, _POLL_SECONDS))
    check_interruption()


@contextmanager
def stop_after(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> Iterator[None]:
    """Stop the process at the end of the block: with SIGTERM, and after 90 seconds with SIGKILL."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
