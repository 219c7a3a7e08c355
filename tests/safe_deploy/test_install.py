"""`pip install .` as people and pipelines run it: into a new environment, from only the project's files.

The server's dependencies are not installed.
"""

import json
import os
import re
import shlex
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
    assert set(pinned) == {"httpx", "PyYAML", "rich", "typer", "setuptools"}
    for name, version in pinned.items():
        assert version == f"=={versions[name.lower()]}"


def test_only_declared_dependencies_are_imported(installed: Installed) -> None:
    """The imports are the standard library and what the package depends on, found without the project."""
    result = installed.run("python", "-I", "-c", _IMPORTS)
    assert result.code == ExitCode.DONE, result.stderr
    results = json.loads(result.stdout)
    assert Path(results["file"]).is_relative_to(installed.folder)
    assert sorted(results["needs"][PACKAGE]) == ["httpx", "pyyaml", "rich", "typer"]
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


def test_the_package_contains_the_templates_of_the_repository(installed: Installed) -> None:
    """Their text exists once, in the folder `pipelines`."""
    (site,) = (installed.folder / "lib").glob("python3.*/site-packages")
    templates = site / "safe_deploy" / "templates"
    installed_files = {
        path.relative_to(templates): path.read_bytes() for path in templates.rglob("*") if path.is_file()
    }
    pipelines = [ROOT / "pipelines" / system for system in ("github", "azure-pipelines")]
    files = [path for folder in pipelines for path in folder.glob("*.yml")]
    assert installed_files == {path.relative_to(ROOT / "pipelines"): path.read_bytes() for path in files}


def test_the_installed_command_sets_up_a_repository(installed: Installed, tmp_path: Path) -> None:
    """It finds its templates, and names its version."""
    for arguments in (["init", "--quiet", "."], ["remote", "add", "origin", "https://github.com/acme/shop"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "host.json").write_text('{"version": "2.0"}')
    answers = {"server": "https://shop-state.example", "app": "shop", "function-app": "shop", "resource-group": "shop"}
    options = [f"--{name}={value}" for name, value in answers.items()]
    command = [
        str(installed.folder / "bin" / "safe-deploy"),
        "init",
        "--yes",
        "--model=slots",
        "--ci=azure-pipelines",
        *options,
    ]
    result = subprocess.run(
        [*command, "--action=your-org/safe-deploy", "--task-hub-setting=TASK_HUB"],
        env=environment_without_project(),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == ExitCode.DONE, result.stderr
    pipeline = (tmp_path / ".azure-pipelines" / "safe-deploy.yml").read_text()
    assert f"ref: refs/tags/v{state_api.__version__}\n" in pipeline


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


# Prints what pipx and package indexes read: the metadata, and the command with the function that it calls.
_METADATA = """
import importlib.metadata as metadata, json
package = metadata.metadata("safe-deploy")
scripts = metadata.distribution("safe-deploy").entry_points.select(group="console_scripts")
print(json.dumps({
    "scripts": {script.name: f"{script.load().__module__}.{script.load().__name__}" for script in scripts},
    "text": package.get_payload() or package["Description"],
    **{name: package.get_all(name) for name in package.keys()},
}))
"""


def test_the_metadata_is_complete(installed: Installed) -> None:
    result = installed.run("python", "-I", "-c", _METADATA)
    assert result.code == ExitCode.DONE, result.stderr
    metadata = json.loads(result.stdout)
    assert metadata["scripts"] == {"safe-deploy": "safe_deploy.__main__.main"}
    assert metadata["Version"] == [state_api.__version__]
    assert metadata["Summary"] == ["Deploys Azure Durable Functions only when the slot's task hub has drained"]
    assert metadata["License-Expression"] == ["MIT"]
    assert metadata["License-File"] == ["LICENSE"]
    assert metadata["Requires-Python"] == [">=3.11"]
    assert metadata["Description-Content-Type"] == ["text/markdown"]
    assert metadata["text"].strip() == (ROOT / "README.md").read_text().strip()
    assert "Programming Language :: Python :: 3.13" in metadata["Classifier"]


def test_bash_completes_commands_options_and_values_after_one_command(installed: Installed, tmp_path: Path) -> None:
    """`--install-completion` finds out which shell has run it. A new shell then completes."""
    assert run_in_bash(installed, tmp_path, "safe-deploy --install-completion; true").returncode == 0
    assert f"source '{tmp_path}/.bash_completions/safe-deploy.sh'" in (tmp_path / ".bashrc").read_text()
    for words, completions in {
        ("safe-deploy", "sta"): ["status", "stage"],
        ("safe-deploy", "keys", "new", "--role", ""): ["reader", "router", "deployer", "publisher", "admin"],
        ("safe-deploy", "status", "--output", ""): ["table", "json", "yaml"],
        ("safe-deploy", "status", "--time"): ["--timeout"],
        ("safe-deploy", "--version", "roll"): ["rollback", "rollout"],
        ("safe-deploy", "status", "--key", "secret", "--verify", ""): ["cached", "fresh", "none"],
    }.items():
        quoted = " ".join(map(shlex.quote, words))
        script = (
            f"source ~/.bashrc; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
            'complete -p safe-deploy >&2; _safe_deploy_completion safe-deploy; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        result = run_in_bash(installed, tmp_path, script)
        assert result.stdout.splitlines() == completions, result.stderr
        assert result.stderr.splitlines() == ["complete -o default -F _safe_deploy_completion safe-deploy"]


def run_in_bash(installed: Installed, home: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in bash, with the installed command on PATH and a home directory of its own."""
    variables = {"HOME": str(home), "PATH": f"{installed.folder / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script],
        env=environment_without_project() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("shell", "call"),
    [
        ("bash", "_SAFE_DEPLOY_COMPLETE=complete_bash"),
        ("zsh", "#compdef safe-deploy"),
        ("fish", "complete --command safe-deploy"),
    ],
)
def test_the_completion_script_of_each_shell_is_printed(installed: Installed, shell: str, call: str) -> None:
    """The variable has Typer take the shell from the command line. These shells need not be installed."""
    result = installed.run("safe-deploy", "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    assert call in result.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_values(installed: Installed, shell: str) -> None:
    """With the variables that the shell's script sets."""
    result = installed.run(
        "safe-deploy",
        _SAFE_DEPLOY_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="safe-deploy keys new --role ",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    assert re.findall(r"\w+", result.stdout)[-5:] == ["reader", "router", "deployer", "publisher", "admin"]


def test_the_installed_command_queries_a_server(installed: Installed, served: ServerProcess) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    result = installed.run("safe-deploy", "status", **app_client.build_environment("reader"))
    assert result == CliResult(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")


def test_the_installed_package_explains_codes_from_its_copy_of_the_page(installed: Installed) -> None:
    (copy,) = installed.folder.rglob("safe_deploy/pages/*")
    assert copy.read_bytes() == (ROOT / "docs" / "reasons.md").read_bytes()
    result = installed.run("safe-deploy", "explain", "taskhubmissing")
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    assert result.stdout.startswith("TaskHubMissing (reason code)\n")
