"""Swaps as pipelines run them, with real processes, a real server and a fake `az` that may fail.

However a run ends, server and Azure agree, or the swap is pending.
"""

import shlex
import sys

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import (
    SLOTS,
    assert_exit,
    find_outcome_command,
    make_touch_command,
    run_stage,
)
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    RUN,
    DeploymentFixture,
)
from tests.safe_deploy.processes import KEYS, run_safe_deploy

# --- swap ---


def test_a_swap_is_recorded_run_and_confirmed(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.is_swapped()
    assert (staged.count_swaps(), staged.open_deployment_hub()) == (1, None)
    assert staged.reported_outcomes() == ["Pending", "Done"]


def test_the_installed_program_swaps_and_rolls_back(staged: DeploymentFixture) -> None:
    variables = {"SAFE_DEPLOY_SERVER": staged.url, "SAFE_DEPLOY_APP": staged.app, "SAFE_DEPLOY_RUN_URL": RUN}
    variables |= {"SAFE_DEPLOY_KEY": KEYS["deployer"], "PATH": f"{staged.bin_folder}:/usr/bin:/bin"}
    assert_exit(run_safe_deploy(*staged.swap(), variables=variables), ExitCode.DONE)
    assert staged.is_swapped()
    assert_exit(run_safe_deploy(*staged.rollback(), variables=variables), ExitCode.DONE)
    assert staged.is_unswapped()


def test_a_failed_swap_command_is_reverted_and_the_run_can_retry(staged: DeploymentFixture) -> None:
    staged.fake_azure.set_fault("swap", exit_code=3, call_count=1)
    result = staged.run(staged.swap())
    assert_exit(result, ExitCode.FAILURE, "ended with exit code 3", "watching Azure for 1 s", "The record is reverted")
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.is_swapped()
    assert staged.reported_outcomes() == ["Pending", "Failed", "Pending", "Done"]


def test_a_command_that_fails_after_azure_has_swapped_is_reported_and_the_swap_is_confirmed(
    staged: DeploymentFixture,
) -> None:
    staged.fake_azure.set_fault("swap", takes_effect=True, call_count=1)
    assert_exit(
        staged.run(staged.swap()),
        ExitCode.FAILURE,
        f"production has task hub {staged.new}: the swap is done and on record",
    )
    assert staged.is_swapped()
    assert_exit(staged.run(staged.swap()), ExitCode.DONE, "in production already")
    assert staged.count_swaps() == 1


@pytest.mark.long
def test_azure_is_watched_after_a_failed_command_until_the_swap_completes(
    staged: DeploymentFixture,
) -> None:
    swap_later = f"(sleep 0.5; exec {shlex.join(staged.az_swap_command)}) >/dev/null 2>&1 & exit 1"
    options = ["--resource-group", RESOURCE_GROUP, "--stabilization-window", "20"]
    assert_exit(
        staged.run(staged.swap("sh", "-c", swap_later, options=options)),
        ExitCode.FAILURE,
        "the swap is done and on record",
    )
    assert staged.is_swapped()


def test_a_signal_without_a_name_is_reported_by_its_number(staged: DeploymentFixture) -> None:
    azure_options = ["--resource-group", RESOURCE_GROUP]
    assert_exit(
        staged.run(staged.swap("sh", "-c", "kill -35 $$", options=azure_options)),
        ExitCode.FAILURE,
        "signal 35",
        "is reverted",
    )
    assert staged.is_unswapped()


def test_a_successful_command_that_swaps_nothing_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    azure_options = ["--resource-group", RESOURCE_GROUP]
    result = staged.run(staged.swap("true", options=azure_options), retry_seconds=30)
    assert_exit(result, ExitCode.CONFLICT, "has not swapped the slots, or Azure does not show it yet")
    assert staged.pending_hub() == staged.new
    assert staged.azure_hubs() == (staged.old, staged.new)
    assert_exit(staged.run_command_line(find_outcome_command(result, "failed")), ExitCode.DONE)
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
    azure_options = ["--resource-group", RESOURCE_GROUP]
    arguments = {"stage": ["stage", "--task-hub", new_hub_name(), *azure_options], "swap": swapped.swap()}
    assert_exit(swapped.run(arguments.get(verb, swapped.rollback())), ExitCode.CONFLICT, "is slot-sticky")
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
    result = run_stage(other, "", "--create")
    assert_exit(
        result,
        ExitCode.CONFLICT,
        "the server has no task hub on record there",
        f"register --server {other.url} --app {other.app}",
    )
    assert staged.server.get(f"/api/apps/{other.app}").status_code == 404
    other.stage()
    assert_exit(other.run(other.swap()), ExitCode.CONFLICT, "the server has no task hub on record there")
    assert other.count_swaps() == 0


def test_no_swap_starts_if_azure_does_not_answer(staged: DeploymentFixture) -> None:
    staged.fake_azure.set_fault("appsettings list")
    assert_exit(staged.run(staged.swap()), ExitCode.FAILURE, "az failed")
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
    swap = f"{shlex.join(staged.az_swap_command)};" if azure_swapped else ""
    command = f"{swap} {sys.executable} -W ignore -c {shlex.quote(breaks)} {state}; exit 4"
    result = staged.run(staged.swap("sh", "-c", command, options=["--resource-group", RESOURCE_GROUP]))
    assert_exit(result, ExitCode.CONFLICT, "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    staged.fake_azure.clear_faults()
    assert_exit(
        staged.run_command_line(find_outcome_command(result, "done" if azure_swapped else "failed")), ExitCode.DONE
    )
    assert staged.is_swapped() if azure_swapped else staged.is_unswapped()


def test_a_failure_without_access_to_azure_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    result = staged.run(staged.swap("sh", "-c", "exit 9"), az_on_path=False)
    assert_exit(result, ExitCode.CONFLICT, "exit code 9", "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run_command_line(find_outcome_command(result, "failed")), ExitCode.DONE)
    assert staged.is_unswapped()
    assert_exit(staged.run(staged.swap("sh", "-c", " ".join(staged.az_swap_command))), ExitCode.DONE)
    assert staged.is_swapped()


@pytest.mark.parametrize("verb", ["swap", "rollback"])
@pytest.mark.parametrize("both", [False, True])
def test_either_a_command_or_an_outcome_is_required(swapped: DeploymentFixture, verb: str, *, both: bool) -> None:
    arguments = [verb, "--task-hub", swapped.old, *(["--outcome", "done", "--", "true"] if both else [])]
    assert_exit(swapped.run(arguments), ExitCode.USAGE, "--outcome")
    assert swapped.is_swapped()


def test_a_run_without_a_url_does_not_resume_a_pending_swap(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending", None)
    azure_options = ["--resource-group", RESOURCE_GROUP]
    command, touched_file = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=azure_options), run_url=None),
        ExitCode.CONFLICT,
        "has not reported its outcome",
    )
    assert not touched_file.exists()
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(staged.run(staged.swap(*command, options=azure_options), run_url=None), ExitCode.DONE)
    assert staged.is_swapped()


def test_an_interrupted_swap_that_completes_late_is_not_repeated(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    running = staged.start(staged.swap(options=["--stabilization-window", "30"]))
    wait_until(lambda: "watching Azure" in running.err.read_text(), "safe-deploy watches Azure")
    assert staged.count_swaps() == 0
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(running.wait_for_result(), ExitCode.DONE, "the command was not run")
    assert staged.is_swapped()
    assert staged.count_swaps() == 0


def test_an_interrupted_swap_without_access_to_azure_needs_a_reported_outcome(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    command, touched_file = make_touch_command(staged)
    result = staged.run(staged.swap(*command))
    assert_exit(result, ExitCode.CONFLICT, "has not reported its outcome", staged.new, staged.old)
    assert not touched_file.exists()
    assert_exit(staged.run_command_line(find_outcome_command(result, "done").replace("done", "failed")), ExitCode.DONE)
    assert staged.is_unswapped()


@pytest.mark.parametrize("queries_azure", [False, True])
def test_a_command_that_cannot_be_started_leaves_the_record_unchanged(
    staged: DeploymentFixture, *, queries_azure: bool
) -> None:
    azure_options = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(
        staged.run(staged.swap("no-such-command", options=azure_options)),
        ExitCode.USAGE,
        "cannot run no-such-command",
        "record is unchanged",
    )
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new


def test_a_command_that_cannot_be_started_leaves_an_interrupted_swap_pending(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    assert_exit(
        staged.run(staged.swap("no-such-command", options=["--resource-group", RESOURCE_GROUP])),
        ExitCode.USAGE,
        "stays pending",
    )
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.is_swapped()


@pytest.mark.parametrize(
    "options", [["--slot", "canary"], ["--resource-group", "other-rg"], ["--function-app", "other", "-g"]]
)
def test_a_command_that_swaps_another_app_or_slot_than_the_options_is_refused(
    staged: DeploymentFixture, options: list[str]
) -> None:
    variables = [*options[:2], "--resource-group", RESOURCE_GROUP] if "-g" in options else options
    assert_exit(staged.run(staged.swap(options=variables)), ExitCode.USAGE, "the command swaps")
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
    assert_exit(staged.run(staged.swap()), ExitCode.CONFLICT, message)
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])
    assert staged.recorded_hubs() == (staged.old, staged.new)


@pytest.mark.parametrize("queries_azure", [False, True])
def test_a_task_hub_that_is_in_production_is_not_swapped_again(
    swapped: DeploymentFixture, *, queries_azure: bool
) -> None:
    command, touched_file = make_touch_command(swapped)
    azure_options = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(swapped.run(swapped.swap(*command, options=azure_options)), ExitCode.DONE, "in production already")
    assert not touched_file.exists()
    assert swapped.is_swapped()


def test_a_task_hub_that_only_the_server_has_in_production_is_a_conflict(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Done")
    command, touched_file = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])),
        ExitCode.CONFLICT,
        "without the server",
    )
    assert not touched_file.exists()


