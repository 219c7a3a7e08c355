"""The machine that the figures are measured on, and what a process uses of it. Reads /proc, so it needs Linux."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_CLOCK_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("azure-data-tables", "fastapi", "uvicorn", "aiohttp")


def describe_machine() -> dict[str, Any]:
    """The machine and the versions of its software, for the results."""
    return {
        "cpu": _search_file(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memoryGiB": round(int(_search_file(Path("/proc/meminfo"), r"^MemTotal:\s*(\d+)") or 0) / 1024**2),
        "os": _search_file(Path("/etc/os-release"), r'^PRETTY_NAME="?([^"\n]+)') or platform.platform(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": _run_command("node", "--version").removeprefix("v"),
        "azurite": json.loads((ROOT / "node_modules" / "azurite" / "package.json").read_text())["version"],
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "revision": _run_command("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "loadBefore": os.getloadavg()[0],
    }


class Stopwatch:
    """Wall and processor seconds of this process since the stopwatch was created."""

    def __init__(self) -> None:
        self._started_at, self._cpu_started_at = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """The seconds since the start: of real time, and of this process's processor time."""
        return time.perf_counter() - self._started_at, time.process_time() - self._cpu_started_at


def read_cpu_seconds(pid: int) -> float:
    """Processor seconds that a process and its threads have used so far."""
    # The process name in parentheses may contain spaces; the fields after it do not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_SECOND


def read_resident_bytes(pid: int) -> int:
    """The resident memory of a process, in bytes."""
    kibibytes = _search_file(Path(f"/proc/{pid}/status"), r"^VmRSS:\s*(\d+) kB")
    assert kibibytes is not None, "the status of a running process has VmRSS"
    return int(kibibytes) * 1024


def compute_core_usage(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The cores that each process used on average, from two readings of `read_cpu_seconds`, `seconds` apart."""
    return {name: round((after[name] - before[name]) / seconds, 2) for name in after}


def _search_file(file: Path, pattern: str) -> str | None:
    """The first group of the pattern's first match in a file; None without a match or without the file."""
    match = re.search(pattern, file.read_text(), re.MULTILINE) if file.exists() else None
    return match[1].strip() if match else None


def _run_command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
