"""Whole deployments as pipelines run them, and what the slot carries before one overwrites it: real processes, a real
server, and a platform that does what it is told, or does not. Nothing that runs is ever overwritten."""

import signal

import pytest

from dev.local import until
from tests.builders import event
from tests.conftest import new_hub
from tests.safe_deploy.endings import OTHER_RUN, SIGNALS, ends, stages, written
from tests.safe_deploy.processes import KEYS
from tests.safe_deploy.shop import (
    GROUP,
    Shop,
    Way,
    is_gone,
)

# --- deploy ---


def test_a_deployment_goes_from_waiting_to_clean_up(shop: Shop) -> None:
    ends(shop.run(shop.deploy("--version", "4.2")), 0)
    assert shop.is_swapped()
    assert shop.record()["slots"]["production"]["version"] == "4.2"
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert shop.recorded() == (third, shop.new) == shop.carried()
    assert shop.swaps() == 2


def test_a_deployment_that_is_done_is_not_done_again(shop: Shop) -> None:
    for _ in range(2):
        ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()
    assert shop.swaps() == 1


def test_a_slot_with_running_work_is_waited_for_and_never_deployed_to(swapped: Shop) -> None:
    running = event(swapped.old, status="Running")
    swapped.server.post("/api/events", json=[running]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=new_hub(), by=f"touch {mark}")
    ends(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped()
    assert swapped.deploying() is None


def test_a_deploy_command_that_fails_abandons_the_deployment_and_swaps_nothing(shop: Shop) -> None:
    ends(shop.run(shop.deploy(by="false; echo never")), 1, "the deploy command ended with exit code 1", "is abandoned")
    assert shop.swaps() == 0
    assert shop.deploying() is None
    assert shop.recorded()[0] == shop.carried()[0] == shop.old
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third)), 0)
    assert shop.recorded()[0] == third == shop.carried()[0]


def test_a_deployment_that_cannot_be_abandoned_says_so_and_why_the_command_failed(shop: Shop, way: Way) -> None:
    way.before = lambda number, request: request[0] == "DELETE"
    ends(shop.run(shop.deploy(by="exit 7"), patience=0.3), 1, "exit code 7", "stays open", "cannot be reached")
    assert shop.deploying() == shop.new


def test_a_swap_command_that_fails_can_be_tried_again_by_the_same_run(shop: Shop) -> None:
    shop.cloud.fault("swap", times=1)
    ends(shop.run(shop.deploy()), 1, "swapped back")
    assert shop.is_as_before()
    assert shop.deploying() == shop.new
    ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()


@pytest.mark.parametrize("swapped_then", [False, True])
def test_a_deployment_that_was_cut_off_in_its_swap_goes_on_there(shop: Shop, swapped_then: bool) -> None:
    shop.stage()
    shop.tell(shop.new, "Pending")
    if swapped_then:
        shop.carry(production=shop.new, staging=shop.old)
    mark = shop.folder / "mark"
    ends(shop.run(shop.deploy(by=f"touch {mark}")), 0)
    assert shop.is_swapped()
    assert not mark.exists(), "what is in production is not deployed to"


def test_another_run_in_between_is_waited_for(shop: Shop) -> None:
    shop.stage(run_url=OTHER_RUN)
    third = new_hub()
    ends(shop.run(shop.deploy("--timeout", "1", hub=third)), 5, "not ready within")
    assert shop.recorded() == (shop.old, shop.new)
    running = shop.start(shop.deploy(hub=third))
    until(lambda: "NotReady" in running.err.read_text(), "it waits")
    ends(shop.run(shop.swap(), run_url=OTHER_RUN), 0)
    ends(running.end(), 0)
    assert shop.recorded() == (third, shop.new) == shop.carried()
    assert shop.swaps() == 2


@SIGNALS
def test_a_deploy_command_that_is_stopped_leaves_the_deployment_open_and_swaps_nothing(
    shop: Shop, number: signal.Signals
) -> None:
    group = shop.folder / "group"
    # Between two commands a shell heeds Ctrl-C only after the next of them.
    slow = f"echo $$ > {group}; exec sleep 30"
    running = shop.start(shop.deploy(by=slow))
    until(lambda: written(group), "the command runs")
    running.send(number)
    ends(running.end(), 1, "The deployment stays open")
    until(lambda: is_gone(int(group.read_text())), "nothing of the command is left")
    assert (shop.swaps(), shop.deploying()) == (0, shop.new)
    ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()


@pytest.mark.parametrize("empty", ["--deploy-command", "--swap-command"])
def test_an_empty_command_makes_no_sense(shop: Shop, empty: str) -> None:
    ends(shop.run([*shop.deploy(), empty, ""]), 2, "must not be empty")
    assert shop.deploying() is None


