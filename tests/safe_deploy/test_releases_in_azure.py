"""Releases side by side whose Function Apps are read and changed in Azure: `release`, `promote` and `rollback` with
--resource-group, on a fake `az`."""

from collections.abc import Sequence

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, kill_cli
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG
from tests.safe_deploy.release_fixture import ReleaseFixture, address_of, name_of

GROUP = ["--resource-group", RESOURCE_GROUP]
PROMOTE = ["promote", "--version", "1.1", *GROUP]
ROLLBACK = ["rollback", *GROUP]
SET = "functionapp config appsettings set"
SURVIVING_SECONDS = 3
"""How long a change in Azure takes that is in progress when safe-deploy is killed."""


def set_task_hub(releases: ReleaseFixture, version: str, task_hub: str) -> list[str]:
    """The command that sets the task hub name in the release's Function App."""
    app = ["--resource-group", RESOURCE_GROUP, "--name", name_of(version)]
    return ["az", *SET.split(), *app, "--settings", f"TASK_HUB={task_hub}"]


def reset_scheduler(releases: ReleaseFixture, *task_hubs: str, function_apps: Sequence[str] = ()) -> None:
    """Let Azure have the scheduler shop-dts with these task hubs, and these Function Apps besides the server's."""
    server = {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {}}}
    scheduler = {"resourceGroup": RESOURCE_GROUP, "taskHubs": list(task_hubs)}
    releases.cli.fake_azure.reset(dict.fromkeys(("shop-state", *function_apps), server), {"shop-dts": scheduler})


@pytest.fixture
def quiesced(releases: ReleaseFixture) -> ReleaseFixture:
    """1.0 is active and runs the function Nightly, 1.1 is staged, and has it disabled."""
    releases.create(policy={"quiesceFunctions": ["Nightly"]})
    releases.register_and_promote("1.0")
    releases.register("1.1")
    releases.create_function_apps("1.0", "1.1")
    set_nightly(releases, "1.1", disabled=True)
    return releases


def set_nightly(releases: ReleaseFixture, version: str, *, disabled: bool) -> None:
    """Disable or enable the function of the policy in one release."""
    releases.run(["quiesce" if disabled else "unquiesce", "--version", version, *GROUP])


# release


def test_a_release_with_its_own_task_hub_passes(releases: ReleaseFixture) -> None:
    releases.create_function_apps("1.0")
    command = set_task_hub(releases, "1.0", releases.task_hub_of("1.0"))
    assert_exit(releases.run(releases.release("1.0", *command, options=GROUP)), ExitCode.DONE)


def test_a_release_with_the_task_hub_of_another_is_stopped_before_it_replays_its_orchestrations(
    releases: ReleaseFixture,
) -> None:
    releases.register_and_promote("1.0")
    releases.create_function_apps("1.0", "1.1")
    wrong = set_task_hub(releases, "1.1", releases.task_hub_of("1.0"))
    result = releases.run(releases.release("1.1", *wrong, options=GROUP))
    assert_exit(
        result,
        ExitCode.CONFLICT,
        f"has {releases.task_hub_of('1.0')} in its app setting TASK_HUB",
        "it would run on another release's task hub",
        f"az functionapp stop --resource-group {RESOURCE_GROUP} --name {name_of('1.1')}",
    )
    assert releases.states() == {"1.0": "Serving", "1.1": "Staged"}
    right = set_task_hub(releases, "1.1", releases.task_hub_of("1.1"))
    assert_exit(releases.run(releases.release("1.1", *right, options=GROUP)), ExitCode.DONE)


def test_a_release_without_the_setting_is_refused(releases: ReleaseFixture) -> None:
    releases.create_function_apps("1.0")
    options = [*GROUP, "--task-hub-setting", "HUB_NAME"]
    result = releases.run(releases.release("1.0", "true", options=options))
    assert_exit(result, ExitCode.CONFLICT, "has no app setting HUB_NAME")


def test_a_command_that_creates_no_function_app_is_refused(releases: ReleaseFixture) -> None:
    releases.create_function_apps("1.1")
    result = releases.run(releases.release("1.0", "true", options=GROUP))
    assert_exit(result, ExitCode.FAILURE, "no Function App", address_of("1.0").removeprefix("https://"))
    assert releases.states() == {"1.0": "Staged"}


