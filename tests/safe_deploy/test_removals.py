"""Removals of `safe-deploy retire` while other callers change the app or the same release.

What is deleted rests on what was read after the removal began. An outcome belongs to the removal that it is about."""

from collections.abc import Callable

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, RUN, RunningCli
from tests.safe_deploy.release_fixture import SECONDS_UNTIL_REMOVAL_EXPIRES, ReleaseFixture, address_of, name_of
from tests.safe_deploy.test_releases_in_azure import DELETE, DELETE_ONCE, GROUP, RETIRE

WAIT = [*RETIRE, "--wait", "--timeout", "60"]
LIST_SETTINGS = f"az functionapp config appsettings list {' '.join(GROUP)} --name $SAFE_DEPLOY_FUNCTION_APP"


@pytest.fixture
def drained(releases: ReleaseFixture) -> ReleaseFixture:
    """1.0 has drained, and 1.1 is active. Both have Function Apps."""
    releases.register_and_promote("1.0", "1.1")
    releases.let_routers_stop()
    releases.create_function_apps("1.0", "1.1")
    return releases


@pytest.fixture
def draining(drained: ReleaseFixture) -> ReleaseFixture:
    """The same, with an order of 1.0 that is active."""
    drained.publish("1.0", "order-1", "Running")
    return drained


def list_outcomes(releases: ReleaseFixture) -> list[str]:
    """The outcome of each step of removals on record, oldest first."""
    return [details["outcome"] for details in releases.history("DeleteRelease")]


def list_deleted(releases: ReleaseFixture) -> list[str]:
    """The names of the Function Apps that commands have deleted."""
    return [call[-1] for call in releases.cli.fake_azure.calls if call[:2] == ["functionapp", "delete"]]


def act_before(proxy: ConnectionProxy, method: str, end: str, number: int, act: Callable[[], object]) -> None:
    """Act just before the request with this number of those with this method and this end of the path."""
    count = 0

    def look_at_request(_: int, request: Request) -> bool:
        nonlocal count
        if request[0] == method and request[1].endswith(end):
            count += 1
            if count == number:
                act()
        return False

    proxy.cut_before_request = look_at_request


def act_and_cut(proxy: ConnectionProxy, number: int, act: Callable[[], object]) -> None:
    """Act after the DeleteRelease with this number, and lose its response."""
    count = 0

    def look_at_response(_: int, request: Request) -> bool:
        nonlocal count
        count += request[0] == "DELETE"
        if request[0] == "DELETE" and count == number:
            act()
            return True
        return False

    proxy.cut_before_response = look_at_response


def begin_removal(releases: ReleaseFixture, run_url: str = OTHER_RUN) -> None:
    """Another run begins to remove 1.0, or takes its removal over."""
    releases.request("DELETE", "/releases/1.0", params={"outcome": "Pending"}, run_url=run_url)


def give_back(releases: ReleaseFixture) -> None:
    """Another run reports that the Function App of 1.0 was not deleted."""
    releases.end_removal("1.0", "Failed", OTHER_RUN)


# What is deleted rests on what was read after the removal began


def test_addresses_that_are_corrected_during_the_wait_decide_what_is_deleted(
    draining: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def correct_addresses() -> None:
        """The addresses of both releases were exchanged. The order of 1.0 ends."""
        hubs = {version: draining.task_hub_of(version) for version in ("1.0", "1.1")}
        settings = {"1.0": hubs["1.1"], "1.1": hubs["1.0"]}
        draining.cli.fake_azure.reset(
            {
                name_of(version): {
                    "resourceGroup": RESOURCE_GROUP,
                    "slots": {"production": {"settings": {"TASK_HUB": task_hub}}},
                }
                for version, task_hub in settings.items()
            }
        )
        addresses = {"1.0": address_of("1.1"), "1.1": address_of("1.0")}
        corrected = {version: {"taskHub": hubs[version], "address": addresses[version]} for version in hubs}
        draining.request("PUT", "", json={"releases": corrected})
        draining.publish("1.0", "order-1", "Completed")

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, correct_addresses)
    assert_exit(draining.run(draining.retire("sh", "-c", DELETE, options=WAIT)), ExitCode.DONE)
    assert list_deleted(draining) == [name_of("1.1")]


