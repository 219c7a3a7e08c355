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

from bench.machine import ROOT
from bench.rates import Aim, compared, in_turns, significant

ROUNDS = 7
AIM = Aim(most=1.5)
LIBRARIES = "import azure.functions, fastapi, azure.data.tables.aio"
APP = "import function_app"
_TIMED = """
import time
began, worked = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - began, time.process_time() - worked)
"""


async def run(folder: Path, rounds: int = ROUNDS) -> dict[str, Any]:
    """Each import in a fresh process, by turns. The app is a copy, once with bytecode of its own and once without, as
    it is when it was deployed as a package and nothing may be written beside it."""
    compiled, uncompiled = (_copied(folder / name) for name in ("compiled", "uncompiled"))
    compileall.compile_dir(compiled, quiet=2)
    variants = {
        "libraries": partial(_import, LIBRARIES, uncompiled),
        "app": partial(_import, APP, compiled),
        "app without bytecode": partial(_import, APP, uncompiled),
    }
    for one in variants.values():
        await one()
    samples = await in_turns(rounds, variants)
    seconds, worked = ({name: [one[of] for one in each] for name, each in samples.items()} for of in (0, 1))
    against = f"`{LIBRARIES}`"
    without = f"`{APP}`, no bytecode of its own"
    figures = [
        compared(f"`{APP}`", seconds["app"], against, seconds["libraries"], AIM),
        compared(without, seconds["app without bytecode"], against, seconds["libraries"]),
        compared(f"processor time of `{APP}`", worked["app"], against, worked["libraries"]),
    ]
    return {
        "figures": [one.as_json() for one in figures],
        "milliseconds": {name: [significant(1000 * one) for one in of] for name, of in seconds.items()},
    }


def _copied(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "function_app.py", folder)
    shutil.copytree(ROOT / "state_api", folder / "state_api", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


async def _import(statement: str, folder: Path) -> tuple[float, float]:
    """Seconds of the import alone, and of the processor: the start of the interpreter is the same for both, and would
    bring them closer."""
    return await asyncio.to_thread(_timed, statement, folder)


def _timed(statement: str, folder: Path) -> tuple[float, float]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statement)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, worked = done.stdout.split()
    return float(seconds), float(worked)
