"""Runs that are killed before or after any request to the server, or during the swap in Azure, and then run again."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from harness.processes import wait_until
from tests.conftest import new_hub_name
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request, run_connection_proxy
from tests.safe_deploy.deployment_fixture import (
    SWAP_COMMAND,
    DeploymentFixture,
    ForkServer,
    RunningCli,
    create_deployment_fixture,
    kill_cli,
)


@pytest.fixture(scope="module")
def connection_proxy(server: httpx.Client) -> Iterator[ConnectionProxy]:
    with run_connection_proxy(str(server.base_url)) as connection_proxy:
        yield connection_proxy


@pytest.fixture
def deployment_fixtures(
    server: httpx.Client, fork_server: ForkServer, connection_proxy: ConnectionProxy, tmp_path: Path
) -> Callable[[], DeploymentFixture]:
    """Creates a new app on every call. safe-deploy reaches the server through the proxy."""

    def create() -> DeploymentFixture:
        folder = tmp_path / new_hub_name()
        folder.mkdir()
        return create_deployment_fixture(server, fork_server, folder, f"shop-{new_hub_name()}", connection_proxy.url)

    return create


class Killer:
    """Kills safe-deploy at one of its requests, counted from 1: before the request reaches the server, or before the
    response reaches safe-deploy."""

    def __init__(self, connection_proxy: ConnectionProxy, number: int, *, answered: bool) -> None:
        self.running_cli: RunningCli | None = None
        self.has_process = threading.Event()
        connection_proxy.clear()
        if answered:
            connection_proxy.cut_before_response = self.kill_at(number)
        else:
            connection_proxy.cut_before_request = self.kill_at(number)

    def kill_at(self, wanted: int) -> Callable[[int, Request], bool]:
        def kill_at_request(number: int, request: Request) -> bool:
            if number != wanted:
                return False
            assert self.has_process.wait(60)
            assert self.running_cli is not None
            kill_cli(self.running_cli)
            return True

        return kill_at_request

    def kill(self, deployment_fixture: DeploymentFixture, arguments: list[str]) -> None:
        self.running_cli = deployment_fixture.start(arguments)
        self.has_process.set()
        result = self.running_cli.wait_for_result()
        assert result.code == -signal.SIGKILL, result.stderr


def prepare_swap(deployment_fixture: DeploymentFixture) -> list[str]:
    deployment_fixture.stage()
    return deployment_fixture.swap()


def prepare_rollback(deployment_fixture: DeploymentFixture) -> list[str]:
    """A rollback of a completed swap. Afterwards `new` is the task hub that the rollback brings back."""
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Done")
    deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    deployment_fixture.old, deployment_fixture.new = deployment_fixture.new, deployment_fixture.old
    return deployment_fixture.rollback()


def prepare_deploy(deployment_fixture: DeploymentFixture) -> list[str]:
    return deployment_fixture.deploy()


LONG = pytest.mark.long
COMMANDS = pytest.mark.parametrize(
    "prepare", [prepare_swap, pytest.param(prepare_rollback, marks=LONG), pytest.param(prepare_deploy, marks=LONG)]
)


@COMMANDS
@pytest.mark.parametrize("answered", [False, True])
def test_the_next_run_succeeds_after_a_kill_at_any_request(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepare: Callable[[DeploymentFixture], list[str]],
    *,
    answered: bool,
) -> None:
    connection_proxy.clear()
    complete = deployment_fixtures()
    result = complete.run(prepare(complete))
    assert result.code == 0, result.stderr
    assert complete.is_swapped()
    requests = list(connection_proxy.requests)
    assert len(requests) >= 3, "one reads the app, one records the pending swap, one confirms it"
    deployment_fixture: DeploymentFixture | None = None
    for number, (method, _) in enumerate(requests, 1):
        if answered and method == "GET":
            # A GET changes nothing: a kill after it equals a kill before the next request.
            continue
        if deployment_fixture is None:
            deployment_fixture = deployment_fixtures()
            arguments = prepare(deployment_fixture)
            initial_state = read_state(deployment_fixture)
        Killer(connection_proxy, number, answered=answered).kill(deployment_fixture, arguments)
        connection_proxy.clear()
        if read_state(deployment_fixture) == initial_state and number < len(requests):
            # The killed run changed nothing, so the app is reused for the next kill.
            continue
        again = deployment_fixture.run(arguments)
        assert again.code == 0, f"after request {number}: {again.stderr}"
        assert deployment_fixture.is_swapped(), f"after request {number}: {again.stderr}"
        assert deployment_fixture.count_swaps() == 1, f"after request {number}: {again.stderr}"
        deployment_fixture = None


def read_state(deployment_fixture: DeploymentFixture) -> tuple[object, ...]:
    return (
        deployment_fixture.recorded_hubs(),
        deployment_fixture.azure_hubs(),
        deployment_fixture.pending_hub(),
        deployment_fixture.open_deployment_hub(),
        deployment_fixture.reported_outcomes(),
    )


@COMMANDS
@pytest.mark.parametrize("with_az", [False, True], ids=["alone", "with az"])
@pytest.mark.parametrize("swapped", [False, True], ids=["before it swaps", "after it has swapped"])
def test_the_next_run_succeeds_after_a_kill_during_the_swap_in_azure(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepare: Callable[[DeploymentFixture], list[str]],
    *,
    with_az: bool,
    swapped: bool,
) -> None:
    connection_proxy.clear()
    deployment_fixture = deployment_fixtures()
    arguments = prepare(deployment_fixture)
    # An az that is not killed completes after half a second. One that is killed never completes.
    seconds = 60 if with_az else 0.5
    deployment_fixture.fake_azure.set_fault(
        "swap",
        exit_code=None,
        delay_before_seconds=0 if swapped else seconds,
        delay_after_seconds=seconds if swapped else 0,
        call_count=1,
    )
    running_cli = deployment_fixture.start(arguments)
    read_hubs = (
        deployment_fixture.azure_hubs
        if prepare is not prepare_deploy
        else lambda: (deployment_fixture.old, deployment_fixture.new)
    )
    unswapped = read_hubs()
    wait_until(
        lambda: deployment_fixture.count_swaps() == 1 and (not swapped or deployment_fixture.azure_hubs() != unswapped),
        "Azure swaps",
    )
    kill_cli(running_cli)
    if with_az:
        os.killpg(find_az_process_group(deployment_fixture), signal.SIGKILL)
    assert deployment_fixture.pending_hub() == deployment_fixture.new
    again = deployment_fixture.run(arguments)
    assert again.code == 0, again.stderr
    assert deployment_fixture.is_swapped(), again.stderr
    assert deployment_fixture.count_swaps() == (2 if with_az and not swapped else 1)


def find_az_process_group(deployment_fixture: DeploymentFixture) -> int:
    """The process group of this app's `az` that swaps."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if (
            f"{deployment_fixture.path}/az" in words
            and " ".join(SWAP_COMMAND.split()) in " ".join(words)
            and deployment_fixture.app in words
        ):
            return os.getpgid(int(entry.name))
    raise AssertionError("no az of this app is running")
