"""Runs the command line in a new process, as pipelines do, with an environment of only the test's variables."""

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
from harness.state_server import HOST, ROOT, ServerProcess, build_server_environment
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
"""Variables that a process needs. All others, such as those of a CI system, are left out."""


@dataclass(frozen=True, slots=True)
class CliResult:
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.stdout)


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """These variables, and those that a process needs."""
    needed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return needed | {"PYTHONPATH": str(ROOT)} | dict(variables or {})


def run_safe_deploy(
    *arguments: str, variables: Mapping[str, str] | None = None, folder: Path | None = None, seconds: float = 60
) -> CliResult:
    """Run `python -m safe_deploy` with these arguments and variables until it ends, for at most `seconds`."""
    result = subprocess.run(
        build_command_line(*arguments),
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        timeout=seconds,
        check=False,
    )
    return CliResult(result.returncode, result.stdout.decode(), result.stderr.decode())


def build_command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "safe_deploy", *arguments]


def server_key_entries() -> list[dict[str, Any]]:
    """The entries of STATE_KEYS for these keys."""
    return key_entries(KEYS)


@contextmanager
def state_server(
    storage: StorageSettings,
    folder: Path,
    keys: Sequence[dict[str, Any]] = (),
    port: int | None = None,
    **settings: str,
) -> Iterator[ServerProcess]:
    """Run a state server with these keys and settings until the block ends."""
    chosen_port = port or free_port()
    log = folder / f"server-{chosen_port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "state_api", "serve", "--port", str(chosen_port)],
            env=build_server_environment(storage, keys) | settings,
            stdout=sink,
            stderr=sink,
            cwd=folder,
        )
        with stop_after(process):
            wait_until(lambda: is_listening(HOST, chosen_port) or process.poll() is not None, "the server listens")
            assert process.poll() is None, log.read_text()
            yield ServerProcess(f"http://{HOST}:{chosen_port}", process, log)
