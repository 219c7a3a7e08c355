"""Runs shellcheck on scripts."""

import shutil
import subprocess
import sys
from pathlib import Path


def run_shellcheck(script: str, folder: Path) -> None:
    """Fails with the findings of shellcheck for a script."""
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert program, "shellcheck is not installed"
    saved = folder / "script.sh"
    saved.write_text(script if script.startswith("#!") else f"#!/usr/bin/env bash\n{script}")
    # SC2153: a step's variables come from its environment.
    ended = subprocess.run([program, "--exclude=SC2153", saved], capture_output=True, check=False, text=True)
    assert ended.returncode == 0, ended.stdout
