"""What scripts and tests need to run real parts on this machine: free ports, waiting, stopping what they started."""

import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    return free_ports(1)[0]


_PORT_RANGE = range(10_000, 32_000)
"""Below those that systems give to outgoing connections (from 32,768 on in Linux): one of these could take the port
before the server does, and whoever looks whether the server listens could even reach itself."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, all different."""
    with ExitStack() as held:
        # All are held until the last is found.
        return [held.enter_context(_bind_free_port()).getsockname()[1] for _ in range(count)]


def _bind_free_port() -> socket.socket:
    while True:
        listener = socket.socket()
        try:
            listener.bind(("127.0.0.1", secrets.choice(_PORT_RANGE)))
        except OSError:
            listener.close()
        else:
            return listener


def wait_until(condition: Callable[[], bool], description: str, timeout_seconds: float = 60) -> None:
    """Wait for a condition. Raises TimeoutError that says what did not come true."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds} s: {description}")
        time.sleep(0.05)


@contextmanager
def stop_after(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> Iterator[None]:
    """End the process with the block: with SIGTERM, and if it does not heed that, by force."""
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