def test_addresses_that_are_corrected_during_the_removal_decide_what_is_deleted(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """The Function App of the address before is the active release's."""

    def correct_address() -> None:
        drained.create_function_apps("1.0", "1.1", "1.2")
        moved = {"taskHub": drained.task_hub_of("1.0"), "address": address_of("1.2")}
        drained.cli.fake_azure.reset(
            {
                name_of(version): {
                    "resourceGroup": RESOURCE_GROUP,
                    "slots": {"production": {"settings": {"TASK_HUB": drained.task_hub_of(of)}}},
                }
                for version, of in {"1.0": "1.1", "1.2": "1.0"}.items()
            }
        )
        own = {"taskHub": drained.task_hub_of("1.1"), "address": address_of("1.0")}
        drained.request("PUT", "", json={"releases": {"1.0": moved, "1.1": own}})

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, correct_address)
    drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE))
    assert name_of("1.0") not in list_deleted(drained)


def test_functions_that_are_named_during_the_wait_are_disabled_before_the_last_verdict(
    draining: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def name_functions() -> None:
        draining.create(policy={"settleSeconds": 0, "quiesceFunctions": ["Nightly"]})
        draining.publish("1.0", "order-1", "Completed")

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, name_functions)
    settings = draining.cli.folder / "settings"
    result = draining.run(
        draining.retire("sh", "-c", f"{LIST_SETTINGS} > {settings}; {DELETE}", options=WAIT), retry_seconds=5
    )
    assert_exit(result, ExitCode.DONE, "until the app has restarted")
    assert "AzureWebJobs.Nightly.Disabled" in settings.read_text()


def test_functions_that_are_named_during_the_removal_are_disabled_before_the_last_verdict(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    policy = {"settleSeconds": 0, "quiesceFunctions": ["Nightly"]}
    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, lambda: drained.create(policy=policy))
    settings = drained.cli.folder / "settings"
    result = drained.run(
        drained.retire("sh", "-c", f"{LIST_SETTINGS} > {settings}; {DELETE}", options=RETIRE), retry_seconds=5
    )
    assert_exit(result, ExitCode.DONE, "until the app has restarted")
    assert "AzureWebJobs.Nightly.Disabled" in settings.read_text()


def test_functions_that_are_named_during_the_wait_need_the_resource_group(
    draining: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def name_functions() -> None:
        draining.create(policy={"settleSeconds": 0, "quiesceFunctions": ["Nightly"]})
        draining.publish("1.0", "order-1", "Completed")

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, name_functions)
    result = draining.run(draining.retire(options=["--version", "1.0", "--wait", "--timeout", "60"]))
    assert_exit(result, ExitCode.USAGE, "Add --resource-group")
    assert draining.list_commands() == []
    assert draining.states()["1.0"] == "Draining"


def test_a_removal_that_began_during_the_wait_is_continued(
    draining: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """Another run deletes the Function App and is killed, and its removal expires. So a command that fails says nothing
    about whether the Function App exists."""

    def remove_by_other_run() -> None:
        draining.publish("1.0", "order-1", "Completed")
        begin_removal(draining)
        draining.create_function_apps("1.1")
        draining.clock.advance(SECONDS_UNTIL_REMOVAL_EXPIRES)

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, remove_by_other_run)
    options = ["--version", "1.0", "--wait", "--timeout", "60"]
    result = draining.run(draining.retire("sh", "-c", DELETE, options=options))
    assert_exit(result, ExitCode.FAILURE, "an earlier attempt may have deleted the Function App")
    assert draining.states()["1.0"] == "Removing"


def test_a_rollback_during_the_last_verdict_is_seen_before_the_command_runs(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """A probe may take a minute, and its verdict shows the release as it was before."""

    verdicts = 0

    def roll_back(_: int, request: Request) -> bool:
        nonlocal verdicts
        verdicts += request[1].endswith("/status")
        if request[1].endswith("/status") and verdicts == 2:
            give_back(drained)
            drained.route("1.0")
        return False

    releases_proxy.cut_before_response = roll_back
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.CONFLICT, "the command was not run", "another caller has ended its removal")
    assert list_deleted(drained) == []
    assert drained.active() == "1.0"


# The task hub of the Function App


def set_task_hub_of_1_0(releases: ReleaseFixture, setting: str, task_hub: str) -> None:
    """Let the Function App of 1.0 run on this task hub."""
    slots = {"production": {"settings": {setting: task_hub}}}
    releases.cli.fake_azure.reset({name_of("1.0"): {"resourceGroup": RESOURCE_GROUP, "slots": slots}})


