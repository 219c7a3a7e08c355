"""Hostile texts on record at a real server: no command prints them so that a CI system or a terminal reads a command.

Tables are printed by new processes, as in pipelines. Everything else is printed by this process.
"""

import json
import os
import pty
import re
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from harness.state_server import ServerProcess
from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.logging_commands import (
    OWN_AZURE_COMMANDS,
    OWN_GITHUB_COMMANDS,
    LoggingCommand,
    find_azure_commands,
    find_github_commands,
    find_terminal_effects,
    split_lines,
)
from tests.safe_deploy.processes import KEYS, CliResult, build_command_line, environment, run_safe_deploy

INJECTIONS = {
    "lines": "order\n::error::forged\r\n  ::set-output name=ready::true\x85::error::x\u2028::error::y\u2029z\x0b\x0c",
    "github": "::stop-commands::token ::add-mask::a x::error file=a::b::c",
    "azure": "##vso[task.setvariable variable=ready;isOutput=true]true ##VSO[task.complete result=Failed;]a##[error]b",
    "hidden": "#\u034f#vso[task.complete result=Succeeded;] #\u00ad#[error] :\u200b:error::a \ufe0f::error::b",
    "percent": "a%0A::error::forged%0D%0A##vso[task.complete]%25%AZP25;]",
    "escapes": "\x1b[2J\x1b[1;1H\x1b]0;title\x07\x1b]8;;https://evil.example\x07a\x9b31m\x7f\x08\x00",
    "bidi": "\u202egnidaer\u202c\u2066a\u2069\u200f\u061c\ufeff",
    "markup": "[red]a[/nope] [link=https://evil.example]b[/link] :heart: [/]",
    "markdown": "a|b`c`<script>d</script>&#x202e; [e](https://evil.example) ![f](x) **g** @octocat www.evil.example",
    "long": "::error::" * 28,
}
"""Instance ids. An app can choose any text."""

WORDS = ["forged", "task.complete result", "stop-commands", "\\x1b[2J", "\\u202e"]
"""Parts of the texts that a log still shows, because nothing is hidden."""


class AppWithInjections:
    """An app with hostile instance ids in production, in the slot and in a retired task hub. Versions and reasons are
    hostile, too."""

    def __init__(self, app_client: AppClient) -> None:
        self.app_client = app_client
        self.old, self.production, self.staging = app_client.hub, new_hub_name(), new_hub_name()
        app_client.register(policy={"settleSeconds": 0})
        for hub in (self.production, self.staging):
            body = {
                "taskHub": hub,
                "version": INJECTIONS["azure"][:90],
                "force": True,
                "reason": INJECTIONS["lines"] + INJECTIONS["bidi"],
            }
            app_client.request_json("POST", "/staging", body, 1)
            if hub == self.production:
                app_client.swap(hub, 1)
        for hub in (self.old, self.production, self.staging):
            # A function name can be any text, too.
            app_client.publish(*(event(hub, name, function=name) for name in INJECTIONS.values()))

    @property
    def commands(self) -> dict[str, tuple[list[str], int]]:
        """The arguments of every command that prints what is on record, with its exit code."""
        production = ["--slot", "production"]
        stage = ["stage", "--task-hub", new_hub_name(), "--run-url", f"{RUN}1"]
        waive = [
            "waive",
            "--task-hub",
            self.production,
            "--instance-id",
            INJECTIONS["escapes"][1:-1],
            "--reason",
            INJECTIONS["azure"],
        ]
        return {
            "status": (["status", *production], ExitCode.NOT_READY),
            "wait": (["status", *production, "--wait", "--timeout", "0"], ExitCode.TIMED_OUT),
            "stage": (stage, ExitCode.NOT_READY),
            "instances": (["instances", *production], ExitCode.DONE),
            "history": (["history"], ExitCode.DONE),
            "doctor": (["doctor", "--for", "administer"], ExitCode.FAILURE),
            "cleanup": (["cleanup", "--dry-run"], ExitCode.DONE),
            "waive": (waive, ExitCode.DONE),
            "register": (["register", "--task-hub", self.production, "--version", INJECTIONS["github"]], ExitCode.DONE),
        }


