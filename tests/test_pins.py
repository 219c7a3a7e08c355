"""Everything that is installed is pinned: Python packages by version and hashes, npm packages by integrity, actions by
commit. These tests read files only; `make audit` also queries the package index."""

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.check_pins import (
    LOCK_FILES,
    OWN_ACTION,
    find_action_problems,
    find_lock_files,
    find_lock_problems,
    find_problems,
    find_version_conflicts,
    parse_lock_file,
)
from harness.dependency_groups import read_dependency_group

ROOT = Path(__file__).parent.parent
HASH = f"--hash=sha256:{'0' * 64}"
DIRECT = "safe-deploy (pyproject.toml:cli)"
COMMIT = "d23441a48e516b6c34aea4fa41551a30e30af803"
LOCK_FILES_INSTALLED_HERE = [
    ROOT / lock_file.path
    for lock_file in LOCK_FILES
    if lock_file.group not in ("audit", "functions") and not lock_file.standalone
]


def test_everything_in_this_repository_is_pinned() -> None:
    assert list(find_problems()) == []


def test_every_requirements_file_is_locked_from_a_dependency_group() -> None:
    assert {str(path.relative_to(ROOT)) for path in find_lock_files()} == {lock.path for lock in LOCK_FILES}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert set(groups) == {lock.group for lock in LOCK_FILES} | {"bench"}, "bench is installed as a part of dev"


@pytest.mark.parametrize("lock", LOCK_FILES_INSTALLED_HERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_file_holds_everything_that_its_packages_need(lock: Path) -> None:
    """The metadata of the installed packages names what they need."""
    locked = {name for name, _ in parse_lock_file(lock.read_text())}
    for name in locked:
        try:
            dependencies = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # a package for another platform or Python
        for dependency in dependencies:
            if dependency.marker is None or dependency.marker.evaluate({"extra": ""}):
                assert canonicalize_name(dependency.name) in locked, f"{name} needs {dependency}"


def test_what_is_tested_is_what_is_locked() -> None:
    """Every package of the lock files that is installed here has the locked version."""
    locked_versions: dict[str, set[str]] = {}
    for lock in LOCK_FILES_INSTALLED_HERE:
        for name, version in parse_lock_file(lock.read_text()):
            locked_versions.setdefault(name, set()).add(version)
    del locked_versions["setuptools"]  # It comes with Python, and only builds the command line.
    for name, versions in locked_versions.items():
        # A package with two locked versions has one of them for other Pythons.
        assert len(versions) > 1 or installed_version(name) in (None, *versions), name


def installed_version(name: str) -> str | None:
    """The version in this environment; None if the package is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize(
    ("requirement", "lock", "problem"),
    [
        ("odd==1.0", f"odd==1.0 {HASH}", None),
        ("odd==1.0", f"odd==1.0 \\\n    {HASH} \\\n    {HASH}\n    # via {DIRECT}", None),
        ("Odd_One==1.0", f"odd-one==1.0 {HASH}", None),
        (
            "odd==1.0",
            f"odd==1.0 {HASH}\neven==2.0 \\\n    {HASH}\n    # via\n    #   odd\n    #   {DIRECT}",
            "even is not a requirement of the dependency group any more",
        ),
        ("odd==1.0", f"odd==1.0 {HASH}\neven==2.0 \\\n    {HASH}\n    # via odd", None),
        ("odd==1.0", "odd==1.0", "odd==1.0 has no hash"),
        ("odd==1.0", f"odd==1.1 {HASH}", "odd==1.0 is missing from the lock file"),
        ("odd==1.0", f"even==1.0 {HASH}", "odd==1.0 is missing from the lock file"),
        ("odd>=1.0", f"odd==1.0 {HASH}", "odd>=1.0 is not pinned to one version"),
        ("odd==1.*", f"odd==1.0 {HASH}", "odd==1.* is not pinned to one version"),
        ("odd==1.0", f"--{'index-url'} https://example.com/\nodd==1.0 {HASH}", "names a place to install from"),
        ("odd==1.0", f"odd @ https://example.com/odd.whl {HASH}", "names a place to install from"),
    ],
)
def test_a_lock_file_is_refused_unless_it_pins_all_of_its_group(
    requirement: str, lock: str, problem: str | None
) -> None:
    problems = list(find_lock_problems([Requirement(requirement)], lock))
    assert problems == [] if problem is None else any(problem in text for text in problems)


def test_two_lock_files_with_two_versions_of_a_package_disagree() -> None:
    old, new = f'odd==1.0 ; python_full_version < "3.13" {HASH}', f'odd==2.0 ; python_full_version >= "3.13" {HASH}'
    assert list(find_version_conflicts([f"{old}\n{new}", f"{new}\n{old}"])) == []
    assert list(find_version_conflicts([f"odd==1.0 {HASH}", f"odd==2.0 {HASH}"])) == ["odd is locked as 1.0 and as 2.0"]


@pytest.mark.parametrize(
    ("uses", "pinned"),
    [
        (f"actions/checkout@{COMMIT} # v6.1.0", True),
        (f"actions/checkout@{COMMIT} # v6.1.0, after the wait", True),
        (f"{OWN_ACTION} # yours: where this repository is, and which commit of it", True),
        ("./.github/actions/own", True),
        (f"actions/checkout@{COMMIT}", False),
        (f"actions/checkout@{COMMIT} # v6", False),
        (f"actions/checkout@{COMMIT[:39]} # v6.1.0", False),
        ("actions/checkout@v6", False),
        ("actions/checkout@v6.1.0 # v6.1.0", False),
        ("your-org/safe-deploy@v1", False),
    ],
)
def test_an_action_is_pinned_by_a_whole_commit_and_says_its_version(uses: str, pinned: bool) -> None:
    for text in (f"      - uses: {uses}\n", f"        uses: {uses}\n        with: {{}}\n"):
        assert (list(find_action_problems(text)) == []) is pinned


def test_a_dependency_group_holds_the_groups_that_it_includes(tmp_path: Path) -> None:
    groups = "[dependency-groups]\nsmall = ['odd==1.0']\nlarge = [{include-group = 'small'}, 'even==2.0']\n"
    (tmp_path / "pyproject.toml").write_text(groups)
    assert [str(requirement) for requirement in read_dependency_group("large", tmp_path)] == ["odd==1.0", "even==2.0"]


def test_npm_packages_are_pinned_by_integrity_and_name_no_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {path: package for path, package in lock["packages"].items() if path}
    assert packages
    for path, package in packages.items():
        assert re.fullmatch(r"sha(1|512)-[A-Za-z0-9+/=]+", package["integrity"]), path
        assert "resolved" not in package, path


@pytest.mark.parametrize(
    "file",
    [
        "dev/setup",
        "dev/audit",
        "dev/lock",
        "dev/test-functions",
        "action.yml",
        "pipelines/azure-pipelines/steps/install.yml",
    ],
)
def test_every_installation_takes_only_wheels_with_hashes_or_asks_no_index(file: str) -> None:
    """pip fetches the build requirements of a source distribution without hashes."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    [*installations] = [line for line in text.splitlines() if re.search(r"pip install|\$\{pip\[@\]\}", line)]
    assert installations
    for line in installations:
        is_definition = line.strip().startswith("pip=(")
        assert (
            is_definition
            or "--only-binary :all: --require-hashes" in line
            or "--no-index --no-deps --no-build-isolation" in line
        ), line
