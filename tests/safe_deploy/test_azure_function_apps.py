"""The Function Apps of releases in Azure, read and changed through the fake `az` in real processes."""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_function_apps import FunctionAppNotFound, FunctionApps
from safe_deploy.errors import CommandError, UsageError
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.fake_function_app import SECRET, az, path_of

SETTINGS = {"AzureWebJobsStorage": SECRET, "TASK_HUB": "shop150"}


def make_app(settings: dict[str, str] | None = None, **members: Any) -> dict[str, Any]:
    """A Function App at the fake `az`, with these further settings."""
    return {
        "resourceGroup": "shop-rg",
        "slots": {"production": {"settings": {**SETTINGS, **(settings or {})}}},
        **members,
    }


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with the Function Apps of two releases."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure = FakeAzure(tmp_path / "cloud.json")
    fake_azure.reset({"shop-140": make_app(), "shop-150": make_app()})
    return fake_azure


@pytest.fixture
def path(fake_azure: FakeAzure) -> str:
    """The PATH on which `az` is the fake one."""
    return path_of(fake_azure)


@pytest.fixture
def function_apps(path: str) -> FunctionApps:
    """The Function Apps of the group, as the CLI reads and changes them."""
    return FunctionApps("shop-rg", environment={"PATH": path})


def disabled_settings(fake_azure: FakeAzure, app: str = "shop-150") -> dict[str, str]:
    """The settings of an app that its set-up does not have."""
    return {name: value for name, value in fake_azure.settings(app).items() if name not in SETTINGS}


# --- which app has an address ---


@pytest.mark.parametrize(
    "address",
    [
        "https://shop-150.azurewebsites.net",
        "https://SHOP-150.azurewebsites.net",
        "https://shop-150.azurewebsites.net:443",
    ],
)
def test_the_app_of_an_address_has_its_default_host_name(function_apps: FunctionApps, address: str) -> None:
    assert function_apps.find_by_address(address) == "shop-150"


def test_a_custom_host_name_leads_to_its_app(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop-140": make_app(), "shop-150": make_app(hostNames=["Next.Shop.example"])})
    assert function_apps.find_by_address("https://next.shop.example") == "shop-150"


def test_a_host_name_with_a_region_leads_to_its_app(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    host = "shop-150-g3a9.westeurope-01.azurewebsites.net"
    fake_azure.reset({"shop-140": make_app(), "shop-150": make_app(defaultHostName=host)})
    assert function_apps.find_by_address(f"https://{host}") == "shop-150"


def test_an_app_whose_members_az_nests_is_found(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop-140": make_app(), "shop-150": make_app(nested=True)})
    assert function_apps.find_by_address("https://shop-150.azurewebsites.net") == "shop-150"


def test_an_address_that_no_app_has_is_named(function_apps: FunctionApps) -> None:
    with pytest.raises(FunctionAppNotFound, match=r"shop-rg.*host name shop-160.azurewebsites.net"):
        function_apps.find_by_address("https://shop-160.azurewebsites.net")


def test_an_app_of_another_group_is_not_found(fake_azure: FakeAzure, path: str) -> None:
    fake_azure.reset({"shop-150": make_app(), "bakery": {**make_app(), "resourceGroup": "bakery-rg"}})
    with pytest.raises(FunctionAppNotFound):
        FunctionApps("bakery-rg", environment={"PATH": path}).find_by_address("https://shop-150.azurewebsites.net")


def test_a_missing_group_does_not_pass_for_a_deleted_app(path: str) -> None:
    with pytest.raises(AzureUnavailable, match=r"Azure has no resource group 'shpo-rg'.*Check --resource-group"):
        FunctionApps("shpo-rg", environment={"PATH": path}).find_by_address("https://shop-150.azurewebsites.net")


def test_two_apps_with_the_same_host_are_refused(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"b": make_app(hostNames=["shop.example"]), "a": make_app(hostNames=["shop.example"])})
    with pytest.raises(CommandError, match=r"several Function Apps .* host name shop.example: a, b"):
        function_apps.find_by_address("https://shop.example")


@pytest.mark.parametrize("address", ["http://127.0.0.1:7071", "http://localhost:7071", "http://[::1]:7071"])
def test_an_address_on_this_machine_never_reaches_az(
    function_apps: FunctionApps, fake_azure: FakeAzure, address: str
) -> None:
    with pytest.raises(CommandError, match="is on this machine"):
        function_apps.find_by_address(address)
    assert fake_azure.calls == []


@pytest.mark.parametrize(
    "output",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"apps": null}',
        '{"apps": [1]}',
        '{"apps": [{"name": null, "host": "a", "hosts": []}]}',
        '{"apps": [{"name": "a", "host": 1, "hosts": null}]}',
        '{"apps": [{"name": "a", "host": "a", "hosts": [{}]}]}',
    ],
)
def test_unexpected_output_about_apps_is_an_error(
    function_apps: FunctionApps, fake_azure: FakeAzure, output: str
) -> None:
    fake_azure.set_fault("functionapp list", exit_code=None, output=output)
    with pytest.raises(AzureUnavailable, match=r"az .*'shop-rg'"):
        function_apps.find_by_address("https://shop-150.azurewebsites.net")


