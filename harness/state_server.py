"""State servers as processes: `python -m state_api serve` on a free port."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from harness.processes import free_port, stop_after, wait_until
from state_api.emulator import is_listening
from state_api.settings import STATE_KEYS, STATE_STORAGE, STATE_UNCLAIMED_TASK_HUBS, StorageSettings

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
SERVER_COMMAND = ("-m", "state_api")


@dataclass
class ServerProcess:
    """A running server: its URL, its process and its log file."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, timeout: float = 60) -> httpx.Client:
        """A client of the server. `timeout` is in seconds."""
        return httpx.Client(base_url=self.url, timeout=timeout)

    def stop(self, stop_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the server and wait until it ends. Returns its exit code."""
        self.process.send_signal(stop_signal)
        return self.process.wait(60)

    def read_log(self) -> str:
        return self.log.read_text(errors="replace")


def build_server_environment(storage: StorageSettings | None, keys: Sequence[dict[str, Any]] = ()) -> dict[str, str]:
    """The environment of this process, with only these settings of the server."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STATE_", "AzureWebJobs"))}
    if storage is not None and storage.connection_string is not None:
        environment[STATE_STORAGE] = storage.connection_string.get_secret_value()
    # Tests share a storage and use many task hubs, most of them unclaimed.
    environment[STATE_UNCLAIMED_TASK_HUBS] = "999999"
    if keys:
        environment[STATE_KEYS] = json.dumps(list(keys))
    return environment | {"PYTHONPATH": str(ROOT)}


@contextmanager
def run_server(
    storage: StorageSettings | None,
    folder: Path,
    keys: Sequence[dict[str, Any]] = (),
    extra_settings: Mapping[str, str] | None = None,
    command: Sequence[str] = SERVER_COMMAND,
    *,
    port: int | None = None,
) -> Iterator[ServerProcess]:
    """Start a server on this port, or on a free one, until the block ends. `extra_settings` are added to its
    environment."""
    chosen_port = port or free_port()
    log = folder / f"server-{chosen_port}.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, *command, "serve", "--port", str(chosen_port)],
            env=build_server_environment(storage, keys) | dict(extra_settings or {}),
            stdout=sink,
            stderr=sink,
            cwd=folder,
        )
        with stop_after(process):
            wait_until(lambda: is_listening(HOST, chosen_port) or process.poll() is not None, "the server listens")
            assert process.poll() is None, log.read_text()
            yield ServerProcess(f"http://{HOST}:{chosen_port}", process, log)
