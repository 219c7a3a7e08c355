"""The hosting service and the repository of a git remote, in all forms of its URL."""

import pytest

from safe_deploy.setup.remotes import CiSystemName, parse_remote


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/acme/shop",
        "https://github.com/acme/shop.git/",
        "https://user:p%40ss@github.com/acme/shop.git",
        "git@github.com:acme/shop.git",
        "ssh://git@github.com:22/acme/shop.git",
        "ssh://git@ssh.github.com:443/acme/shop.git",
        "git://GitHub.com/acme/shop.git",
    ],
)
def test_a_remote_on_github(url: str) -> None:
    remote = parse_remote("origin", url)
    assert remote.ci_system is CiSystemName.GITHUB
    assert remote.github_repository == "acme/shop"
    assert "p@ss" not in str(remote)


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.acme.example/acme/shop.git", "github.acme.example/acme/shop"),
        ("git@acme.ghe.com:acme/shop.git", "acme.ghe.com/acme/shop"),
    ],
)
def test_a_remote_on_another_server_of_github_names_its_host(url: str, repository: str) -> None:
    remote = parse_remote("origin", url)
    assert remote.ci_system is CiSystemName.GITHUB
    assert remote.github_repository == repository


@pytest.mark.parametrize(
    "url",
    [
        "https://dev.azure.com/acme/Web%20Shop/_git/shop",
        "https://acme@dev.azure.com/acme/shop/_git/shop",
        "git@ssh.dev.azure.com:v3/acme/shop/shop",
        "https://acme.visualstudio.com/DefaultCollection/shop/_git/shop",
        "acme@vs-ssh.visualstudio.com:v3/acme/shop/shop",
    ],
)
def test_a_remote_in_azure_repos(url: str) -> None:
    remote = parse_remote("origin", url)
    assert remote.ci_system is CiSystemName.AZURE_PIPELINES
    assert remote.github_repository is None


@pytest.mark.parametrize(
    "url",
    ["", "/srv/git/shop.git", "../shop", "C:\\shop", "C:/shop", "file:///srv/shop", "https://gitlab.com/acme/shop"],
)
def test_a_remote_whose_ci_system_is_not_known(url: str) -> None:
    remote = parse_remote("origin", url)
    assert remote.ci_system is None
    assert str(remote).startswith("origin")
