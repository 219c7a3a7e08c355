"""Swaps as pipelines run them, with real processes, a real server and a fake `az` that may fail.

However a run ends, server and Azure agree, or the swap is pending.
"""

import shlex
import subprocess
import sys

import pytest

from harness.processes import wait_until
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import (
    OTHER_RUN,
    SLOTS,
    assert_exit,
    find_outcome_command,
    make_touch_command,
    run_stage,
)
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    RUN,
    DeploymentFixture,
)
from tests.safe_deploy.processes import KEYS, run_safe_deploy

# --- swap ---


def test_a_swap_is_recorded_run_and_confirmed(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert (staged.count_swaps(), staged.open_deployment_hub()) == (1, None)
    assert staged.reported_outcomes() == ["Pending", "Done"]


def test_the_installed_program_swaps_and_rolls_back(staged: DeploymentFixture) -> None:
    variables = {"SAFE_DEPLOY_SERVER": staged.url, "SAFE_DEPLOY_APP": staged.app, "SAFE_DEPLOY_RUN_URL": RUN}
    variables |= {"SAFE_DEPLOY_KEY": KEYS["deployer"], "PATH": f"{staged.path}:/usr/bin:/bin"}
    assert_exit(run_safe_deploy(*staged.swap(), variables=variables), 0)
    assert staged.is_swapped()
    assert_exit(run_safe_deploy(*staged.rollback(), variables=variables), 0)
    assert staged.is_unswapped()


def test_no_other_run_can_stage_while_azure_swaps(staged: DeploymentFixture) -> None:
    go = staged.folder / "go"
    command = f"while ! test -e {go}; do sleep 0.05; done; {shlex.join(staged.az_swap)}"
    running = staged.start(staged.swap("sh", "-c", command))
    wait_until(lambda: staged.pending_hub() == staged.new, "the swap is pending")
    assert_exit(
        staged.run(["stage", "--task-hub", new_hub_name(), "--force", "--reason", "test"], run_url=OTHER_RUN), 6
    )
    go.touch()
    assert_exit(running.wait_for_result(), 0)
    assert staged.is_swapped()


def test_a_failed_swap_command_is_reverted_and_the_run_can_retry(staged: DeploymentFixture) -> None:
    staged.fake_azure.set_fault("swap", exit_code=3, call_count=1)
    result = staged.run(staged.swap())
    assert_exit(result, 1, "ended with exit code 3", "watching Azure for 1 s", "The record is reverted")
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert staged.reported_outcomes() == ["Pending", "Failed", "Pending", "Done"]


def test_a_command_that_fails_after_azure_has_swapped_is_reported_and_the_swap_is_confirmed(
    staged: DeploymentFixture,
) -> None:
    staged.fake_azure.set_fault("swap", takes_effect=True, call_count=1)
    assert_exit(staged.run(staged.swap()), 1, f"production has task hub {staged.new}: the swap is done and on record")
    assert staged.is_swapped()
    assert_exit(staged.run(staged.swap()), 0, "in production already")
    assert staged.count_swaps() == 1


@pytest.mark.long
def test_azure_is_watched_after_a_failed_command_until_the_swap_completes(
    staged: DeploymentFixture,
) -> None:
    swap_later = f"(sleep 0.5; exec {shlex.join(staged.az_swap)}) >/dev/null 2>&1 & exit 1"
    options = ["--resource-group", RESOURCE_GROUP, "--stabilization-window", "20"]
    assert_exit(staged.run(staged.swap("sh", "-c", swap_later, options=options)), 1, "the swap is done and on record")
    assert staged.is_swapped()


def test_a_signal_without_a_name_is_reported_by_its_number(staged: DeploymentFixture) -> None:
    group = ["--resource-group", RESOURCE_GROUP]
    assert_exit(staged.run(staged.swap("sh", "-c", "kill -35 $$", options=group)), 1, "signal 35", "is reverted")
    assert staged.is_unswapped()


def test_a_successful_command_that_swaps_nothing_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    group = ["--resource-group", RESOURCE_GROUP]
    result = staged.run(staged.swap("true", options=group), retry_seconds=30)
    assert_exit(result, 6, "has not swapped the slots, or Azure does not show it yet")
    assert staged.pending_hub() == staged.new
    assert staged.azure_hubs() == (staged.old, staged.new)
    assert_exit(staged.run_command_line(find_outcome_command(result, "failed")), 0)
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new


@pytest.mark.parametrize("verb", ["stage", "swap", "rollback"])
def test_a_slot_sticky_setting_is_refused_before_anything_changes(swapped: DeploymentFixture, verb: str) -> None:
    slots = {
        "production": {"settings": {"TASK_HUB": swapped.new}},
        "staging": {"settings": {"TASK_HUB": swapped.old}},
    }
    swapped.fake_azure.reset({swapped.app: {"resourceGroup": RESOURCE_GROUP, "sticky": ["TASK_HUB"], "slots": slots}})
    swapped.old, swapped.new = swapped.new, swapped.old
    group = ["--resource-group", RESOURCE_GROUP]
    arguments = {"stage": ["stage", "--task-hub", new_hub_name(), *group], "swap": swapped.swap()}
    assert_exit(swapped.run(arguments.get(verb, swapped.rollback())), 6, "is slot-sticky")
    assert swapped.is_unswapped()
    assert swapped.count_swaps() == 0


def test_an_unregistered_production_is_refused_by_stage_and_swap(staged: DeploymentFixture) -> None:
    other = DeploymentFixture(
        staged.server,
        staged.fork_server,
        staged.url,
        f"{staged.app}x",
        staged.folder,
        staged.fake_azure,
        staged.old,
        staged.new,
    )
    other.old, other.new = new_hub_name(), new_hub_name()
    slots = {"production": {"settings": {"TASK_HUB": other.old}}, "staging": {"settings": {}}}
    other.fake_azure.reset({other.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    result = run_stage(other)
    assert_exit(
        result, 6, "the server has no task hub on record there", f"register --server {other.url} --app {other.app}"
    )
    assert staged.server.get(f"/api/apps/{other.app}").status_code == 404
    other.stage()
    assert_exit(other.run(other.swap()), 6, "the server has no task hub on record there")
    assert other.count_swaps() == 0


def test_no_swap_starts_if_azure_does_not_answer(staged: DeploymentFixture) -> None:
    staged.fake_azure.set_fault("appsettings list")
    assert_exit(staged.run(staged.swap()), 1, "az failed")
    staged.fake_azure.clear_faults()
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])


@pytest.mark.parametrize("azure_swapped", [False, True])
def test_a_failure_without_an_answer_of_azure_leaves_the_swap_pending_with_a_command_to_run(
    staged: DeploymentFixture, *, azure_swapped: bool
) -> None:
    # From the failure on, the fake az refuses to read settings.
    state = shlex.quote(str(staged.fake_azure.path))
    breaks = (
        "import json,sys;p=sys.argv[1];s=json.load(open(p));"
        "s['faults']['appsettings list']={'exit_code':1};f=open(p,'w');json.dump(s,f);f.close()"
    )
    swap = f"{shlex.join(staged.az_swap)};" if azure_swapped else ""
    command = f"{swap} {sys.executable} -W ignore -c {shlex.quote(breaks)} {state}; exit 4"
    result = staged.run(staged.swap("sh", "-c", command, options=["--resource-group", RESOURCE_GROUP]))
    assert_exit(result, 6, "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    staged.fake_azure.clear_faults()
    assert_exit(staged.run_command_line(find_outcome_command(result, "done" if azure_swapped else "failed")), 0)
    assert staged.is_swapped() if azure_swapped else staged.is_unswapped()


def test_a_failure_without_access_to_azure_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    result = staged.run(staged.swap("sh", "-c", "exit 9"), az=False)
    assert_exit(result, 6, "exit code 9", "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run_command_line(find_outcome_command(result, "failed")), 0)
    assert staged.is_unswapped()
    assert_exit(staged.run(staged.swap("sh", "-c", " ".join(staged.az_swap))), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize("verb", ["swap", "rollback"])
@pytest.mark.parametrize("both", [False, True])
def test_either_a_command_or_an_outcome_is_required(swapped: DeploymentFixture, verb: str, *, both: bool) -> None:
    arguments = [verb, "--task-hub", swapped.old, *(["--outcome", "done", "--", "true"] if both else [])]
    assert_exit(swapped.run(arguments), 2, "--outcome")
    assert swapped.is_swapped()


def test_a_run_without_a_url_does_not_resume_a_pending_swap(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending", None)
    group = ["--resource-group", RESOURCE_GROUP]
    command, mark = make_touch_command(staged)
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=None), 6, "has not reported its outcome")
    assert not mark.exists()
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=None), 0)
    assert staged.is_swapped()


def test_an_interrupted_swap_that_completes_late_is_not_repeated(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    running = staged.start(staged.swap(options=["--stabilization-window", "30"]))
    wait_until(lambda: "watching Azure" in running.err.read_text(), "safe-deploy watches Azure")
    assert staged.count_swaps() == 0
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(running.wait_for_result(), 0, "the command was not run")
    assert staged.is_swapped()
    assert staged.count_swaps() == 0


def test_an_interrupted_swap_without_access_to_azure_needs_a_reported_outcome(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    command, mark = make_touch_command(staged)
    result = staged.run(staged.swap(*command))
    assert_exit(result, 6, "has not reported its outcome", staged.new, staged.old)
    assert not mark.exists()
    assert_exit(staged.run_command_line(find_outcome_command(result, "done").replace("done", "failed")), 0)
    assert staged.is_unswapped()


@pytest.mark.parametrize("queries_azure", [False, True])
def test_a_command_that_cannot_be_started_leaves_the_record_unchanged(
    staged: DeploymentFixture, *, queries_azure: bool
) -> None:
    group = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(
        staged.run(staged.swap("no-such-command", options=group)),
        2,
        "cannot run no-such-command",
        "record is unchanged",
    )
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new


def test_a_command_that_cannot_be_started_leaves_an_interrupted_swap_pending(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    assert_exit(
        staged.run(staged.swap("no-such-command", options=["--resource-group", RESOURCE_GROUP])), 2, "stays pending"
    )
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize(
    "options", [["--slot", "canary"], ["--resource-group", "other-rg"], ["--function-app", "other", "-g"]]
)
def test_a_command_that_swaps_another_app_or_slot_than_the_options_is_refused(
    staged: DeploymentFixture, options: list[str]
) -> None:
    variables = [*options[:2], "--resource-group", RESOURCE_GROUP] if "-g" in options else options
    assert_exit(staged.run(staged.swap(options=variables)), 2, "the command swaps")
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])


@pytest.mark.parametrize(
    ("azure_hubs", "message"),
    [
        ({"staging": "v99"}, "but in Azure it has v99"),
        ({"staging": ""}, "but in Azure it has no task hub"),
        ({"production": "v99"}, "in Azure production has v99"),
    ],
)
def test_no_swap_starts_if_azure_differs_from_the_record(
    staged: DeploymentFixture, azure_hubs: dict[str, str], message: str
) -> None:
    apps = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in zip(SLOTS, staged.azure_hubs(), strict=True)}
    apps |= {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in azure_hubs.items()}
    staged.fake_azure.reset({staged.app: {"resourceGroup": RESOURCE_GROUP, "slots": apps}})
    assert_exit(staged.run(staged.swap()), 6, message)
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])
    assert staged.recorded_hubs() == (staged.old, staged.new)


