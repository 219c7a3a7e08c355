"""Ctrl-C in a demo, at many moments: no traceback, no process and no file is left, and the exit code is 130."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.processes import wait_until

_REPOSITORY = Path(__file__).parent.parent.parent
_EXIT_CODES = (130, -signal.SIGINT)
"""Both are 130 in a shell: a script that has no trap yet is ended by the signal."""
_END_SECONDS = 60
"""How long a demo may take to stop its processes on a busy machine."""
_RANDOM_INTERRUPTIONS = 25
_DEMOS = {
    "demo": ("dev.demo",),
    "demo-unguarded": ("dev.demo", "--unguarded"),
    "demo-side-by-side": ("dev.demo_side_by_side",),
    "demo-rollout": ("dev.demo_rollout",),
}
"""The demos by their make target, with the module and the option that the target runs."""
_SIGN_OF_FAILURE = re.compile(r"Traceback|NOT AS EXPECTED|Terminated|^\s*[\w.]*Error\b", re.MULTILINE)
"""An exception stands at the begin of a line. The demos print the names of errors in their lines."""


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """A demo in a process group of its own, as a shell starts it, with a folder for all that it leaves."""

    process: subprocess.Popen[bytes]
    folder: Path

    def read_output(self) -> str:
        """What the demo has printed so far."""
        return (self.folder / "output").read_text()

    def wait_until_printed(self, text: str) -> None:
        """Wait until the demo has printed this. Raises AssertionError if it ends before."""
        wait_until(lambda: text in self.read_output() or self.process.poll() is not None, f"{text!r} is printed", 300)
        assert text in self.read_output(), self.read_output()

    def interrupt(self) -> None:
        """Send SIGINT to every process of the group, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def find_left_processes(self) -> list[str]:
        """The command lines of the processes of the demo that run. All of them have its folder as HOME."""
        mark = f"HOME={self.folder}".encode()
        left = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    left.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # It has ended, or belongs to another user.
        return left


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, because the demos have sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def start_demo(target: str, folder: Path, *, in_foreground: bool = True) -> Iterator[RunningDemo]:
    """Start a demo with the command of its make target; or without `dev/foreground`, by its Python module alone."""
    files = folder / "files"
    files.mkdir(parents=True)
    program = [_REPOSITORY / "dev" / "foreground"] if in_foreground else []
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*program, sys.executable, "-m", *_DEMOS[target]],
            cwd=_REPOSITORY,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(files)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    demo = RunningDemo(process, folder)
    try:
        yield demo
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_SECONDS)


def interrupt_and_check(demo: RunningDemo) -> None:
    """Interrupt a demo. Assert that it ends cleanly."""
    demo.interrupt()
    exit_code = demo.process.wait(_END_SECONDS)
    output = demo.read_output()
    assert exit_code in _EXIT_CODES, output
    assert demo.find_left_processes() == [], output
    assert _SIGN_OF_FAILURE.search(output) is None, output
    assert list((demo.folder / "files").iterdir()) == []


@pytest.mark.parametrize("seconds", [0, 0.02, 0.05, 0.2, 0.6, 1.5, 3])
def test_a_demo_ends_cleanly_while_it_starts(folder: Path, seconds: float) -> None:
    """The interpreter starts, then modules are imported, then the emulator and the server start."""
    with start_demo("demo", folder) as demo:
        time.sleep(seconds)  # nothing shows how far the interpreter is
        interrupt_and_check(demo)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("demo", "Version 1 is in production"),
        ("demo", "$ safe-deploy register"),
        ("demo", "Version 1 takes orders"),
        ("demo", "$ safe-deploy deploy --task-hub ordersv2"),
        ("demo", "$ safe-deploy stage --task-hub ordersv3"),
        ("demo", "The pipeline waits."),
        ("demo-unguarded", "slot_command deploy staging v2"),
        ("demo-side-by-side", "Customers visit the shop"),
        ("demo-rollout", "The server compares the versions"),
    ],
)
def test_a_demo_ends_cleanly_at_any_step(folder: Path, target: str, text: str) -> None:
    with start_demo(target, folder) as demo:
        demo.wait_until_printed(text)
        interrupt_and_check(demo)
        assert demo.read_output().endswith("\nstopped\n")


def test_a_second_interruption_does_not_disturb_the_end(folder: Path) -> None:
    with start_demo("demo", folder) as demo:
        demo.wait_until_printed("Version 1 takes orders")
        demo.interrupt()
        interrupt_and_check(demo)
        assert demo.read_output().endswith("\nstopped\n")


def test_the_module_alone_ends_cleanly(folder: Path) -> None:
    """Here the signal reaches the demo itself, and none of the processes that it has started."""
    with start_demo("demo", folder, in_foreground=False) as demo:
        demo.wait_until_printed("$ safe-deploy deploy --task-hub ordersv2")
        interrupt_and_check(demo)
        assert demo.read_output().endswith("\nstopped\n")


@pytest.mark.long
@pytest.mark.parametrize("target", _DEMOS)
def test_a_demo_ends_cleanly_at_random_moments(folder: Path, target: str) -> None:
    """A failure names the moments before it, in seconds since the start."""
    moments = random.Random()  # not for security
    tried: list[float] = []
    for number in range(_RANDOM_INTERRUPTIONS):
        tried.append(moments.uniform(0, 60))
        with start_demo(target, folder / str(number)) as demo:
            try:
                demo.process.wait(tried[-1])
            except subprocess.TimeoutExpired:
                interrupt_and_check(demo)
            else:
                assert demo.process.returncode == 0, f"{tried}\n{demo.read_output()}"