def test_the_commands_of_a_deployment_get_no_key(shop: Shop) -> None:
    ends(shop.run(shop.deploy("--version", "4.2", by=f"env > one; {shop.az_deploy}", swap="env > two")), 0)
    for name in ("one", "two"):
        env = (shop.folder / name).read_text()
        assert "SAFE_DEPLOY_KEY" not in env
        assert not any(key in env for key in KEYS.values())
        assert (
            f"SAFE_DEPLOY_TASK_HUB={shop.new}\nSAFE_DEPLOY_VERSION=4.2\n" in "\n".join(sorted(env.splitlines())) + "\n"
        )


# --- what the slot carries before it is overwritten ---


@pytest.mark.parametrize("carried", ["", "new", "old"])
def test_an_empty_slot_is_staged_if_it_carries_nothing_or_what_it_was_made_with(shop: Shop, carried: str) -> None:
    shop.carry(staging={"": None, "new": shop.new, "old": shop.old}[carried])
    ends(stages(shop), 0)


def test_a_slot_is_staged_if_it_carries_what_the_server_has_there(swapped: Shop) -> None:
    ends(stages(swapped, new_hub()), 0)


def test_a_slot_that_carries_productions_hub_is_a_swap_that_nobody_saw(swapped: Shop) -> None:
    swapped.carry(production=swapped.old, staging=swapped.new)
    ends(stages(swapped, new_hub()), 6, "somebody swapped or deployed without telling it")
    assert swapped.recorded() == (swapped.new, swapped.old)


def test_what_somebody_swapped_by_hand_is_not_overwritten_although_the_slot_is_empty_on_record(shop: Shop) -> None:
    shop.carry(production="v99", staging=shop.old)
    mark = shop.folder / "mark"
    ends(shop.run(shop.deploy(by=f"touch {mark}")), 6, "somebody swapped or deployed without telling it")
    assert not mark.exists()
    assert shop.deploying() is None


def test_a_run_that_is_started_anew_under_another_name_does_not_release_twice(shop: Shop) -> None:
    ends(shop.run(shop.deploy()), 0)
    ends(shop.run(shop.deploy(hub=new_hub())), 0, "nothing is left to do")
    assert shop.is_swapped()
    assert shop.swaps() == 1
    ends(shop.run(shop.rollback()), 0)
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third)), 0)
    assert shop.recorded() == (third, shop.old) == shop.carried()


def test_a_run_that_was_cut_off_and_is_started_anew_under_another_name_ends_its_swap_first(shop: Shop) -> None:
    shop.stage()
    shop.tell(shop.new, "Pending")
    shop.carry(production=shop.new, staging=shop.old)
    ends(shop.run(shop.deploy(hub=new_hub())), 0, "nothing is left to do")
    assert shop.is_swapped()
    assert shop.swaps() == 0


def test_what_became_active_beneath_a_staged_version_is_not_overwritten_by_the_run_that_staged_it(
    swapped: Shop,
) -> None:
    third = new_hub()
    ends(swapped.run(["stage", "--task-hub", third], run_url=OTHER_RUN), 0)
    swapped.server.post("/api/events", json=[event(swapped.old, status="Running")]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=third, by=f"touch {mark}")
    ends(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped() is False


def test_a_slot_that_carries_a_hub_nobody_knows_is_overwritten_by_force_alone(swapped: Shop) -> None:
    swapped.carry(staging="v99")
    third = new_hub()
    ends(stages(swapped, third), 6, "carries v99", "--force")
    assert swapped.recorded() == (swapped.new, swapped.old)
    assert swapped.deploying() is None
    ends(stages(swapped, third, "--force", "--reason", "nothing runs there"), 0, "by force")
    assert swapped.recorded() == (swapped.new, third)


@pytest.mark.parametrize("active", [False, True])
def test_a_slot_that_still_carries_what_was_there_before_a_failed_deployment_is_judged_by_it(
    swapped: Shop, active: bool
) -> None:
    left = swapped.old
    third = new_hub()
    swapped.stage(third)
    ends(swapped.run(["abandon", "--task-hub", third]), 0, "")
    assert swapped.deploying() is None
    swapped.carry(staging=left)
    if active:
        swapped.server.post("/api/events", json=[event(left, status="Running")]).raise_for_status()
    ended = stages(swapped, new_hub())
    if active:
        ends(ended, 3, f"active on task hub {left}")
    else:
        ends(ended, 0)


def test_a_hub_that_azure_has_in_a_slot_is_not_deleted_whatever_is_on_record(swapped: Shop) -> None:
    third = new_hub()
    policy = {"policy": {"retention": {"keepLast": 5}}}
    swapped.server.put(f"/api/apps/{swapped.app}", json=policy).raise_for_status()
    ends(swapped.run(swapped.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert [one["taskHub"] for one in swapped.record()["retired"]] == [swapped.old]
    swapped.carry(staging=swapped.old)
    group = ["--resource-group", GROUP, "--delete-task-hubs"]
    ends(swapped.run(["cleanup", *group]), 6, "in Azure staging carries it: nothing was deleted")


def test_nothing_is_staged_where_the_platform_cannot_be_looked_at(shop: Shop) -> None:
    shop.cloud.fault("appsettings list")
    ends(stages(shop), 1, "az failed")
    assert shop.deploying() is None