def test_a_release_starts_without_the_functions_that_only_the_active_release_may_run(
    quiesced: ReleaseFixture,
) -> None:
    set_nightly(quiesced, "1.1", disabled=False)
    result = quiesced.run(quiesced.release("1.1", "true", options=GROUP))
    assert_exit(result, ExitCode.DONE, "Nightly of release 1.1 will be disabled")
    assert quiesced.disabled_functions() == {"1.0": False, "1.1": True}


def test_a_scheduler_gets_the_task_hub_before_the_command_runs(releases: ReleaseFixture) -> None:
    releases.task_hub_of("1.0")
    reset_scheduler(releases)
    scheduler = [*GROUP, "--scheduler", "shop-dts"]
    result = releases.run(releases.release("1.0", "sh", "-c", "exit 1", options=scheduler))
    assert_exit(result, ExitCode.FAILURE, "creating task hub")
    assert releases.cli.fake_azure.task_hubs("shop-dts") == [releases.task_hub_of("1.0")]
    assert_exit(
        releases.run(releases.release("1.0", "true", options=["--scheduler", "shop-dts"])),
        ExitCode.USAGE,
        "--scheduler needs",
    )


# retire


DELETE = f"az functionapp delete --resource-group {RESOURCE_GROUP} --name $SAFE_DEPLOY_FUNCTION_APP"
DELETE_ONCE = f'[ -z "$SAFE_DEPLOY_FUNCTION_APP" ] || {DELETE}'
RETIRE = ["--version", "1.0", *GROUP]


@pytest.fixture
def drained(releases: ReleaseFixture) -> ReleaseFixture:
    """1.0 has drained, and 1.1 is active. Both have Function Apps."""
    releases.register_and_promote("1.0", "1.1")
    releases.let_routers_stop()
    releases.create_function_apps("1.0", "1.1")
    return releases


def test_a_release_is_retired_with_the_name_of_its_function_app(drained: ReleaseFixture) -> None:
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE)), ExitCode.DONE)
    assert drained.states() == {"1.0": "Removed", "1.1": "Serving"}
    assert ["functionapp", "delete", *GROUP, "--name", name_of("1.0")] in drained.cli.fake_azure.calls


def test_cleanup_asks_for_no_slots_of_an_app_with_releases(drained: ReleaseFixture) -> None:
    drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE))
    drained.create(taskHubs=PROVIDER_CONFIG)
    calls_before = len(drained.cli.fake_azure.calls)
    result = drained.run(["cleanup", "--delete-task-hubs", *GROUP])
    assert_exit(result, ExitCode.DONE)
    assert drained.task_hub_of("1.0") in result.stdout
    assert len(drained.cli.fake_azure.calls) == calls_before


def test_a_function_app_that_another_release_shares_is_not_deleted(drained: ReleaseFixture) -> None:
    """Its own name and its custom domain are the addresses of two releases."""
    hosts = [address_of(version).removeprefix("https://") for version in ("1.0", "1.1")]
    shared = {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {}}, "hostNames": hosts}
    drained.cli.fake_azure.reset({name_of("1.0"): shared})
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=GROUP))
    assert_exit(result, ExitCode.CONFLICT, "also has the address of release 1.1", "must not be deleted")
    assert drained.states() == {"1.0": "Draining", "1.1": "Serving"}


def test_a_removal_does_not_begin_if_the_resource_group_has_no_function_app_of_the_release(
    drained: ReleaseFixture,
) -> None:
    drained.create_function_apps("1.1")
    result = drained.run(drained.retire(options=GROUP))
    assert_exit(
        result,
        ExitCode.CONFLICT,
        f"release 1.0: no Function App in resource group '{RESOURCE_GROUP}' has the host name",
        "safe-deploy retire --version 1.0 -- true",
    )
    assert drained.states()["1.0"] == "Draining"
    assert drained.history("DeleteRelease") == []
    assert drained.list_commands() == []
    assert_exit(drained.run(drained.retire("true", options=["--version", "1.0"])), ExitCode.DONE)


def test_a_function_app_that_is_not_found_does_not_keep_other_releases(drained: ReleaseFixture) -> None:
    drained.register_and_promote("1.2")
    drained.let_routers_stop()
    drained.create_function_apps("1.1", "1.2")
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=GROUP)), ExitCode.CONFLICT, "release 1.0")
    assert drained.states() == {"1.0": "Draining", "1.1": "Removed", "1.2": "Serving"}


def test_functions_that_could_not_be_disabled_are_named_if_the_function_app_is_not_found(
    drained: ReleaseFixture,
) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    drained.create_function_apps("1.1")
    result = drained.run(drained.retire(options=GROUP))
    assert_exit(result, ExitCode.CONFLICT, "DeleteRelease with the outcome Done")


