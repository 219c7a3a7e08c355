"""Whole deployments as pipelines run them, and what the slot carries before one overwrites it: real processes, a real
server, and a platform that does what it is told, or does not. Nothing that runs is ever overwritten."""

import signal

import pytest

from harness.processes import wait_until
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, SIGNALS, assert_exit, is_written, run_stage
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    ConnectionProxy,
    DeploymentFixture,
    is_process_group_gone,
)
from tests.safe_deploy.processes import KEYS

# --- deploy ---


def test_a_deployment_goes_from_waiting_to_clean_up(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.deploy("--version", "4.2")), 0)
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.get_app()["slots"]["production"]["version"] == "4.2"
    third = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert deployment_fixture.recorded_hubs() == (third, deployment_fixture.new) == deployment_fixture.azure_hubs()
    assert deployment_fixture.count_swaps() == 2


def test_a_deployment_that_is_done_is_not_done_again(deployment_fixture: DeploymentFixture) -> None:
    for _ in range(2):
        assert_exit(deployment_fixture.run(deployment_fixture.deploy()), 0)
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 1


def test_a_slot_with_running_work_is_waited_for_and_never_deployed_to(swapped: DeploymentFixture) -> None:
    running = event(swapped.old, status="Running")
    swapped.server.post("/api/events", json=[running]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=new_hub_name(), by=f"touch {mark}")
    assert_exit(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped()
    assert swapped.open_deployment_hub() is None


def test_a_deploy_command_that_fails_abandons_the_deployment_and_swaps_nothing(
    deployment_fixture: DeploymentFixture,
) -> None:
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(by="false; echo never")),
        1,
        "the deploy command ended with exit code 1",
        "is abandoned",
    )
    assert deployment_fixture.count_swaps() == 0
    assert deployment_fixture.open_deployment_hub() is None
    assert deployment_fixture.recorded_hubs()[0] == deployment_fixture.azure_hubs()[0] == deployment_fixture.old
    third = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third)), 0)
    assert deployment_fixture.recorded_hubs()[0] == third == deployment_fixture.azure_hubs()[0]


def test_a_deployment_that_cannot_be_abandoned_says_so_and_why_the_command_failed(
    deployment_fixture: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    connection_proxy.cut_before_request = lambda number, request: request[0] == "DELETE"
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(by="exit 7"), retry_for=0.3),
        1,
        "exit code 7",
        "stays open",
        "cannot be reached",
    )
    assert deployment_fixture.open_deployment_hub() == deployment_fixture.new


def test_a_swap_command_that_fails_can_be_tried_again_by_the_same_run(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.fake_azure.fault("swap", times=1)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), 1, "is reverted")
    assert deployment_fixture.is_unswapped()
    assert deployment_fixture.open_deployment_hub() == deployment_fixture.new
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), 0)
    assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("swapped_then", [False, True])
def test_a_deployment_that_was_cut_off_in_its_swap_goes_on_there(
    deployment_fixture: DeploymentFixture, swapped_then: bool
) -> None:
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Pending")
    if swapped_then:
        deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    mark = deployment_fixture.folder / "mark"
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(by=f"touch {mark}")), 0)
    assert deployment_fixture.is_swapped()
    assert not mark.exists(), "what is in production is not deployed to"


def test_another_run_in_between_is_waited_for(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.stage(run_url=OTHER_RUN)
    third = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy("--timeout", "1", hub=third)), 5, "not ready within")
    assert deployment_fixture.recorded_hubs() == (deployment_fixture.old, deployment_fixture.new)
    running = deployment_fixture.start(deployment_fixture.deploy(hub=third))
    wait_until(lambda: "NotReady" in running.err.read_text(), "it waits")
    assert_exit(deployment_fixture.run(deployment_fixture.swap(), run_url=OTHER_RUN), 0)
    assert_exit(running.wait_for_result(), 0)
    assert deployment_fixture.recorded_hubs() == (third, deployment_fixture.new) == deployment_fixture.azure_hubs()
    assert deployment_fixture.count_swaps() == 2


@SIGNALS
def test_a_deploy_command_that_is_stopped_leaves_the_deployment_open_and_swaps_nothing(
    deployment_fixture: DeploymentFixture, number: signal.Signals
) -> None:
    group = deployment_fixture.folder / "group"
    # Between two commands a shell heeds Ctrl-C only after the next of them.
    slow = f"echo $$ > {group}; exec sleep 30"
    running = deployment_fixture.start(deployment_fixture.deploy(by=slow))
    wait_until(lambda: is_written(group), "the command runs")
    running.send(number)
    assert_exit(running.wait_for_result(), 1, "The deployment stays open")
    wait_until(lambda: is_process_group_gone(int(group.read_text())), "nothing of the command is left")
    assert (deployment_fixture.count_swaps(), deployment_fixture.open_deployment_hub()) == (0, deployment_fixture.new)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), 0)
    assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("empty", ["--deploy-command", "--swap-command"])
def test_an_empty_command_makes_no_sense(deployment_fixture: DeploymentFixture, empty: str) -> None:
    assert_exit(deployment_fixture.run([*deployment_fixture.deploy(), empty, ""]), 2, "must not be empty")
    assert deployment_fixture.open_deployment_hub() is None


def test_the_commands_of_a_deployment_get_no_key(deployment_fixture: DeploymentFixture) -> None:
    assert_exit(
        deployment_fixture.run(
            deployment_fixture.deploy(
                "--version", "4.2", by=f"env > one; {deployment_fixture.az_deploy}", swap="env > two"
            )
        ),
        0,
    )
    for name in ("one", "two"):
        env = (deployment_fixture.folder / name).read_text()
        assert "SAFE_DEPLOY_KEY" not in env
        assert not any(key in env for key in KEYS.values())
        assert (
            f"SAFE_DEPLOY_TASK_HUB={deployment_fixture.new}\nSAFE_DEPLOY_VERSION=4.2\n"
            in "\n".join(sorted(env.splitlines())) + "\n"
        )