@pytest.mark.parametrize("setting", ["TASK_HUB", "HUB_NAME"])
def test_a_function_app_that_runs_on_another_task_hub_is_not_deleted(drained: ReleaseFixture, setting: str) -> None:
    """A later version was deployed in place, or the Function App was created again under the same name."""
    set_task_hub_of_1_0(drained, setting, drained.task_hub_of("1.1"))
    options = [*RETIRE, "--task-hub-setting", setting]
    result = drained.run(drained.retire("sh", "-c", DELETE, options=options))
    assert_exit(
        result,
        ExitCode.CONFLICT,
        f"{name_of('1.0')} has {drained.task_hub_of('1.1')} in its app setting {setting}",
        f"instead of {drained.task_hub_of('1.0')}",
        "DeleteRelease with the outcome Pending",
    )
    assert list_deleted(drained) == []
    assert list_outcomes(drained) == []


def test_a_function_app_that_gets_another_task_hub_during_the_removal_is_not_deleted(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def deploy_in_place() -> None:
        set_task_hub_of_1_0(drained, "TASK_HUB", drained.task_hub_of("1.1"))

    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, deploy_in_place)
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.CONFLICT, "so it must not be deleted")
    assert list_deleted(drained) == []
    assert list_outcomes(drained) == ["Pending", "Failed"]


def test_a_function_app_that_vanishes_during_the_removal_leaves_the_release_without_traffic(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    act_before(releases_proxy, "GET", "/releases/1.0/status", 2, lambda: drained.create_function_apps("1.1"))
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE))
    assert_exit(result, ExitCode.FAILURE, "its Function App is gone since the removal began", "stays Removing")
    assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE)), ExitCode.DONE)


@pytest.mark.parametrize("value", ["@Microsoft.KeyVault(SecretUri=https://v.example/s)", "%HUB%", "my-hub"])
def test_a_function_app_whose_task_hub_is_unknown_stays_and_the_other_releases_are_retired(
    releases: ReleaseFixture, value: str
) -> None:
    releases.register_and_promote("1.0", "1.1", "1.2")
    releases.let_routers_stop()
    releases.cli.fake_azure.reset(
        {
            name_of(version): {
                "resourceGroup": RESOURCE_GROUP,
                "slots": {"production": {"settings": {"TASK_HUB": task_hub}}},
            }
            for version, task_hub in {"1.0": value, "1.1": releases.task_hub_of("1.1")}.items()
        }
    )
    result = releases.run(releases.retire("sh", "-c", DELETE, options=GROUP))
    advice = "safe-deploy retire --version 1.0 without --resource-group"
    assert_exit(result, ExitCode.CONFLICT, f"{name_of('1.0')} may run on another task hub", "TASK_HUB", advice)
    assert value not in result.stdout + result.stderr
    assert releases.states() == {"1.0": "Draining", "1.1": "Removed", "1.2": "Serving"}
    assert_exit(releases.run(releases.retire("true", options=["--version", "1.0"])), ExitCode.DONE)


def test_a_removal_without_a_look_at_the_setting_still_disables_functions_first(drained: ReleaseFixture) -> None:
    drained.create(policy={"settleSeconds": 0, "quiesceFunctions": ["Nightly"]})
    set_task_hub_of_1_0(drained, "TASK_HUB", "%HUB%")
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.CONFLICT, "delete the Function App once GetReleaseStatus says Ready")
    assert list_outcomes(drained) == []


# The beginning of a removal


@pytest.mark.parametrize("options", [RETIRE, ["--version", "1.0"]], ids=["with-azure", "without-azure"])
def test_a_release_is_given_back_though_the_response_to_the_beginning_was_lost(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy, options: list[str]
) -> None:
    act_and_cut(releases_proxy, 1, lambda: None)
    result = drained.run(drained.retire("false", options=options))
    assert_exit(result, ExitCode.FAILURE, "The release is as it was before")
    assert list_outcomes(drained) == ["Pending", "Failed"]
    assert drained.states()["1.0"] == "Draining"


def test_a_release_that_starts_work_is_given_back_though_the_response_to_the_beginning_was_lost(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    act_and_cut(releases_proxy, 1, lambda: drained.publish("1.0", "order-1", "Running"))
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.NOT_READY, "1 orchestration instance is active")
    assert list_deleted(drained) == []
    assert drained.states()["1.0"] == "Draining"


@pytest.mark.parametrize("run_url", [RUN, OTHER_RUN])
def test_a_removal_that_another_job_has_begun_is_not_given_back(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy, run_url: str
) -> None:
    """This job gets its response: the app has changed."""

    def begin_by_other_job() -> None:
        begin_removal(drained, run_url)
        drained.publish("1.0", "order-1", "Running")

    act_before(releases_proxy, "DELETE", "/releases/1.0", 1, begin_by_other_job)
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.NOT_READY)
    assert list_outcomes(drained) == ["Pending"]
    assert drained.states()["1.0"] == "Removing"


