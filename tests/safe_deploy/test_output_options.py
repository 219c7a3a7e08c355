"""`--output` and `--quiet`: what goes to stdout, and what is left of stderr."""

import re
from typing import Any

import pytest
import yaml

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.terminal import run_in_terminal
from tests.safe_deploy.wait_scenario import SOON, WAIT, WaitScenario, is_ready

COMMANDS = ["status", "history", "instances", "cleanup", "doctor"]


def _remove_times(result: Any) -> Any:
    """The result without what differs between two requests: times, and ages in messages."""
    if isinstance(result, str):
        return re.sub(r"\d+ s\b", "", result)
    if isinstance(result, dict):
        return {name: _remove_times(value) for name, value in result.items() if not name.endswith("At")}
    return [_remove_times(item) for item in result] if isinstance(result, list) else result


@pytest.mark.parametrize("command", COMMANDS)
def test_yaml_output_has_the_content_of_json_output(app_client: AppClient, command: str) -> None:
    app_client.register()
    app_client.stage(new_hub_name())
    as_json = app_client.run_cli(command, "-o", "json")
    as_yaml = app_client.run_cli(command, "-o", "yaml")
    assert as_yaml.code == as_json.code
    result, expected = yaml.safe_load(as_yaml.stdout), as_json.json()
    assert _remove_times(result) == _remove_times(expected)


def test_the_variable_selects_yaml(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("history", SAFE_DEPLOY_OUTPUT="yaml")
    assert yaml.safe_load(result.stdout)["app"] == app_client.app


@pytest.mark.parametrize("quiet", [["--quiet"], ["-q"]])
def test_a_quiet_wait_prints_only_the_result(wait_scenario: WaitScenario, quiet: list[str]) -> None:
    wait_scenario.end()
    result = wait_scenario.wait_through(wait_scenario.app_client.url, *SOON, *quiet)
    assert result.code == ExitCode.DONE
    assert result.out.startswith("Ready: ")
    assert {line.partition(":")[0] for line in result.err.splitlines()} == {"warning"}
    assert is_ready(wait_scenario.wait_through(wait_scenario.app_client.url, *SOON), wait_scenario)


def test_a_quiet_command_keeps_errors_and_warnings(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    url = app_client.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104  # an address that is not loopback
    result = app_client.run_cli("status", "--slot", "production", SAFE_DEPLOY_QUIET="true", SAFE_DEPLOY_SERVER=url)
    assert result.code == ExitCode.NOT_READY
    *warnings, error = result.stderr.splitlines()
    assert warnings[0].startswith("warning: the key is sent unencrypted")
    assert all(line.startswith("warning: ") for line in warnings)
    assert error.startswith("error: slot production is not ready")


def test_a_quiet_wait_draws_nothing_in_a_terminal(wait_scenario: WaitScenario) -> None:
    wait_scenario.end()
    with run_in_terminal([*WAIT, *SOON, "--quiet"], wait_scenario.app_client.build_environment()) as window:
        assert window.wait() == ExitCode.DONE
    assert b"\x1b" not in window.output
    assert {line.partition(":")[0] for line in window.output.decode().splitlines()} == {"warning"}
