"""Where the programs of the real platform are: Microsoft's Functions host and Durable Functions extension."""

import functools
import os
import subprocess
from pathlib import Path

SETTING = "SAFE_DEPLOY_PLATFORM"
"""The environment variable that names the folder with `bin/durable-host` and `bin/functions-host`."""

_ROOT = Path(__file__).parents[2]
_ARCHIVES = _ROOT.parent / "shared" / "platform"
_UNPACKED = _ROOT / ".platform"

HOW_TO_GET_THEM = (
    f"set {SETTING} to a folder with bin/durable-host (with the .NET SDK: dotnet publish -c Release "
    "tests/platform/durable-host) and bin/functions-host (a script that starts Azure Functions Core Tools: "
    "docs/platform.md)"
)


@functools.cache
def platform_folder() -> Path | None:
    """The folder whose `bin/` has the programs; unpacks them into `.platform` the first time. None if this machine
    has neither the programs nor their archives. Raises FileNotFoundError if the setting names a folder without
    them."""
    named = os.environ.get(SETTING)
    if named:
        folder = Path(named).resolve()
        if not (folder / "bin" / "durable-host").exists():
            raise FileNotFoundError(f"{SETTING} names {folder}, which has no bin/durable-host: {HOW_TO_GET_THEM}")
        return folder
    if not (_ARCHIVES / "unpack.sh").exists():
        return None
    subprocess.run(["sh", _ARCHIVES / "unpack.sh", _UNPACKED], check=True)
    return _UNPACKED


def program(name: str) -> Path:
    """The path of a program. Raises FileNotFoundError that says how to get it."""
    folder = platform_folder()
    if folder is None or not (folder / "bin" / name).exists():
        raise FileNotFoundError(f"there is no {name}: {HOW_TO_GET_THEM}")
    return folder / "bin" / name
