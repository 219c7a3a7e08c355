"""Names that would like to be more, on record at a real server: no command shows them in a way that a CI system or a
terminal takes for its own. Tables are printed by processes, as pipelines start them; all else in this process."""

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
from tests.pipelines.fake_az import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import AZURE, github
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.fault_proxy import CannedResponse, run_fault_proxy
from tests.safe_deploy.in_process import run
from tests.safe_deploy.logging_commands import (
    OWN_AZURE_COMMANDS,
    OWN_GITHUB_COMMANDS,
    LoggingCommand,
    find_azure_commands,
    find_github_commands,
    find_terminal_effects,
    split_lines,
)
from tests.safe_deploy.processes import KEYS, CliResult, command, environment, safe_deploy

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
"""Instance ids, as an app can choose them."""

WORDS = ["forged", "task.complete result", "stop-commands", "\\x1b[2J", "\\u202e"]
"""What the log shows all the same: nothing is hidden."""


class AppWithInjections:
    """An app with hostile instances in production, in the slot and in a retired task hub; its versions and reasons are
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
            # A function's name is as free as an id.
            app_client.publish(*(event(hub, name, function=name) for name in INJECTIONS.values()))

    @property
    def commands(self) -> dict[str, tuple[list[str], int]]:
        """Every command that shows what is on record, with its exit code."""
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


def find_forged_commands(found: list[LoggingCommand], own: set[str], prefix: str) -> list[LoggingCommand]:
    """Commands that are not ours, or that are not a line by themselves."""
    return [one for one in found if one.name not in own or not one.line.startswith(prefix)]


def find_forged_github_commands(log: str) -> list[LoggingCommand]:
    return find_forged_commands(find_github_commands(log), OWN_GITHUB_COMMANDS, "::")


def find_forged_azure_commands(log: str) -> list[LoggingCommand]:
    return find_forged_commands(find_azure_commands(log), OWN_AZURE_COMMANDS, "##vso[")


def called(*arguments: str, given: dict[str, str], process: bool = False) -> CliResult:
    return safe_deploy(*arguments, given=given) if process else CliResult(*astuple(run(arguments, given)))


@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_on_github_no_name_is_a_command(
    app_with_injections: AppWithInjections, tmp_path: Path, name: str, output: str
) -> None:
    arguments, code = app_with_injections.commands[name]
    ended = called(
        *arguments,
        "--output",
        output,
        given=app_with_injections.app_client.given() | github(tmp_path),
        process=output == "table",
    )
    assert ended.code == code, ended.stderr
    assert find_forged_github_commands(ended.stdout) == find_forged_github_commands(ended.stderr) == []
    assert find_github_commands(ended.stdout) == []
    assert find_terminal_effects(ended.stdout + ended.stderr) == []
    check_output(ended, output)
    for line in (tmp_path / "output").read_text().splitlines():
        assert re.fullmatch(r"[a-z-]+=[^\x00-\x1f\x7f-\x9f]*", line)
    check_summary((tmp_path / "summary").read_text())


@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_in_azure_pipelines_no_name_is_a_command(
    app_with_injections: AppWithInjections, tmp_path: Path, name: str, output: str
) -> None:
    arguments, code = app_with_injections.commands[name]
    given = app_with_injections.app_client.given(AGENT_TEMPDIRECTORY=str(tmp_path)) | AZURE
    ended = called(*arguments, "--output", output, given=given, process=output == "table")
    assert ended.code == code, ended.stderr
    assert find_forged_azure_commands(ended.stdout) == find_forged_azure_commands(ended.stderr) == []
    assert find_azure_commands(ended.stdout) == []
    # One command on each line: what the agent unescapes is data and nothing else.
    assert all(len(find_azure_commands(line)) <= 1 for line in split_lines(ended.stderr))
    assert find_terminal_effects(ended.stdout + ended.stderr) == []
    check_output(ended, output)
    for file in tmp_path.iterdir():
        check_summary(file.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_terminal_no_name_moves_the_cursor_or_forges_a_line(
    app_with_injections: AppWithInjections, name: str
) -> None:
    """Also where a pipeline gives its steps a terminal: no wrapped line is a command."""
    arguments, code = app_with_injections.commands[name]
    ended_with, text = in_terminal(arguments, app_with_injections.app_client.given())
    assert ended_with == code, text
    assert find_terminal_effects(text, live=name == "wait") == []
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert find_github_commands(plain) == find_azure_commands(plain) == []


def in_terminal(arguments: list[str], given: dict[str, str], columns: int = 80) -> tuple[int, str]:
    """The exit code, and all that the terminal was sent. Both streams are the terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*arguments),
        env=environment({"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"} | given),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        app_with_injections = bytearray()

        def read() -> None:
            with suppress(OSError):  # a terminal whose other side is gone is an error to read
                while content := os.read(ours, 65536):
                    app_with_injections.extend(content)

        reader = threading.Thread(target=read)
        reader.start()
        code = process.wait(60)
        reader.join()
        os.close(ours)
    return code, app_with_injections.decode()


