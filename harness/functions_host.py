"""Function Apps on Microsoft's Functions host, each a process of its own on loopback, as Azure runs them."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import httpx

from harness.platform_programs import program_path
from harness.processes import free_port, wait_until

FUNCTION_KEY = "function-key-of-the-host-0123456789"
"""The host key `default`, which opens every function with the authorization level `function`."""
MASTER_KEY = "master-key-of-the-host-0123456789"
EVENT_GRID_KEY = "event-grid-key-of-the-host-0123456789"
"""The system key of `/runtime/webhooks/EventGrid`."""
DURABLE_TASK_KEY = "durable-task-key-of-the-host-0123456789"
"""The system key of `/runtime/webhooks/durabletask`."""

START_TIMEOUT_SECONDS = 120
"""A start takes 6 to 8 s on an idle machine (run), and several times as long on a busy one."""
_MAX_SHOWN_LOG_CHARACTERS = 4000
"""Characters of the end of the host's log that an error shows."""


@dataclass
class FunctionsHost:
    """A running Functions host: its address, its process, and the file with its output."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def client(self, timeout: float = 60) -> httpx.Client:
        """A client of the Function App."""
        return httpx.Client(base_url=self.url, timeout=timeout)

    def read_log(self) -> str:
        """Return what the host and its Python workers have written so far."""
        return self.log_file.read_text(errors="replace")

    def worker_pids(self) -> list[int]:
        """Return the process ids of the host's Python workers."""
        return _child_pids(self.process.pid)

    def kill(self) -> None:
        """End the host with SIGKILL, and then the Python workers, which outlive it."""
        workers = self.worker_pids()
        self.process.kill()
        self.process.wait()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def run_functions_host(
    app: Path,
    state: Path,
    settings: Mapping[str, str],
    *,
    port: int | None = None,
    health_path: str = "/api/health",
    wait_for_start: bool = True,
) -> Iterator[FunctionsHost]:
    """Run the Function App in the folder `app` until the block ends.

    - `settings` are the app settings. They must contain `AzureWebJobsStorage`.
    - `state` is a folder for the host's keys, logs and temporary files. A later host that uses it has the same keys.
    - The block begins when `health_path`, an anonymous function, answers 200. Without `wait_for_start` it begins at
      once.
    - Without a `port` a free one is used.

    Raises TimeoutError with the end of the log if the host is not ready in time.
    """
    port = port or free_port()
    state.mkdir(parents=True, exist_ok=True)
    log_file = state / f"host-{port}.log"
    with log_file.open("ab") as sink:
        process = subprocess.Popen(
            [program_path("functions-host"), app, str(port), state],
            env=_build_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    host = FunctionsHost(f"http://127.0.0.1:{port}", process, log_file)
    try:
        if wait_for_start:
            wait_until_ready(host, health_path)
        yield host
    finally:
        stop_host(host)


def wait_until_ready(host: FunctionsHost, health_path: str = "/api/health") -> None:
    """Wait until the anonymous function at `health_path` answers 200. Raises TimeoutError, or RuntimeError if the host
    ends, both with the end of the log."""

    def is_ready() -> bool:
        """Whether the function answers 200. Raises RuntimeError if the host has ended."""
        if host.process.poll() is not None:
            raise RuntimeError(f"the host ended with {host.process.returncode}: {_read_end_of_log(host)}")
        try:
            return httpx.get(host.url + health_path, timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(is_ready, f"{health_path} answers 200", START_TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {_read_end_of_log(host)}") from None


def _read_end_of_log(host: FunctionsHost) -> str:
    return host.read_log()[-_MAX_SHOWN_LOG_CHARACTERS:]


def stop_host(host: FunctionsHost) -> None:
    """End the host with SIGTERM, or with SIGKILL if it does not end within 30 s, and its Python workers with it."""
    if host.process.poll() is not None:
        return
    workers = host.worker_pids()
    host.process.send_signal(signal.SIGTERM)
    try:
        host.process.wait(30)
    except subprocess.TimeoutExpired:
        host.kill()
    for pid in workers:
        # Another program may have the process id by now: end it only if it is still a worker.
        with suppress(OSError):
            if b"workerId" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def copy_deployed_app(app: Path, destination: Path) -> Path:
    """Copy a Function App as its deployment does: without what `.funcignore` excludes."""
    patterns = (app / ".funcignore").read_text().split()

    def list_ignored(folder: str, names: list[str]) -> list[str]:
        """The names in a folder that `shutil.copytree` must leave out."""
        return [name for name in names if _is_ignored(Path(folder, name), app, patterns) or name == "__pycache__"]

    return Path(shutil.copytree(app, destination, ignore=list_ignored))


def _is_ignored(path: Path, app: Path, patterns: list[str]) -> bool:
    """Return whether `.funcignore` excludes this file or folder of the app.

    Patterns are those of `.gitignore`: one with a slash inside is matched against the path within the app, any other
    against the name. A slash at its end restricts a pattern to folders."""
    for pattern in patterns:
        name_pattern = pattern.rstrip("/")
        matched_text = str(path.relative_to(app)) if "/" in name_pattern else path.name
        may_match = path.is_dir() or not pattern.endswith("/")
        if may_match and fnmatchcase(matched_text, name_pattern.lstrip("/")):
            return True
    return False


def _build_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with these app settings and no others."""
    app_setting_prefixes = ("STATE_", "AzureWebJobs", "FUNCTIONS_", "WEBSITE_", "PYTHON", "AzureFunctionsJobHost")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(app_setting_prefixes)}
    keys = {
        "FUNCTION_KEY": FUNCTION_KEY,
        "MASTER_KEY": MASTER_KEY,
        "EVENT_GRID_KEY": EVENT_GRID_KEY,
        "DURABLE_TASK_KEY": DURABLE_TASK_KEY,
    }
    return clean | {"PYTHON": sys.executable} | keys | dict(settings)


def _child_pids(pid: int) -> list[int]:
    """Return the ids of the running processes that this process has started."""
    return [
        int(child)
        for children in Path(f"/proc/{pid}/task").glob("*/children")
        for child in children.read_text().split()
    ]