COMMANDS = ["status", "wait", "stage", "instances", "history", "doctor", "cleanup", "waive", "register"]


@pytest.fixture(scope="module")
def app_with_injections(served: ServerProcess) -> AppWithInjections:
    return AppWithInjections(AppClient(served.url))


def find_forged_commands(commands: list[LoggingCommand], own: set[str], prefix: str) -> list[LoggingCommand]:
    """Commands that the CLI does not write itself, or that are not at the start of a line."""
    return [command for command in commands if command.name not in own or not command.line.startswith(prefix)]


def find_forged_github_commands(log: str) -> list[LoggingCommand]:
    return find_forged_commands(find_github_commands(log), OWN_GITHUB_COMMANDS, "::")


def find_forged_azure_commands(log: str) -> list[LoggingCommand]:
    return find_forged_commands(find_azure_commands(log), OWN_AZURE_COMMANDS, "##vso[")


def run_command(*arguments: str, variables: dict[str, str], process: bool = False) -> CliResult:
    return (
        run_safe_deploy(*arguments, variables=variables)
        if process
        else CliResult(*astuple(run_in_process(arguments, variables)))
    )


@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_on_github_no_hostile_text_is_a_command(
    app_with_injections: AppWithInjections, tmp_path: Path, name: str, output: str
) -> None:
    arguments, code = app_with_injections.commands[name]
    result = run_command(
        *arguments,
        "--output",
        output,
        variables=app_with_injections.app_client.build_environment() | github_environment(tmp_path),
        process=output == "table",
    )
    assert result.code == code, result.stderr
    assert find_forged_github_commands(result.stdout) == find_forged_github_commands(result.stderr) == []
    assert find_github_commands(result.stdout) == []
    assert find_terminal_effects(result.stdout + result.stderr) == []
    check_output(result, output)
    for line in (tmp_path / "output").read_text().splitlines():
        assert re.fullmatch(r"[a-z-]+=[^\x00-\x1f\x7f-\x9f]*", line)
    check_summary((tmp_path / "summary").read_text())


