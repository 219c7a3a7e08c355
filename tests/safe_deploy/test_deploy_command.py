"""Whole deployments as pipelines run them, with real processes, a real server and a fake `az` that may fail.

A deployment never overwrites a version that is running.
"""

import signal

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, STOP_SIGNALS, assert_exit, is_written, run_stage
from tests.safe_deploy.connection_proxy import ConnectionProxy
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, DeploymentFixture, is_process_group_gone
from tests.safe_deploy.processes import KEYS

# --- deploy ---


def test_deploy_waits_stages_deploys_swaps_and_cleans_up(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.deploy("--version", "4.2")), ExitCode.DONE)
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.get_app()["slots"]["production"]["version"] == "4.2"
    third_hub = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third_hub), run_url=OTHER_RUN), ExitCode.DONE)
    assert deployment_fixture.recorded_hubs() == (third_hub, deployment_fixture.new) == deployment_fixture.azure_hubs()
    assert deployment_fixture.count_swaps() == 2


def test_a_completed_deployment_is_not_repeated(deployment_fixture: DeploymentFixture) -> None:
    for _ in range(2):
        assert_exit(deployment_fixture.run(deployment_fixture.deploy()), ExitCode.DONE)
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 1


def test_deploy_waits_for_active_instances_and_times_out_without_deploying(swapped: DeploymentFixture) -> None:
    running = event(swapped.old, status="Running")
    swapped.server.post("/api/events", json=[running]).raise_for_status()
    touched_file = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=new_hub_name(), deploy_command=f"touch {touched_file}")
    assert_exit(swapped.run(arguments, run_url=OTHER_RUN), ExitCode.TIMED_OUT, "not ready within")
    assert not touched_file.exists()
    assert swapped.is_swapped()
    assert swapped.open_deployment_hub() is None


def test_a_failed_deploy_command_abandons_the_deployment_without_a_swap(
    deployment_fixture: DeploymentFixture,
) -> None:
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(deploy_command="false; echo never")),
        ExitCode.FAILURE,
        "the deploy command ended with exit code 1",
        "is abandoned",
    )
    assert deployment_fixture.count_swaps() == 0
    assert deployment_fixture.open_deployment_hub() is None
    assert deployment_fixture.recorded_hubs()[0] == deployment_fixture.azure_hubs()[0] == deployment_fixture.old
    third_hub = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third_hub)), ExitCode.DONE)
    assert deployment_fixture.recorded_hubs()[0] == third_hub == deployment_fixture.azure_hubs()[0]


def test_a_failure_to_abandon_is_reported_with_the_failure_of_the_command(
    deployment_fixture: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    connection_proxy.cut_before_request = lambda number, request: request[0] == "DELETE"
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(deploy_command="exit 7"), retry_seconds=0.3),
        ExitCode.FAILURE,
        "exit code 7",
        "stays open",
        "cannot be reached",
    )
    assert deployment_fixture.open_deployment_hub() == deployment_fixture.new


def test_the_same_run_can_retry_a_failed_swap(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.fake_azure.set_fault("swap", call_count=1)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), ExitCode.FAILURE, "is reverted")
    assert deployment_fixture.is_unswapped()
    assert deployment_fixture.open_deployment_hub() == deployment_fixture.new
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), ExitCode.DONE)
    assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("azure_has_swapped", [False, True])
def test_a_deployment_interrupted_in_its_swap_continues_with_the_swap(
    deployment_fixture: DeploymentFixture, *, azure_has_swapped: bool
) -> None:
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Pending")
    if azure_has_swapped:
        deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    touched_file = deployment_fixture.folder / "mark"
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(deploy_command=f"touch {touched_file}")), ExitCode.DONE
    )
    assert deployment_fixture.is_swapped()
    assert not touched_file.exists(), "the deploy command must not run while its task hub is in production"


def test_deploy_waits_for_the_open_deployment_of_another_run(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.stage(run_url=OTHER_RUN)
    third_hub = new_hub_name()
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy("--timeout", "1", hub=third_hub)),
        ExitCode.TIMED_OUT,
        "not ready within",
    )
    assert deployment_fixture.recorded_hubs() == (deployment_fixture.old, deployment_fixture.new)
    running = deployment_fixture.start(deployment_fixture.deploy(hub=third_hub))
    wait_until(lambda: "NotReady" in running.err.read_text(), "safe-deploy waits")
    assert_exit(deployment_fixture.run(deployment_fixture.swap(), run_url=OTHER_RUN), ExitCode.DONE)
    assert_exit(running.wait_for_result(), ExitCode.DONE)
    assert deployment_fixture.recorded_hubs() == (third_hub, deployment_fixture.new) == deployment_fixture.azure_hubs()
    assert deployment_fixture.count_swaps() == 2


