"""Hostile texts on record at a real server: no command prints them so that a CI system or a terminal reads a command.

Tables are printed by new processes, as in pipelines. Everything else is printed by this process.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.injections import (
    INJECTIONS,
    VISIBLE_PARTS,
    AppWithInjections,
    find_forged_azure_commands,
    find_forged_github_commands,
    run_command,
)
from tests.safe_deploy.logging_commands import (
    find_azure_commands,
    find_github_commands,
    find_terminal_effects,
    split_lines,
)
from tests.safe_deploy.processes import CliResult
from tests.safe_deploy.terminal import run_to_end_in_terminal

COMMANDS = ["status", "wait", "stage", "instances", "history", "doctor", "cleanup", "waive", "register"]


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
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
        in_new_process=output == "table",
    )
    assert result.code == code, result.stderr
    assert find_forged_github_commands(result.stdout) == find_forged_github_commands(result.stderr) == []
    assert find_github_commands(result.stdout) == []
    assert find_terminal_effects(result.stdout + result.stderr) == []
    check_structured_output(result, output)
    for line in (tmp_path / "output").read_text().splitlines():
        assert re.fullmatch(r"[a-z-]+=[^\x00-\x1f\x7f-\x9f]*", line)
    check_summary((tmp_path / "summary").read_text())


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
@pytest.mark.parametrize("name", COMMANDS)
def test_in_azure_pipelines_no_hostile_text_is_a_command(
    app_with_injections: AppWithInjections, tmp_path: Path, name: str, output: str
) -> None:
    arguments, code = app_with_injections.commands[name]
    variables = app_with_injections.app_client.build_environment(AGENT_TEMPDIRECTORY=str(tmp_path)) | AZURE
    result = run_command(*arguments, "--output", output, variables=variables, in_new_process=output == "table")
    assert result.code == code, result.stderr
    assert find_forged_azure_commands(result.stdout) == find_forged_azure_commands(result.stderr) == []
    assert find_azure_commands(result.stdout) == []
    # One command on each line: what the agent unescapes is data and nothing else.
    assert all(len(find_azure_commands(line)) <= 1 for line in split_lines(result.stderr))
    assert find_terminal_effects(result.stdout + result.stderr) == []
    check_structured_output(result, output)
    for file in tmp_path.iterdir():
        check_summary(file.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_terminal_no_hostile_text_moves_the_cursor_or_forges_a_line(
    app_with_injections: AppWithInjections, name: str
) -> None:
    """A terminal wraps lines, and no part of a line is a command. Some pipelines give their steps a terminal."""
    arguments, code = app_with_injections.commands[name]
    exit_code, text = run_to_end_in_terminal(arguments, app_with_injections.app_client.build_environment())
    assert exit_code == code, text
    assert find_terminal_effects(text, live=name == "wait") == []
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert find_github_commands(plain) == find_azure_commands(plain) == []


def check_structured_output(result: CliResult, output: str) -> None:
    """JSON and YAML output is one document, in printable ASCII. A refused command prints none."""
    if output != "table":
        parse = json.loads if output == "json" else yaml.safe_load
        assert result.stdout == "" or parse(result.stdout)
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
    assert all(part in result.stdout for part in VISIBLE_PARTS)
    # Besides one line an instance there are a title, a header and a rule.
    assert len([line for line in result.stdout.splitlines() if line.strip()]) == len(INJECTIONS) + 3
