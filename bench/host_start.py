"""The start of the Function App on Microsoft's Functions host, as a ratio to an app with one function. A part of
figure 6."""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.comparison import Aim, compare_rounds, round_significant, run_in_turns
from bench.machine import ROOT, read_cpu_seconds, read_resident_bytes
from bench.storage import run_emulator
from harness.functions_host import START_TIMEOUT_SECONDS, copy_deployed_app, run_functions_host
from harness.processes import free_port
from state_api.settings import STATE_KEYS, STATE_STORAGE

ROUNDS = 5
START_AIM = Aim(maximum=1.3)
_FIRST_REQUEST = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_POLL_SECONDS = 0.01
_AGAINST_EMPTY_APP = "the same with an empty Python app"
_MEBIBYTE = 1024**2
_EMPTY_APP = """
import azure.functions as func

app = func.FunctionApp()


@app.function_name("Health")
@app.route(route="api/health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def health(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("ok")
"""


@dataclass(frozen=True, slots=True)
class StartCost:
    """The cost of one start until the first request is answered: seconds, and the Python worker's processor seconds and
    memory at that moment."""

    seconds: float
    worker_cpu_seconds: float
    worker_bytes: int


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Start both apps in turns. Raises ProgramNotFoundError if `functions-host` is missing."""
    apps = {
        "Function App": copy_deployed_app(ROOT, folder / "function-app"),
        "empty app": _create_empty_app(folder / "empty-app"),
    }
    with run_emulator() as storage:
        keys = [{"name": "bench", "role": "reader", "sha256": "0" * 64}]
        settings = {
            "AzureWebJobsStorage": storage.connection,
            STATE_STORAGE: storage.connection,
            STATE_KEYS: json.dumps(keys),
        }
        variants = {
            name: partial(_measure_start_in_thread, app, folder / f"{name} state", settings)
            for name, app in apps.items()
        }
        for start in variants.values():
            # The first start creates the host's files and keys.
            await start()
        costs = await run_in_turns(rounds, variants)
    ours, empty = costs["Function App"], costs["empty app"]
    figures = [
        compare_rounds(
            "start of the Functions host until the first answered request",
            [cost.seconds for cost in ours],
            _AGAINST_EMPTY_APP,
            [cost.seconds for cost in empty],
            START_AIM,
        ),
        compare_rounds(
            "processor time of the Python worker until then",
            [cost.worker_cpu_seconds for cost in ours],
            _AGAINST_EMPTY_APP,
            [cost.worker_cpu_seconds for cost in empty],
        ),
        compare_rounds(
            "memory of the Python worker after the first request",
            [cost.worker_bytes for cost in ours],
            _AGAINST_EMPTY_APP,
            [cost.worker_bytes for cost in empty],
        ),
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "hostSeconds": {
            name: [round_significant(cost.seconds) for cost in own_costs] for name, own_costs in costs.items()
        },
        "workerMebibytes": {
            name: [round_significant(cost.worker_bytes / _MEBIBYTE) for cost in own_costs]
            for name, own_costs in costs.items()
        },
    }


async def _measure_start_in_thread(app_folder: Path, state_folder: Path, settings: dict[str, str]) -> StartCost:
    """Measure a start of the host without blocking the event loop."""
    return await asyncio.to_thread(measure_start, app_folder, state_folder, settings)


def _create_empty_app(folder: Path) -> Path:
    """A Function App with one function and this project's host.json."""
    folder.mkdir()
    (folder / "function_app.py").write_text(_EMPTY_APP)
    shutil.copy(ROOT / "host.json", folder)
    return folder


def measure_start(app: Path, state: Path, settings: Mapping[str, str]) -> StartCost:
    """Start the host with an app, and stop it after its first response with status 200.

    Raises TimeoutError, or RuntimeError if the host ends, both with the end of its log."""
    port = free_port()
    began = time.perf_counter()
    with run_functions_host(app, state, settings, port=port, wait_for_start=False) as host:
        while not _is_answered(port):
            if host.process.poll() is not None:
                raise RuntimeError(f"the host ended: {host.read_log()[-2000:]}")
            if time.perf_counter() - began > START_TIMEOUT_SECONDS:
                raise TimeoutError(f"the host does not answer: {host.read_log()[-2000:]}")
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - began
        workers = host.worker_pids()
        return StartCost(
            seconds, sum(read_cpu_seconds(pid) for pid in workers), sum(read_resident_bytes(pid) for pid in workers)
        )


def _is_answered(port: int) -> bool:
    """Whether a request is answered with status 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_TIMEOUT_SECONDS) as connection:
            connection.sendall(_FIRST_REQUEST)
            return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False
