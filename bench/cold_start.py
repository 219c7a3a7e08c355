"""Figure 6: the start of the Function App on the Functions host, and its import, as ratios to an empty app and to the
import of the libraries that it needs."""

import asyncio
import compileall
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench import host_start
from bench.comparison import Aim, compare_rounds, round_significant, run_in_turns
from bench.machine import ROOT
from harness.functions_host import copy_deployed_app
from harness.platform_programs import ProgramNotFoundError

IMPORT_ROUNDS = 7
IMPORT_AIM = Aim(maximum=1.5)
IMPORT_LIBRARIES = "import azure.functions, fastapi, azure.data.tables.aio"
IMPORT_APP = "import function_app"
_TIMING_SCRIPT = """
import time
began, worked = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - began, time.process_time() - worked)
"""


async def run(
    folder: Path, start_rounds: int = host_start.ROUNDS, import_rounds: int = IMPORT_ROUNDS
) -> dict[str, Any]:
    """Measure starts and imports. Without the program `functions-host` only imports, with a note that says so."""
    try:
        starts = await host_start.run(folder, start_rounds)
    except ProgramNotFoundError as error:
        starts = {"figures": [], "notes": [f"The start on the Functions host is left out: {error}"]}
    imports = await _measure_imports(folder, import_rounds)
    return {**imports, **starts, "figures": starts["figures"] + imports["figures"]}


async def _measure_imports(folder: Path, rounds: int) -> dict[str, Any]:
    """Time each import in a new process, in turns.

    One copy of the app has bytecode. The other has none, as in a read-only package that was deployed to Azure."""
    compiled, uncompiled = (copy_deployed_app(ROOT, folder / name) for name in ("compiled", "uncompiled"))
    compileall.compile_dir(compiled, quiet=2)
    variants = {
        "libraries": partial(_time_import, IMPORT_LIBRARIES, uncompiled),
        "app": partial(_time_import, IMPORT_APP, compiled),
        "app without bytecode": partial(_time_import, IMPORT_APP, uncompiled),
    }
    for run_variant in variants.values():
        await run_variant()
    samples = await run_in_turns(rounds, variants)
    seconds = {name: [wall_seconds for wall_seconds, _ in own_samples] for name, own_samples in samples.items()}
    cpu_seconds = {name: [own_cpu for _, own_cpu in own_samples] for name, own_samples in samples.items()}
    against = f"`{IMPORT_LIBRARIES}`"
    without = f"`{IMPORT_APP}`, no bytecode of its own"
    figures = [
        compare_rounds(f"`{IMPORT_APP}`", seconds["app"], against, seconds["libraries"], IMPORT_AIM),
        compare_rounds(without, seconds["app without bytecode"], against, seconds["libraries"]),
        compare_rounds(f"processor time of `{IMPORT_APP}`", cpu_seconds["app"], against, cpu_seconds["libraries"]),
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "milliseconds": {
            name: [round_significant(1000 * import_seconds) for import_seconds in own_seconds]
            for name, own_seconds in seconds.items()
        },
    }


async def _time_import(statement: str, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of the import alone.

    The start of the interpreter is left out: it is the same for app and libraries, and would bring the ratio to 1."""
    return await asyncio.to_thread(_run_timed, statement, folder)


def _run_timed(statement: str, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of the statement in a new interpreter, which writes no bytecode."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _TIMING_SCRIPT.format(statement)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, worked = done.stdout.split()
    return float(seconds), float(worked)
