"""`pip install .` as people and pipelines run it: into a new environment, from only the project's files.

The server's dependencies are not installed.
"""

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
from harness.dependency_groups import read_pinned_versions
from harness.state_server import ROOT, ServerProcess
from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.processes import CliResult

PACKAGE = "safe-deploy"
# Imports every module. Prints the distributions of the imported modules, and the dependencies of all distributions.
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
    # Dependencies of extras are not installed.
    texts = [text for text in one.requires or [] if "extra ==" not in text]
    needs[plain(one.name)] = [plain(re.match(r"[A-Za-z0-9._-]+", text)[0]) for text in texts]
print(json.dumps({"imported": sorted(imported), "needs": needs, "file": safe_deploy.__file__}))
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the command line."""

    folder: Path

    def run(self, program: str, *arguments: str, **variables: str) -> CliResult:
        """Run a program of the environment in a directory without the project's files."""
        result = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=environment_without_project() | variables,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return CliResult(result.returncode, result.stdout, result.stderr)


def environment_without_project() -> dict[str, str]:
    """This process's variables without those that lead to the project or its packages."""
    excluded = ("PYTHON", "VIRTUAL_ENV", "COVERAGE", "SAFE_DEPLOY_", "STATE_", "CI", "GITHUB_", "TF_BUILD")
    return {name: value for name, value in os.environ.items() if not name.startswith(excluded)}


def copy_project(destination: Path) -> Path:
    """Copy the files of a checkout: those in git, and new ones that git does not ignore."""
    for name in list_files():
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, destination / name)
    return destination


def list_files(*under: str) -> list[Path]:
    """The files of this checkout under these paths, apart from those that git ignores."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *under]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def pip_command(folder: Path) -> list[str]:
    """The command line of pip for that environment."""
    options = ["--disable-pip-version-check", "--no-input", "--python", str(folder / "bin" / "python")]
    return [sys.executable, "-m", "pip", *options]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The CLI, installed in an environment of its own as the action installs it."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    folder = tmp_path_factory.mktemp("installed") / "venv"
    # This environment's pip is used instead, which saves a third of the time.
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], env=environment_without_project(), check=True
    )
    # As the action installs it: first the dependencies as wheels with hashes, then the project without an index.
    build = ["--no-index", "--no-deps", "--no-build-isolation", "."]
    for arguments in (["--only-binary", ":all:", "--require-hashes", "-r", "requirements-cli.txt"], build):
        result = subprocess.run(
            [*pip_command(folder), "install", "--quiet", "--no-compile", *arguments],
            env=environment_without_project(),
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    yield Installed(folder)
    shutil.rmtree(folder)


def test_only_the_command_line_and_its_dependencies_are_installed(installed: Installed) -> None:
    """No dependency of the server or of Azure. The pinned versions are installed."""
    listed = subprocess.run(
        [*pip_command(installed.folder), "list", "--format", "json"],
        env=environment_without_project(),
        capture_output=True,
        text=True,
        check=True,
    )
    versions = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    assert PACKAGE in versions
    # pydantic is not in the list, because Typer 0.29 needs it.
    unwanted = ("fastapi", "starlette", "azure", "msal", "aiohttp", "uvicorn", "durabletask", "grpcio")
    assert [name for name in versions if name.startswith(unwanted)] == []
    pinned = read_pinned_versions("cli")
    assert set(pinned) == {"httpx", "rich", "typer", "setuptools"}
    for name, version in pinned.items():
        assert version == f"=={versions[name]}"


def test_only_declared_dependencies_are_imported(installed: Installed) -> None:
    """The imports are the standard library, httpx, Typer, Rich and their dependencies, found without the project."""
    result = installed.run("python", "-I", "-c", _IMPORTS)
    assert result.code == ExitCode.DONE, result.stderr
    results = json.loads(result.stdout)
    assert Path(results["file"]).is_relative_to(installed.folder)
    assert sorted(results["needs"][PACKAGE]) == ["httpx", "rich", "typer"]
    needed: set[str] = set()
    pending = [PACKAGE]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += results["needs"].get(name, [])
    assert set(results["imported"]) <= needed
    assert set(results["needs"]) <= needed | {"setuptools"}


def test_the_package_contains_exactly_the_modules_of_the_command_line(installed: Installed) -> None:
    """Neither the tests nor the server are installed with the command line."""
    (site,) = (installed.folder / "lib").glob("python3.*/site-packages")
    installed_files = {path.relative_to(site) for path in (site / "safe_deploy").rglob("*.py")}
    assert installed_files == set(list_files("safe_deploy"))
    assert not any((site / name).exists() for name in ("state_api", "tests", "dev", "function_app.py"))


def test_the_installed_command_prints_the_version_of_the_server(installed: Installed) -> None:
    result = installed.run("safe-deploy", "--version")
    assert (result.code, result.stdout) == (ExitCode.DONE, f"safe-deploy {state_api.__version__}\n")


def test_the_installed_command_prints_its_help(installed: Installed) -> None:
    """The help of the installed command lists all commands."""
    result = installed.run("safe-deploy", "--help")
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    assert result.stdout.startswith("Usage: safe-deploy [OPTIONS] COMMAND")
    for name in ("status", "stage", "swap", "rollback", "cleanup", "deploy", "register", "doctor"):
        assert f"\n  {name} " in result.stdout
    assert installed.run("python", "-m", "safe_deploy", "--help").code == ExitCode.DONE


def test_the_installed_command_queries_a_server(installed: Installed, served: ServerProcess) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    result = installed.run("safe-deploy", "status", **app_client.build_environment("reader"))
    assert result == CliResult(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")
