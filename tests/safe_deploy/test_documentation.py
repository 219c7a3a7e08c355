"""docs/pipelines.md says what the command line does: commands, options, variables, defaults, exit codes, outputs."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from safe_deploy.cli import cli
from safe_deploy.errors import ExitCode
from safe_deploy.rendering import app_outputs, cleanup_outputs, verdict_outputs
from tests.test_docs import AZURE, FENCE, ROOT, listed, plain, rows, section

PIPELINES = ROOT / "docs" / "pipelines.md"

COMMANDS: dict[str, Any] = vars(typer.main.get_command(cli))["commands"]


def options() -> Iterator[tuple[str, Any]]:
    """Every option that has a variable, with the command that takes it."""
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if getattr(parameter, "envvar", None):
                yield name, parameter


def test_every_command_is_documented_and_no_other() -> None:
    assert set(listed(PIPELINES, "Commands", "Command")) == {f"safe-deploy {name}" for name in COMMANDS}


def test_every_option_with_a_variable_is_documented_and_no_other() -> None:
    documented = {plain(cells[0]): plain(cells[1]) for cells in rows(PIPELINES, "Options and variables", "Option")}
    assert documented == {option.opts[0]: option.envvar for _, option in options()}


def test_an_option_has_one_variable_and_one_default_wherever_it_is_taken() -> None:
    taken: dict[str, set[Any]] = {}
    for _, option in options():
        taken.setdefault(option.opts[0], set()).add((option.envvar, str(option.default)))
    # A rollback finds its task hub by itself, and only a waiver cannot do without a reason.
    assert {name: seen for name, seen in taken.items() if len(seen) > 1}.keys() <= {"--task-hub", "--reason"}


def test_the_defaults_that_the_documentation_names_are_the_real_ones() -> None:
    real = {option.opts[0]: str(getattr(option.default, "value", option.default)) for _, option in options()}
    named = {
        plain(cells[0]): plain(cells[2])
        for cells in rows(PIPELINES, "Options and variables", "Option")
        if re.fullmatch(r"`[\w]+`|\d+", cells[2])
    }
    assert named == {name: real[name].removesuffix(".0") for name in named}
    assert {"--slot", "--timeout", "--interval", "--verify", "--hub-setting", "--output"} <= named.keys()


def test_every_exit_code_is_documented_and_no_other() -> None:
    assert [int(code) for code in listed(PIPELINES, "Exit codes", "Code")] == sorted(ExitCode)


def test_every_output_is_documented_and_no_other() -> None:
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
    real = [verdict_outputs(verdict), app_outputs({"slots": {}}, "staging", "v42"), cleanup_outputs({"taskHubs": []})]
    title = "In GitHub Actions and Azure Pipelines"
    documented = [set(re.findall(r"`([\w-]+)`", cells[1])) for cells in rows(PIPELINES, title, "Command")]
    assert documented == [set(outputs) for outputs in real]


@pytest.mark.parametrize("folder", ["github", "azure-pipelines"])
def test_the_start_to_copy_is_the_tested_file_and_under_thirty_lines(folder: str) -> None:
    tested = (ROOT / "pipelines" / folder / "quickstart.yml").read_text()
    blocks = [body for language, body in FENCE.findall(PIPELINES.read_text()) if language == "yaml"]
    assert tested in blocks
    assert len(tested.splitlines()) < 30


def test_every_block_of_yaml_on_a_page_is_a_tested_file() -> None:
    tested = {path.read_text() for path in (ROOT / "pipelines").rglob("*.yml")}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    blocks = [
        body for page in pages for language, body in FENCE.findall(page.read_text()) if language in ("yaml", "yml")
    ]
    assert blocks
    assert set(blocks) <= tested


def test_the_key_of_a_pipeline_opens_what_the_command_line_asks_for() -> None:
    text = section(AZURE, "Keys")
    (given,) = re.findall(r"\| a pipeline \| ([^|]*) \|", text)
    (loop,) = re.findall(r"for FUNCTION in ([^;]*GetTaskHub); do", text)
    asked = {
        "GetStagingStatus",
        "PostStaging",
        "DeleteStaging",
        "PostSwap",
        "Cleanup",
        "GetApp",
        "GetHistory",
        "GetTaskHub",
    }
    assert set(given.split(", ")) == set(loop.split()) == asked
