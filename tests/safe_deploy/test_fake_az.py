"""The fake `az` behaves as `az` does, and injects the faults that tests ask for."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.fake_function_app import SECRET, SWAP, az, create_fake_function_app, path_of


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with an app that has production and slot staging."""
    return create_fake_function_app(tmp_path)


@pytest.fixture
def path(fake_azure: FakeAzure) -> str:
    """The PATH on which `az` is the fake one."""
    return path_of(fake_azure)


def test_fake_az_swaps_packages_and_settings_that_are_not_sticky(fake_azure: FakeAzure, path: str) -> None:
    azure_options = ["-g", "shop-rg", "-n", "shop"]
    result = az(
        path, "webapp", "deployment", "slot", "swap", *azure_options, "-s", "staging", "--target-slot", "production"
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert fake_azure.settings("shop") == {"TASK_HUB": "v42", "AzureWebJobsStorage": SECRET, "NAME": "production"}
    assert fake_azure.settings("shop", "staging") == {
        "TASK_HUB": "v41",
        "AzureWebJobsStorage": SECRET,
        "NAME": "staging",
    }
    assert (fake_azure.package("shop"), fake_azure.package("shop", "staging")) == ("42.zip", "41.zip")


def test_fake_az_lists_settings_as_az_does(path: str, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop": {"sticky": ["B"], "slots": {"production": {"settings": {"A": "1", "B": "2"}}}}})
    listed = ["functionapp", "config", "appsettings", "list", "-g", "shop-rg", "-n", "shop"]
    assert json.loads(az(path, *listed).stdout) == [
        {"name": "A", "slotSetting": False, "value": "1"},
        {"name": "B", "slotSetting": True, "value": "2"},
    ]
    assert az(path, *listed, "--query", "[?name=='B'].value | [0]", "--output", "tsv").stdout == "2\n"
    assert az(path, *listed, "--query", "[?name=='C'].value | [0]", "--output", "tsv").stdout == ""
    assert az(path, *listed, "--query", "[].name", "-o", "tsv").stdout == "A\nB\n"
    assert az(path, *listed, "-o", "none").stdout == ""


def test_fake_az_sets_settings_without_printing_their_values(path: str, fake_azure: FakeAzure) -> None:
    change = ["functionapp", "config", "appsettings", "set", "-g", "shop-rg", "-n", "shop", "--slot", "staging"]
    result = az(path, *change, "--settings", "TASK_HUB=v43", "URL=a=b", "--slot-settings", "ONLY_HERE=1")
    assert {setting["value"] for setting in json.loads(result.stdout)} == {None}
    assert fake_azure.settings("shop", "staging")["TASK_HUB"] == "v43"
    assert fake_azure.settings("shop", "staging")["URL"] == "a=b"
    assert "Conflict" in az(path, *change, "--settings", "task_hub=v44").stderr
    assert fake_azure.settings("shop", "staging")["TASK_HUB"] == "v43"


def test_fake_az_deploys_stops_and_starts(path: str, fake_azure: FakeAzure, tmp_path: Path) -> None:
    slot = ["--resource-group", "shop-rg", "--name", "shop", "--slot", "staging"]
    az(path, "functionapp", "stop", *slot)
    assert not fake_azure.is_running("shop", "staging")
    assert fake_azure.is_running("shop")
    deploy = ["functionapp", "deployment", "source", "config-zip", *slot, "--src", f"{tmp_path}/43.zip"]
    assert az(path, *deploy).returncode == 1
    (tmp_path / "43.zip").write_bytes(b"PK")
    assert az(path, *deploy).returncode == 0
    assert fake_azure.package("shop", "staging") == "43.zip"
    az(path, "functionapp", "restart", *slot)
    assert fake_azure.is_running("shop", "staging")
    assert fake_azure.count_calls("functionapp deployment source config-zip") == 2
    show = ["functionapp", "show", *slot[:4], "--query", "defaultHostName || properties.defaultHostName", "-o", "tsv"]
    assert az(path, *show).stdout == "shop.azurewebsites.net\n"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["xyz"], 2, "'xyz' is misspelled or not recognized by the system."),
        (["functionapp", "xyz"], 2, "'xyz' is misspelled or not recognized by the system."),
        (["functionapp", "show", "-n", "shop"], 2, "the following arguments are required: --resource-group/-g"),
        (["account", "show", "--bogus", "1"], 2, "unrecognized arguments: --bogus 1"),
        (["functionapp", "show", "-n", "bakery", "-g", "shop-rg"], 3, "(ResourceNotFound)"),
    ],
)
def test_fake_az_refuses_invalid_commands_as_az_does(path: str, arguments: list[str], code: int, error: str) -> None:
    result = az(path, *arguments)
    assert result.returncode == code
    assert result.stderr.startswith(f"ERROR: {error}")


