"""Reads what git knows about the repository of a folder: its root, its remotes, its branch, its files. Changes nothing.

URLs of remotes may hold passwords, so they leave this module only in parts that hold none.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_deploy.errors import UsageError
from safe_deploy.setup.remotes import Remote, parse_remote
from safe_deploy.subprocesses import command_environment

_SECONDS = 60
"""How long one call of git may take. Listing tags of a remote repository needs the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The work tree that has a folder."""

    root: Path
    folder: str
    """The path from the root to the folder in which the command runs, with slashes; empty at the root."""
    remotes: tuple[Remote, ...]
    branch: str | None
    """The branch that is checked out, or None with a detached HEAD."""
    host_json_folders: tuple[str, ...]
    """The folders that have a host.json, apart from ignored files."""

    def find_default_branch(self, remote: str) -> str:
        """The branch that the remote names as its default; else the one that is checked out; else `main`."""
        head = _run_git(self.root, "symbolic-ref", "--short", f"refs/remotes/{remote}/HEAD")
        return (head or "").strip().removeprefix(f"{remote}/") or self.branch or "main"


def read_repository(folder: Path) -> Repository:
    """Read the repository of a folder. Raises UsageError if git is missing or the folder is in no work tree."""
    if shutil.which("git") is None:
        raise UsageError("git is not on the PATH. Install it, and run safe-deploy init in the repository of the app")
    top = _run_git(folder, "rev-parse", "--show-toplevel")
    if not top:
        raise UsageError(
            f"{folder} is not in a work tree of git. Run safe-deploy init in the repository of the app; git init makes "
            "one"
        )
    root = Path(top.rstrip("\r\n")).resolve()
    prefix = _run_git(folder, "rev-parse", "--show-prefix") or ""
    names = (_run_git(root, "remote") or "").split()
    urls = {name: (_run_git(root, "remote", "get-url", name) or "").strip() for name in names}
    listed = _run_git(
        root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "host.json", "*/host.json"
    )
    folders = {str(Path(path).parent.as_posix()) for path in (listed or "").split("\0") if path}
    return Repository(
        root=root,
        folder=prefix.rstrip("\r\n").rstrip("/"),
        remotes=tuple(parse_remote(name, url) for name, url in urls.items()),
        branch=(_run_git(root, "symbolic-ref", "--short", "HEAD") or "").strip() or None,
        host_json_folders=tuple(sorted("" if name == "." else name for name in folders if _has_file(root, name))),
    )


def list_uncommitted(root: Path, paths: Sequence[str]) -> set[str]:
    """Those of these paths whose files differ from the last commit, or are in none and not ignored."""
    listed = _run_git(
        root,
        "status",
        "--porcelain=v1",
        "-z",
        "--no-renames",
        "--untracked-files=all",
        "--",
        *(f":(top,literal){path}" for path in paths),
    )
    return {entry[3:] for entry in (listed or "").split("\0") if entry}


def find_commit_of_tag(repository_url: str, tag: str) -> str | None:
    """The commit that a tag of another repository names, or None if the repository or the tag cannot be read."""
    listed = _run_git(None, "ls-remote", "--tags", "--", repository_url, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}")
    # The second line, if there is one, is the commit of an annotated tag.
    lines = (listed or "").splitlines()
    return lines[-1].split()[0] if lines else None


def _has_file(root: Path, folder: str) -> bool:
    """Whether the host.json that git lists still exists."""
    return (root / folder / "host.json").is_file()


def _run_git(folder: Path | None, *arguments: str) -> str | None:
    """What git prints, or None if it fails. It never asks for a password."""
    program = shutil.which("git")
    if program is None:
        return None
    options: Sequence[str] = [] if folder is None else ["-C", str(folder)]
    try:
        result = subprocess.run(  # noqa: S603  # no shell
            [program, *options, *arguments],
            env=command_environment(GIT_TERMINAL_PROMPT="0", GIT_SSH_COMMAND="ssh -o BatchMode=yes"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