def check_output(ended: CliResult, output: str) -> None:
    if output == "json":
        # What is refused has no result.
        assert ended.stdout == "" or json.loads(ended.stdout)
        assert all(character == "\n" or " " <= character <= "~" for character in ended.stdout)


def check_summary(text: str) -> None:
    """Rows of one table, in which nothing is markup."""
    assert find_terminal_effects(text) == []
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) <= 1
    assert not rows or set(rows[1]) <= set("| -")
    for row in [*rows[:1], *rows[2:]]:
        assert not re.search(r"(?<!\\)(?:\\\\)*[<>`&:@]", row), row


def test_json_keeps_every_id_as_it_is_and_tables_show_all_of_them(app_with_injections: AppWithInjections) -> None:
    ended = called(
        "instances", "--slot", "production", "--output", "json", given=app_with_injections.app_client.given()
    )
    assert {one["instanceId"] for one in ended.json()["instances"]} == set(INJECTIONS.values())
    ended = called("instances", "--slot", "production", given=app_with_injections.app_client.given())
    assert all(word in ended.stdout for word in WORDS)
    # A head, a rule, a title and an empty line beside them.
    assert len([line for line in ended.stdout.splitlines() if line.strip()]) == len(INJECTIONS) + 3


# --- a server, or somebody in its place, that answers with hostile texts ---


def problem(status: int, detail: str, code: str) -> CannedResponse:
    body = {"code": code, "detail": detail, "title": detail, "traceId": detail}
    return CannedResponse(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


def broken(text: str) -> CannedResponse:
    """A verdict that makes the command line stumble over this text."""
    active = {"instanceId": text, "functionName": text, "runtimeStatus": text, "startedAt": text, "lastEventAt": None}
    verdict: dict[str, Any] = {"ready": False, "status": "NotReady", "active": [active | {"source": text}]}
    verdict |= {"slot": "staging", "taskHub": text, "version": text, "assurance": "events", "hasRunning": True}
    verdict |= {"activeCount": 1, "reasons": [{"code": text, "message": text}], "evidence": {"probe": None}}
    return CannedResponse(200, json.dumps(verdict).encode(), {"Content-Type": "application/json"})


ANSWERS: dict[str, Callable[[str], CannedResponse]] = {
    "refused": lambda text: problem(403, text, "Forbidden"),
    "conflict": lambda text: problem(409, text, text),
    "failed": lambda text: problem(500, text, "Unexpected"),
    "away": lambda text: problem(503, text, "Unavailable"),
    "another server": lambda text: CannedResponse(200, json.dumps({text: text}).encode()),
    "a page": lambda text: CannedResponse(404, text.encode(errors="replace")),
    "a broken verdict": broken,
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_a_server_says_is_no_command(kind: str, tmp_path: Path) -> None:
    """Lone surrogates, too, which no storage takes, but JSON does."""
    text = " ".join([*INJECTIONS.values(), "\ud800"])
    app_client = AppClient("")
    with run_fault_proxy() as proxy:
        proxy.always_inject(ANSWERS[kind](text))
        given = app_client.given(SAFE_DEPLOY_SERVER=proxy.url)
        wait = ["status", "--wait", "--timeout", "0"] if kind == "away" else ["status"]
        on_github = called(*wait, given=given | github(tmp_path))
        in_azure = called(*wait, given=given | AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)})
    for ended in (on_github, in_azure):
        assert ended.code not in (0, ExitCode.USAGE)
        assert find_terminal_effects(ended.stdout + ended.stderr) == []
    assert find_forged_github_commands(on_github.stdout + on_github.stderr) == []
    assert find_forged_azure_commands(in_azure.stdout + in_azure.stderr) == []
    # A trace is shown where the program itself has failed, and forges nothing either.
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
def test_what_a_wrong_call_was_given_is_no_command(
    app_with_injections: AppWithInjections, arguments: list[str], tmp_path: Path
) -> None:
    """A version or a reason of a pipeline may be the title of somebody's pull request."""
    on_github = called(*arguments, given=app_with_injections.app_client.given() | github(tmp_path))
    in_azure = called(*arguments, given=app_with_injections.app_client.given(AGENT_TEMPDIRECTORY=str(tmp_path)) | AZURE)
    for ended in (on_github, in_azure):
        assert ended.code not in (0, ExitCode.NOT_READY)
        assert ended.stdout == ""
        assert find_terminal_effects(ended.stderr) == []
        assert "Traceback" not in ended.stderr
    assert find_forged_github_commands(on_github.stderr) == find_forged_azure_commands(in_azure.stderr) == []