@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_in_azure_pipelines_no_hostile_text_is_a_command(
    app_with_injections: AppWithInjections, tmp_path: Path, name: str, output: str
) -> None:
    arguments, code = app_with_injections.commands[name]
    variables = app_with_injections.app_client.build_environment(AGENT_TEMPDIRECTORY=str(tmp_path)) | AZURE
    result = run_command(*arguments, "--output", output, variables=variables, process=output == "table")
    assert result.code == code, result.stderr
    assert find_forged_azure_commands(result.stdout) == find_forged_azure_commands(result.stderr) == []
    assert find_azure_commands(result.stdout) == []
    # One command on each line: what the agent unescapes is data and nothing else.
    assert all(len(find_azure_commands(line)) <= 1 for line in split_lines(result.stderr))
    assert find_terminal_effects(result.stdout + result.stderr) == []
    check_output(result, output)
    for file in tmp_path.iterdir():
        check_summary(file.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_terminal_no_hostile_text_moves_the_cursor_or_forges_a_line(
    app_with_injections: AppWithInjections, name: str
) -> None:
    """A terminal wraps lines, and no part of a line is a command. Some pipelines give their steps a terminal."""
    arguments, code = app_with_injections.commands[name]
    exit_code, text = run_in_terminal(arguments, app_with_injections.app_client.build_environment())
    assert exit_code == code, text
    assert find_terminal_effects(text, live=name == "wait") == []
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert find_github_commands(plain) == find_azure_commands(plain) == []


def run_in_terminal(arguments: list[str], variables: dict[str, str], columns: int = 80) -> tuple[int, str]:
    """Run a command with stdout and stderr in a terminal. Returns the exit code and everything that the terminal
    received."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        build_command_line(*arguments),
        env=environment({"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"} | variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        received = bytearray()

        def read() -> None:
            with suppress(OSError):  # reading fails when the process has closed the terminal
                while output := os.read(ours, 65536):
                    received.extend(output)

        reader = threading.Thread(target=read)
        reader.start()
        code = process.wait(60)
        reader.join()
        os.close(ours)
    return code, received.decode()


def check_output(result: CliResult, output: str) -> None:
    if output == "json":
        # A refused command prints no result.
        assert result.stdout == "" or json.loads(result.stdout)
        assert all(character == "\n" or " " <= character <= "~" for character in result.stdout)


def check_summary(text: str) -> None:
    """A summary has at most one table, whose cells are plain text."""
    assert find_terminal_effects(text) == []
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) <= 1
    assert not rows or set(rows[1]) <= set("| -")
    for row in [*rows[:1], *rows[2:]]:
        assert not re.search(r"(?<!\\)(?:\\\\)*[<>`&:@]", row), row


def test_json_keeps_every_id_unchanged_and_tables_show_every_id(app_with_injections: AppWithInjections) -> None:
    result = run_command(
        "instances",
        "--slot",
        "production",
        "--output",
        "json",
        variables=app_with_injections.app_client.build_environment(),
    )
    assert {instance["instanceId"] for instance in result.json()["instances"]} == set(INJECTIONS.values())
    result = run_command(
        "instances", "--slot", "production", variables=app_with_injections.app_client.build_environment()
    )
    assert all(word in result.stdout for word in WORDS)
    # Besides one line an instance there are a title, a header and a rule.
    assert len([line for line in result.stdout.splitlines() if line.strip()]) == len(INJECTIONS) + 3


# --- hostile responses of a server ---


def build_problem(status: int, detail: str, code: str) -> CannedResponse:
    body = {"code": code, "detail": detail, "title": detail, "traceId": detail}
    return CannedResponse(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


def build_broken_verdict(text: str) -> CannedResponse:
    """A verdict with this text instead of a timestamp, which causes an unexpected error."""
    active = {"instanceId": text, "functionName": text, "runtimeStatus": text, "startedAt": text, "lastEventAt": None}
    verdict: dict[str, Any] = {"ready": False, "status": "NotReady", "active": [active | {"source": text}]}
    verdict |= {"slot": "staging", "taskHub": text, "version": text, "assurance": "events", "hasRunning": True}
    verdict |= {"activeCount": 1, "reasons": [{"code": text, "message": text}], "evidence": {"probe": None}}
    return CannedResponse(200, json.dumps(verdict).encode(), {"Content-Type": "application/json"})


ANSWERS: dict[str, Callable[[str], CannedResponse]] = {
    "refused": lambda text: build_problem(403, text, "Forbidden"),
    "conflict": lambda text: build_problem(409, text, text),
    "failed": lambda text: build_problem(500, text, "Unexpected"),
    "away": lambda text: build_problem(503, text, "Unavailable"),
    "another server": lambda text: CannedResponse(200, json.dumps({text: text}).encode()),
    "a page": lambda text: CannedResponse(404, text.encode(errors="replace")),
    "a broken verdict": build_broken_verdict,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_hostile_response_of_a_server_is_not_a_command(kind: str, tmp_path: Path) -> None:
    """Lone surrogates are included: no storage holds them, but JSON does."""
    text = " ".join([*INJECTIONS.values(), "\ud800"])
    app_client = AppClient("")
    with run_fault_proxy() as proxy:
        proxy.always_inject(ANSWERS[kind](text))
        variables = app_client.build_environment(SAFE_DEPLOY_SERVER=proxy.url)
        wait = ["status", "--wait", "--timeout", "0"] if kind == "away" else ["status"]
        on_github = run_command(*wait, variables=variables | github_environment(tmp_path))
        in_azure = run_command(*wait, variables=variables | AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)})
    for result in (on_github, in_azure):
        assert result.code not in (0, ExitCode.USAGE)
        assert find_terminal_effects(result.stdout + result.stderr) == []
    assert find_forged_github_commands(on_github.stdout + on_github.stderr) == []
    assert find_forged_azure_commands(in_azure.stdout + in_azure.stderr) == []
    # Only an unexpected error prints a traceback.
    assert ("Traceback" in on_github.stderr) is (kind == "a broken verdict")


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
        assert result.code not in (0, ExitCode.NOT_READY)
        assert result.stdout == ""
        assert find_terminal_effects(result.stderr) == []
        assert "Traceback" not in result.stderr
    assert find_forged_github_commands(on_github.stderr) == find_forged_azure_commands(in_azure.stderr) == []


def test_hostile_variables_of_a_ci_system_are_not_commands(
    app_with_injections: AppWithInjections, tmp_path: Path
) -> None:
    names = {"GITHUB_ACTOR": INJECTIONS["lines"], "GITHUB_REPOSITORY": INJECTIONS["azure"]}
    result = run_command(
        "status",
        variables=app_with_injections.app_client.build_environment()
        | github_environment(tmp_path)
        | {k: v.replace("\0", "") for k, v in names.items()},
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
    assert "error: NotReady: slot production" in result.stderr
    assert find_terminal_effects(result.stdout + result.stderr) == []


@pytest.mark.parametrize("name", INJECTIONS)
def test_hostile_output_of_az_is_not_a_command(served: ServerProcess, tmp_path: Path, name: str) -> None:
    """The output is hostile as a result, as an error, and as the value of the setting."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure, app_client, evil = FakeAzure(tmp_path / "cloud.json"), AppClient(served.url), INJECTIONS[name]
    app_client.register()
    slots: dict[str, Any] = {slot: {"settings": {"TASK_HUB": evil}} for slot in ("production", "staging")}
    fake_azure.reset({app_client.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    variables = app_client.build_environment(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin") | github_environment(tmp_path)
    faults: list[dict[str, Any]] = [
        {"exit_code": None},
        {"message": evil},
        {"exit_code": None, "output": evil},
        {"message": f"Code: {evil}"},
    ]
    for fault in faults:
        fake_azure.set_fault("all", **fault)
        result = run_command("doctor", "--resource-group", RESOURCE_GROUP, variables=variables)
        assert result.code == ExitCode.FAILURE
        assert "Azure: production" in result.stdout
        assert find_forged_github_commands(result.stdout + result.stderr) == []
        assert find_azure_commands(result.stdout + result.stderr) == []
        assert find_terminal_effects(result.stdout + result.stderr) == []


# --- keys as arguments ---


@pytest.mark.parametrize("system", ["github", "azure", "none"])
def test_a_key_as_an_argument_causes_a_warning_that_does_not_show_it(
    served: ServerProcess, tmp_path: Path, system: str
) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    variables = {name: value for name, value in app_client.build_environment().items() if name != "SAFE_DEPLOY_KEY"}
    variables |= {
        "github": github_environment(tmp_path),
        "azure": AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)},
        "none": {},
    }[system]
    result = run_command("status", "--key", KEYS["reader"], variables=variables)
    assert result.code == 0, result.stderr
    start = {
        "github": "::warning title=safe-deploy::",
        "azure": "##vso[task.logissue type=warning]",
        "none": "warning: ",
    }[system]
    warnings = [line for line in result.stderr.splitlines() if "SAFE_DEPLOY_KEY" in line]
    assert [line.startswith(f"{start}the key was given as an argument, which process lists") for line in warnings] == [
        True
    ]
    assert KEYS["reader"] not in result.stdout + result.stderr


def test_a_key_in_a_variable_causes_no_warning(served: ServerProcess) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    result = run_command("status", variables=app_client.build_environment())
    assert result.code == 0
    assert "SAFE_DEPLOY_KEY" not in result.stderr
