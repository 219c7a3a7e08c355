"""The checks of `safe-deploy doctor` that query Azure, with a fake `az`."""

from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.doctor_runner import CheckResults, run_doctor, set_slot_task_hubs


def run_doctor_with_azure(app_client: AppClient, *options: str) -> tuple[CheckResults, dict[str, tuple[str, str]]]:
    """Run doctor with the options for Azure. Returns all results, and those of the checks of Azure."""
    results = run_doctor(app_client, "--resource-group", RESOURCE_GROUP, *options)
    return results, {check: message for check, message in results.items() if check.startswith("Azure")}


def test_without_a_resource_group_azure_is_not_queried(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    """A warning names the option `--resource-group`."""
    results = run_doctor(registered_app)
    assert (results.code, results["Azure"][0]) == (ExitCode.DONE, "warning")
    assert "--resource-group" in results["Azure"][1]
    assert azure_on_path.calls == []


def test_slots_with_other_task_hubs_than_on_record_are_a_conflict(
    registered_app: AppClient, azure_on_path: FakeAzure
) -> None:
    """Each slot has its own result, with the task hubs of both sides."""
    set_slot_task_hubs(azure_on_path, registered_app, production="other1", staging="other2")
    results, azure = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.CONFLICT
    assert azure["Azure: production"] == (
        "failed",
        f"has other1, but the server has {registered_app.hub} on record. Correct the one that is wrong",
    )
    assert azure["Azure: staging"] == (
        "failed",
        "has other2, but the server has no task hub on record. Correct the one that is wrong",
    )
    set_slot_task_hubs(azure_on_path, registered_app, production=None, staging=None)
    results, azure = run_doctor_with_azure(registered_app)
    assert results.failed_checks() == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("has no task hub, but the server has")


def test_the_comparison_of_task_hub_names_ignores_case(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    set_slot_task_hubs(azure_on_path, registered_app, production=registered_app.hub.upper(), staging=None)
    results, _ = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.DONE


def test_a_slot_sticky_setting_fails_the_check(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    """With a slot-sticky setting, the task hubs would stay in their slots at a swap."""
    set_slot_task_hubs(azure_on_path, registered_app, ("task_hub",), production=registered_app.hub, staging=None)
    results, azure = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.FAILURE
    assert results.failed_checks() == ["Azure: setting"]
    assert "safe-deploy doctor --fix" in azure["Azure: setting"][1]


def test_the_options_choose_function_app_slot_and_setting(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    """The program `az` does not receive the key of safe-deploy."""
    slots = {"production": {"settings": {"HUB": registered_app.hub}}, "canary": {"settings": {}}}
    azure_on_path.reset({"other": {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    results, azure = run_doctor_with_azure(
        registered_app, "--function-app", "other", "--task-hub-setting", "HUB", "--slot", "canary"
    )
    assert results.code == ExitCode.DONE
    assert list(azure) == ["Azure: production", "Azure: canary", "Azure: setting"]
    assert all("SAFE_DEPLOY_KEY" not in names for names in azure_on_path.environments)


def test_an_az_without_a_login_is_reported_once(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    """The doctor reports one failed check for Azure, and makes the checks that need no `az`."""
    set_slot_task_hubs(azure_on_path, registered_app, production=registered_app.hub, staging=None)
    azure_on_path.set_fault("all", message="Please run 'az login' to setup account.")
    results, azure = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.FAILURE
    assert list(azure) == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("az is not logged in.")
    assert "verification" in results


def test_a_missing_az_is_reported_once(
    registered_app: AppClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    results, azure = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.FAILURE
    assert azure == {
        "Azure: production": (
            "failed",
            "az, the Azure CLI, is not on the PATH. Install it on the machine that runs safe-deploy.",
        )
    }


def test_a_slot_that_is_missing_in_azure_is_named(registered_app: AppClient, azure_on_path: FakeAzure) -> None:
    """The doctor still checks the other slot and the setting."""
    set_slot_task_hubs(azure_on_path, registered_app, production=registered_app.hub)
    results, azure = run_doctor_with_azure(registered_app)
    assert results.code == ExitCode.FAILURE
    assert [status for status, _ in azure.values()] == ["ok", "failed", "ok"]
    assert "Azure has no slot 'staging'" in azure["Azure: staging"][1]


@pytest.mark.parametrize(("name", "status"), [("", "ok"), ("-staging", "failed")])
def test_a_status_url_names_the_slot_of_its_task_hub(
    registered_app: AppClient, azure_on_path: FakeAzure, name: str, status: str
) -> None:
    set_slot_task_hubs(azure_on_path, registered_app, production=registered_app.hub, staging=None)
    origin = f"https://{registered_app.app}{name}.azurewebsites.net"
    url = f"{origin}/runtime/webhooks/durabletask/instances/1?taskHub={registered_app.hub}"
    results, _ = run_doctor_with_azure(registered_app, "--status-url", url)
    assert results["status URLs"][0] == status


def test_a_status_url_without_a_resource_group_is_unknown(registered_app: AppClient) -> None:
    url = f"https://shop.example/runtime/webhooks/durabletask/instances/1?taskHub={registered_app.hub}"
    assert run_doctor(registered_app, "--status-url", url)["status URLs"][0] == "unknown"
