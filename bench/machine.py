"""What the figures were measured on, and what a process takes of it. Reads /proc, so it needs Linux."""

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
    """The machine and the versions, as they go into the results."""
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
    """Seconds since it was made, and of the processor for this process."""

    def __init__(self) -> None:
        self._started_at, self._cpu_started_at = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._started_at, time.process_time() - self._cpu_started_at


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors so far, with its threads."""
    # The name in brackets may hold spaces; what follows it does not.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """What a process holds of the memory at this moment."""
    found = _search_file(Path(f"/proc/{pid}/status"), r"^VmRSS:\s*(\d+) kB")
    assert found is not None, "a process that runs has a size"
    return int(found) * 1024


def compute_core_usage(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    """What each process used of one core between two readings of `cpu_seconds`."""
    return {name: round((after[name] - before[name]) / seconds, 2) for name in after}


def _search_file(file: Path, pattern: str) -> str | None:
    match = re.search(pattern, file.read_text(), re.MULTILINE) if file.exists() else None
    return match[1].strip() if match else None


def _run_command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