def test_a_swap_that_only_azure_has_is_recorded(staged: DeploymentFixture) -> None:
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    command, touched_file = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])),
        ExitCode.DONE,
        "the command was not run",
    )
    assert not touched_file.exists()
    assert staged.is_swapped()


def test_the_server_refuses_a_task_hub_that_is_not_in_the_slot(deployment_fixture: DeploymentFixture) -> None:
    command, touched_file = make_touch_command(deployment_fixture)
    assert_exit(deployment_fixture.run(deployment_fixture.swap(*command)), ExitCode.CONFLICT, deployment_fixture.new)
    assert not touched_file.exists()
    assert deployment_fixture.reported_outcomes() == []


# --- secrets ---


def test_the_command_receives_task_hub_and_version_but_not_the_key(staged: DeploymentFixture) -> None:
    seen = staged.folder / "seen"
    assert_exit(staged.run(staged.swap("sh", "-c", f"env > {seen}", options=["--version", "4.2"])), ExitCode.DONE)
    env = seen.read_text()
    assert not any(key in env for key in KEYS.values())
    assert "SAFE_DEPLOY_KEY" not in env
    assert f"SAFE_DEPLOY_TASK_HUB={staged.new}\n" in env
    assert "SAFE_DEPLOY_VERSION=4.2\n" in env


def test_az_does_not_receive_the_key(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.fake_azure.environments
    assert not any("SAFE_DEPLOY_KEY" in names for names in staged.fake_azure.environments)
