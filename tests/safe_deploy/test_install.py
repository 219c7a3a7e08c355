"""`pip install .`, as people and pipelines do it: into an environment of its own, from nothing but the project's files.
What the server needs does not come along."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import state_api
from harness.dependency_groups import pinned_versions
from harness.state_server import ROOT, ServerProcess
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.processes import CliResult

PACKAGE = "safe-deploy"
# Imports every module, and says whose modules are there then, and which of the packages depend on which.
_IMPORTS = """
import importlib, importlib.metadata, json, pkgutil, re, sys
before = set(sys.modules)
import safe_deploy
for module in pkgutil.walk_packages(safe_deploy.__path__, "safe_deploy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
owners = importlib.metadata.packages_distributions()
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
imported = {plain(owner) for top in tops - sys.stdlib_module_names for owner in owners.get(top, [])}
needs = {}
for one in importlib.metadata.distributions():
    # Those of extras are not needed.
    texts = [text for text in one.requires or [] if "extra ==" not in text]
    needs[plain(one.name)] = [plain(re.match(r"[A-Za-z0-9._-]+", text)[0]) for text in texts]
print(json.dumps({"imported": sorted(imported), "needs": needs, "file": safe_deploy.__file__}))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the command line in it."""

    folder: Path

    def run(self, program: str, *arguments: str, **given: str) -> CliResult:
        """A program of the environment, away from the project's files."""
        ended = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=outside() | given,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return CliResult(ended.returncode, ended.stdout, ended.stderr)


def outside() -> dict[str, str]:
    """This process's environment without what leads to the project or its own packages."""
    left_out = ("PYTHON", "VIRTUAL_ENV", "COVERAGE", "SAFE_DEPLOY_", "STATE_", "CI", "GITHUB_", "TF_BUILD")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def copied(to: Path) -> Path:
    """The project as a checkout has it: only what git knows, or is about to."""
    for name in files():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    return to


def files(*under: str) -> list[Path]:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *under]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def pip(folder: Path) -> list[str]:
    """pip, at work in that environment and in no other."""
    options = ["--disable-pip-version-check", "--no-input", "--python", str(folder / "bin" / "python")]
    return [sys.executable, "-m", "pip", *options]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    project = copied(tmp_path_factory.mktemp("project"))
    folder = tmp_path_factory.mktemp("installed") / "venv"
    # Its own pip would take a third of the time, and be the same as this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], env=outside(), check=True)
    # As the action installs it: wheels by hashes, and then without the package index.
    build = ["--no-index", "--no-deps", "--no-build-isolation", "."]
    for what in (["--only-binary", ":all:", "--require-hashes", "-r", "requirements-cli.txt"], build):
        ended = subprocess.run(
            [*pip(folder), "install", "--quiet", "--no-compile", *what],
            env=outside(),
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
    yield Installed(folder)
    shutil.rmtree(folder)


def test_only_the_command_line_and_what_it_needs_is_installed(installed: Installed) -> None:
    """Nothing of the server, nothing of Azure. What is tested with is what is installed."""
    listed = subprocess.run(
        [*pip(installed.folder), "list", "--format", "json"], env=outside(), capture_output=True, text=True, check=True
    )
    versions = {one["name"].lower(): one["version"] for one in json.loads(listed.stdout)}
    assert PACKAGE in versions
    # Typer 0.29 needs pydantic itself.
    unwanted = ("fastapi", "starlette", "azure", "msal", "aiohttp", "uvicorn", "durabletask", "grpcio")
    assert [name for name in versions if name.startswith(unwanted)] == []
    pinned = pinned_versions("cli")
    assert set(pinned) == {"httpx", "rich", "typer", "setuptools"}
    for name, version in pinned.items():
        assert version == f"=={versions[name]}"


def test_all_that_is_imported_is_what_the_package_says_it_needs(installed: Installed) -> None:
    """The standard library, httpx, Typer, Rich, and what these need; and all of it is found without the project."""
    ended = installed.run("python", "-I", "-c", _IMPORTS)
    assert ended.code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert Path(found["file"]).is_relative_to(installed.folder)
    assert sorted(found["needs"][PACKAGE]) == ["httpx", "rich", "typer"]
    needed: set[str] = set()
    left = [PACKAGE]
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += found["needs"].get(name, [])
    assert set(found["imported"]) <= needed
    assert set(found["needs"]) <= needed | {"setuptools"}


def test_the_package_holds_the_modules_and_no_others(installed: Installed) -> None:
    """Neither tests nor the server are on the path of whoever installs it."""
    (site,) = (installed.folder / "lib").glob("python3.*/site-packages")
    there = {path.relative_to(site) for path in (site / "safe_deploy").rglob("*.py")}
    assert there == set(files("safe_deploy"))
    assert not any((site / name).exists() for name in ("state_api", "tests", "dev", "function_app.py"))


def test_the_installed_command_prints_the_version_of_the_server(installed: Installed) -> None:
    ended = installed.run("safe-deploy", "--version")
    assert (ended.code, ended.stdout) == (0, f"safe-deploy {state_api.__version__}\n")


def test_the_installed_command_helps(installed: Installed) -> None:
    """Every command, by its name alone."""
    helped = installed.run("safe-deploy", "--help")
    assert (helped.code, helped.stderr) == (0, "")
    assert helped.stdout.startswith("Usage: safe-deploy [OPTIONS] COMMAND")
    for name in ("status", "stage", "swap", "rollback", "cleanup", "deploy", "register", "doctor"):
        assert f"\n  {name} " in helped.stdout
    assert installed.run("python", "-m", "safe_deploy", "--help").code == 0


def test_the_installed_command_asks_a_server(installed: Installed, served: ServerProcess) -> None:
    """From the package alone to a verdict."""
    app_client = AppClient(served.url)
    app_client.register()
    ended = installed.run("safe-deploy", "status", **app_client.given("reader"))
    assert ended == CliResult(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")
