"""The way to the server: addresses, keys and redirects, and servers that are no state servers."""

from pathlib import Path
from typing import Any

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.errors import ExitCode, ServerUnavailable, UsageError
from tests.builders import event
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import github
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.processes import KEYS, safe_deploy

# --- the server's address ---


@pytest.mark.parametrize("end", ["/", "/api", "/api/", " ", "\n"])
def test_the_address_may_be_written_with_api_or_a_slash_at_its_end(app_client: AppClient, end: str) -> None:
    app_client.register()
    assert app_client.run_cli("status", SAFE_DEPLOY_SERVER=f"{app_client.url}{end}").code == 0


@pytest.mark.parametrize(
    "address",
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
def test_an_address_that_is_none_or_holds_a_secret_is_refused_unseen(app_client: AppClient, address: str) -> None:
    ended = app_client.run_cli("status", SAFE_DEPLOY_SERVER=address)
    assert ended.code == ExitCode.USAGE
    assert "s3cr3t" not in ended.stdout + ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_key_over_http_to_another_machine_is_warned_of(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    # Reaches this machine, but does not say so.
    url = app_client.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104
    ended = app_client.run_cli("status", SAFE_DEPLOY_SERVER=url)
    assert ended.code == 0
    assert "warning: the key is sent unencrypted over http" in ended.stderr
    annotated = app_client.run_cli("status", SAFE_DEPLOY_SERVER=url, **github(tmp_path))
    assert "::warning title=safe-deploy::the key is sent unencrypted" in annotated.stderr
    assert (
        app_client.run_cli("status", SAFE_DEPLOY_SERVER=app_client.url.replace("127.0.0.1", "localhost")).stderr == ""
    )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_key(app_client: AppClient, status: int) -> None:
    with run_fault_proxy() as other, run_fault_proxy() as here:
        here.always_inject(
            CannedResponse(status, headers={"Location": f"{other.url}/api/apps/{app_client.app}/staging"})
        )
        ended = app_client.run_cli("status", SAFE_DEPLOY_SERVER=here.url)
    assert ended.code == ExitCode.FAILURE
    assert "redirects to another server" in ended.stderr
    assert len(here.received) == 1
    assert other.received == []


@pytest.mark.parametrize(
    ("answer", "code", "said"),
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
def test_what_is_no_state_server_is_told_apart(
    app_client: AppClient, answer: CannedResponse, code: int, said: str
) -> None:
    with run_fault_proxy() as other:
        other.always_inject(answer)
        ended = app_client.run_cli("status", SAFE_DEPLOY_SERVER=other.url)
    assert ended.code == code
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


def test_a_server_that_is_not_there_is_a_failure_that_is_tried_again(app_client: AppClient) -> None:
    said: list[str] = []
    with run_fault_proxy() as gone:
        url = gone.url
    with (
        StateServerClient(
            url, app_client.app, key=None, caller=PipelineCaller(), report=said.append, retry_seconds=1.5
        ) as server,
        pytest.raises(ServerUnavailable) as it,
    ):
        server.get_app()
    assert it.value.exit_code == ExitCode.FAILURE
    assert said == [f"the server {url} cannot be reached: [Errno 111] Connection refused; trying again"]


# --- secrets ---


@pytest.mark.parametrize("key", ["s3cr3t\nkey", "s3cr3t-schlüssel", "s3cr3t\x00"[:-1] + "\x7f", "s3cr3t\tx"])
def test_a_key_that_cannot_be_one_is_refused_unseen(app_client: AppClient, tmp_path: Path, key: str) -> None:
    ended = app_client.run_cli("status", SAFE_DEPLOY_KEY=key, **github(tmp_path))
    assert ended.code == ExitCode.USAGE
    assert "Check how SAFE_DEPLOY_KEY is set" in ended.stderr
    for text in (ended.stdout, ended.stderr, *(file.read_text() for file in tmp_path.iterdir())):
        assert "s3cr3t" not in text
        assert "schl" not in text


def test_a_key_with_space_around_it_is_taken_without(app_client: AppClient) -> None:
    app_client.register()
    assert app_client.run_cli("status", SAFE_DEPLOY_KEY=f" {KEYS['reader']}\n").code == 0


def test_the_key_is_never_shown(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    calls: list[tuple[list[str], dict[str, str]]] = [
        (["--help"], {}),
        (["status", "--help"], {}),
        (["status", "--key", KEYS["admin"], "--output", "yaml"], {}),
        (["status", "--key", KEYS["admin"], "--slot", "production"], {}),
        (["status", f"--key={KEYS['admin']}", "--timeout", "x"], {}),
        (["stage", "--key", KEYS["admin"], "--task-hub", app_client.hub], {}),
        (["doctor"], {}),
        (["doctor", "--for", "read", "--output", "json"], {}),
        (["swap", "--task-hub", app_client.hub, "--", "env"], {"SAFE_DEPLOY_RUN_URL": f"{RUN}1"}),
    ]
    for arguments, more in calls:
        # `run_cli` looks for every key in what is printed.
        app_client.run_cli(*arguments, **github(tmp_path), **more)
        for file in tmp_path.iterdir():
            assert not any(key in file.read_text() for key in KEYS.values())


def test_what_nobody_thought_of_shows_no_key_either(app_client: AppClient) -> None:
    with run_fault_proxy() as odd:
        # An answer that has what makes it one of a state server, and nothing else.
        odd.always_inject(CannedResponse(200, b'{"app": 7}'))
        for command in (["status"], ["swap", "--task-hub", app_client.hub, "--", "true"], ["history"]):
            ended = safe_deploy(*command, given=app_client.given(SAFE_DEPLOY_SERVER=odd.url))
            assert ended.code == ExitCode.FAILURE
            assert ended.stderr.splitlines()[-1].startswith("error: ")
            assert KEYS["admin"] not in ended.stdout + ended.stderr


def test_the_class_refuses_what_the_command_line_refuses() -> None:
    def server(url: str = "https://shop.example", key: str = "", caller: Any = None) -> StateServerClient:
        return StateServerClient(url, "shop", key=key, caller=caller or PipelineCaller(), report=print)

    with pytest.raises(UsageError):
        server(key="a\nb")
    with pytest.raises(UsageError):
        server(caller=PipelineCaller("x", "https://é"))
    with pytest.raises(UsageError):
        server("//x")
