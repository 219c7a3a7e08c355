"""docs/cli.md documents all commands, options, variables, defaults, exit codes and outputs, and no others."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from safe_deploy.cli import cli
from safe_deploy.errors import ExitCode
from safe_deploy.rendering import app_outputs, cleanup_outputs, verdict_outputs
from safe_deploy.rollouts.health_report import health_outputs
from safe_deploy.rollouts.messages import rollout_outputs
from safe_deploy.side_by_side.rendering import release_outputs, retirement_outputs, routing_outputs
from state_api.app import StateServer
from state_api.settings import read_settings, sha256_of
from tests.documents.api_contract import operations
from tests.documents.page_tables import (
    AZURE,
    CODE,
    FENCE,
    OPERATIONS,
    ROOT,
    SETTINGS,
    read_first_column,
    read_section,
    read_table_rows,
    remove_markup,
)
from tests.safe_deploy.rollout_responses import build_health, build_rollout

CLI = ROOT / "docs" / "cli.md"
GUIDES = {
    "github": ROOT / "docs" / "github-actions.md",
    "azure-pipelines": ROOT / "docs" / "azure-pipelines.md",
}


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, including commands of a group, such as `keys new`."""
    for name, command in vars(group)["commands"].items():
        if "commands" in vars(command):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS: dict[str, Any] = dict(_commands(typer.main.get_command(cli)))


def options() -> Iterator[tuple[str, Any]]:
    """Every option with an environment variable, with the name of its command."""
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if getattr(parameter, "envvar", None):
                yield name, parameter


def test_exactly_the_existing_commands_are_documented() -> None:
    documented = {name for name in read_first_column(CLI, "Commands", "Command") if name.startswith("safe-deploy ")}
    assert documented == {f"safe-deploy {name}" for name in COMMANDS}


def test_every_operation_of_the_api_has_a_command_or_a_reason_to_have_none() -> None:
    api = StateServer(read_settings({"STATE_STORAGE": "UseDevelopmentStorage=true"})).api
    rows = read_table_rows(CLI, "Operations and commands", "Operation")
    documented = {remove_markup(operation): cell for operation, cell in rows}
    assert documented.keys() == {operation["operationId"] for _, _, operation in operations(api)}
    for operation, cell in documented.items():
        names = CODE.findall(cell)
        assert names or cell.startswith("none: "), operation
        assert set(names) <= COMMANDS.keys(), operation


# What acts on Azure or on this machine only, or follows what another command has begun.
_COMMANDS_WITHOUT_OPERATION = {"explain", "init", "keys new", "quiesce", "unquiesce"}


def test_every_command_that_calls_the_server_is_that_of_an_operation() -> None:
    rows = read_table_rows(CLI, "Operations and commands", "Operation")
    documented = {name for _, cell in rows for name in CODE.findall(cell)}
    assert documented == COMMANDS.keys() - _COMMANDS_WITHOUT_OPERATION


