"""`safe-deploy rollout` with slots: the share in Azure follows what the server decides, to the swap or to an abort."""

import re
import signal

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import STOP_SIGNALS, assert_exit
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.slot_rollout_fixture import GROUP, SLOT_HOST, SlotRolloutFixture, cut_all_requests
from tests.safe_deploy.terminal import run_in_terminal

PATCH = "resource patch"


def test_a_rollout_raises_the_share_step_by_step_and_ends_with_the_swap(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    assert slot_rollout.cli.fake_azure.ramp_up_rules(slot_rollout.app) == [
        {"name": "staging", "actionHostName": SLOT_HOST, "reroutePercentage": 10}
    ]
    slot_rollout.clock.advance(15 * 60)
    wait_until(lambda: slot_rollout.is_confirmed_at(50), "the second step")
    assert slot_rollout.shares() == {"staging": 50}
    slot_rollout.clock.advance(30 * 60)
    result = running.wait_for_result()
    assert_exit(result, ExitCode.DONE, "Running, step 1 of 2, 10 %", "Running, step 2 of 2, 50 %", "Finishing")
    assert slot_rollout.shares() == {}
    assert slot_rollout.cli.is_swapped()
    assert slot_rollout.cli.count_swaps() == 1
    assert slot_rollout.state() == "Finished"


def test_an_unhealthy_candidate_loses_its_share_and_is_not_swapped(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    slot_rollout.clock.advance(120)
    now = slot_rollout.clock.now()
    slot_rollout.publish_ends(slot_rollout.cli.old, completed=60, started_at=now)
    slot_rollout.publish_ends(slot_rollout.cli.new, failed=30, started_at=now)
    slot_rollout.clock.advance(60)
    result = running.wait_for_result()
    assert_exit(result, ExitCode.FAILURE, "the rollout of slot staging was aborted", "of the candidate failed")
    assert slot_rollout.shares() == {}
    assert slot_rollout.cli.is_unswapped()
    assert slot_rollout.state() == "Aborted"


def test_a_rollout_that_has_ended_is_not_begun_again_by_the_same_run(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    again = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(again, ExitCode.DONE, "Finished")
    assert slot_rollout.cli.count_swaps() == 1


def test_an_abort_from_another_shell_ends_the_command_that_follows(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    assert_exit(slot_rollout.abort("--reason", "checkout is slow"), ExitCode.DONE)
    assert slot_rollout.shares() == {}
    assert slot_rollout.state() == "Aborted"
    assert_exit(running.wait_for_result(), ExitCode.FAILURE, "was aborted", "checkout is slow")


def test_a_share_that_comes_back_late_is_removed_and_its_visitors_count_from_then_on(
    slot_rollout: SlotRolloutFixture,
) -> None:
    running = slot_rollout.start_until_confirmed(10)
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert_exit(running.wait_for_result(), ExitCode.FAILURE, "was aborted")
    slot_rollout.clock.advance(50 * 60)
    slot_rollout.set_rules(staging=10)
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert slot_rollout.shares() == {}
    slot_rollout.clock.advance(50 * 60)
    assert slot_rollout.slot_reasons() == ["RolloutInProgress"]


def test_a_slot_to_which_azure_sends_visitors_after_an_abort_is_not_staged(slot_rollout: SlotRolloutFixture) -> None:
    stage = ["stage", "--task-hub", new_hub_name(), *GROUP]
    running = slot_rollout.start_until_confirmed(10)
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert_exit(running.wait_for_result(), ExitCode.FAILURE, "was aborted")
    slot_rollout.clock.advance(2 * 60 * 60)
    slot_rollout.set_rules(staging=10)
    assert_exit(slot_rollout.run(stage), ExitCode.CONFLICT, "Azure sends 10 % to slot staging", "rollout abort with")
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert slot_rollout.shares() == {}
    assert slot_rollout.slot_reasons() == ["RolloutInProgress"]
    slot_rollout.clock.advance(2 * 60 * 60)
    assert_exit(slot_rollout.run(stage), ExitCode.DONE)


def test_a_slot_to_which_azure_sends_visitors_after_the_swap_is_not_staged(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    slot_rollout.clock.advance(2 * 60 * 60)
    slot_rollout.set_rules(staging=10)
    stage = ["stage", "--task-hub", new_hub_name(), *GROUP]
    assert_exit(
        slot_rollout.run(stage), ExitCode.CONFLICT, "is Finished on the server", "Remove the rule in the portal"
    )
    slot_rollout.set_rules()
    assert_exit(slot_rollout.run(stage), ExitCode.DONE)


def test_finish_swaps_at_once(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    assert_exit(slot_rollout.run(["rollout", "finish", *GROUP]), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()
    assert slot_rollout.shares() == {}
    assert_exit(running.wait_for_result(), ExitCode.DONE)
    assert slot_rollout.cli.count_swaps() == 1


def test_a_paused_rollout_is_followed_until_a_person_decides(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    assert_exit(slot_rollout.run(["rollout", "pause"]), ExitCode.DONE)
    slot_rollout.clock.advance(60 * 60)
    wait_until(lambda: "Paused" in running.err.read_text(), "safe-deploy reports the pause")
    assert slot_rollout.shares() == {"staging": 10}
    assert_exit(slot_rollout.run(["rollout", "resume"]), ExitCode.DONE, "the command that follows")
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(running.wait_for_result(), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_the_command_after_two_hyphens_swaps_and_names_the_function_app(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.advance_clock_at_every_poll()
    arguments = ["rollout", "start", "--steps", "10@15m", "--", *slot_rollout.cli.az_swap_command]
    assert_exit(slot_rollout.run(arguments), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_without_a_function_app_nothing_is_begun(slot_rollout: SlotRolloutFixture) -> None:
    result = slot_rollout.run(["rollout", "start", "--steps", "10@15m"])
    assert_exit(result, ExitCode.USAGE, "--resource-group")
    assert slot_rollout.state() == ""


def test_a_rollout_that_takes_longer_than_the_timeout_goes_on_with_the_next_command(
    slot_rollout: SlotRolloutFixture,
) -> None:
    result = slot_rollout.run(slot_rollout.start_arguments("--timeout", "1"))
    assert_exit(result, ExitCode.TIMED_OUT, "Run the same command again to continue")
    assert slot_rollout.shares() == {"staging": 10}
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


# Azure is not as the server has it


@pytest.mark.parametrize("shares", [{"staging": 5}, {"beta": 5}])
def test_a_rollout_does_not_begin_beside_other_rules(
    slot_rollout: SlotRolloutFixture, shares: dict[str, float]
) -> None:
    slot_rollout.set_rules(**shares)
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.CONFLICT, "already sends 5 % to slot")
    assert slot_rollout.state() == ""
    assert slot_rollout.shares() == shares


def test_a_rollout_does_not_begin_if_azure_has_other_task_hubs(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.set_slot_task_hubs(staging="otherHub")
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.CONFLICT, "in Azure the slot has otherHub")
    slot_rollout.cli.set_slot_task_hubs(production="otherHub", staging=slot_rollout.cli.new)
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.CONFLICT, "production has otherHub")
    assert slot_rollout.state() == ""


def test_a_rollout_does_not_begin_if_the_task_hub_name_stays_with_its_slot(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.fake_azure.update_app(slot_rollout.app, sticky=["TASK_HUB"])
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.CONFLICT, "slot-sticky")
    assert slot_rollout.state() == ""


@pytest.mark.parametrize(
    ("shares", "message", "left"),
    [
        ({"staging": 33}, "33 % to slot staging", {}),
        ({}, "no visitors to any slot", {}),
        ({"staging": 10, "beta": 5}, "5 % to slot beta", {"beta": 5}),
    ],
)
def test_rules_changed_by_hand_stop_the_command_and_an_abort_removes_only_the_share_of_the_slot(
    slot_rollout: SlotRolloutFixture, shares: dict[str, float], message: str, left: dict[str, float]
) -> None:
    running = slot_rollout.start_until_confirmed(10)
    slot_rollout.set_rules(**shares)
    assert_exit(running.wait_for_result(), ExitCode.CONFLICT, message, "safe-deploy rollout abort")
    assert slot_rollout.shares() == shares
    assert slot_rollout.state() == "Running"
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert slot_rollout.shares() == left
    assert slot_rollout.state() == "Aborted"


def test_a_rule_that_is_set_back_by_hand_lets_the_command_continue(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    slot_rollout.set_rules(staging=33)
    assert_exit(running.wait_for_result(), ExitCode.CONFLICT)
    slot_rollout.set_rules(staging=10)
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_slots_that_were_swapped_without_the_server_stop_the_next_step(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    azure = slot_rollout.cli
    for slot, task_hub in (("production", azure.new), ("staging", azure.old)):
        settings = {"TASK_HUB": {"value": task_hub, "slotSetting": False}}
        azure.fake_azure.update_slot(slot_rollout.app, slot, settings=settings)
    slot_rollout.clock.advance(15 * 60)
    assert_exit(running.wait_for_result(), ExitCode.CONFLICT, "swapped or deployed meanwhile")
    assert slot_rollout.shares() == {"staging": 10}
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert slot_rollout.shares() == {}


def test_a_change_that_azure_shows_late_is_awaited(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.fake_azure.update_app(slot_rollout.app, staleReadsAfterChange=4)
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_a_change_that_has_no_effect_is_not_confirmed(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.fake_azure.update_app(slot_rollout.app, ignoresChanges=True)
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.CONFLICT, "az has set 10 % for slot staging without an error, but Azure still shows")
    assert not slot_rollout.get_rollout()["confirmed"]


def test_a_call_of_az_that_fails_is_made_again(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.fake_azure.set_fault(PATCH, call_count=2)
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE, "Trying again")
    assert slot_rollout.cli.is_swapped()


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_call_of_az_that_keeps_failing_ends_the_command_and_the_next_one_continues(
    slot_rollout: SlotRolloutFixture, *, takes_effect: bool
) -> None:
    slot_rollout.cli.fake_azure.set_fault(PATCH, takes_effect=takes_effect)
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(
        result,
        ExitCode.FAILURE,
        "Running, step 1 of 2, 10 % of the traffic, which Azure has not confirmed",
        "Run the same command again to continue, or safe-deploy rollout abort",
    )
    slot_rollout.cli.fake_azure.clear_faults()
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_a_plan_that_ignores_the_share_is_reported_with_both_numbers(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    running.send(signal.SIGINT)
    running.wait_for_result()
    slot_rollout.clock.advance(120)
    slot_rollout.publish_ends(slot_rollout.cli.old, completed=201)
    # A command compares the shares when it begins, and then once a minute.
    running = slot_rollout.start(slot_rollout.start_arguments())
    wait_until(lambda: "may ignore the share" in running.err.read_text(), "safe-deploy warns")
    slot_rollout.advance_clock_at_every_poll()
    result = running.wait_for_result()
    assert_exit(result, ExitCode.DONE, "send 10 % of the visitors to slot staging, but 0 % of 201 orchestrations")


def test_a_swap_that_fails_leaves_the_rollout_to_the_next_command(slot_rollout: SlotRolloutFixture) -> None:
    slot_rollout.cli.fake_azure.set_fault("swap", call_count=1)
    slot_rollout.advance_clock_at_every_poll()
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.FAILURE, "Azure has shown no swap")
    assert slot_rollout.state() == "Finishing"
    assert slot_rollout.shares() == {}
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


# Interruptions


@STOP_SIGNALS
def test_a_signal_leaves_the_share_and_the_same_command_continues(
    slot_rollout: SlotRolloutFixture, stop_signal: signal.Signals
) -> None:
    running = slot_rollout.start_until_confirmed(10)
    running.send(stop_signal)
    result = running.wait_for_result()
    assert_exit(
        result,
        ExitCode.CONFLICT,
        "stopped on request. rollout of slot staging",
        "Running, step 1 of 2, 10 % of the traffic",
        "Run the same command again to continue, or safe-deploy rollout abort",
    )
    assert slot_rollout.shares() == {"staging": 10}
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()


def test_an_abort_removes_the_share_also_if_the_server_cannot_be_reached(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    running.send(signal.SIGTERM)
    running.wait_for_result()
    app_requests = 1  # the command asks first which model the app has

    def cut(number: int, request: tuple[str, str]) -> bool:
        """Cut every request but that which reads the app."""
        return number > app_requests

    slot_rollout.proxy.clear()
    slot_rollout.proxy.cut_before_request = cut
    result = slot_rollout.run(["rollout", "abort", *GROUP], retry_seconds=0.5)
    assert_exit(
        result,
        ExitCode.FAILURE,
        "is removed all the same",
        "Azure sends no new visitor to slot staging any more, but the server has not recorded the abort",
        "Run safe-deploy rollout abort again",
    )
    assert slot_rollout.shares() == {}
    assert slot_rollout.state() == "Running"
    slot_rollout.proxy.clear()
    assert "RolloutInProgress" in slot_rollout.slot_reasons()
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    assert slot_rollout.state() == "Aborted"


def test_a_rollout_of_another_run_is_continued_and_another_one_is_refused(slot_rollout: SlotRolloutFixture) -> None:
    running = slot_rollout.start_until_confirmed(10)
    running.send(signal.SIGTERM)
    running.wait_for_result()
    other = slot_rollout.run(slot_rollout.start_arguments(steps="20@15m"))
    assert_exit(other, ExitCode.CONFLICT)
    assert slot_rollout.shares() == {"staging": 10}
    slot_rollout.advance_clock_at_every_poll()
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.DONE)
    assert RESOURCE_GROUP in " ".join(slot_rollout.cli.fake_azure.calls[-1])


def test_a_server_that_cannot_be_reached_ends_the_command_and_the_next_one_continues(
    slot_rollout: SlotRolloutFixture,
) -> None:
    running = slot_rollout.start(slot_rollout.start_arguments(), retry_seconds=0.5)
    wait_until(lambda: slot_rollout.is_confirmed_at(10), "the share is 10 %")
    with cut_all_requests(slot_rollout.proxy):
        assert_exit(running.wait_for_result(), ExitCode.FAILURE, "cannot be reached")
    assert slot_rollout.shares() == {"staging": 10}
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(slot_rollout.run(slot_rollout.start_arguments()), ExitCode.DONE)


def test_a_terminal_shows_step_and_health_in_one_line(slot_rollout: SlotRolloutFixture) -> None:
    """A line that is drawn again. Ctrl-C is announced, because a change in Azure may have to be completed."""
    variables = slot_rollout.cli.build_environment() | {"COLUMNS": "80"}
    with run_in_terminal(slot_rollout.start_arguments(), variables) as window:
        wait_until(lambda: b"step 1 of 2, 10 %: Undecided" in window.output, "the line shows the health")
        window.process.send_signal(signal.SIGINT)
        assert window.wait() == ExitCode.CONFLICT
    drawn = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "\n", window.output.decode())
    lines = re.findall(r"^.*\(waited .* left\)", drawn, re.MULTILINE)
    assert any(line.startswith("step 1 of 2, 10 %: Undecided") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "Run the same command again to continue" in " ".join(drawn.split())
