"""One shell that runs the blocks of a page one after the other, so that later blocks see the variables and functions of
earlier ones."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_END_MARK = "--- end of block, exit code"
_BLOCK_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class BlockResult:
    """How a block ended. `exit_code` is that of its first command that failed."""

    exit_code: int
    stdout: str
    stderr: str


class ShellSession:
    """A bash process with `set -euo pipefail`. A block that fails unexpectedly ends it."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._count = 0

    def run(self, commands: str, *, may_fail: bool = False) -> BlockResult:
        """Run a block. With `may_fail` it runs in a subshell, so that the session continues after a failure."""
        self._count += 1
        script, out, err = (self._folder / f"block-{self._count}.{kind}" for kind in ("sh", "out", "err"))
        script.write_text(commands)
        block = f"set -euo pipefail; . {script}"
        if may_fail:
            line = f"set +e; ( {block} ) >{out} 2>{err} </dev/null; echo '{_END_MARK}' $?; set -e\n"
        else:
            line = f"{block} >{out} 2>{err} </dev/null; echo '{_END_MARK}' 0\n"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(_BLOCK_TIMEOUT_SECONDS, self._process.kill)
        watchdog.start()
        self._process.stdin.write(line)
        self._process.stdin.flush()
        printed = self._process.stdout.readline()
        watchdog.cancel()
        exit_code = int(printed.rpartition(" ")[2]) if printed.startswith(_END_MARK) else self._process.wait(30)
        return BlockResult(exit_code, out.read_text(), err.read_text())


@contextmanager
def open_shell_session(
    *, working_directory: Path, scratch_directory: Path, environment: Mapping[str, str]
) -> Iterator[ShellSession]:
    """A session in this directory. `scratch_directory` takes the scripts and what they print."""
    needed = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=working_directory,
        env=needed | dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield ShellSession(process, scratch_directory)
        finally:
            if process.stdin is not None and not process.stdin.closed and process.poll() is None:
                process.stdin.close()
            process.wait(30)
