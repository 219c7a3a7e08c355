"""Checks that everything that this project installs is pinned: packages by hashes, actions in workflows by commits.

Run it as `python -m dev.check_pins`. It only reads files; `dev/lock --check` also queries the package index."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent

OWN_ACTION = "your-org/safe-deploy@COMMIT"
"""This repository's action in samples to copy: only its owner knows where it is, and which commit it shall be."""

_PINNED_ACTION_PATTERN = re.compile(r"[^@\s]+@[0-9a-f]{40} +# v\d+(\.\d+){2}\b.*")
_USES_PATTERN = re.compile(r"""\buses:\s*(["']?)(?P<action>[^\s"',}]+)\1(?P<rest>.*)""")
_HASH_PATTERN = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def find_lock_files(root: Path = ROOT) -> list[Path]:
    return sorted([*root.glob("requirements*.txt"), *root.glob("*_app/requirements*.txt")])


def find_workflow_files(root: Path = ROOT) -> list[Path]:
    """Every file that may name an action, samples in the documents included."""
    folders = (".github/workflows/*.yml", "pipelines/github/*.yml", "docs/*.md", "action.yml", "README.md")
    return sorted(path for pattern in folders for path in root.glob(pattern))


def parse_requirements(text: str) -> list[Requirement]:
    """The requirements of a `.in` file, without the files that it includes."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def parse_lock_file(text: str) -> dict[tuple[str, str], int]:
    """Name and version of each package in a lock file, with the number of its hashes."""
    found: dict[tuple[str, str], int] = {}
    for line in _requirement_lines(text):
        words, *hashes = line.split(" --hash=")
        requirement = Requirement(words)
        assert all(_HASH_PATTERN.fullmatch(f"--hash={one.strip()}") for one in hashes), f"not a SHA-256 hash: {line}"
        found[canonicalize_name(requirement.name), _pinned_version(requirement)] = len(hashes)
    return found


def find_lock_problems(source: str, lock: str, included: Iterable[str] = ()) -> Iterator[str]:
    """What is wrong with a lock file, judged by itself and the `.in` files that it is made from."""
    for line in _requirement_lines(lock):
        if line.startswith("-") or "://" in line or " @ " in line:
            yield f"names a place to install from: {line}"
            return
    have = parse_lock_file(lock)
    for (name, version), hashes in have.items():
        if hashes == 0:
            yield f"{name}=={version} has no hash"
    names = {name for name, _ in have}
    for requirement in [pin for text in (source, *included) for pin in parse_requirements(text)]:
        name = canonicalize_name(requirement.name)
        # What holds for some Pythons only may be missing from a lock file for the others.
        present = name in names if requirement.marker else (name, _pinned_version(requirement)) in have
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            yield f"{requirement} is not pinned to one version"
        elif not present:
            yield f"{requirement} is missing from the lock file"


def find_version_conflicts(locks: Iterable[str]) -> Iterator[str]:
    """Packages of which lock files name different versions for the same Python."""
    versions: dict[tuple[str, str], set[str]] = {}
    for lock in locks:
        for line in _requirement_lines(lock):
            requirement = Requirement(line.partition(" --hash=")[0])
            # A package may have one version for old Pythons and another for new ones.
            marker = str(requirement.marker) if "python_full_version" in str(requirement.marker) else ""
            versions.setdefault((canonicalize_name(requirement.name), marker), set()).add(_pinned_version(requirement))
    for (name, _), found in sorted(versions.items()):
        if len(found) > 1:
            yield f"{name} is locked as {' and as '.join(sorted(found))}"


def find_action_problems(text: str) -> Iterator[str]:
    """Actions of others that are not pinned by a commit, with a comment that names its version."""
    for found in _USES_PATTERN.finditer(text):
        action = found["action"]
        if action.startswith(("./", "$")) or action == OWN_ACTION:
            continue
        if not _PINNED_ACTION_PATTERN.fullmatch(f"{action}{found['rest'].rstrip()}"):
            yield f"{action} is not pinned by its commit, followed by a comment such as # v6.1.0"


def find_problems(root: Path = ROOT) -> Iterator[str]:
    """Every problem, with the file that it is in."""
    for lock in find_lock_files(root):
        source = lock.with_suffix(".in")
        if not source.exists():
            yield f"{lock.relative_to(root)}: there is no {source.name} that it is made from"
            continue
        included = [path.read_text() for path in _find_included_files(source)]
        for problem in find_lock_problems(source.read_text(), lock.read_text(), included):
            yield f"{lock.relative_to(root)}: {problem}"
    shared = [lock.read_text() for lock in find_lock_files(root) if lock.stem != "requirements-audit"]
    yield from find_version_conflicts(shared)
    for source in [*root.glob("requirements*.in"), *root.glob("*_app/requirements*.in")]:
        if not source.with_suffix(".txt").exists():
            yield f"{source.relative_to(root)}: it has no lock file; run make lock"
    for workflow in find_workflow_files(root):
        for problem in find_action_problems(workflow.read_text()):
            yield f"{workflow.relative_to(root)}: {problem}"


def _find_included_files(source: Path) -> list[Path]:
    names = re.findall(r"^-r (\S+)$", source.read_text(), re.MULTILINE)
    direct = [source.parent / name for name in names]
    return [*direct, *(path for one in direct for path in _find_included_files(one))]


def _requirement_lines(lock: str) -> list[str]:
    """The requirements of a lock file, a line each."""
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def _pinned_version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def main() -> int:
    found = list(find_problems())
    for problem in found:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
