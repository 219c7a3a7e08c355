"""Task hubs of a scheduler, created and deleted through the fake `az` in real processes."""

import re
from pathlib import Path

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.errors import UsageError
from safe_deploy.scheduler_task_hubs import SchedulerTaskHubs
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.fake_function_app import az, path_of


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with a scheduler that has one task hub."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure = FakeAzure(tmp_path / "cloud.json")
    reset_scheduler(fake_azure)
    return fake_azure


def reset_scheduler(fake_azure: FakeAzure, **members: object) -> None:
    """Give the cloud one scheduler with one task hub, and with these further members."""
    fake_azure.reset({}, {"shop-dts": {"resourceGroup": "shop-rg", "taskHubs": ["shop140"], **members}})


@pytest.fixture
def path(fake_azure: FakeAzure) -> str:
    """The PATH on which `az` is the fake one."""
    return path_of(fake_azure)


@pytest.fixture
def scheduler(path: str) -> SchedulerTaskHubs:
    """The scheduler, as the CLI reads and changes it."""
    return SchedulerTaskHubs("shop-dts", "shop-rg", environment={"PATH": path})


def test_a_task_hub_is_created_once(scheduler: SchedulerTaskHubs, fake_azure: FakeAzure) -> None:
    scheduler.create("shop150")
    scheduler.create("shop150")
    assert fake_azure.task_hubs("shop-dts") == ["shop140", "shop150"]
    assert fake_azure.count_calls("durabletask taskhub create") == 1


def test_a_task_hub_is_deleted_once(scheduler: SchedulerTaskHubs, fake_azure: FakeAzure) -> None:
    scheduler.delete("shop140")
    scheduler.delete("shop140")
    assert fake_azure.task_hubs("shop-dts") == []
    assert fake_azure.count_calls("durabletask taskhub delete") == 1


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_failed_creation_can_be_repeated(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure, *, takes_effect: bool
) -> None:
    fake_azure.set_fault("taskhub create", takes_effect=takes_effect, call_count=1)
    with pytest.raises(AzureUnavailable, match="az failed with exit code 1 about task hub 'shop150'"):
        scheduler.create("shop150")
    scheduler.create("shop150")
    assert fake_azure.task_hubs("shop-dts") == ["shop140", "shop150"]


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_failed_deletion_can_be_repeated(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure, *, takes_effect: bool
) -> None:
    fake_azure.set_fault("taskhub delete", takes_effect=takes_effect, call_count=1)
    with pytest.raises(AzureUnavailable):
        scheduler.delete("shop140")
    scheduler.delete("shop140")
    assert fake_azure.task_hubs("shop-dts") == []


@pytest.mark.parametrize("state", ["Provisioning", "Failed"])
def test_a_task_hub_that_is_not_usable_is_reported(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure, state: str
) -> None:
    reset_scheduler(fake_azure, provisioningState=state)
    with pytest.raises(AzureUnavailable, match=f"its provisioning state is {state}"):
        scheduler.create("shop140")


def test_a_wrong_scheduler_does_not_pass_for_a_deleted_task_hub(path: str) -> None:
    scheduler = SchedulerTaskHubs("shop-dst", "shop-rg", environment={"PATH": path})
    with pytest.raises(AzureUnavailable, match=r"no scheduler 'shop-dst' .*Check --scheduler and --resource-group"):
        scheduler.delete("shop140")


def test_a_used_up_quota_is_reported_with_advice(scheduler: SchedulerTaskHubs, fake_azure: FakeAzure) -> None:
    reset_scheduler(fake_azure, quota=1)
    with pytest.raises(AzureUnavailable, match=r"a quota is used up .*`safe-deploy retire`"):
        scheduler.create("shop150")


def test_a_missing_extension_is_reported_with_the_command_that_adds_it(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure, path: str
) -> None:
    fake_azure.set_extensions()
    with pytest.raises(AzureUnavailable) as caught:
        scheduler.create("shop150")
    (command,) = re.findall("`az ([^`]+)`", caught.value.message)
    assert az(path, *command.split()).returncode == 0
    scheduler.create("shop150")


def test_a_preview_of_the_extension_without_an_option_is_reported_with_its_upgrade(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure
) -> None:
    message = "the following arguments are required: --namespace-name/-s"
    fake_azure.set_fault("taskhub show", exit_code=2, message=message)
    with pytest.raises(AzureUnavailable, match="`az extension add --upgrade --name durabletask`"):
        scheduler.create("shop150")


@pytest.mark.parametrize("output", ["", "null", "[]", "Succeeded"])
def test_unexpected_output_about_a_task_hub_is_an_error(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure, output: str
) -> None:
    fake_azure.set_fault("taskhub show", exit_code=None, output=output)
    with pytest.raises(AzureUnavailable, match="az did not print a JSON object about task hub 'shop150'"):
        scheduler.create("shop150")


def test_a_state_that_az_does_not_show_is_not_taken_for_success(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure
) -> None:
    fake_azure.set_fault("taskhub show", exit_code=None, output='{"state": null}')
    with pytest.raises(AzureUnavailable, match="its provisioning state is unknown"):
        scheduler.create("shop150")


def test_a_task_hub_that_is_still_there_after_its_deletion_is_an_error(
    scheduler: SchedulerTaskHubs, fake_azure: FakeAzure
) -> None:
    fake_azure.set_fault("taskhub delete", exit_code=0)
    with pytest.raises(AzureUnavailable, match="Azure still shows it"):
        scheduler.delete("shop140")


def test_warnings_of_az_are_ignored(scheduler: SchedulerTaskHubs, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("all", exit_code=None, warning="Extension 'durabletask' is in preview.")
    scheduler.create("shop150")
    assert fake_azure.task_hubs("shop-dts") == ["shop140", "shop150"]


def test_a_missing_permission_names_the_role(scheduler: SchedulerTaskHubs, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("taskhub create", message="(AuthorizationFailed) The client 'x' does not have authorization")
    with pytest.raises(AzureUnavailable, match=r"is not allowed to create task hub 'shop150' .* Contributor"):
        scheduler.create("shop150")


@pytest.mark.parametrize(
    ("name", "hub"), [("a b", "shop150"), ("-x", "shop150"), ("dts", "shop-150"), ("dts", "--ids")]
)
def test_invalid_names_never_reach_az(fake_azure: FakeAzure, path: str, name: str, hub: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name of a"):
        SchedulerTaskHubs(name, "shop-rg", environment={"PATH": path}).create(hub)
    assert fake_azure.calls == []


def test_fake_az_asks_before_it_deletes_a_task_hub(path: str, fake_azure: FakeAzure) -> None:
    options = ["-g", "shop-rg", "-s", "shop-dts", "-n", "shop140"]
    refused = az(path, "durabletask", "taskhub", "delete", *options)
    assert (refused.returncode, fake_azure.task_hubs("shop-dts")) == (1, ["shop140"])
    assert "Use --yes" in refused.stderr
    assert az(path, "durabletask", "taskhub", "delete", *options, "--yes").returncode == 0
    assert az(path, "durabletask", "taskhub", "delete", *options, "--yes").returncode == 0


def test_fake_az_creates_no_task_hub_of_a_missing_scheduler(path: str) -> None:
    options = ["-g", "shop-rg", "-s", "other", "-n", "shop150"]
    failed = az(path, "durabletask", "taskhub", "create", *options)
    assert (failed.returncode, failed.stderr.split(")")[0]) == (3, "ERROR: (ParentResourceNotFound")
