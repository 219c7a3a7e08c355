"""Killed anywhere, and run again: before and after every request to the server, and within the platform's swap."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from harness.processes import wait_until
from tests.conftest import new_hub_name
from tests.safe_deploy.deployment_fixture import (
    SWAP_COMMAND,
    ConnectionProxy,
    DeploymentFixture,
    ForkServer,
    Request,
    RunningCli,
    create_deployment_fixture,
    kill_cli,
    run_connection_proxy,
)


@pytest.fixture(scope="module")
def connection_proxy(server: httpx.Client) -> Iterator[ConnectionProxy]:
    with run_connection_proxy(str(server.base_url)) as connection_proxy:
        yield connection_proxy


@pytest.fixture
def deployment_fixtures(
    server: httpx.Client, fork_server: ForkServer, connection_proxy: ConnectionProxy, tmp_path: Path
) -> Callable[[], DeploymentFixture]:
    """A new shop whenever one is asked for; safe-deploy reaches the server by the way."""

    def opened() -> DeploymentFixture:
        folder = tmp_path / new_hub_name()
        folder.mkdir()
        return create_deployment_fixture(server, fork_server, folder, f"shop-{new_hub_name()}", connection_proxy.url)

    return opened


class Killer:
    """Kills safe-deploy at one of its requests, counted from 1: before the server sees it, or before its answer comes
    back."""

    def __init__(self, connection_proxy: ConnectionProxy, number: int, answered: bool) -> None:
        self.running_cli: RunningCli | None = None
        self.known = threading.Event()
        connection_proxy.clear()
        if answered:
            connection_proxy.cut_before_response = self.at(number)
        else:
            connection_proxy.cut_before_request = self.at(number)

    def at(self, wanted: int) -> Callable[[int, Request], bool]:
        def kill_at_request(number: int, request: Request) -> bool:
            if number != wanted:
                return False
            assert self.known.wait(60)
            assert self.running_cli is not None
            kill_cli(self.running_cli)
            return True

        return kill_at_request

    def kills(self, deployment_fixture: DeploymentFixture, arguments: list[str]) -> None:
        self.running_cli = deployment_fixture.start(arguments)
        self.known.set()
        ended = self.running_cli.wait_for_result()
        assert ended.code == -signal.SIGKILL, ended.stderr


def prepare_swap(deployment_fixture: DeploymentFixture) -> list[str]:
    deployment_fixture.stage()
    return deployment_fixture.swap()


def prepare_rollback(deployment_fixture: DeploymentFixture) -> list[str]:
    """Of a swap that was done. The hub to come back to is then the new one of the shop."""
    deployment_fixture.stage()
    deployment_fixture.report_swap(deployment_fixture.new, "Done")
    deployment_fixture.set_slot_task_hubs(production=deployment_fixture.new, staging=deployment_fixture.old)
    deployment_fixture.old, deployment_fixture.new = deployment_fixture.new, deployment_fixture.old
    return deployment_fixture.rollback()


def prepare_deploy(deployment_fixture: DeploymentFixture) -> list[str]:
    return deployment_fixture.deploy()


LONG = pytest.mark.long
COMMANDS = pytest.mark.parametrize(
    "prepared", [prepare_swap, pytest.param(prepare_rollback, marks=LONG), pytest.param(prepare_deploy, marks=LONG)]
)


@COMMANDS
@pytest.mark.parametrize("answered", [False, True])
def test_whichever_request_is_the_last_of_a_killed_run_the_next_run_ends_well(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepared: Callable[[DeploymentFixture], list[str]],
    answered: bool,
) -> None:
    connection_proxy.clear()
    whole = deployment_fixtures()
    ended = whole.run(prepared(whole))
    assert ended.code == 0, ended.stderr
    assert whole.is_swapped()
    requests = list(connection_proxy.requests)
    assert len(requests) >= 3, "there is the look, the beginning, and the confirmation"
    deployment_fixture: DeploymentFixture | None = None
    for number, (method, _) in enumerate(requests, 1):
        if answered and method == "GET":
            # Nothing has changed: to be killed now is to be killed before the next request.
            continue
        if deployment_fixture is None:
            deployment_fixture = deployment_fixtures()
            arguments = prepared(deployment_fixture)
            fresh = state(deployment_fixture)
        Killer(connection_proxy, number, answered).kills(deployment_fixture, arguments)
        connection_proxy.clear()
        if state(deployment_fixture) == fresh and number < len(requests):
            # As if it had never been run: good enough for the next one to be killed.
            continue
        again = deployment_fixture.run(arguments)
        assert again.code == 0, f"after request {number}: {again.stderr}"
        assert deployment_fixture.is_swapped(), f"after request {number}: {again.stderr}"
        assert deployment_fixture.count_swaps() == 1, f"after request {number}: {again.stderr}"
        deployment_fixture = None


def state(deployment_fixture: DeploymentFixture) -> tuple[object, ...]:
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
def test_killed_within_the_platforms_swap_the_next_run_ends_well(
    deployment_fixtures: Callable[[], DeploymentFixture],
    connection_proxy: ConnectionProxy,
    prepared: Callable[[DeploymentFixture], list[str]],
    with_az: bool,
    swapped: bool,
) -> None:
    connection_proxy.clear()
    deployment_fixture = deployment_fixtures()
    arguments = prepared(deployment_fixture)
    # Who is left alone comes to its end soon; who is killed never does.
    seconds = 60 if with_az else 0.5
    deployment_fixture.fake_azure.fault(
        "swap", code=None, delay=0 if swapped else seconds, delay_after=seconds if swapped else 0, times=1
    )
    running_cli = deployment_fixture.start(arguments)
    began = (
        deployment_fixture.azure_hubs
        if prepared is not prepare_deploy
        else lambda: (deployment_fixture.old, deployment_fixture.new)
    )
    unswapped = began()
    wait_until(
        lambda: deployment_fixture.count_swaps() == 1 and (not swapped or deployment_fixture.azure_hubs() != unswapped),
        "the platform swaps",
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
    """The process of this shop's `az` that swaps."""
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
    raise AssertionError("no az of this shop runs")
