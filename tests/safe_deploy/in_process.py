"""The command line in this process, for tests that need no process of its own: `main` as `safe-deploy` calls it, with
the streams, variables and arguments that a process would have. It starts in no time, and leaves no trace."""

import gc
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, BinaryIO, cast
from unittest.mock import patch

from safe_deploy.cli import main
from tests.safe_deploy.processes import environment


@dataclass(frozen=True, slots=True)
class InProcessResult:
    """How a call of the command line ended, and all that it and the commands it ran have printed."""

    code: int
    out: str
    err: str


def run(argv: Sequence[str], env: Mapping[str, str]) -> InProcessResult:
    """`safe-deploy` with these arguments and, besides what every process needs, these variables. Only in the main
    thread: nothing else hears of signals. What prints from other threads meanwhile is taken for the command's."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        with _streams(out, err), _surroundings(argv, env):
            code = _code()
        return InProcessResult(code, *(_text(file) for file in (out, err)))


def _code() -> int:
    try:
        main()
    except SystemExit as ended:
        # As the interpreter does at the end of a process.
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
            return 1
        return int(ended.code or 0)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


@contextmanager
def _streams(out: BinaryIO, err: BinaryIO) -> Iterator[None]:
    """Descriptors, too: the commands that the command line runs inherit them."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        for number, descriptor in enumerate((null, out.fileno(), err.fileno())):
            os.dup2(descriptor, number)
        # As a process has them: what is written to stderr is there at once.
        with (
            open(0, encoding="utf-8", closefd=False) as sys.stdin,
            open(1, "w", encoding="utf-8", closefd=False) as sys.stdout,
            TextIOWrapper(
                cast("BinaryIO", open(2, "wb", 0, closefd=False)), encoding="utf-8", write_through=True
            ) as sys.stderr,
        ):
            yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
        for descriptor in (*kept, null):
            os.close(descriptor)


@contextmanager
def _surroundings(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _HANDLED}
    with (
        patch.object(sys, "argv", ["safe-deploy", *argv]),
        # After `python -m pytest` it is `pytest`, and the library would take the program for a module of that.
        patch.object(sys.modules["__main__"], "__package__", None),
        patch.dict(os.environ, environment(env), clear=True),
        warnings.catch_warnings(),
    ):
        # A process closes its connections by ending: here they go with whatever else the call has left.
        warnings.simplefilter("ignore", ResourceWarning)
        # What was there before is not looked through, which would take longer than most calls.
        gc.freeze()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            gc.collect()
            gc.unfreeze()


_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
