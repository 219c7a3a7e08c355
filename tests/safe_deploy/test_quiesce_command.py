"""The command line of `safe-deploy quiesce` and `unquiesce`, with a real server and the fake `az`."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.fake_function_app import SECRET, path_of
from tests.safe_deploy.processes import CliResult, build_command_line, environment


class QuiescedApp:
    """An app with the releases 1.4.0, which is active, and 1.5.0, each with a Function App in Azure."""

    def __init__(self, app_client: AppClient, folder: Path) -> None:
        """Register an app with two releases, of which 1.4.0 is active, and their Function Apps at the fake `az`."""
        install_fake_az(folder / "bin", folder / "cloud.json")
        self.fake_azure = FakeAzure(folder / "cloud.json")
        self.fake_azure.reset({name: _make_function_app() for name in ("shop-140", "shop-150")})
        self.client = app_client
        app_client.request_json("PUT", "", {"model": "sideBySide", "policy": {"quiesceFunctions": ["Nightly"]}})
        for version, name in (("1.4.0", "shop-140"), ("1.5.0", "shop-150")):
            address = f"https://{name}.azurewebsites.net"
            release = {"version": version, "taskHub": new_hub_name(), "address": address}
            app_client.request_json("POST", "/releases", release)
            if version == "1.4.0":
                app_client.request_json("PUT", "/routing", {"active": version})

    def run(self, *arguments: str, group: str = "shop-rg", **variables: str) -> CliResult:
        """Run a command against the app and the fake `az`."""
        variables = {"PATH": path_of(self.fake_azure), "SAFE_DEPLOY_RESOURCE_GROUP": group, **variables}
        return self.client.run_cli(*arguments, role="deployer", **variables)


def _make_function_app() -> dict[str, Any]:
    """A Function App at the fake `az`, in which no function is disabled."""
    return {"resourceGroup": "shop-rg", "slots": {"production": {"settings": {"AzureWebJobsStorage": SECRET}}}}


@pytest.fixture
def quiesced_app(app_client: AppClient, tmp_path: Path) -> QuiescedApp:
    """An app with two releases and a function that must run in one of them only."""
    return QuiescedApp(app_client, tmp_path)


def test_the_functions_of_the_policy_are_disabled(quiesced_app: QuiescedApp) -> None:
    result = quiesced_app.run("quiesce", "--version", "1.5.0", "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    assert result.json() == {
        "app": quiesced_app.client.app,
        "version": "1.5.0",
        "functionApp": "shop-150",
        "functions": ["Nightly"],
        "disabled": True,
        "changed": ["Nightly"],
    }
    assert quiesced_app.fake_azure.settings("shop-150")["AzureWebJobs.Nightly.Disabled"] == "true"
    assert "Function App shop-150 restarts" in result.stderr
    assert "AccountKey" not in result.stdout + result.stderr


def test_the_named_functions_are_disabled_and_enabled(quiesced_app: QuiescedApp) -> None:
    options = ("--version", "1.5.0", "--functions", "Send_Invoices, Bill")
    assert quiesced_app.run("quiesce", *options).code == ExitCode.DONE
    settings = quiesced_app.fake_azure.settings("shop-150")
    assert settings["AzureWebJobs.Send_Invoices.Disabled"] == settings["AzureWebJobs.Bill.Disabled"] == "true"
    assert "AzureWebJobs.Nightly.Disabled" not in settings
    result = quiesced_app.run("unquiesce", *options)
    assert "enabled in Function App shop-150" in result.stdout
    assert quiesced_app.fake_azure.settings("shop-150")["AzureWebJobs.Bill.Disabled"] == "false"


def test_repeating_the_command_restarts_nothing(quiesced_app: QuiescedApp) -> None:
    quiesced_app.run("quiesce", "--version", "1.5.0")
    result = quiesced_app.run("quiesce", "--version", "1.5.0")
    assert "is not restarted" in result.stderr
    assert quiesced_app.fake_azure.count_restarts("shop-150") == 1


def test_a_warning_says_that_no_release_runs_the_functions(quiesced_app: QuiescedApp) -> None:
    assert "release 1.4.0 is active: no release runs" in quiesced_app.run("quiesce", "--version", "1.4.0").stderr
    assert "warning" not in quiesced_app.run("unquiesce", "--version", "1.4.0").stderr.lower()


def test_a_warning_says_that_two_releases_run_the_functions(quiesced_app: QuiescedApp) -> None:
    result = quiesced_app.run("unquiesce", "--version", "1.5.0")
    assert "release 1.5.0 is not active" in result.stderr
    assert "compete with those of release 1.4.0" in result.stderr


def test_functions_of_a_release_that_is_being_removed_stay_disabled(quiesced_app: QuiescedApp) -> None:
    quiesced_app.client.request_json("PUT", "", {"policy": {"settleSeconds": 0}})
    quiesced_app.client.request_json("DELETE", "/releases/1.5.0?outcome=Pending")
    result = quiesced_app.run("unquiesce", "--version", "1.5.0")
    assert (result.code, quiesced_app.fake_azure.calls) == (ExitCode.CONFLICT, [])
    assert "release 1.5.0 is being removed" in result.stderr
    assert quiesced_app.run("quiesce", "--version", "1.5.0").code == ExitCode.DONE


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(("--version", "1.6.0"), ExitCode.FAILURE, "Its releases: 1.4.0, 1.5.0", id="unknown release"),
        pytest.param((), ExitCode.USAGE, "Missing option '--version'", id="no version"),
        pytest.param(("--version", "1.5.0", "--functions", "Send-All"), ExitCode.USAGE, "on Linux", id="hyphen"),
        pytest.param(
            ("--version", "1.5.0", "--resource-group", "a;b"), ExitCode.USAGE, "Check --resource-group", id="group"
        ),
    ],
)
def test_a_wrong_command_line_changes_nothing(
    quiesced_app: QuiescedApp, arguments: tuple[str, ...], code: ExitCode, message: str
) -> None:
    result = quiesced_app.run("quiesce", *arguments)
    assert result.code == code
    assert message in result.stderr
    assert quiesced_app.fake_azure.calls == []


def test_the_resource_group_is_required(quiesced_app: QuiescedApp) -> None:
    assert quiesced_app.run("quiesce", "--version", "1.5.0", group="").code == ExitCode.USAGE


def test_without_a_policy_the_functions_must_be_named(quiesced_app: QuiescedApp) -> None:
    quiesced_app.client.request_json("PUT", "", {"policy": {"quiesceFunctions": []}})
    result = quiesced_app.run("quiesce", "--version", "1.5.0")
    assert result.code == ExitCode.USAGE
    assert "Name the functions in --functions" in result.stderr


def test_an_app_with_slots_is_refused(app_client: AppClient) -> None:
    app_client.register()
    options = ("--version", "1.5.0", "--resource-group", "shop-rg", "--functions", "Nightly")
    result = app_client.run_cli("quiesce", *options)
    assert result.code == ExitCode.CONFLICT
    assert "has slots" in result.stderr


def test_a_killed_command_can_be_repeated_while_its_az_still_runs(quiesced_app: QuiescedApp, tmp_path: Path) -> None:
    fake_azure, released = quiesced_app.fake_azure, tmp_path / "released"
    fake_azure.set_fault("appsettings set", exit_code=None, call_count=1, wait_for_file=str(released))
    arguments = ("quiesce", "--version", "1.5.0", "--resource-group", "shop-rg")
    variables = quiesced_app.client.build_environment("deployer", PATH=path_of(fake_azure))
    with subprocess.Popen(build_command_line(*arguments), env=environment(variables)) as process:
        wait_until(lambda: fake_azure.count_calls("functionapp config appsettings set") == 1, "az changes the settings")
        process.kill()
    assert quiesced_app.run(*arguments).code == ExitCode.DONE
    assert fake_azure.count_restarts("shop-150") == 1
    released.touch()
    wait_until(lambda: fake_azure.count_restarts("shop-150") == 2, "the first az has changed the settings")
    assert fake_azure.settings("shop-150")["AzureWebJobs.Nightly.Disabled"] == "true"
    assert "is not restarted" in quiesced_app.run(*arguments).stderr


def test_a_failure_of_az_is_one_line_without_its_output(quiesced_app: QuiescedApp) -> None:
    quiesced_app.fake_azure.set_fault("appsettings set", message=f"(Conflict) {SECRET}", output=SECRET)
    result = quiesced_app.run("quiesce", "--version", "1.5.0")
    assert result.code == ExitCode.FAILURE
    assert "az failed with exit code 1 Conflict about function app 'shop-150'" in result.stderr
    assert "AccountKey" not in result.stdout + result.stderr