def test_the_actor_and_the_run_of_a_ci_system_are_no_command(
    app_with_injections: AppWithInjections, tmp_path: Path
) -> None:
    names = {"GITHUB_ACTOR": INJECTIONS["lines"], "GITHUB_REPOSITORY": INJECTIONS["azure"]}
    ended = called(
        "status",
        given=app_with_injections.app_client.given()
        | github(tmp_path)
        | {k: v.replace("\0", "") for k, v in names.items()},
    )
    assert ended.code == ExitCode.NOT_READY
    assert find_forged_github_commands(ended.stdout + ended.stderr) == []


@pytest.mark.parametrize(
    "system", [{"GITLAB_CI": "true"}, {"BUILDKITE": "true"}, {"JENKINS_URL": "https://ci.example/"}]
)
def test_on_other_systems_an_error_is_in_the_log_and_is_no_command(
    app_with_injections: AppWithInjections, system: dict[str, str]
) -> None:
    ended = called("status", "--slot", "production", given=app_with_injections.app_client.given() | system)
    assert ended.code == ExitCode.NOT_READY
    assert "error: NotReady: slot production" in ended.stderr
    assert find_terminal_effects(ended.stdout + ended.stderr) == []


@pytest.mark.parametrize("name", INJECTIONS)
def test_what_az_prints_is_no_command(served: ServerProcess, tmp_path: Path, name: str) -> None:
    """As a result, as an error, and as the value of the setting."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure, app_client, evil = FakeAzure(tmp_path / "cloud.json"), AppClient(served.url), INJECTIONS[name]
    app_client.register()
    slots: dict[str, Any] = {slot: {"settings": {"TASK_HUB": evil}} for slot in ("production", "staging")}
    fake_azure.reset({app_client.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    given = app_client.given(PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin") | github(tmp_path)
    for fault in ({"code": None}, {"message": evil}, {"code": None, "output": evil}, {"message": f"Code: {evil}"}):
        fake_azure.fault("all", **fault)
        ended = called("doctor", "--resource-group", RESOURCE_GROUP, given=given)
        assert ended.code == ExitCode.FAILURE
        assert "Azure: production" in ended.stdout
        assert find_forged_github_commands(ended.stdout + ended.stderr) == []
        assert find_azure_commands(ended.stdout + ended.stderr) == []
        assert find_terminal_effects(ended.stdout + ended.stderr) == []


# --- keys as arguments ---


@pytest.mark.parametrize("system", ["github", "azure", "none"])
def test_a_key_that_is_given_as_an_argument_is_warned_about_and_not_shown(
    served: ServerProcess, tmp_path: Path, system: str
) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    given = {name: value for name, value in app_client.given().items() if name != "SAFE_DEPLOY_KEY"}
    given |= {"github": github(tmp_path), "azure": AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}, "none": {}}[system]
    ended = called("status", "--key", KEYS["reader"], given=given)
    assert ended.code == 0, ended.stderr
    start = {
        "github": "::warning title=safe-deploy::",
        "azure": "##vso[task.logissue type=warning]",
        "none": "warning: ",
    }[system]
    warnings = [line for line in ended.stderr.splitlines() if "SAFE_DEPLOY_KEY" in line]
    assert [line.startswith(f"{start}the key was given as an argument, which process lists") for line in warnings] == [
        True
    ]
    assert KEYS["reader"] not in ended.stdout + ended.stderr


def test_a_key_that_is_given_as_a_variable_is_not_warned_about(served: ServerProcess) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    ended = called("status", given=app_client.given())
    assert ended.code == 0
    assert "SAFE_DEPLOY_KEY" not in ended.stderr
