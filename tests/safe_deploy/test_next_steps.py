"""What the command line says about each code of the server: the next step, in commands and options that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from safe_deploy.cli import cli
from safe_deploy.code_reference import read_sections
from safe_deploy.command_words import describe_problem, name_field, use_command_words
from safe_deploy.next_steps import (
    NEXT_STEPS,
    NO_NEXT_STEP,
    PROBLEM_STEPS,
    REASON_STEPS,
    RELEASE_STEPS,
    WARNING_STEPS,
    append_next_step,
    format_reasons,
    list_next_steps,
)
from state_api.domain.readiness.reasons import ReasonCode, WarningCode
from state_api.http.problems import PROBLEM_CODES
from tests.documents.page_tables import ROOT

SERVER_MESSAGES = ("domain", "services", "backends", "http/auth.py", "storage/tables.py")
"""Parts of the server that word the messages of verdicts and problem documents."""

OPERATIONS_WITHOUT_COMMAND = frozenset(
    {"DeleteRelease", "GetReleaseStatus", "GetRouting", "Health", "Ready", "PostEvents", "GetOpenApi"}
)
"""They keep their name, so that an administrator can look them up. `retire` uses DeleteRelease, and is no replacement
for every use of it."""

_COMMAND = re.compile(r"safe-deploy ([a-z]+(?:-[a-z]+)*)(?: ([a-z]+(?:-[a-z]+)*))?")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def list_commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, including commands of a group, such as `keys new`."""
    for name, command in vars(group)["commands"].items():
        if "commands" in vars(command):
            yield from list_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(list_commands(typer.main.get_command(cli)))
GROUPS = {name.partition(" ")[0] for name in COMMANDS if " " in name}
OPTIONS = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}


def find_unknown_commands(text: str) -> list[str]:
    """The options and commands of a text that do not exist."""
    unknown = [option for option in _OPTION.findall(text) if option not in OPTIONS | {"--help"}]
    for first, second in _COMMAND.findall(text):
        if first not in GROUPS:
            unknown += [first] if first not in COMMANDS else []
        elif second and f"{first} {second}" not in COMMANDS:
            unknown += [f"{first} {second}"]
    return unknown


def read_operations() -> set[str]:
    """The names of the operations of the API."""
    texts = [file.read_text() for file in (ROOT / "state_api" / "http").glob("*.py")]
    return {name for text in texts for name in re.findall(r'operation_id="(\w+)"', text)}


def read_server_messages() -> list[str]:
    """The texts of the server's modules that word messages, without docstrings. A value in a text is shown as `…`."""
    messages: list[str] = []
    for file in (file for part in SERVER_MESSAGES for file in _list_modules(part)):
        tree = ast.parse(file.read_text())
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(part) for part in node.values}
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                messages.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                messages.append(node.value)
    return [message for message in messages if " " in message]


def _list_modules(part: str) -> list[Path]:
    """The modules of a part of the server."""
    path = ROOT / "state_api" / part
    return [path] if path.suffix else sorted(path.rglob("*.py"))


# --- the table ---


def test_every_code_of_the_server_has_a_next_step_or_an_entry_without_one() -> None:
    assert list(REASON_STEPS) == [code.value for code in ReasonCode]
    assert list(WARNING_STEPS) == [code.value for code in WarningCode]
    assert sorted(PROBLEM_STEPS) == sorted(PROBLEM_CODES.keys() - REASON_STEPS.keys())


def test_only_codes_that_no_command_meets_or_whose_message_says_it_have_no_next_step() -> None:
    without_step = {code for code, step in NEXT_STEPS.items() if step == NO_NEXT_STEP}
    assert without_step == {"PayloadTooLarge", "UnsupportedMediaType", "TooManyEvents", "TaskHubAlreadyUsed"}


def test_a_waiver_in_a_next_step_has_all_required_options() -> None:
    """What is pasted runs, once the words in capital letters are replaced."""
    steps = [step for step in (*NEXT_STEPS.values(), *RELEASE_STEPS.values()) if "safe-deploy waive" in step]
    assert steps
    for step in steps:
        assert {"--task-hub HUB", "--reason TEXT"} <= set(re.findall(r"--[a-z-]+ [A-Z]+", step))


@pytest.mark.parametrize("code", NEXT_STEPS)
def test_a_next_step_names_commands_and_options_that_exist(code: str) -> None:
    step = NEXT_STEPS[code]
    assert find_unknown_commands(step) == []
    assert not step.endswith(".")
    assert not read_operations() & set(re.findall(r"\w+", step))


@pytest.mark.parametrize("code", RELEASE_STEPS)
def test_a_next_step_for_a_release_names_no_command_for_slots(code: str) -> None:
    """The server refuses these commands for an app with releases side by side."""
    step = RELEASE_STEPS[code]
    assert find_unknown_commands(step) == []
    commands = set(re.findall(r"safe-deploy ([a-z-]+)", step))
    if code == "DeploymentInProgress":
        assert "release" in commands
    elif code != "SwapPending":  # a release has no swap
        assert not commands & {"status", "stage", "deploy", "swap", "cleanup"}


