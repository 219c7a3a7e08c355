"""The command line of `safe-deploy router`, and the policy that it prints."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from safe_deploy.commands.router import parse_listen_address
from safe_deploy.errors import ExitCode, UsageError
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient


@pytest.fixture
def side_by_side(app_client: AppClient) -> AppClient:
    """An app with one release, which is active."""
    release = {"taskHub": new_hub_name(), "address": "https://shop-140.example"}
    app_client.request_json("PUT", "", {"model": "sideBySide", "releases": {"1.4.0": release}})
    app_client.request_json("PUT", "/routing", {"active": "1.4.0"})
    return app_client


def test_the_policy_of_api_management_is_printed(side_by_side: AppClient) -> None:
    result = side_by_side.run_cli("router", "--target", "apim", "--render")
    assert result.code == ExitCode.DONE, result.stderr
    root = ElementTree.fromstring(result.stdout)  # noqa: S314  # our own text
    (url,) = root.iter("set-url")
    assert url.text == f"{side_by_side.url}/api/apps/{side_by_side.app}/routing"
    assert "https://shop-140.example" in result.stdout


def test_files_for_envoy_are_written_once(side_by_side: AppClient, tmp_path: Path) -> None:
    result = side_by_side.run_cli("router", "--target", "envoy", "--out", str(tmp_path / "envoy"), "--once")
    assert result.code == ExitCode.DONE, result.stderr
    assert {path.name for path in (tmp_path / "envoy").iterdir()} == {
        "envoy.yaml",
        "clusters.yaml",
        "routes.yaml",
        "routing.json",
    }


def test_an_app_with_slots_is_refused(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    result = app_client.run_cli("router", "--target", "envoy", "--out", str(tmp_path))
    assert result.code == ExitCode.CONFLICT
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_may_not_read_the_routing_is_refused(side_by_side: AppClient, tmp_path: Path) -> None:
    result = side_by_side.run_cli("router", "--target", "envoy", "--out", str(tmp_path), role="publisher")
    assert result.code == ExitCode.NOT_ALLOWED


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--target", "apim"), id="no output for API Management"),
        pytest.param(("--target", "envoy"), id="no folder"),
        pytest.param(("--target", "envoy", "--out", "x", "--render"), id="a policy for Envoy"),
        pytest.param(("--target", "envoy", "--out", "x", "--name", "a b"), id="name"),
        pytest.param(("--target", "envoy", "--out", "x", "--listen", "8080"), id="listen"),
        pytest.param(("--target", "envoy", "--out", "x" * 200), id="long folder"),
        pytest.param(("--target", "nginx"), id="unknown router"),
    ],
)
def test_a_wrong_command_line_is_refused(
    app_client: AppClient, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert app_client.run_cli("router", *arguments).code == ExitCode.USAGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8080", ("::1", 8080))],  # noqa: S104
)
def test_an_address_to_listen_on_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_listen_address(text) == address


@pytest.mark.parametrize("text", ["", ":80", "localhost:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "::1:80"])
def test_another_address_to_listen_on_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_listen_address(text)