def test_a_removal_that_continues_waits_for_the_restart_again(drained: ReleaseFixture) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    failing = drained.run(drained.retire("true", options=RETIRE), retry_seconds=5)
    assert_exit(failing, ExitCode.FAILURE, "until the app has restarted", "stays Removing")
    assert drained.disabled_functions()["1.0"] is True
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE), retry_seconds=5)
    assert_exit(result, ExitCode.DONE, "disabled already", "until the app has restarted")


def test_a_release_that_was_given_back_waits_for_the_restart_again(drained: ReleaseFixture) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    failing = drained.run(drained.retire("false", options=RETIRE), retry_seconds=5)
    assert_exit(failing, ExitCode.FAILURE, "as it was before")
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE), retry_seconds=5)
    assert_exit(result, ExitCode.DONE, "disabled already", "until the app has restarted")


def test_a_command_that_deletes_no_function_app_ends_no_removal(drained: ReleaseFixture) -> None:
    result = drained.run(drained.retire("true", options=RETIRE), retry_seconds=5)
    assert_exit(result, ExitCode.FAILURE, "but Azure still has the Function App", "stays Removing")
    assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE)), ExitCode.DONE)
    assert drained.states()["1.0"] == "Removed"


def test_a_release_whose_function_app_is_deleted_gets_no_traffic_again_though_the_command_failed(
    drained: ReleaseFixture,
) -> None:
    failing = drained.retire("sh", "-c", f"{DELETE}; exit 7", options=RETIRE)
    result = drained.run(failing)
    assert_exit(result, ExitCode.FAILURE, "ended with exit code 7 after the Function App was deleted")
    assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(["rollback"]), ExitCode.CONFLICT, "is being removed")
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE)), ExitCode.DONE)


def test_a_login_that_expires_during_the_command_does_not_keep_the_release_removing(drained: ReleaseFixture) -> None:
    script = f"{DELETE_ONCE}; rm {drained.cli.bin_folder}/az"
    result = drained.run(drained.retire("sh", "-c", script, options=RETIRE))
    assert_exit(result, ExitCode.DONE, "whether the Function App is gone could not be checked")
    assert drained.states()["1.0"] == "Removed"


def test_a_command_that_fails_before_it_deletes_leaves_the_release_as_it_was(drained: ReleaseFixture) -> None:
    result = drained.run(drained.retire("false", options=RETIRE))
    assert_exit(result, ExitCode.FAILURE, "Azure still has its Function App")
    assert drained.states()["1.0"] == "Draining"


def test_functions_are_disabled_before_the_last_verdict(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    assert_exit(drained.run(drained.retire()), ExitCode.USAGE, "Add --resource-group")
    disabled_at_verdict: list[bool] = []

    def look_at_function(number: int, request: tuple[str, str]) -> bool:
        """Note whether the function is disabled when the CLI asks for a verdict."""
        if request[1].endswith("/status"):
            disabled_at_verdict.append(drained.disabled_functions()["1.0"])
        return False

    releases_proxy.cut_before_request = look_at_function
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE), retry_seconds=5)
    assert_exit(result, ExitCode.DONE, "may start work until the app has restarted")
    assert disabled_at_verdict == [False, True]


def test_functions_that_were_disabled_just_before_may_still_start_work(drained: ReleaseFixture) -> None:
    """A promotion, or a retirement that was killed, has disabled them, and the app may not have restarted yet."""
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    set_nightly(drained, "1.0", disabled=True)
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE), retry_seconds=5)
    assert_exit(result, ExitCode.DONE, "because the functions may start work until the app has restarted")


def test_a_rollback_that_comes_first_keeps_its_functions(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})

    def route_first(number: int, request: tuple[str, str]) -> bool:
        """Roll back just before the CLI begins the removal."""
        if request[0] == "DELETE" and drained.active() == "1.1":
            drained.route("1.0")
        return False

    releases_proxy.cut_before_request = route_first
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE)), ExitCode.NOT_READY)
    assert drained.disabled_functions()["1.0"] is False


def test_azure_that_refuses_to_disable_functions_leaves_the_release_as_it_was(drained: ReleaseFixture) -> None:
    drained.create(policy={"quiesceFunctions": ["Nightly"]})
    drained.cli.fake_azure.set_fault("appsettings set")
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE))
    assert_exit(result, ExitCode.FAILURE, "az failed")
    assert drained.states()["1.0"] == "Draining"


