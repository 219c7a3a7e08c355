"""Runs that are killed before or after any request to the server, or during the swap in Azure, and then run again."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy, run_connection_proxy
from tests.safe_deploy.deployment_fixture import (
    RESOURCE_GROUP,
    SWAP_COMMAND,
    DeploymentFixture,
    ForkServer,
    create_deployment_fixture,
    kill_cli,
)
from tests.safe_deploy.killer import Killer


@pytest.fixture(scope="module")
def connection_proxy(server: httpx.Client) -> Iterator[ConnectionProxy]:
    """A proxy in front of the state server, at whose requests a test kills the CLI."""
    with run_connection_proxy(str(server.base_url)) as connection_proxy:
        yield connection_proxy


@pytest.fixture
def deployment_fixtures(
    server: httpx.Client, fork_server: ForkServer, connection_proxy: ConnectionProxy, tmp_path: Path
) -> Callable[[], DeploymentFixture]:
    """Creates a new app on every call. safe-deploy reaches the server through the proxy."""

    def create_app() -> DeploymentFixture:
        """A new app, whose commands go through the proxy."""
        folder = tmp_path / new_hub_name()
        folder.mkdir()
        return create_deployment_fixture(server, fork_server, folder, f"shop-{new_hub_name()}", connection_proxy.url)

    return create_app


def prepare_swap(deployment_fixture: DeploymentFixture) -> list[str]:
    """Stage `new`. Returns the arguments that swap it into production."""
    deployment_fixture.stage()
    return deployment_fixture.swap()


def prepare_rollback(deployment_fixture: DeploymentFixture) -> list[str]:
    """Complete a swap. Returns the arguments that roll it back. `new` is the task hub that the rollback brings back."""
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Done")
    deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    deployment_fixture.old, deployment_fixture.new = deployment_fixture.new, deployment_fixture.old
    return deployment_fixture.rollback()


def prepare_deploy(deployment_fixture: DeploymentFixture) -> list[str]:
    """Returns the arguments that stage, deploy and swap `new`."""
    return deployment_fixture.deploy()


COMMANDS = pytest.mark.parametrize(
    "prepare",
    [
        prepare_swap,
        pytest.param(prepare_rollback, marks=pytest.mark.long),
        pytest.param(prepare_deploy, marks=pytest.mark.long),
    ],
)


@COMMANDS
@pytest.mark.parametrize("server_answers", [False, True])
def test_the_next_run_succeeds_after_a_kill_at_any_request(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepare: Callable[[DeploymentFixture], list[str]],
    *,
    server_answers: bool,
) -> None:
    connection_proxy.clear()
    uninterrupted = deployment_fixtures()
    result = uninterrupted.run(prepare(uninterrupted))
    assert result.code == ExitCode.DONE, result.stderr
    assert uninterrupted.is_swapped()
    requests = list(connection_proxy.requests)
    assert len(requests) >= 3, "one reads the app, one records the pending swap, one confirms it"
    deployment_fixture: DeploymentFixture | None = None
    for number, (method, _) in enumerate(requests, 1):
        if server_answers and method == "GET":
            # A GET changes nothing: a kill after it equals a kill before the next request.
            continue
        if deployment_fixture is None:
            deployment_fixture = deployment_fixtures()
            arguments = prepare(deployment_fixture)
            initial_state = read_state(deployment_fixture)
        Killer(connection_proxy, number, server_answers=server_answers).run_until_killed(
            deployment_fixture.start, arguments
        )
        connection_proxy.clear()
        if read_state(deployment_fixture) == initial_state and number < len(requests):
            # The killed run changed nothing, so the app is reused for the next kill.
            continue
        again = deployment_fixture.run(arguments)
        assert again.code == ExitCode.DONE, f"after request {number}: {again.stderr}"
        assert deployment_fixture.is_swapped(), f"after request {number}: {again.stderr}"
        assert deployment_fixture.count_swaps() == 1, f"after request {number}: {again.stderr}"
        deployment_fixture = None


def read_state(deployment_fixture: DeploymentFixture) -> tuple[object, ...]:
    """Everything that a run of safe-deploy can change, on the server and in Azure."""
    return (
        deployment_fixture.recorded_hubs(),
        deployment_fixture.azure_hubs(),
        deployment_fixture.pending_hub(),
        deployment_fixture.open_deployment_hub(),
        deployment_fixture.reported_outcomes(),
    )


@COMMANDS
@pytest.mark.parametrize("az_is_killed", [False, True], ids=["az survives", "az is killed, too"])
@pytest.mark.parametrize("azure_has_swapped", [False, True], ids=["before it swaps", "after it has swapped"])
def test_the_next_run_succeeds_after_a_kill_during_the_swap_in_azure(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepare: Callable[[DeploymentFixture], list[str]],
    *,
    az_is_killed: bool,
    azure_has_swapped: bool,
) -> None:
    connection_proxy.clear()
    deployment_fixture = deployment_fixtures()
    arguments = prepare(deployment_fixture)
    # An az that is not killed completes after half a second. One that is killed never completes.
    delay_seconds = 60 if az_is_killed else 0.5
    deployment_fixture.fake_azure.set_fault(
        "swap",
        exit_code=None,
        delay_before_seconds=0 if azure_has_swapped else delay_seconds,
        delay_after_seconds=delay_seconds if azure_has_swapped else 0,
        call_count=1,
    )
    running_cli = deployment_fixture.start(arguments)
    read_hubs = (
        deployment_fixture.azure_hubs
        if prepare is not prepare_deploy
        else lambda: (deployment_fixture.old, deployment_fixture.new)
    )
    unswapped_hubs = read_hubs()
    wait_until(
        lambda: (
            deployment_fixture.count_swaps() == 1
            and (not azure_has_swapped or deployment_fixture.azure_hubs() != unswapped_hubs)
        ),
        "Azure swaps",
    )
    kill_cli(running_cli)
    if az_is_killed:
        os.killpg(find_az_process_group(deployment_fixture), signal.SIGKILL)
    assert deployment_fixture.pending_hub() == deployment_fixture.new
    again = deployment_fixture.run(arguments)
    assert again.code == ExitCode.DONE, again.stderr
    assert deployment_fixture.is_swapped(), again.stderr
    assert deployment_fixture.count_swaps() == (2 if az_is_killed and not azure_has_swapped else 1)


def find_az_process_group(deployment_fixture: DeploymentFixture) -> int:
    """The process group of this app's `az` that swaps."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if (
            f"{deployment_fixture.bin_folder}/az" in words
            and SWAP_COMMAND in " ".join(words)
            and deployment_fixture.app in words
        ):
            return os.getpgid(int(entry.name))
    raise AssertionError("no az of this app is running")


@pytest.mark.parametrize("command", ["false", ""], ids=["Azure does not swap", "Azure swaps"])
def test_a_run_that_was_killed_at_its_outcome_leaves_the_next_swap_of_another_run_alone(
    deployment_fixtures: Callable[[], DeploymentFixture], connection_proxy: ConnectionProxy, command: str
) -> None:
    """The server has recorded the outcome. Another run begins to swap before the killed run is started again."""
    deployment_fixture = deployment_fixtures()
    deployment_fixture.stage()
    arguments = deployment_fixture.swap(*([command] if command else []), options=["--resource-group", RESOURCE_GROUP])
    Killer(connection_proxy, 3, server_answers=True).run_until_killed(deployment_fixture.start, arguments)
    connection_proxy.clear()
    next_hub = deployment_fixture.old if deployment_fixture.is_swapped() else deployment_fixture.new
    deployment_fixture.report_swap(next_hub, "Pending", OTHER_RUN)
    again = deployment_fixture.run(arguments)
    assert_exit(again, ExitCode.CONFLICT, OTHER_RUN, "has not reported its outcome")
    assert deployment_fixture.pending_hub() == next_hub
