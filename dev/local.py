"""What scripts and tests need to run real parts on this machine: free ports, waiting, stopping what they started."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition. Raises TimeoutError that says what did not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
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