# promote and rollback


def test_a_promotion_and_a_rollback_leave_the_functions_to_the_active_release(quiesced: ReleaseFixture) -> None:
    result = quiesced.run(PROMOTE)
    assert_exit(
        result, ExitCode.DONE, "Nightly of release 1.0 will be disabled", "Nightly of release 1.1 will be enabled"
    )
    assert quiesced.disabled_functions() == {"1.0": True, "1.1": False}
    restarts = quiesced.cli.fake_azure.count_restarts(name_of("1.1"))
    assert_exit(quiesced.run(PROMOTE), ExitCode.DONE, "is active already")
    assert quiesced.cli.fake_azure.count_restarts(name_of("1.1")) == restarts
    assert_exit(quiesced.run(ROLLBACK), ExitCode.DONE)
    assert quiesced.disabled_functions() == {"1.0": False, "1.1": True}


@pytest.mark.parametrize("order", ["gap", "overlap"])
def test_a_promotion_that_ends_the_use_of_an_adopted_release_restarts_no_other_one(
    quiesced: ReleaseFixture, order: str
) -> None:
    adopted = {"taskHub": quiesced.task_hub_of("0.9"), "address": address_of("0.9")}
    quiesced.create(policy={"quiesceFunctions": ["Nightly"], "quiesceOrder": order}, releases={"0.9": adopted})
    quiesced.create_function_apps("0.9", "1.0", "1.1")
    azure = quiesced.cli.fake_azure
    azure.set_fault("functionapp list")
    promote_active = ["promote", "--version", "1.0", *GROUP]
    assert_exit(quiesced.run(promote_active), ExitCode.FAILURE, "release 0.9, which was adopted", "az failed")
    assert quiesced.states()["0.9"] == "Draining"
    azure.clear_faults()
    assert_exit(quiesced.run(promote_active), ExitCode.DONE, "Nightly of release 0.9 will be disabled")
    assert quiesced.disabled_functions()["0.9"] is True
    restarts = [azure.count_restarts(name_of(version)) for version in ("0.9", "1.0", "1.1")]
    assert restarts == [1, 0, 0]