@pytest.mark.parametrize("queries_azure", [False, True])
def test_a_task_hub_that_is_in_production_is_not_swapped_again(
    swapped: DeploymentFixture, *, queries_azure: bool
) -> None:
    command, mark = make_touch_command(swapped)
    group = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(swapped.run(swapped.swap(*command, options=group)), 0, "in production already")
    assert not mark.exists()
    assert swapped.is_swapped()


def test_a_task_hub_that_only_the_server_has_in_production_is_a_conflict(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Done")
    command, mark = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])), 6, "without the server"
    )
    assert not mark.exists()


def test_a_swap_that_only_azure_has_is_recorded(staged: DeploymentFixture) -> None:
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    command, mark = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])), 0, "the command was not run"
    )
    assert not mark.exists()
    assert staged.is_swapped()


def test_the_server_refuses_a_task_hub_that_is_not_in_the_slot(deployment_fixture: DeploymentFixture) -> None:
    command, mark = make_touch_command(deployment_fixture)
    assert_exit(deployment_fixture.run(deployment_fixture.swap(*command)), 6, deployment_fixture.new)
    assert not mark.exists()
    assert deployment_fixture.reported_outcomes() == []


@pytest.mark.parametrize("queries_azure", [False, True])
def test_the_pending_swap_of_another_run_is_not_resumed(staged: DeploymentFixture, *, queries_azure: bool) -> None:
    staged.report_swap(staged.new, "Pending")
    command, mark = make_touch_command(staged)
    group = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=OTHER_RUN), 6, staged.new)
    assert not mark.exists()
    assert staged.pending_hub() == staged.new
    assert staged.reported_outcomes() == ["Pending"]


