"""The connection to the server: URLs, keys, redirects, and servers of another kind."""

from pathlib import Path
from typing import Any

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.errors import ExitCode, UsageError
from tests.builders import event
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import github_environment
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.processes import KEYS, run_safe_deploy

# --- the server's URL ---


@pytest.mark.parametrize("end", ["/", "/api", "/api/", " ", "\n"])
def test_the_server_url_may_end_with_api_or_a_slash(app_client: AppClient, end: str) -> None:
    app_client.register()
    assert app_client.run_cli("status", SAFE_DEPLOY_SERVER=f"{app_client.url}{end}").code == ExitCode.DONE


@pytest.mark.parametrize(
    "url",
    [
        "https://user:s3cr3t@shop.example",
        "https://s3cr3t@shop.example",
        "https://shop.example/api?code=s3cr3t",
        "https://shop.example#s3cr3t",
        "shop.example/s3cr3t",
        "ftp://shop.example/s3cr3t",
        "http://[::1/s3cr3t",
        "http://shop.example:99999/s3cr3t",
        "http://shop.example:s3cr3t",
        "https://",
        "s3cr3t",
    ],
)
def test_a_server_url_that_is_invalid_or_holds_a_secret_is_refused_without_showing_it(
    app_client: AppClient, url: str
) -> None:
    result = app_client.run_cli("status", SAFE_DEPLOY_SERVER=url)
    assert result.code == ExitCode.USAGE
    assert "s3cr3t" not in result.stdout + result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_key_over_http_to_another_machine_causes_a_warning(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    # This address reaches this machine, but is not a loopback address.
    url = app_client.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104
    result = app_client.run_cli("status", SAFE_DEPLOY_SERVER=url)
    assert result.code == ExitCode.DONE
    assert "warning: the key is sent unencrypted over http" in result.stderr
    annotated = app_client.run_cli("status", SAFE_DEPLOY_SERVER=url, **github_environment(tmp_path))
    assert "::warning title=safe-deploy::the key is sent unencrypted" in annotated.stderr
    assert (
        app_client.run_cli("status", SAFE_DEPLOY_SERVER=app_client.url.replace("127.0.0.1", "localhost")).stderr == ""
    )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(app_client: AppClient, status: int) -> None:
    with run_fault_proxy() as other_server, run_fault_proxy() as server:
        server.always_inject(
            CannedResponse(status, headers={"Location": f"{other_server.url}/api/apps/{app_client.app}/staging"})
        )
        result = app_client.run_cli("status", SAFE_DEPLOY_SERVER=server.url)
    assert result.code == ExitCode.FAILURE
    assert "redirects to another server" in result.stderr
    assert len(server.received) == 1
    assert other_server.received == []


@pytest.mark.parametrize(
    ("response", "code", "message"),
    [
        (CannedResponse(200, b"<html>Welcome</html>"), 1, "answers, but is not a state server"),
        (CannedResponse(200, b"[]"), 1, "answers, but is not a state server"),
        (CannedResponse(200, b"{}"), 1, "answers, but is not a state server"),
        (CannedResponse(200, b"\xff\xfe"), 1, "answers, but is not a state server"),
        (CannedResponse(200), 1, "answers, but is not a state server"),
        (CannedResponse(404, b"<html>Nothing here</html>"), 1, "there is no state server at"),
        (CannedResponse(401, b""), 4, "Check SAFE_DEPLOY_KEY: it must be a key of this server"),
        (
            CannedResponse(403, b"<html>Stopped</html>"),
            4,
            "Check SAFE_DEPLOY_KEY: it must be a key of this server",
        ),
        (CannedResponse(409, b"<html></html>"), 6, "answered with status 409"),
        (
            CannedResponse(500, b'{"code": "InternalError", "detail": "odd", "traceId": "4711"}'),
            1,
            "odd (traceId 4711)",
        ),
        (CannedResponse(500, b'{"code": 7, "detail": "odd"}'), 1, "answered with status 500"),
    ],
)
def test_a_response_that_does_not_come_from_a_state_server_is_an_error(
    app_client: AppClient, response: CannedResponse, code: int, message: str
) -> None:
    with run_fault_proxy() as other:
        other.always_inject(response)
        result = app_client.run_cli("status", SAFE_DEPLOY_SERVER=other.url)
    assert result.code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


# --- secrets ---


@pytest.mark.parametrize("key", ["s3cr3t\nkey", "s3cr3t-schlüssel", "s3cr3t\x7f", "s3cr3t\tx"])
def test_an_invalid_key_is_refused_without_showing_it(app_client: AppClient, tmp_path: Path, key: str) -> None:
    result = app_client.run_cli("status", SAFE_DEPLOY_KEY=key, **github_environment(tmp_path))
    assert result.code == ExitCode.USAGE
    assert "Check how SAFE_DEPLOY_KEY is set" in result.stderr
    for text in (result.stdout, result.stderr, *(file.read_text() for file in tmp_path.iterdir())):
        assert "s3cr3t" not in text
        assert "schl" not in text


def test_white_space_around_a_key_is_ignored(app_client: AppClient) -> None:
    app_client.register()
    assert app_client.run_cli("status", SAFE_DEPLOY_KEY=f" {KEYS['reader']}\n").code == ExitCode.DONE


def test_the_key_is_never_shown(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    calls: list[tuple[list[str], dict[str, str]]] = [
        (["--help"], {}),
        (["status", "--help"], {}),
        (["status", "--key", KEYS["admin"], "--output", "xml"], {}),
        (["status", "--key", KEYS["admin"], "--slot", "production"], {}),
        (["status", f"--key={KEYS['admin']}", "--timeout", "x"], {}),
        (["stage", "--key", KEYS["admin"], "--task-hub", app_client.hub], {}),
        (["doctor"], {}),
        (["doctor", "--for", "read", "--output", "json"], {}),
        (["swap", "--task-hub", app_client.hub, "--", "env"], {"SAFE_DEPLOY_RUN_URL": f"{RUN}1"}),
    ]
    for arguments, more in calls:
        # `run_cli` fails if a key is printed.
        app_client.run_cli(*arguments, **github_environment(tmp_path), **more)
        for file in tmp_path.iterdir():
            assert not any(key in file.read_text() for key in KEYS.values())


def test_an_unexpected_error_does_not_show_the_key(app_client: AppClient) -> None:
    with run_fault_proxy() as proxy:
        # The response passes for one of a state server, but lacks every other member.
        proxy.always_inject(CannedResponse(200, b'{"app": 7}'))
        for command in (["status"], ["swap", "--task-hub", app_client.hub, "--", "true"], ["history"]):
            result = run_safe_deploy(*command, variables=app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url))
            assert result.code == ExitCode.FAILURE
            assert result.stderr.splitlines()[-1].startswith("error: ")
            assert KEYS["admin"] not in result.stdout + result.stderr


def test_the_client_refuses_invalid_keys_urls_and_run_urls() -> None:
    def create_client(url: str = "https://shop.example", key: str = "", caller: Any = None) -> StateServerClient:
        """A client that is not connected yet."""
        return StateServerClient(url, "shop", key=key, caller=caller or PipelineCaller(), report=print)

    with pytest.raises(UsageError):
        create_client(key="a\nb")
    with pytest.raises(UsageError):
        create_client(caller=PipelineCaller("x", "https://é"))
    with pytest.raises(UsageError):
        create_client("//x")