def test_with_overlap_the_old_release_restarts_when_routers_send_it_nothing(
    quiesced: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    quiesced.create(policy={"quiesceFunctions": ["Nightly"], "quiesceOrder": "overlap"})
    quiesced.acknowledge("envoy-1", quiesced.get_app()["routing"]["revision"])
    disabled_at_look: list[bool] = []

    def acknowledge_at_second_look(number: int, request: tuple[str, str]) -> bool:
        """Let the router confirm when the CLI looks for the second time, and note whether the function is disabled."""
        if request == ("GET", f"/api/apps/{quiesced.app}/releases"):
            disabled_at_look.append(quiesced.disabled_functions()["1.0"])
            if len(disabled_at_look) == 2:
                quiesced.acknowledge("envoy-1", quiesced.get_app()["routing"]["revision"])
        return False

    releases_proxy.cut_before_request = acknowledge_at_second_look
    assert_exit(quiesced.run(PROMOTE), ExitCode.DONE, "waiting until the routers confirm", "all routers")
    assert disabled_at_look == [False, False]
    assert quiesced.disabled_functions() == {"1.0": True, "1.1": False}


def test_with_overlap_a_router_that_does_not_confirm_does_not_keep_two_releases_running_the_functions(
    quiesced: ReleaseFixture,
) -> None:
    quiesced.create(policy={"quiesceFunctions": ["Nightly"], "quiesceOrder": "overlap"})
    quiesced.acknowledge("envoy-1", quiesced.get_app()["routing"]["revision"])
    assert_exit(quiesced.run([*PROMOTE, "--timeout", "0"]), ExitCode.TIMED_OUT, "envoy-1")
    assert quiesced.disabled_functions() == {"1.0": True, "1.1": False}


def test_a_version_that_does_not_exist_restarts_no_function_app(quiesced: ReleaseFixture) -> None:
    restarts = quiesced.cli.fake_azure.count_restarts(name_of("1.0"))
    assert_exit(quiesced.run(["promote", "--version", "9", *GROUP]), ExitCode.FAILURE, "has no release 9")
    assert quiesced.cli.fake_azure.count_restarts(name_of("1.0")) == restarts


def test_a_promotion_that_the_server_refuses_gives_the_functions_back(
    quiesced: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    quiesced.register_and_promote("1.2")
    quiesced.route("1.0")
    quiesced.let_routers_stop()

    def remove_first(number: int, request: tuple[str, str]) -> bool:
        """Begin to remove the release just before the CLI promotes it."""
        if request[0] == "PUT":
            quiesced.request("DELETE", "/releases/1.2", params={"outcome": "Pending"})
        return False

    quiesced.create_function_apps("1.0", "1.1", "1.2")
    releases_proxy.cut_before_request = remove_first
    result = quiesced.run(["promote", "--version", "1.2", *GROUP])
    assert_exit(
        result, ExitCode.CONFLICT, "release 1.0 is active, so it gets its functions as before", "removing release 1.2"
    )
    assert quiesced.disabled_functions()["1.0"] is False


def test_functions_that_cannot_be_disabled_in_an_older_release_stay_with_the_active_one(
    quiesced: ReleaseFixture,
) -> None:
    """Otherwise no release would run them until someone has repaired the older one."""
    quiesced.route("1.1")
    quiesced.register("1.2")
    reference = {"AzureWebJobs.Nightly.Disabled": "@Microsoft.KeyVault(SecretUri=https://shop.vault.azure.net/x)"}
    settings: dict[str, dict[str, str]] = {"1.0": reference, "1.1": {}, "1.2": {}}
    quiesced.cli.fake_azure.reset(
        {
            name_of(version): {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {"settings": values}}}
            for version, values in settings.items()
        }
    )
    result = quiesced.run(["promote", "--version", "1.2", *GROUP])
    assert_exit(
        result,
        ExitCode.FAILURE,
        "is a reference to Key Vault",
        "release 1.1 is active, so it gets its functions as before",
    )
    assert quiesced.active() == "1.1"
    assert quiesced.disabled_functions()["1.1"] is False


def test_azure_that_does_not_answer_delays_no_rollback(quiesced: ReleaseFixture) -> None:
    quiesced.run(PROMOTE)
    quiesced.cli.fake_azure.set_fault("functionapp list")
    assert_exit(quiesced.run(ROLLBACK), ExitCode.FAILURE, "az failed")
    assert quiesced.active() == "1.0"
    quiesced.cli.fake_azure.clear_faults()
    assert_exit(quiesced.run(ROLLBACK), ExitCode.DONE, "is active already")
    assert quiesced.disabled_functions() == {"1.0": False, "1.1": True}


@pytest.mark.parametrize("order", ["gap", "overlap"])
@pytest.mark.parametrize("change", [1, 2])
@pytest.mark.parametrize("takes_effect", [False, True], ids=["before the change", "after the change"])
@pytest.mark.parametrize("command", [PROMOTE, ROLLBACK], ids=["promote", "rollback"])
def test_the_next_run_ends_in_the_same_state_after_a_kill_while_azure_changes_functions(
    quiesced: ReleaseFixture, command: list[str], change: int, order: str, *, takes_effect: bool
) -> None:
    quiesced.create(policy={"quiesceFunctions": ["Nightly"], "quiesceOrder": order})
    if command is ROLLBACK:
        quiesced.run(PROMOTE)
    azure = quiesced.cli.fake_azure
    earlier_changes = azure.count_calls(SET)
    # az survives the kill, and ends by itself.
    delay = {"before": 0.0 if takes_effect else SURVIVING_SECONDS, "after": SURVIVING_SECONDS if takes_effect else 0.0}

    def delay_next_change() -> None:
        """Delay the next change of app settings, so that the CLI is killed during it."""
        azure.set_fault(
            "appsettings set",
            exit_code=None,
            call_count=1,
            delay_before_seconds=delay["before"],
            delay_after_seconds=delay["after"],
        )

    if change == 1:
        delay_next_change()
    else:
        azure.set_fault("appsettings set", exit_code=None, call_count=1, delay_after_seconds=0.5)
    running = quiesced.start(command)
    if change == 2:
        wait_until(lambda: azure.count_calls(SET) == earlier_changes + 1, "the first change")
        delay_next_change()
    wait_until(lambda: azure.count_calls(SET) == earlier_changes + change, "az changes the settings")
    kill_cli(running)
    azure.clear_faults()
    assert_exit(quiesced.run(command), ExitCode.DONE)
    active, other = ("1.1", "1.0") if command is PROMOTE else ("1.0", "1.1")
    assert quiesced.active() == active
    assert quiesced.disabled_functions() == {active: False, other: True}
