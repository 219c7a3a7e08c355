"""Assertions and steps that tests of swaps, rollbacks and deployments share."""

import re
import signal
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    DeploymentFixture,
)
from tests.safe_deploy.processes import CliResult

OTHER_RUN = "https://ci.example/runs/2"
SLOTS = ("production", "staging")
STOP_SIGNALS = pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
"""The signals with which a CI system stops a job."""


def find_outcome_command(result: CliResult, outcome: str) -> str:
    """The printed command that reports this outcome."""
    commands = re.findall(rf"safe-deploy swap [^;]*?--outcome {outcome}", result.stderr)
    assert commands, result.stderr
    return str(commands[0])


def is_written(file: Path) -> bool:
    """Whether the file holds a complete line."""
    return file.exists() and file.read_text().endswith("\n")


def make_touch_command(deployment_fixture: DeploymentFixture) -> tuple[list[str], Path]:
    """A command that creates a file, and the file: it exists if the command was run."""
    touched_file = deployment_fixture.folder / "mark"
    return ["touch", str(touched_file)], touched_file


def assert_exit(result: CliResult, code: ExitCode, *messages: str) -> None:
    """Assert the exit code, and that stderr has all of these messages."""
    assert result.code == code, result.stderr
    for message in messages:
        assert message in result.stderr


def run_stage(deployment_fixture: DeploymentFixture, hub: str = "", *options: str) -> CliResult:
    """Run `safe-deploy stage` with access to Azure. Without `hub` it stages the task hub `new` of the fixture."""
    return deployment_fixture.run(
        ["stage", "--task-hub", hub or deployment_fixture.new, "--resource-group", RESOURCE_GROUP, *options]
    )
