"""One version for server, command line and wheel, and a release as docs/releasing.md describes it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import state_api
from dev.check_release import ReleaseError, check_wheel, read_changelog_entry
from state_api.app import StateServer, openapi_document
from state_api.settings import Settings, StorageSettings

ROOT = Path(__file__).parent.parent
VERSION = state_api.__version__


@pytest.fixture(scope="module")
def release_commands() -> str:
    """The commands of docs/releasing.md that need neither a network nor an account."""
    return "".join(re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/releasing.md").read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone of the working tree, whose changelog has a date for this version."""
    folder = tmp_path_factory.mktemp("release") / "checkout"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in names:
        if name and not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    changelog = (folder / "CHANGELOG.md").read_text()
    dated = re.sub(rf"^(## {re.escape(VERSION)} .) unreleased$", r"\1 2026-11-27", changelog, flags=re.MULTILINE)
    (folder / "CHANGELOG.md").write_text(dated)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    subprocess.run(["git", "init", "--quiet", "."], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    yield folder
    shutil.rmtree(folder)


def run_script(script: str, folder: Path) -> None:
    """Run a script of the release page, with a Git identity of its own. It must succeed."""
    identity = {
        f"GIT_{role}_{field}": "release@example.com" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")
    }
    ended = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_commands_of_the_release_page_build_the_wheel_and_tag_the_commit(
    checkout: Path, release_commands: str
) -> None:
    run_script(release_commands, checkout)
    check_wheel(checkout / "dist", VERSION)
    assert "The first version." in (checkout / "dist" / f"notes-{VERSION}.md").read_text()
    tag = subprocess.run(
        ["git", "tag", "--points-at", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert tag.stdout == f"v{VERSION}\n"


def test_the_server_has_the_version_of_the_package() -> None:
    storage = StorageSettings.model_validate({"connection_string": "UseDevelopmentStorage=true"})
    assert openapi_document(StateServer(Settings(storage=storage)).api)["info"]["version"] == VERSION


def test_a_release_without_its_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"must hold safe_deploy-9\.0\.0-py3-none-any\.whl"):
        check_wheel(tmp_path, "9.0.0")


@pytest.mark.parametrize(
    ("changelog", "message"),
    [("## 1.0.0 - 2026-01-01\n", "has no heading '## 2.0.0"), ("## 2.0.0 - unreleased\n", "must have a date")],
)
def test_a_release_without_a_dated_changelog_entry_is_refused(changelog: str, message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        read_changelog_entry(changelog, "2.0.0")


def test_a_changelog_entry_ends_at_the_next_version() -> None:
    text = "# Changelog\n\n## 2.0.0 - 2026-02-01\n\n### Added\n\n- New.\n\n## 1.0.0 - 2026-01-01\n\n- Old.\n"
    assert read_changelog_entry(text, "2.0.0") == "### Added\n\n- New."


def hook_commands() -> list[str]:
    """The commands of the pre-commit hooks."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"], "hooks download nothing"
    return [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]


def test_the_commit_hooks_run_programs_of_the_developers_environment() -> None:
    assert hook_commands()
    for command in hook_commands():
        assert (ROOT / command.split()[0]).exists(), command


@pytest.mark.parametrize("file", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda file: file.stem)
def test_an_issue_form_has_fields_with_unique_ids(file: Path) -> None:
    form = yaml.safe_load(file.read_text())
    if file.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
