"""A key on the command line is visible in the list of processes: the CLI warns, and does not print it."""

from pathlib import Path

import pytest

from harness.state_server import ServerProcess
from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.injections import (
    run_command,
)
from tests.safe_deploy.processes import KEYS


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
    assert result.code == ExitCode.DONE, result.stderr
    warning_prefix = {
        "github": "::warning title=safe-deploy::",
        "azure": "##vso[task.logissue type=warning]",
        "none": "warning: ",
    }[system]
    warnings = [line for line in result.stderr.splitlines() if "SAFE_DEPLOY_KEY" in line]
    assert [
        line.startswith(f"{warning_prefix}the key was given as an argument, which process lists") for line in warnings
    ] == [True]
    assert KEYS["reader"] not in result.stdout + result.stderr


def test_a_key_in_a_variable_causes_no_warning(served: ServerProcess) -> None:
    app_client = AppClient(served.url)
    app_client.register()
    result = run_command("status", variables=app_client.build_environment())
    assert result.code == ExitCode.DONE
    assert "SAFE_DEPLOY_KEY" not in result.stderr
