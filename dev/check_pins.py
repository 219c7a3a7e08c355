"""Checks that everything that this project installs is pinned: packages by hashes, actions in workflows by commits.

Run it as `python -m dev.check_pins`. It only reads files; `dev/lock --check` also queries the package index."""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.dependency_groups import read_dependency_group

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class LockFile:
    """A lock file, the dependency group that it is made from, and the oldest Python that it must work with.

    The packages of a standalone file are in an environment of their own and may have other versions than those of the
    other files."""

    path: str
    group: str
    python: str = "3.11"
    standalone: bool = False


LOCK_FILES = (
    LockFile("requirements-dev.txt", "dev"),
    LockFile("requirements.txt", "server"),
    LockFile("requirements-serve.txt", "serve"),
    LockFile("requirements-scheduler.txt", "scheduler"),
    LockFile("requirements-cli.txt", "cli"),
    LockFile("requirements-audit.txt", "audit"),
    LockFile("requirements-functions.txt", "functions", python="3.13"),
    LockFile("durable_app/requirements.txt", "sample-app"),
    # Pulumi requires another version of protobuf than the server.
    LockFile("infra/pulumi/requirements.txt", "pulumi", standalone=True),
)
"""The first is the largest. The others, but the standalone ones, take their versions from it, so that they are the
versions that tests use."""

OWN_ACTION = "your-org/safe-deploy@COMMIT"
"""This repository's action in samples. Users fill in the owner and the commit of their copy."""

_PINNED_ACTION_PATTERN = re.compile(r"[^@\s]+@[0-9a-f]{40} +# v\d+(\.\d+){2}\b.*")
_USES_PATTERN = re.compile(r"""\buses:\s*(["']?)(?P<action>[^\s"',}]+)\1(?P<rest>.*)""")
_HASH_PATTERN = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_DIRECT_PATTERN = re.compile(r"^([\w.-]+)==.*(?:\n +--hash.*)*(?:\n +# .*)*?\n +# .*\(pyproject\.toml:", re.MULTILINE)
"""A package that the lock file's comments name as one of the group itself."""


def find_lock_files(root: Path = ROOT) -> list[Path]:
    """Every lock file of the repository, known or not."""
    folders = (".", "*_app", "infra/*")
    return sorted(path for folder in folders for path in root.glob(f"{folder}/requirements*.txt"))


def find_workflow_files(root: Path = ROOT) -> list[Path]:
    """Every file that may name an action, samples in the documentation included."""
    folders = (".github/workflows/*.yml", "pipelines/github/*.yml", "docs/*.md", "action.yml", "README.md")
    return sorted(path for pattern in folders for path in root.glob(pattern))


def parse_lock_file(text: str) -> dict[tuple[str, str], int]:
    """The number of hashes of each package in a lock file, by name and version."""
    hash_counts: dict[tuple[str, str], int] = {}
    for line in _join_requirement_lines(text):
        specifier, *hashes = line.split(" --hash=")
        requirement = Requirement(specifier)
        assert all(_HASH_PATTERN.fullmatch(f"--hash={digest.strip()}") for digest in hashes), f"not SHA-256: {line}"
        hash_counts[canonicalize_name(requirement.name), _get_pinned_version(requirement)] = len(hashes)
    return hash_counts


def find_lock_problems(requirements: Iterable[Requirement], lock: str) -> Iterator[str]:
    """Problems of a lock file that must hold exactly these direct requirements and what they depend on."""
    for line in _join_requirement_lines(lock):
        if line.startswith("-") or "://" in line or " @ " in line:
            yield f"names a place to install from: {line}"
            return
    locked = parse_lock_file(lock)
    for (name, version), hash_count in locked.items():
        if hash_count == 0:
            yield f"{name}=={version} has no hash"
    locked_names = {name for name, _ in locked}
    expected_names = set()
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        expected_names.add(name)
        # A requirement of some Pythons only may be missing from a lock file for the others.
        present = name in locked_names if requirement.marker else (name, _get_pinned_version(requirement)) in locked
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            yield f"{requirement} is not pinned to one version"
        elif not present:
            yield f"{requirement} is missing from the lock file"
    for name in sorted({canonicalize_name(name) for name in _DIRECT_PATTERN.findall(lock)} - expected_names):
        yield f"{name} is not a requirement of the dependency group any more; run make lock"


def find_version_conflicts(locks: Iterable[str]) -> Iterator[str]:
    """Packages that lock files pin to different versions for the same Python."""
    versions: dict[tuple[str, str], set[str]] = {}
    for lock in locks:
        for line in _join_requirement_lines(lock):
            requirement = Requirement(line.partition(" --hash=")[0])
            # A package may have one version for old Pythons and another for new ones.
            marker = str(requirement.marker) if "python_full_version" in str(requirement.marker) else ""
            versions.setdefault((canonicalize_name(requirement.name), marker), set()).add(
                _get_pinned_version(requirement)
            )
    for (name, _), pinned in sorted(versions.items()):
        if len(pinned) > 1:
            yield f"{name} is locked as {' and as '.join(sorted(pinned))}"


def find_action_problems(text: str) -> Iterator[str]:
    """Third-party actions that are not pinned by a commit with their version as a comment."""
    for match in _USES_PATTERN.finditer(text):
        action = match["action"]
        if action.startswith(("./", "$")) or action == OWN_ACTION:
            continue
        if not _PINNED_ACTION_PATTERN.fullmatch(f"{action}{match['rest'].rstrip()}"):
            yield f"{action} is not pinned by its commit, followed by a comment such as # v6.1.0"


def find_problems(root: Path = ROOT) -> Iterator[str]:
    """Every problem of the repository in `root`, with the file that it is in."""
    for lock_file in LOCK_FILES:
        path = root / lock_file.path
        if not path.exists():
            yield f"{lock_file.path}: it does not exist; run make lock"
            continue
        for problem in find_lock_problems(read_dependency_group(lock_file.group, root), path.read_text()):
            yield f"{lock_file.path}: {problem}"
    known = {lock_file.path for lock_file in LOCK_FILES}
    for path in find_lock_files(root):
        if str(path.relative_to(root)) not in known:
            yield f"{path.relative_to(root)}: no dependency group of pyproject.toml is its source"
    others = {root / lock_file.path for lock_file in LOCK_FILES if lock_file.standalone or lock_file.group == "audit"}
    shared = [path.read_text() for path in find_lock_files(root) if path not in others]
    yield from find_version_conflicts(shared)
    for workflow in find_workflow_files(root):
        for problem in find_action_problems(workflow.read_text()):
            yield f"{workflow.relative_to(root)}: {problem}"


def _join_requirement_lines(lock: str) -> list[str]:
    """The requirements of a lock file, one on each line."""
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def _get_pinned_version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def main() -> int:
    """Print every problem with the pinned versions, or the list of lock files. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.check_pins", description=__doc__)
    parser.add_argument(
        "--lock-files", action="store_true", help="print path, group, Python and versions of every lock file"
    )
    if parser.parse_args().lock_files:
        for lock_file in LOCK_FILES:
            versions = "standalone" if lock_file.standalone else "shared"
            print(lock_file.path, lock_file.group, lock_file.python, versions)
        return 0
    problems = list(find_problems())
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
