"""Ctrl-C in a program that runs other processes: it is noticed where the program waits, and nowhere else.

Python itself raises KeyboardInterrupt between any two instructions: also between the start of a process and the line
that remembers it, or while processes are being stopped. Here a signal only sets a flag, which `check_interruption`
reads."""

import signal
import threading
from types import FrameType

INTERRUPTED_EXIT_CODE = 130
"""The exit code of a program that Ctrl-C has ended, as in a shell."""

_requested = threading.Event()


def note_interruptions() -> None:
    """From now on, Ctrl-C, SIGTERM and the end of the terminal only set the flag. Call it in the main thread, before
    anything else."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A program under nohup ignores SIGHUP, and a background job of a shell SIGINT. That stays so.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _note)


def check_interruption() -> None:
    """Raises KeyboardInterrupt if the program was interrupted."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    """Remember that a signal has come."""
    _requested.set()
