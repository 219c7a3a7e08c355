"""A repository of a durable app, on a machine with git and with fakes of `az` and `gh`, in which `safe-deploy init`
runs."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.pipelines.fake_gh import FakeGitHub, install_fake_gh
from tests.safe_deploy.answering_person import Conversation, answer_in_terminal
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import CliResult, build_command_line, environment

ACTION = "your-org/safe-deploy@COMMIT"
SERVER = "https://shop-state.azurewebsites.net"
WORKFLOW = ".github/workflows/safe-deploy.yml"
POLICY = "safe-deploy-policy.json"
HOST_JSON = """{
  "version": "2.0",
  "extensions": {
    "durableTask": {
      "hubName": "%TASK_HUB%"
    }
  }
}
"""
ANSWERS = ("--server", SERVER, "--action", ACTION)
"""What nothing on the machine shows."""


@dataclass(frozen=True, slots=True)
class AppRepository:
    """The work tree, the programs on the PATH, and what is behind them."""

    root: Path
    programs: Path
    fake_azure: FakeAzure
    fake_github: FakeGitHub

    def init(self, *arguments: str, folder: str = "", **variables: str) -> CliResult:
        """Run `safe-deploy init` without a terminal."""
        with chdir(self.root / folder):
            result = run_in_process(["init", *arguments], self.variables | variables)
        return CliResult(result.code, result.out, result.err)

    def answer(self, typed: str, *arguments: str, **options: Any) -> Conversation:
        """Run `safe-deploy init` in a terminal in which these answers are typed."""
        command_line = build_command_line("init", *arguments)
        return answer_in_terminal(
            command_line, typed, variables=environment(self.variables), folder=self.root, **options
        )

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the machine, without the settings of the user who runs the tests."""
        return {
            "PATH": str(self.programs),
            "HOME": str(self.programs),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
        }

    def git(self, *arguments: str) -> None:
        """Run git in the work tree."""
        options = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(
            ["git", "-C", self.root, *options, *arguments],
            env=environment(self.variables),
            check=True,
            capture_output=True,
        )

    def write(self, path: str, text: str) -> None:
        """Write a file with these line breaks."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())

    def read(self, path: str) -> str:
        """The text of a file with its line breaks."""
        return (self.root / path).read_bytes().decode()

    def read_json(self, path: str) -> Any:
        return json.loads(self.read(path))

    def snapshot(self) -> dict[str, bytes]:
        """All files of the work tree apart from those of git."""
        files = [path for path in self.root.rglob("*") if path.is_file() and ".git/" not in f"{path}"]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}

    def uninstall(self, program: str) -> None:
        """Remove a program from the PATH."""
        (self.programs / program).unlink()


def create_app_repository(folder: Path, remote: str = "https://github.com/acme/shop.git") -> Iterator[AppRepository]:
    """Create a repository with one Function App, which has a slot, in Azure, and with an empty repository on GitHub."""
    programs, root = folder / "bin", folder / "shop"
    programs.mkdir()
    root.mkdir()
    git = shutil.which("git")
    assert git is not None
    (programs / "git").symlink_to(git)
    install_fake_az(programs, folder / "cloud.json")
    install_fake_gh(programs, folder / "github.json")
    repository = AppRepository(
        root=root,
        programs=programs,
        fake_azure=FakeAzure(folder / "cloud.json"),
        fake_github=FakeGitHub(folder / "github.json"),
    )
    slots = {"production": {"settings": {"TASK_HUB": "v41"}}, "staging": {"settings": {}}}
    repository.fake_azure.reset({"shop-4711": {"resourceGroup": "shop-rg", "slots": slots}})
    repository.fake_github.reset("acme/shop")
    repository.git("init", "--initial-branch", "main")
    if remote:
        repository.git("remote", "add", "origin", remote)
    repository.write("host.json", HOST_JSON)
    yield repository
