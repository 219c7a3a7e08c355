"""The sample app as it is published: a copy of its folder without what .funcignore leaves out."""

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
APP = ROOT / "durable_app"


def published(to: Path) -> Path:
    patterns = [line.rstrip("/") for line in (APP / ".funcignore").read_text().split()]

    def left_out(folder: str, names: list[str]) -> list[str]:
        # All patterns of this file are names at the root, but for those of what Python makes everywhere.
        return [
            name
            for name in names
            if name == "__pycache__" or (Path(folder) == APP and any(fnmatchcase(name, one) for one in patterns))
        ]

    shutil.copytree(APP, to, ignore=left_out)
    return to


def python(script: str, folder: Path, warnings: str = "error", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as Azure runs the app: from the app's folder."""
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONDEVMODE")}
    return subprocess.run(
        [sys.executable, "-B", "-W", warnings, "-c", script],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
