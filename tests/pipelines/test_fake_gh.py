"""The fake `gh` answers as the GitHub CLI is documented to."""

import subprocess
from pathlib import Path

import pytest

from tests.pipelines.fake_gh import FakeGitHub, install_fake_gh

SECRET_SET = ["secret", "set", "KEY", "--env", "production", "--repo", "acme/shop"]
VARIABLE_LIST = ["variable", "list", "--repo", "acme/shop", "--json", "name,value"]


@pytest.fixture
def fake_github(tmp_path: Path) -> FakeGitHub:
    install_fake_gh(tmp_path, tmp_path / "github.json")
    github = FakeGitHub(tmp_path / "github.json")
    github.reset("acme/shop")
    return github


def run_gh(folder: Path, arguments: list[str], stdin: str = "") -> tuple[int, str, str]:
    """The exit code, stdout and stderr of the fake."""
    result = subprocess.run([folder / "gh", *arguments], input=stdin, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout.strip(), result.stderr.strip()


def test_a_secret_needs_its_environment(fake_github: FakeGitHub, tmp_path: Path) -> None:
    code, _, stderr = run_gh(tmp_path, SECRET_SET, "value")
    assert (code, stderr.startswith("failed to fetch public key: HTTP 404: Not Found")) == (1, True)
    environment = "repos/acme/shop/environments/production"
    assert run_gh(tmp_path, ["api", "--method", "PUT", environment, "--silent"])[0] == 0
    assert run_gh(tmp_path, SECRET_SET, "value")[0] == 0
    assert fake_github.secrets("acme/shop", "production") == {"KEY": "value"}
    listing = ["secret", "list", "--env", "production", "--repo", "acme/shop", "--json", "name"]
    assert run_gh(tmp_path, listing)[1] == '[{"name": "KEY"}]'


def test_failures_have_the_exit_codes_and_texts_of_gh(fake_github: FakeGitHub, tmp_path: Path) -> None:
    assert run_gh(tmp_path, ["api", "repos/acme/shop/environments/x"]) == (1, "", "gh: Not Found (HTTP 404)")
    assert run_gh(tmp_path, ["repo", "view"])[0] == 1
    assert run_gh(tmp_path, ["variable", "list", "--no-such-flag"])[0] == 1
    fake_github.change(network=False)
    assert run_gh(tmp_path, VARIABLE_LIST)[2].startswith("error connecting to api.github.com")
    assert run_gh(tmp_path, ["auth", "status"])[0] == 1
    fake_github.change(login="", network=True)
    assert run_gh(tmp_path, VARIABLE_LIST)[0] == 4
    assert run_gh(tmp_path, ["auth", "status"])[0] == 1
