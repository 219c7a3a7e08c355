"""Deployment slots in Azure, read through the fake `az` in real processes."""

import json
import os
import re
import signal
import time
from pathlib import Path
from types import FrameType

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import DeploymentSlots, FunctionAppTarget, parse_swap_command
from safe_deploy.errors import UsageError
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.fake_function_app import SECRET, SWAP, az, create_fake_function_app, path_of


def make_target(
    resource_group: str = "shop-rg",
    function_app: str = "shop",
    task_hub_setting: str = "TASK_HUB",
    subscription: str | None = None,
) -> FunctionAppTarget:
    return FunctionAppTarget(
        resource_group=resource_group,
        function_app=function_app,
        task_hub_setting=task_hub_setting,
        subscription=subscription,
    )


SHOP = make_target()


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with an app that has production and slot staging."""
    return create_fake_function_app(tmp_path)


@pytest.fixture
def path(fake_azure: FakeAzure) -> str:
    """The PATH on which `az` is the fake one."""
    return path_of(fake_azure)


@pytest.fixture
def azure(path: str) -> DeploymentSlots:
    """The slots of the app, as the CLI reads them."""
    return DeploymentSlots(SHOP, environment={"PATH": path})


def find_refusal(azure: DeploymentSlots, slot: str = "staging") -> str:
    """The message of AzureUnavailable. It is one line without a secret."""
    with pytest.raises(AzureUnavailable) as caught:
        azure.get_task_hub(slot)
    message = caught.value.message
    assert caught.value.exit_code == 1
    assert "\n" not in message
    assert "AccountKey" not in message
    assert "c2VjcmV0" not in message, "the beginning of the account key"
    # A traceback would show the output of `az`.
    assert caught.value.__cause__ is None
    return message


# --- task hubs ---


def test_each_slot_has_its_own_task_hub(azure: DeploymentSlots) -> None:
    assert (azure.get_task_hub("production"), azure.get_task_hub("staging")) == ("v41", "v42")


def test_production_is_the_function_app_itself_in_any_case(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    assert azure.get_task_hub("Production") == "v41"
    assert "--slot" not in fake_azure.calls[-1]


def test_a_slot_is_read_again_on_every_call(azure: DeploymentSlots, path: str) -> None:
    assert azure.get_task_hub("production") == "v41"
    az(path, "functionapp", "deployment", "slot", "swap", "-g", "shop-rg", "-n", "shop", "-s", "staging")
    assert azure.get_task_hub("production") == "v42"


@pytest.mark.parametrize("settings", [{}, {"OTHER": "v42"}, {"TASK_HUB": ""}])
def test_a_slot_without_the_setting_has_no_task_hub(
    azure: DeploymentSlots, fake_azure: FakeAzure, settings: dict[str, str]
) -> None:
    fake_azure.reset({"shop": {"slots": {"staging": {"settings": settings}}}})
    assert azure.get_task_hub("staging") is None


def test_the_name_of_the_setting_ignores_case(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop": {"slots": {"staging": {"settings": {"Task_Hub": "v42", "AzureWebJobsStorage": SECRET}}}}})
    assert azure.get_task_hub("staging") == "v42"


def test_az_prints_the_value_of_no_other_setting(path: str, fake_azure: FakeAzure, azure: DeploymentSlots) -> None:
    azure.get_task_hub("staging")
    printed = az(path, *fake_azure.calls[-1]).stdout
    assert json.loads(printed) == {"names": ["TASK_HUB", "AzureWebJobsStorage", "NAME"], "values": ["v42"]}


def test_the_subscription_is_passed_to_az(path: str, fake_azure: FakeAzure) -> None:
    DeploymentSlots(make_target(subscription="Pay as you go"), environment={"PATH": path}).get_task_hub("staging")
    assert fake_azure.calls[-1][4:6] == ["--subscription", "Pay as you go"]


def test_az_does_not_receive_the_key_of_the_server(path: str, fake_azure: FakeAzure) -> None:
    environment = {"PATH": path, "SAFE_DEPLOY_KEY": "secret", "SAFE_DEPLOY_SERVER": "http://127.0.0.1:7071"}
    DeploymentSlots(SHOP, environment=environment).get_task_hub("staging")
    assert fake_azure.environments == [["SAFE_DEPLOY_SERVER"]]


def test_the_default_environment_is_that_of_this_process_without_the_key(
    path: str, fake_azure: FakeAzure, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = DeploymentSlots(SHOP)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("SAFE_DEPLOY_KEY", "secret")
    assert azure.get_task_hub("staging") == "v42"
    assert fake_azure.environments == [[]]


@pytest.mark.parametrize(
    "reference", ["@Microsoft.KeyVault(SecretUri=https://s)", "@microsoft.appconfiguration(Key=k)"]
)
def test_a_key_vault_reference_is_not_a_task_hub_name(
    azure: DeploymentSlots, fake_azure: FakeAzure, reference: str
) -> None:
    fake_azure.reset({"shop": {"slots": {"staging": {"settings": {"TASK_HUB": reference}}}}})
    assert "TASK_HUB of slot 'staging'" in (message := find_refusal(azure))
    assert "is a reference to Key Vault or App Configuration" in message
    assert reference not in message


@pytest.mark.parametrize("value", [SECRET, "%OTHER%", "v4", "4two", "my-hub"])
def test_an_invalid_task_hub_name_is_refused_without_showing_it(
    azure: DeploymentSlots, fake_azure: FakeAzure, value: str
) -> None:
    fake_azure.reset({"shop": {"slots": {"staging": {"settings": {"TASK_HUB": value}}}}})
    assert "is not a task hub name" in (message := find_refusal(azure))
    assert f"{value} " not in message


# --- failures of az ---


def test_a_missing_az_is_reported_with_advice(tmp_path: Path) -> None:
    message = find_refusal(DeploymentSlots(SHOP, environment={"PATH": str(tmp_path)}))
    assert message == "az, the Azure CLI, is not on the PATH. Install it on the machine that runs safe-deploy."


def test_an_az_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    program = tmp_path / "az"
    program.write_text("#!/nowhere/python\n")
    program.chmod(0o755)
    assert str(program) in find_refusal(DeploymentSlots(SHOP, environment={"PATH": str(tmp_path)}))


@pytest.mark.parametrize(
    "error",
    [
        "Please run 'az login' to setup account.",
        "AADSTS700082: The refresh token has expired.\nInteractive authentication is needed. Please run:\naz login",
    ],
)
def test_an_az_without_a_login_is_reported_with_advice(
    azure: DeploymentSlots, fake_azure: FakeAzure, error: str
) -> None:
    fake_azure.set_fault("all", message=error)
    assert find_refusal(azure).startswith("az is not logged in. Run `az login`")


def test_a_missing_slot_is_named(azure: DeploymentSlots) -> None:
    message = find_refusal(azure, "blue")
    assert "slot 'blue' of function app 'shop' in resource group 'shop-rg'" in message
    assert "Check --slot" in message


@pytest.mark.parametrize("other", [make_target(function_app="bakery"), make_target(resource_group="bakery-rg")])
def test_a_missing_function_app_is_named(path: str, other: FunctionAppTarget) -> None:
    message = find_refusal(DeploymentSlots(other, environment={"PATH": path}), "production")
    assert f"function app {other.function_app!r} in resource group {other.resource_group!r}" in message


def test_a_missing_permission_is_reported_with_the_role(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("appsettings list", message="(AuthorizationFailed) The client 'x' does not have authorization")
    assert "Website Contributor" in find_refusal(azure)


@pytest.mark.parametrize("slot", ["", "a b", "-x", "x;y", "$SLOT"])
def test_an_invalid_slot_name_never_reaches_az(azure: DeploymentSlots, fake_azure: FakeAzure, slot: str) -> None:
    assert "is not a valid name of a slot" in find_refusal(azure, slot)
    assert fake_azure.calls == []


@pytest.mark.parametrize(
    "output", ["", "null", "[]", '"v42"', "{}", '{"names": [], "values": "v42"}', "{", f"[{SECRET}"]
)
def test_unexpected_output_of_az_is_an_error(azure: DeploymentSlots, fake_azure: FakeAzure, output: str) -> None:
    fake_azure.set_fault("appsettings list", exit_code=None, output=output)
    assert "az" in find_refusal(azure)


def test_a_setting_without_a_value_is_not_a_missing_setting(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("appsettings list", exit_code=None, output='{"names": ["TASK_HUB"], "values": []}')
    assert "az lists the app setting TASK_HUB of slot 'staging'" in find_refusal(azure)


@pytest.mark.parametrize("output", [SECRET, f'[{{"name": "AzureWebJobsStorage", "value": "{SECRET}"}}]'])
def test_messages_never_contain_output_of_az(azure: DeploymentSlots, fake_azure: FakeAzure, output: str) -> None:
    fake_azure.set_fault("appsettings list", exit_code=7, output=output, message=f"(Odd{'x' * 9}) {SECRET}\n{SECRET}")
    assert find_refusal(azure) == (
        "az failed with exit code 7 Oddxxxxxxxxx about slot 'staging' of function app 'shop' in resource group "
        "'shop-rg'. To see why, run: az functionapp config appsettings list --resource-group shop-rg --name shop "
        "--slot staging --query '{names:[].name,values:[?name=='\"'\"'TASK_HUB'\"'\"'].value}' --output json"
    )


class SlowAz:
    """An `az` that takes a minute, in a child process of a script, as the real `az` runs."""

    def __init__(self, fake_azure: FakeAzure) -> None:
        """Install an `az` that hangs, and a pipe that shows whether its processes are alive."""
        fake_azure.set_fault("appsettings list", exit_code=None, delay_before_seconds=60)
        folder = fake_azure.path.parent / "slow"
        folder.mkdir()
        self.environment = {"PATH": f"{folder}:/usr/bin:/bin"}
        alive = folder / "alive"
        os.mkfifo(alive)
        self._reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
        program = folder / "az"
        program.write_text(f'#!/bin/sh\nexec 3> {alive}\necho >&3\n"{fake_azure.path.parent}/bin/az" "$@"\nexit $?\n')
        program.chmod(0o755)

    def wait_for_its_end(self) -> None:
        """Wait until script and child have ended: they hold the other end of a pipe open."""
        assert os.read(self._reader, 1) == b"\n"
        deadline = time.monotonic() + 30
        while not self._ended():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.close(self._reader)

    def _ended(self) -> bool:
        """Whether every process that holds the pipe has ended."""
        try:
            return os.read(self._reader, 1) == b""
        except BlockingIOError:
            return False


def test_an_az_that_does_not_answer_is_killed(fake_azure: FakeAzure) -> None:
    slow = SlowAz(fake_azure)
    began = time.monotonic()
    message = find_refusal(DeploymentSlots(SHOP, environment=slow.environment, timeout_seconds=3))
    assert "did not answer within 3 seconds" in message
    assert time.monotonic() - began < 30
    slow.wait_for_its_end()


class Stopped(Exception):
    """The pipeline is stopped."""


def test_an_interrupted_query_leaves_no_az_running(fake_azure: FakeAzure) -> None:
    slow = SlowAz(fake_azure)

    def stop(number: int, frame: FrameType | None) -> None:
        """Interrupt the test as a signal interrupts a command."""
        raise Stopped

    previous_handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        with pytest.raises(Stopped):
            DeploymentSlots(SHOP, environment=slow.environment).get_task_hub("staging")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
    slow.wait_for_its_end()


# --- sticky settings ---


def test_a_setting_outside_the_sticky_list_is_not_sticky(azure: DeploymentSlots) -> None:
    assert not azure.is_task_hub_setting_sticky()


@pytest.mark.parametrize("listed", ["TASK_HUB", "task_hub"])
def test_a_setting_on_the_sticky_list_is_sticky_in_any_case(
    azure: DeploymentSlots, fake_azure: FakeAzure, listed: str
) -> None:
    fake_azure.reset({"shop": {"sticky": ["NAME", listed], "slots": {"production": {}}}})
    assert azure.is_task_hub_setting_sticky()


def test_an_app_without_a_sticky_list_has_no_sticky_setting(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    fake_azure.reset({"shop": {"slots": {"production": {"settings": {"TASK_HUB": "v41"}}}}})
    assert not azure.is_task_hub_setting_sticky()


def test_a_setting_made_sticky_in_one_slot_is_sticky_in_all_slots(azure: DeploymentSlots, path: str) -> None:
    slot = ["-g", "shop-rg", "-n", "shop", "--slot", "staging"]
    az(path, "functionapp", "config", "appsettings", "set", *slot, "--slot-settings", "TASK_HUB=v42")
    assert azure.is_task_hub_setting_sticky()


def test_an_unreadable_sticky_list_is_an_error(azure: DeploymentSlots, fake_azure: FakeAzure) -> None:
    for output in ("[]", "{}", '{"names": "TASK_HUB"}', '{"names": [1]}'):
        fake_azure.set_fault("resource show", exit_code=None, output=output)
        with pytest.raises(AzureUnavailable, match=r"function app 'shop'.*az"):
            azure.is_task_hub_setting_sticky()


# --- targets ---


@pytest.mark.parametrize(
    "names",
    [
        ("$RG", "shop", "TASK_HUB", None),
        ("--ids", "shop", "TASK_HUB", None),
        ("shop-rg", "shop&calc", "TASK_HUB", None),
        ("shop-rg", "shop", "X' || '", None),
        ("shop-rg", "shop", "", None),
        ("shop-rg", "shop", "TASK_HUB", "a%b"),
    ],
)
def test_a_target_refuses_names_that_az_could_misread(names: tuple[str, str, str, str | None]) -> None:
    with pytest.raises(UsageError, match=re.escape("is not a valid name of a")):
        make_target(*names)


@pytest.mark.parametrize(
    "command",
    [
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        [*SWAP, "--slot", "staging", "--name", "shop", "--resource-group", "shop-rg", "--target-slot", "production"],
        [*SWAP, "--resource-group=shop-rg", "--name=shop", "--slot=staging", "--target-slot=Production"],
        [*SWAP, "-gshop-rg", "-n=shop", "-sstaging", "--preserve-vnet", "false", "--action", "swap"],
        [*SWAP, "--resource", "shop-rg", "--name", "shop", "--sl", "staging", "--verbose", "-o", "none"],
        ["az", "webapp", *SWAP[2:], "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        ["/usr/bin/az", *SWAP[1:], "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        ["C:\\Program Files\\Azure\\wbin\\az.cmd", *SWAP[1:], "-g", "shop-rg", "-n", "shop", "-s", "staging"],
    ],
)
def test_a_swap_command_names_its_function_app_and_slot(command: list[str]) -> None:
    assert parse_swap_command(command, "TASK_HUB") == (SHOP, "staging")


def test_a_swap_command_may_name_a_subscription() -> None:
    command = [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging", "--subscription", "Pay as you go"]
    assert parse_swap_command(command, "TASK_HUB") == (
        make_target(subscription="Pay as you go"),
        "staging",
    )


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["az"],
        SWAP,
        ["echo", *SWAP[1:], "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        ["bash", "-c", "az functionapp deployment slot swap -g shop-rg -n shop -s staging"],
        ["az", "logicapp", *SWAP[2:], "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        ["az", "functionapp", "deployment", "slot", "delete", "-g", "shop-rg", "-n", "shop", "-s", "staging"],
        [*SWAP, "-n", "shop", "-s", "staging"],
        [*SWAP, "-g", "shop-rg", "-s", "staging"],
        [*SWAP, "-g", "shop-rg", "-n", "shop"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "production"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging", "--target-slot", "blue"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging", "--action", "preview"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging", "--action=reset"],
        [*SWAP, "-g", "$RG", "-n", "shop", "-s", "staging"],
        [*SWAP, "-g", "shop-rg", "-n", "shop", "-s", "staging", "--subscription", "$SUBSCRIPTION"],
        [*SWAP, "--ids", "/subscriptions/x/resourceGroups/shop-rg/providers/Microsoft.Web/sites/shop", "-s", "staging"],
    ],
)
def test_other_commands_name_no_function_app(command: list[str]) -> None:
    assert parse_swap_command(command, "TASK_HUB") is None
