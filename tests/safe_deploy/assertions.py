"""Assertions and steps that tests of swaps, rollbacks and deployments share."""

import re
import signal
from pathlib import Path

import pytest

from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    DeploymentFixture,
)
from tests.safe_deploy.processes import CliResult

OTHER_RUN = "https://ci.example/runs/2"
SLOTS = ("production", "staging")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def find_outcome_command(result: CliResult, outcome: str) -> str:
    """The printed command that reports this outcome."""
    commands = re.findall(rf"safe-deploy swap [^;]*?--outcome {outcome}", result.stderr)
    assert commands, result.stderr
    return str(commands[0])


def is_written(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("\n")


def make_touch_command(deployment_fixture: DeploymentFixture) -> tuple[list[str], Path]:
    """A command that creates a file, and the file: it exists if the command was run."""
    mark = deployment_fixture.folder / "mark"
    return ["touch", str(mark)], mark


def assert_exit(result: CliResult, code: int, *messages: str) -> None:
    assert result.code == code, result.stderr
    for message in messages:
        assert message in result.stderr


def run_stage(deployment_fixture: DeploymentFixture, hub: str = "", *options: str) -> CliResult:
    return deployment_fixture.run(
        ["stage", "--task-hub", hub or deployment_fixture.new, "--resource-group", RESOURCE_GROUP, *options]
    )
