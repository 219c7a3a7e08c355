"""Figure 6: how long the import of the Function App takes, against that of the libraries that any such app needs."""

import asyncio
import compileall
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench.comparison import Aim, compare_rounds, round_significant, run_in_turns
from bench.machine import ROOT

ROUNDS = 7
IMPORT_AIM = Aim(maximum=1.5)
IMPORT_LIBRARIES = "import azure.functions, fastapi, azure.data.tables.aio"
IMPORT_APP = "import function_app"
_TIMING_SCRIPT = """
import time
began, worked = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - began, time.process_time() - worked)
"""


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Each import in a fresh process, by turns. The app is a copy, once with bytecode of its own and once without, as
    it is when it was deployed as a package and nothing may be written beside it."""
    compiled, uncompiled = (_copy_app(folder / name) for name in ("compiled", "uncompiled"))
    compileall.compile_dir(compiled, quiet=2)
    variants = {
        "libraries": partial(_time_import, IMPORT_LIBRARIES, uncompiled),
        "app": partial(_time_import, IMPORT_APP, compiled),
        "app without bytecode": partial(_time_import, IMPORT_APP, uncompiled),
    }
    for one in variants.values():
        await one()
    samples = await run_in_turns(rounds, variants)
    seconds, worked = ({name: [one[of] for one in each] for name, each in samples.items()} for of in (0, 1))
    against = f"`{IMPORT_LIBRARIES}`"
    without = f"`{IMPORT_APP}`, no bytecode of its own"
    figures = [
        compare_rounds(f"`{IMPORT_APP}`", seconds["app"], against, seconds["libraries"], IMPORT_AIM),
        compare_rounds(without, seconds["app without bytecode"], against, seconds["libraries"]),
        compare_rounds(f"processor time of `{IMPORT_APP}`", worked["app"], against, worked["libraries"]),
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "milliseconds": {name: [round_significant(1000 * one) for one in of] for name, of in seconds.items()},
    }


def _copy_app(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "function_app.py", folder)
    shutil.copytree(ROOT / "state_api", folder / "state_api", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


async def _time_import(statement: str, folder: Path) -> tuple[float, float]:
    """Seconds of the import alone, and of the processor: the start of the interpreter is the same for both, and would
    bring them closer."""
    return await asyncio.to_thread(_run_timed, statement, folder)


def _run_timed(statement: str, folder: Path) -> tuple[float, float]:
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