@STOP_SIGNALS
def test_a_stopped_deploy_command_leaves_the_deployment_open_without_a_swap(
    deployment_fixture: DeploymentFixture, stop_signal: signal.Signals
) -> None:
    group_id_file = deployment_fixture.folder / "group-id"
    # `exec`, because a shell handles Ctrl-C only after the running command.
    slow = f"echo $$ > {group_id_file}; exec sleep 30"
    running = deployment_fixture.start(deployment_fixture.deploy(deploy_command=slow))
    wait_until(lambda: is_written(group_id_file), "the command runs")
    running.send(stop_signal)
    assert_exit(running.wait_for_result(), ExitCode.INTERRUPTED, "The deployment stays open")
    wait_until(lambda: is_process_group_gone(int(group_id_file.read_text())), "all processes of the command have ended")
    assert (deployment_fixture.count_swaps(), deployment_fixture.open_deployment_hub()) == (0, deployment_fixture.new)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), ExitCode.DONE)
    assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("empty", ["--deploy-command", "--swap-command"])
def test_an_empty_command_is_a_usage_error(deployment_fixture: DeploymentFixture, empty: str) -> None:
    assert_exit(deployment_fixture.run([*deployment_fixture.deploy(), empty, ""]), ExitCode.USAGE, "must not be empty")
    assert deployment_fixture.open_deployment_hub() is None


def test_the_commands_of_a_deployment_do_not_receive_the_key(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(
        deployment_fixture.run(
            deployment_fixture.deploy(
                "--version",
                "4.2",
                deploy_command=f"env > deploy-env; {deployment_fixture.az_deploy_command}",
                swap_command="env > swap-env",
            )
        ),
        ExitCode.DONE,
    )
    for name in ("deploy-env", "swap-env"):
        env = (deployment_fixture.folder / name).read_text()
        assert "SAFE_DEPLOY_KEY" not in env
        assert not any(key in env for key in KEYS.values())
        assert (
            f"SAFE_DEPLOY_TASK_HUB={deployment_fixture.new}\nSAFE_DEPLOY_VERSION=4.2\n"
            in "\n".join(sorted(env.splitlines())) + "\n"
        )


# --- the slot's task hub in Azure before it is overwritten ---


@pytest.mark.parametrize("slot_hub", ["", "new", "old"])
def test_an_empty_slot_is_staged_if_azure_has_no_the_new_or_productions_task_hub_there(
    deployment_fixture: DeploymentFixture, slot_hub: str
) -> None:
    deployment_fixture.set_slot_task_hubs(
        staging={"": None, "new": deployment_fixture.new, "old": deployment_fixture.old}[slot_hub]
    )
    assert_exit(run_stage(deployment_fixture), ExitCode.DONE)


def test_a_slot_is_staged_if_azure_and_the_server_agree(swapped: DeploymentFixture) -> None:
    assert_exit(run_stage(swapped, new_hub_name()), ExitCode.DONE)


def test_staging_is_refused_after_a_swap_outside_of_safe_deploy(swapped: DeploymentFixture) -> None:
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    assert_exit(run_stage(swapped, new_hub_name()), ExitCode.CONFLICT, "were swapped or deployed without the server")
    assert swapped.recorded_hubs() == (swapped.new, swapped.old)


def test_a_version_swapped_by_hand_into_a_slot_that_is_empty_on_record_is_not_overwritten(
    deployment_fixture: DeploymentFixture,
) -> None:
    deployment_fixture.set_slot_task_hubs(production="v99", staging=deployment_fixture.old)
    touched_file = deployment_fixture.folder / "mark"
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(deploy_command=f"touch {touched_file}")),
        ExitCode.CONFLICT,
        "were swapped or deployed without the server",
    )
    assert not touched_file.exists()
    assert deployment_fixture.open_deployment_hub() is None


def test_a_rerun_with_another_task_hub_name_does_not_deploy_twice(
    deployment_fixture: DeploymentFixture,
) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), ExitCode.DONE)
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(hub=new_hub_name())), ExitCode.DONE, "nothing is left to do"
    )
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 1
    assert_exit(deployment_fixture.run(deployment_fixture.rollback()), ExitCode.DONE)
    third_hub = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third_hub)), ExitCode.DONE)
    assert deployment_fixture.recorded_hubs() == (third_hub, deployment_fixture.old) == deployment_fixture.azure_hubs()