def test_only_one_of_two_concurrent_runs_reaches_azure(staged: DeploymentFixture) -> None:
    """Azure swaps once one of the runs has given up. A run that starts after the swap would find it completed."""
    may_swap = staged.folder / "may-swap"
    staged.fake_azure.set_fault("swap", exit_code=None, wait_for_file=str(may_swap))
    runs = [staged.start(staged.swap(), run_url=url) for url in ("https://ci.example/a", "https://ci.example/b")]
    wait_until(lambda: any(running.has_ended() for running in runs), "one of the runs gives up")
    may_swap.touch()
    assert sorted(running.wait_for_result().code for running in runs) == [0, 6]
    assert staged.count_swaps() == 1
    assert staged.is_swapped()


def test_a_swap_that_another_run_confirms_meanwhile_is_not_repeated(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    staged.report_swap(staged.new, "Pending")

    def swap_and_confirm_before_second_request(request_number: int, request: Request) -> bool:
        if request_number == 2:
            # The run that seemed to be interrupted is still active. It swaps and confirms.
            subprocess.run([staged.path / "az", *staged.az_swap[1:]], check=True)
            staged.report_swap(staged.new, "Done")
        return False

    connection_proxy.cut_before_request = swap_and_confirm_before_second_request
    assert_exit(staged.run(staged.swap()), 0, "in production already")
    assert staged.count_swaps() == 1
    assert staged.is_swapped()


def test_an_app_that_changes_meanwhile_is_read_again(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change_app_before_second_request(request_number: int, request: Request) -> bool:
        if request_number == 2:
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": 7}})
        return False

    connection_proxy.cut_before_request = change_app_before_second_request
    assert_exit(staged.run(staged.swap()), 0)
    assert connection_proxy.requests.count(("GET", f"/api/apps/{staged.app}")) == 2
    assert staged.is_swapped()


def test_an_app_that_keeps_changing_is_a_conflict_and_no_swap_starts(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change_app_before_each_post(request_number: int, request: Request) -> bool:
        if request[0] == "POST":
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": request_number}})
        return False

    connection_proxy.cut_before_request = change_app_before_each_post
    assert_exit(staged.run(staged.swap()), 6, "by other callers 3 times")
    assert staged.is_unswapped()
    assert staged.count_swaps() == 0


@pytest.mark.parametrize("cut_request", [1, 2, 3])
@pytest.mark.parametrize("reaches_server", [False, True])
def test_a_broken_connection_is_retried(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, cut_request: int, *, reaches_server: bool
) -> None:
    def is_cut(request_number: int, request: Request) -> bool:
        return request_number == cut_request

    if reaches_server:
        connection_proxy.cut_before_response = is_cut
    else:
        connection_proxy.cut_before_request = is_cut
    assert_exit(staged.run(staged.swap()), 0, "trying again")
    assert staged.is_swapped()
    assert staged.count_swaps() == 1


# --- secrets ---


def test_the_command_receives_task_hub_and_version_but_not_the_key(staged: DeploymentFixture) -> None:
    seen = staged.folder / "seen"
    assert_exit(staged.run(staged.swap("sh", "-c", f"env > {seen}", options=["--version", "4.2"])), 0)
    env = seen.read_text()
    assert not any(key in env for key in KEYS.values())
    assert "SAFE_DEPLOY_KEY" not in env
    assert f"SAFE_DEPLOY_TASK_HUB={staged.new}\n" in env
    assert "SAFE_DEPLOY_VERSION=4.2\n" in env


def test_az_does_not_receive_the_key(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.fake_azure.environments
    assert not any("SAFE_DEPLOY_KEY" in names for names in staged.fake_azure.environments)