@pytest.mark.parametrize(("swaps_first", "hub"), [(False, "v41"), (True, "v42")])
def test_a_fault_of_fake_az_comes_before_or_after_the_swap_and_passes(
    path: str, fake_azure: FakeAzure, *, swaps_first: bool, hub: str
) -> None:
    swap = [*SWAP[1:], "-g", "shop-rg", "-n", "shop", "-s", "staging"]
    fake_azure.set_fault("swap", takes_effect=swaps_first, call_count=1, message="Operation was cancelled.")
    failed = az(path, *swap)
    assert (failed.returncode, failed.stderr) == (1, "ERROR: Operation was cancelled.\n")
    assert fake_azure.settings("shop")["TASK_HUB"] == hub
    assert az(path, *swap).returncode == 0
    assert fake_azure.settings("shop")["TASK_HUB"] != hub


@pytest.mark.parametrize(("delay_name", "hub"), [("delay_before_seconds", "v41"), ("delay_after_seconds", "v42")])
def test_a_swap_of_fake_az_can_be_killed_before_and_after_it(
    path: str, fake_azure: FakeAzure, delay_name: str, hub: str
) -> None:
    fake_azure.set_fault("swap", exit_code=None, **{delay_name: 60})  # type: ignore[arg-type]  # both are numbers
    swap = [f"{path.split(':', maxsplit=1)[0]}/az", *SWAP[1:], "-g", "shop-rg", "-n", "shop", "-s", "staging"]
    with subprocess.Popen(swap, env={"PATH": path}) as process:
        deadline = time.monotonic() + 30
        while not (fake_azure.calls and fake_azure.settings("shop")["TASK_HUB"] == hub):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert fake_azure.settings("shop")["TASK_HUB"] == hub


