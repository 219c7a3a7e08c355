"""Finds the programs of the real platform: Microsoft's Functions host and Durable Functions extension.

`python -m harness.platform_programs` unpacks them if their archives are here. Otherwise it says in one line which tests
are left out; with `--required` it exits with 1.
"""

import argparse
import fcntl
import functools
import os
import subprocess
import sys
from pathlib import Path

FOLDER_VARIABLE = "SAFE_DEPLOY_PLATFORM"
"""The environment variable that names the folder with `bin/durable-host` and `bin/functions-host`."""

_ROOT = Path(__file__).parent.parent
_ARCHIVES = _ROOT.parent / "shared" / "platform"
_UNPACKED = _ROOT / ".platform"

INSTALL_HINT = (
    f"set {FOLDER_VARIABLE} to a folder with bin/durable-host (built with the .NET SDK) and bin/functions-host (a "
    "script that starts Azure Functions Core Tools), as docs/platform.md says under The real programs"
)


class ProgramNotFoundError(FileNotFoundError):
    """A program is not on this machine. The message says how to get it."""


@functools.cache
def platform_folder() -> Path | None:
    """Return the folder whose `bin/` has the programs. Unpacks them into `.platform` the first time. None if this
    machine has neither the programs nor their archives. Raises ProgramNotFoundError if the environment variable names a
    folder without them."""
    folder_name = os.environ.get(FOLDER_VARIABLE)
    if folder_name:
        folder = Path(folder_name).resolve()
        if not (folder / "bin" / "durable-host").exists():
            raise ProgramNotFoundError(
                f"{FOLDER_VARIABLE} names {folder}, which has no bin/durable-host: {INSTALL_HINT}"
            )
        return folder
    if not (_ARCHIVES / "unpack.sh").exists():
        return None
    with (_ROOT / ".platform.lock").open("w") as lock:
        # Several test processes may unpack at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["sh", _ARCHIVES / "unpack.sh", _UNPACKED], check=True)
    return _UNPACKED


def program_path(name: str) -> Path:
    """Return the path of a program. Raises ProgramNotFoundError."""
    folder = platform_folder()
    if folder is None or not (folder / "bin" / name).exists():
        raise ProgramNotFoundError(f"there is no {name}: {INSTALL_HINT}")
    return folder / "bin" / name


def main() -> int:
    """Print a note if the real programs are not installed. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.platform_programs", description=__doc__)
    parser.add_argument("--required", action="store_true", help="exit with 1 if the programs are not there")
    required = parser.parse_args().required
    try:
        has_programs = platform_folder() is not None
        hint = INSTALL_HINT
    except ProgramNotFoundError as error:
        has_programs, hint = False, str(error)
    if not has_programs:
        print(f"tests/platform is left out, because the real programs are not here: {hint}", file=sys.stderr)
    return 1 if required and not has_programs else 0


if __name__ == "__main__":
    sys.exit(main())
