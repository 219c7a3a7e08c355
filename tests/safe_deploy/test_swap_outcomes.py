"""Outcomes of swaps whose responses are lost, or that arrive late, while other callers use the app. An outcome ends
only the pending swap that it belongs to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit, find_outcome_command, make_touch_command
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, RUN, DeploymentFixture
from tests.safe_deploy.slot_rollout_fixture import SlotRolloutFixture

AZURE_OPTIONS = ["--resource-group", RESOURCE_GROUP]
THIRD_RUN = "https://ci.example/runs/3"
RETRY_SECONDS = 5


@dataclass
class SwapRequests:
    """What happens at one PostSwap of safe-deploy, counted from 1: `meanwhile` is called, and the response is lost if
    `is_lost`."""

    number: int
    meanwhile: Callable[[], None]
    is_lost: bool
    count: int = 0

    def __call__(self, request_number: int, request: Request) -> bool:
        """For the proxy: whether the connection is cut at this request."""
        self.count += request[0] == "POST" and request[1].endswith("/swap")
        if self.count != self.number:
            return False
        self.number = 0
        self.meanwhile()
        return self.is_lost


def lose_response(connection_proxy: ConnectionProxy, number: int, meanwhile: Callable[[], None]) -> None:
    """Lose the response to the PostSwap with this number. The server has recorded the request, and `meanwhile` is
    called before safe-deploy repeats it."""
    connection_proxy.cut_before_response = SwapRequests(number, meanwhile, is_lost=True)


def call_before_request(connection_proxy: ConnectionProxy, number: int, meanwhile: Callable[[], None]) -> None:
    """Call `meanwhile` just before the PostSwap with this number reaches the server."""
    connection_proxy.cut_before_request = SwapRequests(number, meanwhile, is_lost=False)


def begin_rollback(deployment_fixture: DeploymentFixture, run_url: str) -> None:
    """Begin a rollback from the task hub `new` to `old`."""
    body = {"taskHub": deployment_fixture.old, "outcome": "Pending", "rollback": True}
    response = deployment_fixture.server.post(
        f"/api/apps/{deployment_fixture.app}/swap", json=body, headers={"X-Run-Url": run_url}
    )
    assert response.status_code == 200, response.text


def get_pending_run(deployment_fixture: DeploymentFixture) -> Any:
    """The run that began the pending swap."""
    return deployment_fixture.get_app()["pendingSwap"]["runUrl"]


def test_a_repeated_failed_leaves_the_swap_of_another_run_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    """The other run is killed after Azure has swapped, so nothing but the pending swap protects its slot."""
    lose_response(connection_proxy, 2, lambda: staged.report_swap(staged.new, "Pending", OTHER_RUN))
    result = staged.run(staged.swap("false", options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS)
    assert_exit(result, ExitCode.FAILURE, "The record is reverted")
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    staged.server.post("/api/events", json=[event(staged.old, "order-1", "Running")])
    assert (staged.pending_hub(), get_pending_run(staged)) == (staged.new, OTHER_RUN)
    assert not staged.server.get(f"/api/apps/{staged.app}/staging").json()["ready"]
    refused = staged.server.post(
        f"/api/apps/{staged.app}/staging", json={"taskHub": new_hub_name()}, headers={"X-Run-Url": THIRD_RUN}
    )
    assert refused.json()["code"] == "SwapPending"


def test_a_repeated_done_leaves_a_later_swap_of_the_same_task_hub_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def swap_back_and_begin_again() -> None:
        """Roll back, and let another run begin to swap the same task hub again."""
        begin_rollback(staged, OTHER_RUN)
        staged.report_swap(staged.old, "Done", OTHER_RUN)
        staged.report_swap(staged.new, "Pending", THIRD_RUN)

    lose_response(connection_proxy, 2, swap_back_and_begin_again)
    assert_exit(staged.run(staged.swap(), retry_seconds=RETRY_SECONDS), ExitCode.DONE)
    assert get_pending_run(staged) == THIRD_RUN


@pytest.mark.parametrize("command_swaps", [False, True])
def test_an_outcome_that_another_caller_has_contradicted_is_a_conflict(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, *, command_swaps: bool
) -> None:
    def report_and_begin_again() -> None:
        """Another caller reports the opposite of what this run reports. The next swap begins."""
        if command_swaps:
            staged.report_swap(staged.new, "Failed", OTHER_RUN)
            staged.report_swap(staged.new, "Pending", THIRD_RUN)
        else:
            staged.report_swap(staged.new, "Done", OTHER_RUN)
            begin_rollback(staged, THIRD_RUN)

    call_before_request(connection_proxy, 2, report_and_begin_again)
    command = [] if command_swaps else ["false"]
    result = staged.run(staged.swap(*command, options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS)
    theirs, ours = ("failed", "done") if command_swaps else ("done", "failed")
    assert_exit(result, ExitCode.CONFLICT, OTHER_RUN, f"is {theirs}. So the outcome {ours} was not recorded", "-- true")
    assert f"--outcome {ours}" not in result.stderr, "that would end the swap of the third run"
    assert get_pending_run(staged) == THIRD_RUN


def test_an_outcome_that_another_caller_has_reported_is_not_reported_again(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    call_before_request(connection_proxy, 2, lambda: staged.report_swap(staged.new, "Done", OTHER_RUN))
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert staged.is_swapped()
    assert staged.reported_outcomes() == ["Pending", "Done"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_an_outcome_reaches_an_app_whose_policy_changes_meanwhile(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, *, is_lost: bool
) -> None:
    def change_policy() -> None:
        """Change the ETag of the app, but not its slots."""
        staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": 7}})

    at_request = lose_response if is_lost else call_before_request
    at_request(connection_proxy, 2, change_policy)
    result = staged.run(staged.swap("false", options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS)
    assert_exit(result, ExitCode.FAILURE, "The record is reverted")
    assert staged.is_unswapped()
    assert staged.reported_outcomes() == ["Pending", "Failed"]


def test_a_repeated_failed_of_a_rollback_leaves_the_rollback_of_another_run_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    staged.report_swap(staged.new, "Done")
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    lose_response(connection_proxy, 2, lambda: begin_rollback(staged, OTHER_RUN))
    result = staged.run(staged.rollback("false", options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS)
    assert_exit(result, ExitCode.FAILURE, "The record is reverted")
    assert (staged.pending_hub(), get_pending_run(staged)) == (staged.old, OTHER_RUN)


def test_a_repeated_outcome_of_an_interrupted_swap_leaves_the_swap_of_another_run_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    """A run that is started again with another task hub name reverts its interrupted swap first."""
    staged.report_swap(staged.new, "Pending")
    lose_response(connection_proxy, 1, lambda: staged.report_swap(staged.new, "Pending", OTHER_RUN))
    result = staged.run(
        staged.deploy("--timeout", "1", hub=new_hub_name(), deploy_command="true"), retry_seconds=RETRY_SECONDS
    )
    assert_exit(result, ExitCode.TIMED_OUT, "the interrupted swap is failed", "SwapPending")
    assert (staged.pending_hub(), get_pending_run(staged)) == (staged.new, OTHER_RUN)


def test_a_repeated_done_of_a_swap_that_azure_shows_leaves_a_later_swap_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    """This run takes over the swap of a run that was killed after Azure had swapped."""
    staged.report_swap(staged.new, "Pending", OTHER_RUN)
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    lose_response(connection_proxy, 1, lambda: begin_rollback(staged, THIRD_RUN))
    command, touched_file = make_touch_command(staged)
    result = staged.run(staged.swap(*command, options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS)
    assert_exit(result, ExitCode.DONE, "the command was not run")
    assert not touched_file.exists()
    assert (staged.pending_hub(), get_pending_run(staged)) == (staged.old, THIRD_RUN)


def test_a_swap_that_was_made_by_hand_is_recorded_once_although_its_response_is_lost(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    lose_response(connection_proxy, 1, lambda: None)
    assert_exit(staged.run(staged.swap("true", options=AZURE_OPTIONS), retry_seconds=RETRY_SECONDS), ExitCode.DONE)
    assert staged.is_swapped()


def test_a_repeated_failed_at_the_end_of_a_rollout_leaves_the_swap_of_another_run_pending(
    slot_rollout: SlotRolloutFixture,
) -> None:
    """`rollout finish` in another shell swaps beside the command that follows the rollout."""
    cli = slot_rollout.cli
    slot_rollout.advance_clock_at_every_poll()
    lose_response(slot_rollout.proxy, 2, lambda: cli.report_swap(cli.new, "Pending", OTHER_RUN))
    result = slot_rollout.run(slot_rollout.start_arguments("--", "false", steps="10@15m"))
    assert_exit(result, ExitCode.FAILURE, "The record is reverted")
    assert (cli.pending_hub(), get_pending_run(cli)) == (cli.new, OTHER_RUN)


# --- outcomes that a person or a pipeline reports with --outcome ---


def test_a_repeated_report_by_hand_leaves_the_swap_of_another_run_pending(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    staged.report_swap(staged.new, "Pending")
    lose_response(connection_proxy, 1, lambda: staged.report_swap(staged.new, "Pending", OTHER_RUN))
    report = ["swap", "--task-hub", staged.new, "--outcome", "failed"]
    assert_exit(staged.run(report, retry_seconds=RETRY_SECONDS), ExitCode.DONE)
    assert get_pending_run(staged) == OTHER_RUN


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_a_run_reports_no_outcome_for_the_swap_of_another_run(staged: DeploymentFixture, outcome: str) -> None:
    """A step that a CI system repeats means the swap of its own run. The message names the pending one."""
    staged.report_swap(staged.new, "Pending", OTHER_RUN)
    result = staged.run(["swap", "--task-hub", staged.new, "--outcome", outcome])
    assert_exit(result, ExitCode.CONFLICT, "not the one of this run", f"--run-url {OTHER_RUN}")
    assert get_pending_run(staged) == OTHER_RUN
    assert_exit(staged.run_command_line(find_outcome_command(result, "done")), ExitCode.DONE)
    assert staged.reported_outcomes() == ["Pending", "Done"]


def test_the_outcome_of_a_swap_without_a_run_is_reported_outside_ci(staged: DeploymentFixture) -> None:
    """A run cannot prove that it began the swap, so the message says where the printed command works."""
    pending = ["swap", "--task-hub", staged.new, "--outcome", "pending"]
    assert_exit(staged.run(pending, run_url=None), ExitCode.DONE)
    result = staged.run(["swap", "--task-hub", staged.new, "--outcome", "done"])
    assert_exit(result, ExitCode.CONFLICT, "not the one of this run", "Run it in a shell outside CI")
    command = find_outcome_command(result, "done")
    assert "--run-url" not in command
    assert_exit(staged.run_command_line(command, run_url=None), ExitCode.DONE)
    assert staged.reported_outcomes() == ["Pending", "Done"]


def test_a_person_without_a_run_can_end_the_swap_of_a_run(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending", OTHER_RUN)
    report = ["swap", "--task-hub", staged.new, "--outcome", "failed"]
    assert_exit(staged.run(report, run_url=None), ExitCode.DONE)
    assert staged.is_unswapped()


def test_a_printed_command_ends_no_swap_but_the_one_that_it_was_printed_for(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    """The server has recorded the outcome, but safe-deploy gets no response. A person runs the printed command while
    the swap of another run is pending."""
    connection_proxy.cut_before_response = lambda number, request: number >= 3
    result = staged.run(staged.swap("false", options=AZURE_OPTIONS), retry_seconds=0.5)
    connection_proxy.clear()
    assert staged.is_unswapped()
    staged.report_swap(staged.new, "Pending", OTHER_RUN)
    command = find_outcome_command(result, "failed")
    assert f"--run-url {RUN}" in command
    assert_exit(staged.run_command_line(command), ExitCode.CONFLICT, "not the one of this run")
    assert get_pending_run(staged) == OTHER_RUN


@pytest.mark.parametrize("swaps_forward_again", [False, True])
def test_a_repeated_done_of_a_rollback_that_was_never_pending_exchanges_the_record_once(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, *, swaps_forward_again: bool
) -> None:
    staged.report_swap(staged.new, "Done")

    def swap_forward() -> None:
        """Bring the new task hub into production again, in one step."""
        if swaps_forward_again:
            response = staged.server.post(f"/api/apps/{staged.app}/swap", json={"taskHub": staged.new})
            assert response.status_code == 200, response.text

    lose_response(connection_proxy, 1, swap_forward)
    result = staged.run(["rollback", "--outcome", "done"], retry_seconds=RETRY_SECONDS)
    if swaps_forward_again:
        assert_exit(result, ExitCode.CONFLICT, "was changed by another caller")
        assert staged.recorded_hubs() == (staged.new, staged.old)
    else:
        assert_exit(result, ExitCode.DONE)
        assert staged.recorded_hubs() == (staged.old, staged.new)