def test_a_fault_of_fake_az_for_all_commands_spares_login(path: str, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("all", message="Please run 'az login' to setup account.")
    assert az(path, "account", "show").returncode == 1
    assert az(path, "login", "--service-principal", "-u", "x", "-p", "y", "--tenant", "z").returncode == 0
    fake_azure.clear_faults()
    assert az(path, "account", "show", "--query", "id", "-o", "tsv").returncode == 0


def test_fake_az_loses_no_concurrent_changes(path: str, fake_azure: FakeAzure) -> None:
    change = ["functionapp", "config", "appsettings", "set", "-g", "shop-rg", "-n", "shop", "--settings"]
    names = [f"S{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        assert {result.returncode for result in pool.map(lambda name: az(path, *change, f"{name}=1"), names)} == {0}
    assert set(names) <= fake_azure.settings("shop").keys()
    assert len(fake_azure.calls) == 12


GROUP = ["--resource-group", "shop-rg"]
CREATE = [
    *["functionapp", "create", *GROUP, "--name", "shop150", "--flexconsumption-location", "westeurope"],
    *["--runtime", "python", "--storage-account", "account", "--deployment-storage-container-name", "shop150"],
]
EMPTY_PLANS = "[?sku.tier=='FlexConsumption' && to_string(numberOfSites || properties.numberOfSites)=='0'].name"


def test_fake_az_creates_an_app_on_flex_consumption_with_a_plan_at_each_call(path: str) -> None:
    assert "ContainerNotFound" in az(path, *CREATE).stderr
    az(path, "storage", "container-rm", "create", *GROUP, "--storage-account", "account", "--name", "shop150")
    assert az(path, *CREATE).returncode == 0
    list_empty_plans = ["functionapp", "plan", "list", *GROUP, "--query", EMPTY_PLANS, "--output", "tsv"]
    assert az(path, *list_empty_plans).stdout == ""
    assert az(path, *CREATE).returncode == 0
    [empty_plan] = az(path, *list_empty_plans).stdout.split()
    delete_plan = ["functionapp", "plan", "delete", *GROUP, "--name", empty_plan]
    assert "--yes" in az(path, *delete_plan).stderr
    assert az(path, *delete_plan, "--yes").returncode == 0
    assert az(path, *list_empty_plans).stdout == ""


def test_fake_az_deletes_the_plan_of_an_app_with_its_last_app(path: str) -> None:
    az(path, "storage", "container-rm", "create", *GROUP, "--storage-account", "account", "--name", "shop150")
    az(path, *CREATE)
    list_plans = ["functionapp", "plan", "list", *GROUP, "--query", "[].name", "--output", "tsv"]
    [plan] = az(path, *list_plans).stdout.split()
    assert "(Conflict)" in az(path, "functionapp", "plan", "delete", *GROUP, "--name", plan, "--yes").stderr
    delete_app = ["functionapp", "delete", *GROUP, "--name", "shop150"]
    assert az(path, *delete_app).returncode == 0
    assert az(path, *list_plans).stdout == ""
    assert az(path, *delete_app).returncode == 3


def test_fake_az_sets_settings_that_are_given_as_json(path: str, fake_azure: FakeAzure) -> None:
    change = ["functionapp", "config", "appsettings", "set", *GROUP, "-n", "shop", "--settings"]
    assert az(path, *change, '{"ORDERS": "a=b"}', "TASK_HUB=v43").returncode == 0
    assert az(path, *change, "{}", "TASK_HUB=v43").returncode == 0
    settings = fake_azure.settings("shop")
    assert (settings["ORDERS"], settings["TASK_HUB"]) == ("a=b", "v43")


WEB_CONFIGURATION = [
    *["--resource-group", "shop-rg", "--namespace", "Microsoft.Web", "--parent", "sites/shop"],
    *["--resource-type", "config", "--name", "web", "--api-version", "2022-03-01"],
]
READ_RULES = ["resource", "show", *WEB_CONFIGURATION, "--query", "properties.experiments.rampUpRules"]


def set_rules(path: str, *shares: float) -> subprocess.CompletedProcess[str]:
    """Set a rule for slot staging with each share."""
    rule = {"name": "staging", "actionHostName": "shop-staging.azurewebsites.net"}
    rules = [rule | {"reroutePercentage": share} for share in shares]
    properties = json.dumps({"experiments": {"rampUpRules": rules}})
    return az(path, "resource", "patch", *WEB_CONFIGURATION, "--properties", properties)


def test_fake_az_replaces_the_traffic_rules_and_shows_all_their_members(path: str) -> None:
    assert json.loads(az(path, *READ_RULES).stdout) == []
    assert set_rules(path, 10).returncode == 0
    [rule] = json.loads(az(path, *READ_RULES).stdout)
    assert (rule["name"], rule["reroutePercentage"], rule["changeStep"]) == ("staging", 10, None)
    assert set_rules(path, 60, 60).returncode == 1
    set_rules(path)
    assert json.loads(az(path, *READ_RULES).stdout) == []


def test_fake_az_shows_old_rules_for_as_many_reads_as_a_test_wants(path: str, fake_azure: FakeAzure) -> None:
    fake_azure.update_app("shop", staleReadsAfterChange=2)
    set_rules(path, 10)  # the command itself reads once
    assert json.loads(az(path, *READ_RULES).stdout) == []
    assert [rule["reroutePercentage"] for rule in json.loads(az(path, *READ_RULES).stdout)] == [10]
    fake_azure.update_app("shop", ignoresChanges=True, staleReadsAfterChange=0)
    assert set_rules(path, 50).returncode == 0
    assert [rule["reroutePercentage"] for rule in json.loads(az(path, *READ_RULES).stdout)] == [10]


@pytest.mark.parametrize(
    ("option", "value"), [("--namespace", "Microsoft.Sql"), ("--name", "metadata"), ("--parent", "sites/bakery")]
)
def test_fake_az_knows_no_other_resources(path: str, option: str, value: str) -> None:
    names = list(WEB_CONFIGURATION)
    names[names.index(option) + 1] = value
    for command in (["show"], ["patch", "--properties", "{}"]):
        assert az(path, "resource", *command, *names).returncode == 3
    assert az(path, "resource", "patch", *WEB_CONFIGURATION, "--properties", "{").returncode == 1
