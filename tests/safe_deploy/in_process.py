"""Runs the command line in this process, which is much faster than a new process. `main` gets the streams, variables
and arguments that a process would have. Afterwards everything is restored."""

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
    """How a command ended, and everything that it and its subprocesses have printed."""

    code: int
    out: str
    err: str


def run_in_process(argv: Sequence[str], env: Mapping[str, str]) -> InProcessResult:
    """Run `safe-deploy` with these arguments and variables. Call it only in the main thread, which receives signals.
    Output of other threads is captured, too."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        with _redirected_streams(out, err), _replaced_globals(argv, env):
            code = _run_main()
        return InProcessResult(code, *(_read_text(file) for file in (out, err)))


def _run_main() -> int:
    """The exit code."""
    try:
        main()
    except SystemExit as exit_request:
        # The interpreter handles the code in the same way at the end of a process.
        if isinstance(exit_request.code, str):
            sys.stderr.write(f"{exit_request.code}\n")
            return 1
        return int(exit_request.code or 0)


def _read_text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


@contextmanager
def _redirected_streams(out: BinaryIO, err: BinaryIO) -> Iterator[None]:
    """Redirect the file descriptors, too, because subprocesses inherit them."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        for number, descriptor in enumerate((null, out.fileno(), err.fileno())):
            os.dup2(descriptor, number)
        # stderr is unbuffered, as in a process.
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
def _replaced_globals(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    """Give a command in this process the arguments and the environment of a process of its own, and undo what it
    changes."""
    handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _HANDLED_SIGNALS}
    with (
        patch.object(sys, "argv", ["safe-deploy", *argv]),
        # After `python -m pytest` it is `pytest`, and the library would take the program for a module of that.
        patch.object(sys.modules["__main__"], "__package__", None),
        patch.dict(os.environ, environment(env), clear=True),
        warnings.catch_warnings(),
    ):
        # A process closes its connections at its end. Here the garbage collector closes them.
        warnings.simplefilter("ignore", ResourceWarning)
        # Older objects are excluded from the collection, which would take longer than most commands.
        gc.freeze()
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            gc.collect()
            gc.unfreeze()


_HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)