def test_a_removal_of_another_run_is_not_given_back_though_the_request_to_begin_it_was_lost(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    count = 0

    def lose_first_request(_: int, request: Request) -> bool:
        """Another run begins the removal in place of the request."""
        nonlocal count
        count += request[0] == "DELETE"
        if request[0] == "DELETE" and count == 1:
            begin_removal(drained)
            return True
        return False

    releases_proxy.cut_before_request = lose_first_request
    assert_exit(drained.run(drained.retire("false", options=RETIRE)), ExitCode.NOT_READY, OTHER_RUN)
    assert list_outcomes(drained) == ["Pending"]


# The outcome of a removal


def test_an_outcome_whose_response_was_lost_does_not_end_the_removal_of_another_run(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    act_and_cut(releases_proxy, 2, lambda: begin_removal(drained))
    result = drained.run(drained.retire("false", options=RETIRE))
    assert_exit(
        result, ExitCode.CONFLICT, "the command ended with exit code 1", "another run is removing the release now"
    )
    assert drained.states()["1.0"] == "Removing"
    assert list_outcomes(drained) == ["Pending", "Failed", "Pending"]


def test_the_failure_of_a_run_does_not_end_the_removal_of_the_run_that_took_over(drained: ReleaseFixture) -> None:
    folder = drained.cli.folder

    def start(name: str, script: str, run_url: str) -> RunningCli:
        """Start a retirement whose command waits for the file `go-{name}`."""
        wait = f"touch {folder}/{name}; while [ ! -e {folder}/go-{name} ]; do sleep 0.1; done; {script}"
        running = drained.cli.start(drained.retire("sh", "-c", wait, options=RETIRE), run_url=run_url)
        wait_until((folder / name).exists, f"{name} runs its command")
        return running

    first = start("first", "exit 1", RUN)
    drained.clock.advance(SECONDS_UNTIL_REMOVAL_EXPIRES)
    second = start("second", DELETE, OTHER_RUN)
    (folder / "go-first").touch()
    assert_exit(first.wait_for_result(), ExitCode.CONFLICT, "another run is removing the release now", OTHER_RUN)
    assert_exit(drained.run(["rollback"]), ExitCode.CONFLICT, "is being removed")
    (folder / "go-second").touch()
    assert_exit(second.wait_for_result(), ExitCode.DONE)
    assert drained.states() == {"1.0": "Removed", "1.1": "Serving"}


@pytest.mark.parametrize(("command", "state"), [("false", "Draining"), (DELETE, "Removed")])
def test_an_outcome_is_repeated_if_another_caller_has_changed_the_app(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy, command: str, state: str
) -> None:
    policy = {"settleSeconds": 1}
    act_before(releases_proxy, "DELETE", "/releases/1.0", 2, lambda: drained.create(policy=policy))
    drained.run(drained.retire("sh", "-c", command, options=RETIRE))
    assert drained.states()["1.0"] == state
    assert len(list_outcomes(drained)) == 2


def test_a_removal_that_is_on_record_is_completed_though_the_response_was_lost(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    act_and_cut(releases_proxy, 2, lambda: None)
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE)), ExitCode.DONE, "is Retired")
    assert list_outcomes(drained) == ["Pending", "Done"]


def test_a_release_that_was_given_back_while_the_command_ran_is_not_reported_as_removed(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    act_before(releases_proxy, "DELETE", "/releases/1.0", 2, lambda: give_back(drained))
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.CONFLICT, "its Function App is deleted", "another caller has ended its removal")
    assert drained.states()["1.0"] == "Draining"
    again = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=RETIRE))
    assert_exit(again, ExitCode.CONFLICT, "safe-deploy retire --version 1.0 -- true")
    assert_exit(drained.run(drained.retire("true", options=["--version", "1.0"])), ExitCode.DONE)


def test_a_removal_that_another_run_completes_during_the_last_verdict_is_no_failure(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def complete() -> None:
        drained.end_removal("1.0", "Done", OTHER_RUN)

    act_before(releases_proxy, "GET", f"/apps/{drained.app}", 3, complete)
    result = drained.run(drained.retire("sh", "-c", DELETE, options=RETIRE))
    assert_exit(result, ExitCode.DONE, "another run has removed the release meanwhile")
    assert list_deleted(drained) == []
