"""The command line as a process of its own, as pipelines run it, in an environment that is only what a test gives."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.processes import free_port, stop_after, wait_until
from harness.state_server import HOST, ROOT, ServerProcess, server_environment
from state_api.emulator import is_listening
from state_api.settings import StorageSettings
from tests.keys import key_entries

KEYS = {
    "reader": "reader-key-0123456789",
    "deployer": "deployer-key-0123456789",
    "publisher": "publisher-key-0123456789",
    "admin": "admin-key-0123456789",
}
"""A key for every role of a server."""


PASSED_VARIABLES = ("PATH", "HOME", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""What a process cannot do without. All else, such as the CI system's variables and the terminal, is left out."""


@dataclass(frozen=True, slots=True)
class CliResult:
    """How a call of the command line ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one JSON document that stdout is."""
        return json.loads(self.stdout)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What is given, and no more than what a process cannot do without."""
    needed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return needed | {"PYTHONPATH": str(ROOT)} | dict(given or {})


def safe_deploy(
    *arguments: str, given: Mapping[str, str] | None = None, folder: Path | None = None, seconds: float = 60
) -> CliResult:
    """`python -m safe_deploy` with these arguments and these variables; waits until it ends."""
    ended = subprocess.run(
        command(*arguments),
        env=environment(given),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        timeout=seconds,
        check=False,
    )
    return CliResult(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "safe_deploy", *arguments]


def server_key_entries() -> list[dict[str, Any]]:
    """The keys as the server's setting has them."""
    return key_entries(KEYS)


@contextmanager
def state_server(
    storage: StorageSettings,
    folder: Path,
    keys: Sequence[dict[str, Any]] = (),
    port: int | None = None,
    **settings: str,
) -> Iterator[ServerProcess]:
    """A state server, where it matters on which port, or with which settings, until the block ends."""
    chosen = port or free_port()
    log = folder / f"server-{chosen}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "state_api", "serve", "--port", str(chosen)],
            env=server_environment(storage, keys) | settings,
            stdout=sink,
            stderr=sink,
            cwd=folder,
        )
        with stop_after(process):
            wait_until(lambda: is_listening(HOST, chosen) or process.poll() is not None, "the server listens")
            assert process.poll() is None, log.read_text()
            yield ServerProcess(f"http://{HOST}:{chosen}", process, log)
