"""Swaps while other runs use the app or change it, and while connections break."""

import shlex
import subprocess

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import (
    OTHER_RUN,
    assert_exit,
    make_touch_command,
)
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    DeploymentFixture,
)


def test_no_other_run_can_stage_while_azure_swaps(staged: DeploymentFixture) -> None:
    may_swap = staged.folder / "may-swap"
    command = f"while ! test -e {may_swap}; do sleep 0.05; done; {shlex.join(staged.az_swap_command)}"
    running = staged.start(staged.swap("sh", "-c", command))
    wait_until(lambda: staged.pending_hub() == staged.new, "the swap is pending")
    assert_exit(
        staged.run(["stage", "--task-hub", new_hub_name(), "--force", "--reason", "test"], run_url=OTHER_RUN),
        ExitCode.CONFLICT,
    )
    may_swap.touch()
    assert_exit(running.wait_for_result(), ExitCode.DONE)
    assert staged.is_swapped()


@pytest.mark.parametrize("queries_azure", [False, True])
def test_the_pending_swap_of_another_run_is_not_resumed(staged: DeploymentFixture, *, queries_azure: bool) -> None:
    staged.report_swap(staged.new, "Pending")
    command, touched_file = make_touch_command(staged)
    azure_options = ["--resource-group", RESOURCE_GROUP] if queries_azure else []
    assert_exit(
        staged.run(staged.swap(*command, options=azure_options), run_url=OTHER_RUN), ExitCode.CONFLICT, staged.new
    )
    assert not touched_file.exists()
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
        """Let the other run swap and report it, just before the second request of this run."""
        if request_number == 2:
            # The run that seemed to be interrupted is still active. It swaps and confirms.
            subprocess.run([staged.bin_folder / "az", *staged.az_swap_command[1:]], check=True)
            staged.report_swap(staged.new, "Done")
        return False

    connection_proxy.cut_before_request = swap_and_confirm_before_second_request
    assert_exit(staged.run(staged.swap()), ExitCode.DONE, "in production already")
    assert staged.count_swaps() == 1
    assert staged.is_swapped()


def test_an_app_that_changes_meanwhile_is_read_again(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change_app_before_second_request(request_number: int, request: Request) -> bool:
        """Change the app just before the second request of this run."""
        if request_number == 2:
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": 7}})
        return False

    connection_proxy.cut_before_request = change_app_before_second_request
    assert_exit(staged.run(staged.swap()), ExitCode.DONE)
    assert connection_proxy.requests.count(("GET", f"/api/apps/{staged.app}")) == 2
    assert staged.is_swapped()


def test_an_app_that_keeps_changing_is_a_conflict_and_no_swap_starts(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change_app_before_each_post(request_number: int, request: Request) -> bool:
        """Change the app just before each POST of this run, so that its ETag is always old."""
        if request[0] == "POST":
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": request_number}})
        return False

    connection_proxy.cut_before_request = change_app_before_each_post
    assert_exit(staged.run(staged.swap()), ExitCode.CONFLICT, "by other callers 3 times")
    assert staged.is_unswapped()
    assert staged.count_swaps() == 0


@pytest.mark.parametrize("cut_request", [1, 2, 3])
@pytest.mark.parametrize("reaches_server", [False, True])
def test_a_broken_connection_is_retried(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, cut_request: int, *, reaches_server: bool
) -> None:
    def is_cut(request_number: int, request: Request) -> bool:
        """Whether the connection is closed at this request."""
        return request_number == cut_request

    if reaches_server:
        connection_proxy.cut_before_response = is_cut
    else:
        connection_proxy.cut_before_request = is_cut
    assert_exit(staged.run(staged.swap()), ExitCode.DONE, "trying again")
    assert staged.is_swapped()
    assert staged.count_swaps() == 1