def test_a_name_of_an_app_that_az_could_misread_never_reaches_az(
    function_apps: FunctionApps, fake_azure: FakeAzure
) -> None:
    with pytest.raises(AzureUnavailable):
        function_apps.list_disabled("--ids")
    assert fake_azure.calls == []


# --- settings ---


def test_a_setting_is_read_without_the_values_of_others(
    function_apps: FunctionApps, fake_azure: FakeAzure, path: str
) -> None:
    assert function_apps.read_setting("shop-150", "TASK_HUB") == "shop150"
    printed = az(path, *fake_azure.calls[-1]).stdout
    assert json.loads(printed) == {"names": ["AzureWebJobsStorage", "TASK_HUB"], "values": ["shop150"]}


def test_the_name_of_a_setting_ignores_case(function_apps: FunctionApps) -> None:
    assert function_apps.read_setting("shop-150", "Task_Hub") == "shop150"


def test_a_missing_setting_has_no_value(function_apps: FunctionApps) -> None:
    assert function_apps.read_setting("shop-150", "OTHER") is None


def test_a_setting_without_a_task_hub_name_is_refused_without_showing_it(function_apps: FunctionApps) -> None:
    assert function_apps.read_task_hub("shop-150", "TASK_HUB") == "shop150"
    assert function_apps.read_task_hub("shop-150", "OTHER") is None
    with pytest.raises(AzureUnavailable, match="is not a task hub name") as caught:
        function_apps.read_task_hub("shop-150", "AzureWebJobsStorage")
    assert "AccountKey" not in caught.value.message


# --- disabled functions ---


@pytest.mark.parametrize(
    ("settings", "disabled"),
    [
        ({}, set()),
        ({"AzureWebJobs.Nightly.Disabled": "true"}, {"Nightly"}),
        ({"AzureWebJobs.Nightly.Disabled": "1", "AzureWebJobs.Bill_All.Disabled": "True"}, {"Nightly", "Bill_All"}),
        ({"AzureWebJobs_Send_Invoices_Disabled": "true"}, {"Send_Invoices"}),
        ({"azurewebjobs.nightly.disabled": "TRUE"}, {"nightly"}),
        ({"AzureWebJobs.Nightly.Disabled": "false", "AzureWebJobs_Nightly_Disabled": "1"}, {"Nightly"}),
        ({"AzureWebJobs.Nightly.Disabled": "false"}, set()),
        ({"AzureWebJobs.Nightly.Disabled": "yes"}, set()),
        ({"AzureWebJobs.Nightly.Disabled": ""}, set()),
    ],
)  # fmt: skip
def test_disabled_functions_are_those_that_the_host_does_not_run(
    function_apps: FunctionApps, fake_azure: FakeAzure, settings: dict[str, str], disabled: set[str]
) -> None:
    fake_azure.reset({"shop-150": make_app(settings)})
    assert function_apps.list_disabled("shop-150") == disabled


def test_az_prints_the_values_of_disabling_settings_only(
    function_apps: FunctionApps, fake_azure: FakeAzure, path: str
) -> None:
    fake_azure.reset({"shop-150": make_app({"AzureWebJobs.Nightly.Disabled": "true"})})
    function_apps.list_disabled("shop-150")
    # The same commands are run again, to see what they have printed.
    printed = "".join(az(path, *call).stdout for call in fake_azure.calls)
    assert '"true"' in printed
    assert SECRET not in printed


def test_functions_are_disabled_by_one_restart(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    function_apps.set_disabled("shop-150", ["Nightly", "Send_Invoices"], disabled=True)
    assert disabled_settings(fake_azure) == {
        "AzureWebJobs.Nightly.Disabled": "true",
        "AzureWebJobs.Send_Invoices.Disabled": "true",
    }
    assert fake_azure.count_restarts("shop-150") == 1
    assert fake_azure.count_restarts("shop-140") == 0


def test_functions_that_are_as_wanted_cause_no_restart(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=False)
    assert fake_azure.count_restarts("shop-150") == 0
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    function_apps.set_disabled("shop-150", ["nightly"], disabled=True)
    assert fake_azure.count_restarts("shop-150") == 1


@pytest.mark.parametrize("spelling", ["AzureWebJobs_Nightly_Disabled", "azurewebjobs.nightly.disabled"])
def test_a_setting_that_is_spelled_otherwise_is_changed_and_not_doubled(
    function_apps: FunctionApps, fake_azure: FakeAzure, spelling: str
) -> None:
    fake_azure.reset({"shop-150": make_app({spelling: "true"})})
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=False)
    assert disabled_settings(fake_azure) == {spelling: "false"}
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    assert disabled_settings(fake_azure) == {spelling: "true"}