# --- what the slot carries before it is overwritten ---


@pytest.mark.parametrize("carried", ["", "new", "old"])
def test_an_empty_slot_is_staged_if_it_carries_nothing_or_what_it_was_made_with(
    deployment_fixture: DeploymentFixture, carried: str
) -> None:
    deployment_fixture.set_slot_task_hubs(
        staging={"": None, "new": deployment_fixture.new, "old": deployment_fixture.old}[carried]
    )
    assert_exit(run_stage(deployment_fixture), 0)


def test_a_slot_is_staged_if_it_carries_what_the_server_has_there(swapped: DeploymentFixture) -> None:
    assert_exit(run_stage(swapped, new_hub_name()), 0)


def test_a_slot_that_carries_productions_hub_is_a_swap_that_nobody_saw(swapped: DeploymentFixture) -> None:
    swapped.set_slot_task_hubs(production=swapped.old, staging=swapped.new)
    assert_exit(run_stage(swapped, new_hub_name()), 6, "were swapped or deployed without the server")
    assert swapped.recorded_hubs() == (swapped.new, swapped.old)


def test_what_somebody_swapped_by_hand_is_not_overwritten_although_the_slot_is_empty_on_record(
    deployment_fixture: DeploymentFixture,
) -> None:
    deployment_fixture.set_slot_task_hubs(production="v99", staging=deployment_fixture.old)
    mark = deployment_fixture.folder / "mark"
    assert_exit(
        deployment_fixture.run(deployment_fixture.deploy(by=f"touch {mark}")),
        6,
        "were swapped or deployed without the server",
    )
    assert not mark.exists()
    assert deployment_fixture.open_deployment_hub() is None


def test_a_run_that_is_started_anew_under_another_name_does_not_release_twice(
    deployment_fixture: DeploymentFixture,
) -> None:
    assert_exit(deployment_fixture.run(deployment_fixture.deploy()), 0)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=new_hub_name())), 0, "nothing is left to do")
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 1
    assert_exit(deployment_fixture.run(deployment_fixture.rollback()), 0)
    third = new_hub_name()
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=third)), 0)
    assert deployment_fixture.recorded_hubs() == (third, deployment_fixture.old) == deployment_fixture.azure_hubs()


def test_a_run_that_was_cut_off_and_is_started_anew_under_another_name_ends_its_swap_first(
    deployment_fixture: DeploymentFixture,
) -> None:
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Pending")
    deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    assert_exit(deployment_fixture.run(deployment_fixture.deploy(hub=new_hub_name())), 0, "nothing is left to do")
    assert deployment_fixture.is_swapped()
    assert deployment_fixture.count_swaps() == 0


def test_what_became_active_beneath_a_staged_version_is_not_overwritten_by_the_run_that_staged_it(
    swapped: DeploymentFixture,
) -> None:
    third = new_hub_name()
    assert_exit(swapped.run(["stage", "--task-hub", third], run_url=OTHER_RUN), 0)
    swapped.server.post("/api/events", json=[event(swapped.old, status="Running")]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=third, by=f"touch {mark}")
    assert_exit(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped() is False


def test_a_slot_that_carries_a_hub_nobody_knows_is_overwritten_by_force_alone(swapped: DeploymentFixture) -> None:
    swapped.set_slot_task_hubs(staging="v99")
    third = new_hub_name()
    assert_exit(run_stage(swapped, third), 6, "has v99", "--force")
    assert swapped.recorded_hubs() == (swapped.new, swapped.old)
    assert swapped.open_deployment_hub() is None
    assert_exit(run_stage(swapped, third, "--force", "--reason", "nothing runs there"), 0, "because of --force")
    assert swapped.recorded_hubs() == (swapped.new, third)


@pytest.mark.parametrize("active", [False, True])
def test_a_slot_that_still_carries_what_was_there_before_a_failed_deployment_is_judged_by_it(
    swapped: DeploymentFixture, active: bool
) -> None:
    left = swapped.old
    third = new_hub_name()
    swapped.stage(third)
    assert_exit(swapped.run(["abandon", "--task-hub", third]), 0, "")
    assert swapped.open_deployment_hub() is None
    swapped.set_slot_task_hubs(staging=left)
    if active:
        swapped.server.post("/api/events", json=[event(left, status="Running")]).raise_for_status()
    ended = run_stage(swapped, new_hub_name())
    if active:
        assert_exit(ended, 3, f"active on task hub {left}")
    else:
        assert_exit(ended, 0)


def test_a_hub_that_azure_has_in_a_slot_is_not_deleted_whatever_is_on_record(swapped: DeploymentFixture) -> None:
    third = new_hub_name()
    policy = {"policy": {"retention": {"keepLast": 5}}}
    swapped.server.put(f"/api/apps/{swapped.app}", json=policy).raise_for_status()
    assert_exit(swapped.run(swapped.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert [one["taskHub"] for one in swapped.get_app()["retired"]] == [swapped.old]
    swapped.set_slot_task_hubs(staging=swapped.old)
    group = ["--resource-group", RESOURCE_GROUP, "--delete-task-hubs"]
    assert_exit(swapped.run(["cleanup", *group]), 6, "in Azure staging still has it: nothing was deleted")


def test_nothing_is_staged_where_the_platform_cannot_be_looked_at(deployment_fixture: DeploymentFixture) -> None:
    deployment_fixture.fake_azure.fault("appsettings list")
    assert_exit(run_stage(deployment_fixture), 1, "az failed")
    assert deployment_fixture.open_deployment_hub() is None