def test_a_rerun_with_another_task_hub_name_first_finishes_its_interrupted_swap(
    deployment_fixture: DeploymentFixture,
) -> None:
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Pending")
    deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(hub=new_hub_name())), ExitCode.DONE, "nothing is left to do"
    )
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 0


def test_an_instance_that_starts_on_a_prior_task_hub_blocks_the_run_that_staged(
    swapped: DeploymentFixture,
) -> None:
    third_hub = new_hub_name()
    assert_exit(swapped.run(["stage", "--task-hub", third_hub], run_url=OTHER_RUN), ExitCode.DONE)
    swapped.server.post("/api/events", json=[event(swapped.old, status="Running")]).raise_for_status()
    touched_file = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=third_hub, deploy_command=f"touch {touched_file}")
    assert_exit(swapped.run(arguments, run_url=OTHER_RUN), ExitCode.TIMED_OUT, "not ready within")
    assert not touched_file.exists()
    assert swapped.is_swapped() is False


def test_a_refusal_after_the_time_is_up_ends_as_a_wait_does(swapped: DeploymentFixture) -> None:
    """The run that has staged stages again at once, so it is refused before it waits."""
    third_hub = new_hub_name()
    assert_exit(swapped.run(["stage", "--task-hub", third_hub], run_url=OTHER_RUN), ExitCode.DONE)
    swapped.server.post("/api/events", json=[event(swapped.old, status="Running")]).raise_for_status()
    arguments = swapped.deploy("--timeout", "0", hub=third_hub)
    assert_exit(
        swapped.run(arguments, run_url=OTHER_RUN), ExitCode.TIMED_OUT, "not ready within 0 s", "InstancesActive"
    )
    assert swapped.is_swapped() is False


def test_an_unknown_task_hub_in_the_slot_is_overwritten_only_with_force(swapped: DeploymentFixture) -> None:
    swapped.set_slot_task_hubs(staging="v99")
    third_hub = new_hub_name()
    assert_exit(run_stage(swapped, third_hub), ExitCode.CONFLICT, "has v99", "--force")
    assert swapped.recorded_hubs() == (swapped.new, swapped.old)
    assert swapped.open_deployment_hub() is None
    assert_exit(
        run_stage(swapped, third_hub, "--force", "--reason", "nothing runs there"), ExitCode.DONE, "because of --force"
    )
    assert swapped.recorded_hubs() == (swapped.new, third_hub)


@pytest.mark.parametrize("active", [False, True])
def test_after_a_failed_deployment_the_verdict_covers_the_prior_task_hub(
    swapped: DeploymentFixture, *, active: bool
) -> None:
    prior_hub = swapped.old
    third_hub = new_hub_name()
    swapped.stage(third_hub)
    assert_exit(swapped.run(["abandon", "--task-hub", third_hub]), ExitCode.DONE, "")
    assert swapped.open_deployment_hub() is None
    swapped.set_slot_task_hubs(staging=prior_hub)
    if active:
        swapped.server.post("/api/events", json=[event(prior_hub, status="Running")]).raise_for_status()
    result = run_stage(swapped, new_hub_name())
    if active:
        assert_exit(result, ExitCode.NOT_READY, f"active on task hub {prior_hub}")
    else:
        assert_exit(result, ExitCode.DONE)


def test_a_retired_task_hub_that_is_in_a_slot_in_azure_is_not_deleted(swapped: DeploymentFixture) -> None:
    third_hub = new_hub_name()
    policy = {"policy": {"retention": {"keepLast": 5}}}
    swapped.server.put(f"/api/apps/{swapped.app}", json=policy).raise_for_status()
    assert_exit(swapped.run(swapped.deploy(hub=third_hub), run_url=OTHER_RUN), ExitCode.DONE)
    assert [task_hub["taskHub"] for task_hub in swapped.get_app()["retired"]] == [swapped.old]
    swapped.set_slot_task_hubs(staging=swapped.old)
    azure_options = ["--resource-group", RESOURCE_GROUP, "--delete-task-hubs"]
    assert_exit(
        swapped.run(["cleanup", *azure_options]),
        ExitCode.CONFLICT,
        "in Azure staging still has it: nothing was deleted",
    )


def test_staging_is_refused_if_azure_does_not_answer(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.fake_azure.set_fault("appsettings list")
    assert_exit(run_stage(deployment_fixture), ExitCode.FAILURE, "az failed")
    assert deployment_fixture.open_deployment_hub() is None