def test_exactly_the_options_of_each_command_are_documented() -> None:
    (common_sentence,) = re.findall(
        r"^Each command but `explain`, `init` and `keys new` takes (.*?)\. ", CLI.read_text(), re.MULTILINE
    )
    common = set(CODE.findall(common_sentence))
    (without_app,) = re.findall(r"Those\s+that are about no app take no `--app`: (.*?)\. The", CLI.read_text())
    exceptions = {name: {"--app"} for name in CODE.findall(without_app)}
    documented = {
        remove_markup(cells[0]): set(CODE.findall(cells[1]))
        for cells in read_table_rows(CLI, "Commands", "Command")
        if remove_markup(cells[0]) in COMMANDS
    }
    actual = {
        name: {parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")}
        for name, command in COMMANDS.items()
    }
    assert {
        name: (set() if name in {"explain", "init", "keys new"} else common - exceptions.get(name, set())) | rest
        for name, rest in documented.items()
    } == actual


def test_exactly_the_existing_options_without_variables_are_documented() -> None:
    documented = {
        (remove_markup(cells[0]), command)
        for cells in read_table_rows(CLI, "Options and variables", "Option")
        if len(cells) == 4 and "SAFE_DEPLOY_" not in cells[1]
        for command in CODE.findall(cells[1])
    }
    with_variable = {option.opts[0] for _, option in options()}
    actual = {
        (parameter.opts[0], name)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if parameter.opts[0].startswith("--") and parameter.opts[0] not in with_variable
    }
    assert documented == actual


def test_exactly_the_existing_options_with_variables_are_documented() -> None:
    documented = {
        remove_markup(cells[0]): remove_markup(cells[1])
        for cells in read_table_rows(CLI, "Options and variables", "Option")
        if "SAFE_DEPLOY_" in cells[1]
    }
    assert documented == {option.opts[0]: option.envvar for _, option in options()}


def test_an_option_has_the_same_variable_and_default_in_every_command() -> None:
    taken: dict[str, set[Any]] = {}
    for _, option in options():
        taken.setdefault(option.opts[0], set()).add((option.envvar, str(option.default)))
    # `rollback` and `instances` find a task hub themselves, only `waive` requires a reason, only `release` an address,
    # and only `release` and `promote` a version. A rollout may take days, and routers confirm a change sooner than a
    # Function App starts, or a slot drains.
    exceptions = {"--task-hub", "--reason", "--version", "--timeout", "--address"}
    assert {name: seen for name, seen in taken.items() if len(seen) > 1}.keys() <= exceptions


def test_documented_defaults_are_the_real_defaults() -> None:
    # Of several defaults, that of the first command is in this column.
    actual = {
        option.opts[0]: str(getattr(option.default, "value", option.default)) for _, option in reversed([*options()])
    }
    named = {
        remove_markup(cells[0]): remove_markup(cells[2])
        for cells in read_table_rows(CLI, "Options and variables", "Option")
        if "SAFE_DEPLOY_" in cells[1] and re.fullmatch(r"`[\w]+`|\d+", cells[2])
    }
    assert named == {name: actual[name].removesuffix(".0") for name in named}
    assert {"--slot", "--timeout", "--interval", "--verify", "--task-hub-setting", "--output"} <= named.keys()


def test_exactly_the_existing_exit_codes_are_documented() -> None:
    assert [int(code) for code in read_first_column(CLI, "Exit codes", "Code")] == sorted(ExitCode)


def test_exactly_the_existing_outputs_are_documented() -> None:
    verdict = {
        "ready": True,
        "status": "Ready",
        "hasRunning": False,
        "activeCount": 0,
        "reasons": [],
        "taskHub": None,
        "version": None,
        "assurance": "events",
    }
    release = {"taskHub": "shop150", "address": "https://shop-150.azurewebsites.net"}
    releases = {"routing": {"active": None, "revision": 1}}
    actual = [
        verdict_outputs(verdict),
        release_outputs("1.5.0", release) | {"override-token": "secret"},
        retirement_outputs([]),
        routing_outputs(releases, previous=None, behind=[]),
        health_outputs(build_health()),
        rollout_outputs(build_rollout()),
        app_outputs({"slots": {}}, "staging", "v42"),
        cleanup_outputs({"taskHubs": []}),
    ]
    title = "In CI systems"
    documented = [set(re.findall(r"`([\w-]+)`", cells[1])) for cells in read_table_rows(CLI, title, "Command")]
    assert documented == [set(outputs) for outputs in actual]


@pytest.mark.parametrize("folder", GUIDES)
def test_the_quickstart_is_a_tested_file_of_under_thirty_lines(folder: str) -> None:
    tested = (ROOT / "pipelines" / folder / "quickstart.yml").read_text()
    blocks = [body for language, body in FENCE.findall(GUIDES[folder].read_text()) if language == "yaml"]
    assert tested in blocks
    assert len(tested.splitlines()) < 30


def test_every_yaml_block_in_the_documentation_is_a_tested_file() -> None:
    tested = {path.read_text() for path in (ROOT / "pipelines").rglob("*.yml")}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    blocks = [
        body for page in pages for language, body in FENCE.findall(page.read_text()) if language in ("yaml", "yml")
    ]
    assert blocks
    assert set(blocks) <= tested


def test_the_role_of_a_pipeline_permits_all_operations_of_the_command_line() -> None:
    (pipeline_role,) = (
        remove_markup(cells[1]) for cells in read_table_rows(AZURE, "Keys", "Caller") if cells[0] == "a pipeline"
    )
    required_operations = {
        "GetStagingStatus",
        "PostStaging",
        "DeleteStaging",
        "PostSwap",
        "Cleanup",
        "GetApp",
        "GetHistory",
        "GetTaskHub",
        "ListReleases",
        "PostRelease",
        "GetReleaseStatus",
        "DeleteRelease",
        "GetRouting",
        "PutRouting",
        "GetTimeline",
        "GetRolloutHealth",
        "GetRollout",
        "PutRollout",
        "PostRollout",
    }
    (header,) = re.findall(r"^\| Operation \|.*$", read_section(SETTINGS, "Keys and roles"), re.MULTILINE)
    column = [remove_markup(cell.strip()) for cell in header.strip("|").split("|")].index(pipeline_role)
    permitted_operations = {
        remove_markup(cells[0])
        for cells in read_table_rows(SETTINGS, "Keys and roles", "Operation")
        if cells[column] == "yes"
    }
    assert required_operations <= permitted_operations


def test_the_commands_that_create_keys_for_azure_create_a_setting_that_the_server_accepts(tmp_path: Path) -> None:
    """The commands of both pages that need no Azure, run unchanged. A caller's old function key stays valid."""
    (creation,) = [body for language, body in FENCE.findall(read_section(AZURE, "Keys")) if language == "sh"]
    vault = read_section(AZURE, "Store the keys")
    moving = read_section(OPERATIONS, "Move from function keys")
    move, _ = [body for language, body in FENCE.findall(moving) if language == "sh"]
    assert "state-keys.json" in vault
    command = tmp_path / "safe-deploy"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m safe_deploy "$@"\n')
    command.chmod(0o755)
    _, _, entry = move.partition("--output tsv)\n")
    # Collecting the entries comes last, because the entry of the old key replaces that of the new one.
    *creating, collecting = creation.strip().splitlines()
    script = "\n".join(["set -eu", *creating, "OLD_KEY=the-key-that-the-function-had", entry, collecting])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "DURABLE_APP": "shop-4711"}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    keys = read_settings(
        {"STATE_STORAGE": "UseDevelopmentStorage=true", "STATE_KEYS": (tmp_path / "state-keys.json").read_text()}
    ).keys
    assert [(key.name, key.role, key.apps) for key in keys] == [
        ("pipeline-shop", "deployer", ("shop-4711",)),
        ("operators", "admin", None),
        ("event-grid", "publisher", None),
    ]
    assert keys[0].sha256 == sha256_of("the-key-that-the-function-had")
