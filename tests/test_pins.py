"""What is installed is pinned: Python packages by version and hashes, npm's by integrity, actions by commit. Offline;
`make audit` asks the package index whether the hashes are all."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dev.check_pins import (
    OWN_ACTION,
    find_action_problems,
    find_lock_files,
    find_lock_problems,
    find_problems,
    find_version_conflicts,
    parse_lock_file,
    parse_requirements,
)

ROOT = Path(__file__).parent.parent
HASH = f"--hash=sha256:{'0' * 64}"
COMMIT = "d23441a48e516b6c34aea4fa41551a30e30af803"
LOCK_FILES_INSTALLED_HERE = [
    path for path in find_lock_files() if path.stem not in ("requirements-audit", "requirements-functions")
]


def test_everything_in_this_repository_is_pinned() -> None:
    assert list(find_problems()) == []


def test_every_file_that_is_installed_has_a_lock_file() -> None:
    names = {str(path.relative_to(ROOT)) for path in find_lock_files()}
    assert names == {
        *(f"requirements{kind}.txt" for kind in ("", "-audit", "-cli", "-dev", "-functions", "-scheduler", "-serve")),
        "durable_app/requirements.txt",
    }


@pytest.mark.parametrize("lock", LOCK_FILES_INSTALLED_HERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_file_holds_everything_that_its_packages_need(lock: Path) -> None:
    """As the packages themselves say, where they are installed."""
    have = {name for name, _ in parse_lock_file(lock.read_text())}
    for name in have:
        try:
            needs = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert canonicalize_name(need.name) in have, f"{name} needs {need}"


def test_what_is_tested_is_what_is_locked() -> None:
    """Every package of the lock files that is installed here has the locked version."""
    for name, version in {pair for lock in LOCK_FILES_INSTALLED_HERE for pair in parse_lock_file(lock.read_text())}:
        same = {
            other
            for lock in LOCK_FILES_INSTALLED_HERE
            for found, other in parse_lock_file(lock.read_text())
            if found == name
        }
        if name != "setuptools":  # it comes with Python, and only builds the command line
            assert len(same) > 1 or installed_version(name) in (None, version), name


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize(
    ("source", "lock", "problem"),
    [
        ("odd==1.0", f"odd==1.0 {HASH}", None),
        ("odd==1.0", f"odd==1.0 \\\n    {HASH} \\\n    {HASH}\n    # via -r requirements.in", None),
        ("Odd_One==1.0", f"odd-one==1.0 {HASH}", None),
        ("odd==1.0", "odd==1.0", "odd==1.0 has no hash"),
        ("odd==1.0", f"odd==1.1 {HASH}", "odd==1.0 is missing from the lock file"),
        ("odd==1.0", f"even==1.0 {HASH}", "odd==1.0 is missing from the lock file"),
        ("odd>=1.0", f"odd==1.0 {HASH}", "odd>=1.0 is not pinned to one version"),
        ("odd==1.*", f"odd==1.0 {HASH}", "odd==1.* is not pinned to one version"),
        ("odd==1.0", f"--{'index-url'} https://example.com/\nodd==1.0 {HASH}", "names a place to install from"),
        ("odd==1.0", f"odd @ https://example.com/odd.whl {HASH}", "names a place to install from"),
    ],
)
def test_a_lock_file_is_refused_unless_it_pins_all_of_its_source(source: str, lock: str, problem: str | None) -> None:
    found = list(find_lock_problems(source, lock))
    assert found == [] if problem is None else any(problem in one for one in found)


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


def test_the_pins_of_a_source_leave_out_comments_and_the_files_that_it_includes() -> None:
    text = "# why\n-r requirements.in\nodd==1.0; python_version < '3.13' # why\n\neven==2.0\n"
    assert [pin.name for pin in parse_requirements(text)] == ["odd", "even"]


def test_npm_packages_are_pinned_by_integrity_and_name_no_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {path: content for path, content in lock["packages"].items() if path}
    assert packages
    for path, content in packages.items():
        assert re.fullmatch(r"sha(1|512)-[A-Za-z0-9+/=]+", content["integrity"]), path
        assert "resolved" not in content, path


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
    """What builds a source distribution would be fetched without hashes."""
    text = (ROOT / file).read_text().replace("\\\n", " ")
    [*installations] = [line for line in text.splitlines() if re.search(r"pip install|\$\{pip\[@\]\}", line)]
    assert installations
    for line in installations:
        defines = line.strip().startswith("pip=(")
        assert (
            defines
            or "--only-binary :all: --require-hashes" in line
            or "--no-index --no-deps --no-build-isolation" in line
        ), line
