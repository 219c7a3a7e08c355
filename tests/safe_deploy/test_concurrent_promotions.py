"""A promotion while another promotion or a rollback changes the same routing: functions that only the active release
may run end enabled there and nowhere else."""

from pathlib import Path

import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, RunningCli, kill_cli
from tests.safe_deploy.release_fixture import ReleaseFixture, name_of

GROUP = ["--resource-group", RESOURCE_GROUP, "--timeout", "0"]
PROMOTE = ["promote", "--version", "1.1", *GROUP]
PROMOTE_OTHER = ["promote", "--version", "1.2", *GROUP]
ROLL_BACK = ["rollback", "--version", "1.0", *GROUP]
SET = "functionapp config appsettings set"

each_order = pytest.mark.parametrize("order", ["gap", "overlap"])
each_other_command = pytest.mark.parametrize("other_command", [PROMOTE_OTHER, ROLL_BACK], ids=["promote", "rollback"])
WRITE, LAST_REQUEST = 2, 6
"""The numbers of requests of a promotion: the write of the routing, and the last one. With gap, that looks at the
routers after everything else, and with overlap at the active release after the last change of functions."""


@pytest.fixture
def three_releases(releases: ReleaseFixture) -> ReleaseFixture:
    """1.0 is active and runs the function Nightly; 1.1 and 1.2 are staged and have it disabled."""
    releases.register_and_promote("1.0")
    releases.register("1.1")
    releases.register("1.2")
    disabled = {"AzureWebJobs.Nightly.Disabled": "true"}
    settings: dict[str, dict[str, str]] = {"1.0": {}, "1.1": disabled, "1.2": disabled}
    releases.cli.fake_azure.reset(
        {
            name_of(version): {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {"settings": values}}}
            for version, values in settings.items()
        }
    )
    return releases


def set_order(releases: ReleaseFixture, order: str) -> None:
    """Let the policy name the function and this order."""
    releases.create(policy={"quiesceFunctions": ["Nightly"], "quiesceOrder": order})


def assert_only_the_active_release_runs_functions(releases: ReleaseFixture) -> None:
    active = releases.active()
    assert releases.disabled_functions() == {version: version != active for version in ("1.0", "1.1", "1.2")}


class Competitor:
    """Runs another command when a promotion sends its request with this number. It runs before the server has the
    request, or before the promotion has the response. `kill`: the promotion is killed after that."""

    def __init__(
        self,
        releases: ReleaseFixture,
        proxy: ConnectionProxy,
        command: list[str],
        request_number: int,
        *,
        server_answers: bool,
        kill: bool = False,
    ) -> None:
        """Let the proxy run the command."""
        self.has_run = False
        self.running: RunningCli | None = None
        self._releases, self._command, self._request_number, self._kill = releases, command, request_number, kill
        proxy.clear()
        if server_answers:
            proxy.cut_before_response = self._run_once
        else:
            proxy.cut_before_request = self._run_once

    def _run_once(self, number: int, request: Request) -> bool:
        """Run the command at the request of the promotion. Its own requests come through the proxy too."""
        if self.has_run or number != self._request_number:
            return False
        self.has_run = True
        assert_exit(self._releases.run(self._command, run_url=OTHER_RUN), ExitCode.DONE)
        if self._kill:
            wait_until(lambda: self.running is not None, "the promotion has started")
            assert self.running is not None
            kill_cli(self.running)
        return self._kill


@each_order
@each_other_command
@pytest.mark.parametrize(
    ("request_number", "server_answers"),
    [(WRITE, True), *((number, False) for number in range(WRITE, LAST_REQUEST + 1))],
)
def test_functions_run_only_in_the_active_release_when_another_command_comes_between_any_requests(
    three_releases: ReleaseFixture,
    releases_proxy: ConnectionProxy,
    order: str,
    other_command: list[str],
    request_number: int,
    *,
    server_answers: bool,
) -> None:
    set_order(three_releases, order)
    competitor = Competitor(
        three_releases, releases_proxy, other_command, request_number, server_answers=server_answers
    )
    result = three_releases.run(PROMOTE)
    assert competitor.has_run
    is_done = order == "gap" and request_number == LAST_REQUEST
    if is_done or three_releases.active() == "1.1":
        assert_exit(result, ExitCode.DONE)
    else:
        assert_exit(result, ExitCode.CONFLICT, "meanwhile", "run the same command again")
    assert_only_the_active_release_runs_functions(three_releases)


@each_order
@each_other_command
@pytest.mark.parametrize(("request_number", "server_answers"), [(WRITE, True), (4, False), (5, False)])
def test_the_next_run_leaves_functions_to_the_active_release_after_a_kill_while_another_command_ran(
    three_releases: ReleaseFixture,
    releases_proxy: ConnectionProxy,
    order: str,
    other_command: list[str],
    request_number: int,
    *,
    server_answers: bool,
) -> None:
    set_order(three_releases, order)
    competitor = Competitor(
        three_releases, releases_proxy, other_command, request_number, server_answers=server_answers, kill=True
    )
    competitor.running = three_releases.start(PROMOTE)
    competitor.running.wait_for_result()
    assert competitor.has_run
    # With overlap, functions are enabled before the write. Only the same command knows of that.
    again = other_command if order == "gap" else PROMOTE
    assert_exit(three_releases.run(again), ExitCode.DONE)
    assert_only_the_active_release_runs_functions(three_releases)


@each_order
@each_other_command
@pytest.mark.parametrize("change", [1, 2])
def test_a_change_in_azure_that_ends_after_another_command_is_taken_back(
    three_releases: ReleaseFixture, tmp_path: Path, order: str, other_command: list[str], change: int
) -> None:
    set_order(three_releases, order)
    azure = three_releases.cli.fake_azure
    earlier_changes = azure.count_calls(SET)
    gate = tmp_path / "gate"
    if change == 1:
        azure.set_fault("appsettings set", exit_code=None, call_count=1, wait_for_file=str(gate))
    else:
        first_gate = tmp_path / "first gate"
        azure.set_fault("appsettings set", exit_code=None, call_count=1, wait_for_file=str(first_gate))
    running = three_releases.start(PROMOTE)
    wait_until(lambda: azure.count_calls(SET) == earlier_changes + 1, "az begins the first change")
    if change == 2:
        azure.set_fault("appsettings set", exit_code=None, call_count=1, wait_for_file=str(gate))
        first_gate.touch()
        wait_until(lambda: azure.count_calls(SET) == earlier_changes + 2, "az begins the second change")
    assert_exit(three_releases.run(other_command, run_url=OTHER_RUN), ExitCode.DONE)
    gate.touch()
    result = running.wait_for_result()
    expected = ExitCode.DONE if three_releases.active() == "1.1" else ExitCode.CONFLICT
    assert_exit(result, expected)
    assert_only_the_active_release_runs_functions(three_releases)
