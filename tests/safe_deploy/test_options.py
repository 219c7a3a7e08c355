"""Options of the commands, and their environment variables."""

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.processes import run_safe_deploy


def test_missing_required_options_are_named(app_client: AppClient) -> None:
    for option in ("SERVER", "APP"):
        variables = {
            name: value for name, value in app_client.build_environment().items() if name != f"SAFE_DEPLOY_{option}"
        }
        result = run_safe_deploy("status", variables=variables)
        assert result.code == ExitCode.USAGE
        assert f"SAFE_DEPLOY_{option}" in result.stderr


def test_status_reads_its_options_from_variables(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    many = {"SLOT": "production", "WAIT": "true", "TIMEOUT": "0", "INTERVAL": "2", "VERIFY": "none", "OUTPUT": "json"}
    result = app_client.run_cli("status", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert result.code == ExitCode.TIMED_OUT
    assert result.json()["slot"] == "production"


def test_stage_reads_its_options_from_variables(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.stage(new_hub_name(), run_number=1)))
    hub = new_hub_name()
    many = {
        "TASK_HUB": hub,
        "VERSION": "3",
        "FORCE": "1",
        "TAKE_OVER": "yes",
        "REASON": "run 1 is dead",
        "ACTOR": "anna",
        "RUN_URL": f"{RUN}2",
    }
    result = app_client.run_cli("stage", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert result.code == ExitCode.DONE, result
    newest = app_client.history()[0]
    assert (newest["by"], newest["runUrl"], newest["reason"]) == ("anna", f"{RUN}2", "run 1 is dead")
    assert newest["details"]["version"] == "3"
    assert newest["details"]["takenOverFrom"]["runUrl"] == f"{RUN}1"


def test_cleanup_reads_its_options_from_variables(app_client: AppClient) -> None:
    app_client.register(taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"})
    result = app_client.run_cli(
        "cleanup", SAFE_DEPLOY_DRY_RUN="true", SAFE_DEPLOY_DELETE_TASK_HUBS="true", SAFE_DEPLOY_OUTPUT="json"
    )
    assert result.json()["dryRun"] is True
    refused = AppClient(app_client.url)
    refused.register()
    assert refused.run_cli("cleanup", SAFE_DEPLOY_DELETE_TASK_HUBS="true").code == ExitCode.USAGE


def test_an_option_overrides_its_variable(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("status", "--slot", "production", "--output", "json", SAFE_DEPLOY_SLOT="canary")
    assert result.json()["slot"] == "production"


NAMES = [
    "SLOT",
    "OUTPUT",
    "ACTOR",
    "RUN_URL",
    "TASK_HUB",
    "VERSION",
    "RESOURCE_GROUP",
    "FUNCTION_APP",
    "TASK_HUB_SETTING",
    "TIMEOUT",
    "INTERVAL",
    "VERIFY",
    "REASON",
    "FORCE",
    "TAKE_OVER",
    "DELETE_TASK_HUBS",
    "DRY_RUN",
    "WAIT",
    "DEPLOY_COMMAND",
    "SWAP_COMMAND",
]


@pytest.mark.parametrize("command", ["status", "cleanup", "history", "rollback", "stage", "deploy"])
def test_an_empty_variable_counts_as_not_set(app_client: AppClient, command: str) -> None:
    app_client.register()
    if command == "rollback":
        app_client.swap(app_client.stage(new_hub_name()))
    empty = {f"SAFE_DEPLOY_{name}": "" for name in NAMES}
    result = app_client.run_cli(command, *(["--outcome", "done"] if command == "rollback" else []), **empty)
    if command in ("stage", "deploy"):
        assert result.code == ExitCode.USAGE
        assert "Missing option '--task-hub'" in result.stderr
    else:
        assert result.code == ExitCode.DONE, result


@pytest.mark.parametrize(
    ("name", "value"), [("WAIT", "perhaps"), ("VERIFY", "never"), ("OUTPUT", "xml"), ("TIMEOUT", "long")]
)
def test_an_invalid_variable_is_named(app_client: AppClient, name: str, value: str) -> None:
    result = app_client.run_cli("status", **{f"SAFE_DEPLOY_{name}": value})
    assert result.code == ExitCode.USAGE
    assert f"SAFE_DEPLOY_{name}" in result.stderr
