"""The sample app as it is deployed: a copy of its folder without the files that .funcignore names."""

import os
import subprocess
import sys
from pathlib import Path

from harness.functions_host import copy_deployed_app

ROOT = Path(__file__).parent.parent.parent.parent
APP = ROOT / "durable_app"


def publish_app(folder: Path) -> Path:
    """Copy the files of the app that are deployed into a folder, and return the folder."""
    return copy_deployed_app(APP, folder)


def run_python(
    script: str, folder: Path, warnings: str = "error", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in the app's folder, as Azure runs the app."""
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONDEVMODE")}
    return subprocess.run(
        [sys.executable, "-B", "-W", warnings, "-c", script],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