def test_a_function_with_two_settings_is_enabled_by_both(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    settings = {"AzureWebJobs.Nightly.Disabled": "1", "AzureWebJobs_Nightly_Disabled": "true"}
    fake_azure.reset({"shop-150": make_app(settings)})
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=False)
    assert set(disabled_settings(fake_azure).values()) == {"false"}


@pytest.mark.parametrize("name", ["Send-Invoices", "", "1st", "a b", "A=1", "A.Disabled", "é"])
def test_a_function_that_no_setting_can_disable_never_reaches_az(
    function_apps: FunctionApps, fake_azure: FakeAzure, name: str
) -> None:
    with pytest.raises(UsageError, match="hyphen" if "-" in name else "is not a valid name of a function"):
        function_apps.set_disabled("shop-150", ["Nightly", name], disabled=True)
    assert fake_azure.calls == []


def test_a_reference_to_key_vault_is_neither_on_nor_off(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop-150": make_app({"AzureWebJobs.Nightly.Disabled": "@Microsoft.KeyVault(SecretUri=s)"})})
    with pytest.raises(AzureUnavailable, match=r"AzureWebJobs.Nightly.Disabled .* is a reference to Key Vault"):
        function_apps.list_disabled("shop-150")


def test_settings_that_are_not_as_wanted_afterwards_are_an_error(
    function_apps: FunctionApps, fake_azure: FakeAzure
) -> None:
    """A deployment that writes all settings at the same time takes the change away again."""
    fake_azure.set_fault("appsettings list", exit_code=None, output='{"names": [], "values": []}')
    with pytest.raises(AzureUnavailable, match="not as wanted now"):
        function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)


def test_a_value_that_az_hides_is_an_error(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    output = '{"names": ["AzureWebJobs.Nightly.Disabled"], "value0": []}'
    fake_azure.set_fault("appsettings list", exit_code=None, output=output)
    with pytest.raises(AzureUnavailable, match="does not show its value"):
        function_apps.list_disabled("shop-150")


def test_a_warning_of_az_is_ignored(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("all", exit_code=None, warning="This command is in preview. (ResourceNotFound) az login")
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    assert function_apps.list_disabled("shop-150") == {"Nightly"}


def test_a_failure_is_not_explained_by_a_warning(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("all", message="(Conflict) Busy.", warning="Please run az login. (ResourceNotFound)")
    with pytest.raises(AzureUnavailable, match="az failed with exit code 1 Conflict about resource group 'shop-rg'"):
        function_apps.find_by_address("https://shop-150.azurewebsites.net")


def test_a_change_that_fails_says_why_without_output_of_az(function_apps: FunctionApps, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("appsettings set", message=f"(AuthorizationFailed) {SECRET}", output=SECRET)
    with pytest.raises(
        AzureUnavailable, match="is not allowed to change the settings of function app 'shop-150'"
    ) as caught:
        function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    assert "AccountKey" not in caught.value.message


def test_a_change_that_fails_after_its_effect_can_be_repeated(
    function_apps: FunctionApps, fake_azure: FakeAzure
) -> None:
    fake_azure.set_fault("appsettings set", takes_effect=True, call_count=1)
    with pytest.raises(AzureUnavailable, match="az failed with exit code 1"):
        function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    function_apps.set_disabled("shop-150", ["Nightly"], disabled=True)
    assert fake_azure.count_restarts("shop-150") == 1


def test_an_az_that_does_not_answer_is_reported(path: str, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("functionapp list", exit_code=None, delay_before_seconds=60)
    function_apps = FunctionApps("shop-rg", environment={"PATH": path}, timeout_seconds=1)
    with pytest.raises(AzureUnavailable, match="did not answer within 1 seconds about resource group 'shop-rg'"):
        function_apps.find_by_address("https://shop-150.azurewebsites.net")


@pytest.mark.parametrize("group", ["$RG", "--ids", "a;b", ""])
def test_an_invalid_resource_group_is_refused(group: str) -> None:
    with pytest.raises(UsageError, match="Check --resource-group"):
        FunctionApps(group)
