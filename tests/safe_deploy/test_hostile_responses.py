"""Hostile texts from a server, arguments, variables and `az`: none becomes a command of a CI system or a terminal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.state_server import ServerProcess
from safe_deploy.errors import ExitCode
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.canned_server import run_canned_server
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.injections import (
    INJECTIONS,
    AppWithInjections,
    find_forged_azure_commands,
    find_forged_github_commands,
    run_command,
)
from tests.safe_deploy.logging_commands import (
    find_azure_commands,
    find_terminal_effects,
)


def build_problem(status: int, detail: str, code: str) -> CannedResponse:
    """A problem document whose texts are all hostile."""
    body = {"code": code, "detail": detail, "title": detail, "traceId": detail}
    return CannedResponse(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


def build_broken_verdict(text: str) -> CannedResponse:
    """A verdict with this text instead of a timestamp, which causes an unexpected error."""
    active = {"instanceId": text, "functionName": text, "runtimeStatus": text, "startedAt": text, "lastEventAt": None}
    verdict: dict[str, Any] = {"ready": False, "status": "NotReady", "active": [active | {"source": text}]}
    verdict |= {"slot": "staging", "taskHub": text, "version": text, "assurance": "events", "hasRunning": True}
    verdict |= {"activeCount": 1, "reasons": [{"code": text, "message": text}], "evidence": {"probe": None}}
    return CannedResponse(200, json.dumps(verdict).encode(), {"Content-Type": "application/json"})


HOSTILE_RESPONSES: dict[str, Callable[[str], CannedResponse]] = {
    "forbidden": lambda text: build_problem(403, text, "Forbidden"),
    "conflict": lambda text: build_problem(409, text, text),
    "server error": lambda text: build_problem(500, text, "Unexpected"),
    "unavailable": lambda text: build_problem(503, text, "Unavailable"),
    "JSON of another server": lambda text: CannedResponse(200, json.dumps({text: text}).encode()),
    "page of another server": lambda text: CannedResponse(404, text.encode(errors="replace")),
    "broken verdict": build_broken_verdict,
}


@pytest.mark.parametrize("kind", HOSTILE_RESPONSES)
def test_a_hostile_response_of_a_server_is_not_a_command(kind: str, tmp_path: Path) -> None:
    """Lone surrogates are included: no storage holds them, but JSON does."""
    text = " ".join([*INJECTIONS.values(), "\ud800"])
    app_client = AppClient("")
    with run_fault_proxy() as proxy:
        proxy.always_inject(HOSTILE_RESPONSES[kind](text))
        variables = app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url)
        command = ["status", "--wait", "--timeout", "0"] if kind == "unavailable" else ["status"]
        on_github = run_command(*command, variables=variables | github_environment(tmp_path))
        in_azure = run_command(*command, variables=variables | AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)})
    for result in (on_github, in_azure):
        assert result.code not in (ExitCode.DONE, ExitCode.USAGE)
        assert find_terminal_effects(result.stdout + result.stderr) == []
    assert find_forged_github_commands(on_github.stdout + on_github.stderr) == []
    assert find_forged_azure_commands(in_azure.stdout + in_azure.stderr) == []
    # Only an unexpected error prints a traceback.
    assert ("Traceback" in on_github.stderr) is (kind == "broken verdict")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--output", INJECTIONS["azure"]],
        ["status", "--verify", INJECTIONS["lines"]],
        ["status", "--timeout", INJECTIONS["github"]],
        [f"--{INJECTIONS['hidden']}"],
        [INJECTIONS["lines"]],
        ["status", INJECTIONS["lines"], INJECTIONS["azure"]],
        ["status", "--server", INJECTIONS["lines"]],
        ["status", "--app", INJECTIONS["lines"]],
        ["status", "--run-url", INJECTIONS["azure"]],
        ["stage", "--task-hub", INJECTIONS["azure"]],
        ["stage", "--task-hub", "h123", "--resource-group", INJECTIONS["azure"]],
    ],
    ids=lambda arguments: " ".join(arguments)[:20].encode("unicode_escape").decode(),
)
def test_hostile_arguments_are_not_commands(
    app_with_injections: AppWithInjections, arguments: list[str], tmp_path: Path
) -> None:
    """A version or a reason in a pipeline may come from the title of a pull request."""
    on_github = run_command(
        *arguments, variables=app_with_injections.app_client.build_environment() | github_environment(tmp_path)
    )
    in_azure = run_command(
        *arguments,
        variables=app_with_injections.app_client.build_environment(AGENT_TEMPDIRECTORY=str(tmp_path)) | AZURE,
    )
    for result in (on_github, in_azure):
        assert result.code not in (ExitCode.DONE, ExitCode.NOT_READY)
        assert result.stdout == ""
        assert find_terminal_effects(result.stderr) == []
        assert "Traceback" not in result.stderr
    assert find_forged_github_commands(on_github.stderr) == find_forged_azure_commands(in_azure.stderr) == []


def test_hostile_variables_of_a_ci_system_are_not_commands(
    app_with_injections: AppWithInjections, tmp_path: Path
) -> None:
    hostile_variables = {"GITHUB_ACTOR": INJECTIONS["lines"], "GITHUB_REPOSITORY": INJECTIONS["azure"]}
    result = run_command(
        "status",
        variables=app_with_injections.app_client.build_environment()
        | github_environment(tmp_path)
        | {name: value.replace("\0", "") for name, value in hostile_variables.items()},
    )
    assert result.code == ExitCode.NOT_READY
    assert find_forged_github_commands(result.stdout + result.stderr) == []


@pytest.mark.parametrize(
    "system", [{"GITLAB_CI": "true"}, {"BUILDKITE": "true"}, {"JENKINS_URL": "https://ci.example/"}]
)
def test_on_other_ci_systems_errors_are_printed_and_are_not_commands(
    app_with_injections: AppWithInjections, system: dict[str, str]
) -> None:
    result = run_command(
        "status", "--slot", "production", variables=app_with_injections.app_client.build_environment() | system
    )
    assert result.code == ExitCode.NOT_READY
    assert "NotReady: slot production" in result.stdout
    assert "error: slot production is not ready: " in result.stderr
    assert find_terminal_effects(result.stdout + result.stderr) == []


@pytest.mark.parametrize("name", INJECTIONS)
def test_hostile_output_of_az_is_not_a_command(served: ServerProcess, tmp_path: Path, name: str) -> None:
    """The output is hostile as a result, as an error, and as the value of the setting."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure, app_client, hostile_text = FakeAzure(tmp_path / "cloud.json"), AppClient(served.url), INJECTIONS[name]
    app_client.register()
    slots: dict[str, Any] = {slot: {"settings": {"TASK_HUB": hostile_text}} for slot in ("production", "staging")}
    fake_azure.reset({app_client.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    variables = app_client.build_environment(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin") | github_environment(tmp_path)
    faults: list[dict[str, Any]] = [
        {"exit_code": None},
        {"message": hostile_text},
        {"exit_code": None, "output": hostile_text},
        {"message": f"Code: {hostile_text}"},
    ]
    for fault in faults:
        fake_azure.set_fault("all", **fault)
        result = run_command("doctor", "--resource-group", RESOURCE_GROUP, variables=variables)
        assert result.code == ExitCode.FAILURE
        assert "Azure: production" in result.stdout
        assert find_forged_github_commands(result.stdout + result.stderr) == []
        assert find_azure_commands(result.stdout + result.stderr) == []
        assert find_terminal_effects(result.stdout + result.stderr) == []


@pytest.mark.parametrize(
    "arguments", [["show", "--app"], ["instances", "--task-hub"], ["history", "--continuation-token"]], ids=" ".join
)
def test_bytes_that_are_not_utf_8_are_an_error_of_the_command_line(arguments: list[str]) -> None:
    """The operating system passes them on as lone surrogates."""
    with run_canned_server() as server:
        result = server.run(*arguments, "shop\udcff")
    assert result.code == ExitCode.USAGE
    assert result.stderr.splitlines() == [
        "error: an option or variable has bytes that are not UTF-8. Check how the command line is made"
    ]