def test_a_command_that_does_not_exist_is_found() -> None:
    assert find_unknown_commands("run safe-deploy stagger or safe-deploy rollout go --quick, or safe-deploy stage") == [
        "--quick",
        "stagger",
        "rollout go",
    ]


def test_the_same_step_is_said_once() -> None:
    reasons = [{"code": code, "message": "x"} for code in ("Settling", "Settling", "Unheard", "ProbePending")]
    assert list_next_steps(reasons) == [NEXT_STEPS["Settling"], NEXT_STEPS["ProbePending"]]


def test_an_unknown_code_adds_nothing() -> None:
    assert append_next_step("it failed", "Unheard") == append_next_step("it failed", None) == "it failed"
    assert append_next_step("it failed.", "Conflict") == f"it failed. {NEXT_STEPS['Conflict']}"


def test_a_step_whose_command_the_message_names_is_not_repeated() -> None:
    message = "the app does not say where its task hubs are: say so with safe-deploy register --provider"
    assert append_next_step(message, "ProbeNotConfigured") == message
    assert append_next_step("read it again with safe-deploy status", "ProbeNotConfigured").endswith("SETTING")


# --- the page ---


def test_the_page_names_commands_and_options_that_exist() -> None:
    unknown = {section.code: find_unknown_commands(" ".join(section.text.split())) for section in read_sections()}
    assert {code: names for code, names in unknown.items() if names} == {}


# --- the server's messages ---


def test_no_message_of_the_server_names_an_operation_that_has_a_command() -> None:
    named = {
        (operation, message)
        for message in read_server_messages()
        for operation in read_operations() & set(re.findall(r"\w+", use_command_words(message)))
        if operation not in OPERATIONS_WITHOUT_COMMAND
    }
    assert named == set()


def test_what_replaces_an_operation_exists() -> None:
    unknown = {message: find_unknown_commands(use_command_words(message)) for message in read_server_messages()}
    assert {message: names for message, names in unknown.items() if names} == {}


def test_members_of_requests_become_options() -> None:
    text = "stage with takeOver and a reason. If you know what it is, waive it with PostWaiver (unexplainedMessages)"
    assert use_command_words(text) == (
        "stage with safe-deploy stage --take-over --reason TEXT. If you know what it is, waive it with safe-deploy "
        "waive --unexplained-messages"
    )


def test_times_in_a_message_have_whole_seconds() -> None:
    text = "the deployment began at 2026-11-27T14:10:00.1234567Z, and not at 1.5"
    assert use_command_words(text) == "the deployment began at 2026-11-27T14:10:00Z, and not at 1.5"


def test_a_key_that_is_refused_is_said_without_a_header() -> None:
    [message] = [message for message in read_server_messages() if message.startswith("the key is missing or unknown")]
    assert use_command_words(message) == "the key is missing or unknown"


@pytest.mark.parametrize(
    "text",
    [
        "order-PutApp-1",
        "PutApps",
        "my-takeOver",
        "slot staging holds task hub v2",
        "1 orchestration instance is active on task hub Cleanup; the oldest, Cleanup order-1, for 5 s",
    ],
)
def test_a_name_that_contains_an_operation_is_left_alone(text: str) -> None:
    assert use_command_words(text) == text


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("body.taskHub", "--task-hub"),
        ("body.slots.staging.taskHub", "--task-hub"),
        ("body.slots.staging", "--slot"),
        ("body.taskHubs.provider", "--provider"),
        ("body.force", "--force"),
        ("query.top", "--top"),
        ("path.app", "--app"),
        ("body.policy.settleSeconds", "body.policy.settleSeconds"),
    ],
)
def test_a_refused_field_is_named_by_its_option(field: str, option: str) -> None:
    assert name_field(field) == option


def test_the_reasons_of_a_problem_are_shown_with_their_codes() -> None:
    reasons = [{"code": "InstancesActive", "message": "3 are active"}, {"code": "Settling", "message": "5 s more"}]
    detail = "slot staging is not ready: 3 are active; 5 s more"
    expected = "InstancesActive: 3 are active; Settling: 5 s more"
    assert describe_problem({"detail": detail, "reasons": reasons}) == f"slot staging is not ready: {expected}"
    assert format_reasons(reasons) == expected


@pytest.mark.parametrize("reasons", [None, "x", [3], [{"code": 1, "message": "m"}], [{"message": "m"}], {}])
def test_a_problem_of_another_form_is_shown_as_it_is(reasons: object) -> None:
    assert describe_problem({"detail": "not ready", "reasons": reasons, "errors": reasons}) == "not ready"
