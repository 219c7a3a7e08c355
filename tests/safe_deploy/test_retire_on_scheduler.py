"""`safe-deploy retire --scheduler`: the task hub is deleted on the scheduler for which the server has its record, and
on no other one. The server reads Microsoft's in-memory engine, and `az` is a fake one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.backends.fake_schedulers import CONNECTION_SETTING, InMemoryScheduler
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP, ForkServer, open_admin_client
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub
from tests.safe_deploy.release_fixture import (
    SECONDS_UNTIL_REMOVAL_EXPIRES,
    ReleaseFixture,
    create_release_fixture,
    name_of,
)
from tests.safe_deploy.shifted_server import ShiftedServer, serve_with_shifted_clock
from tests.safe_deploy.test_releases_in_azure import DELETE_ONCE, RETIRE

SCHEDULER_CONFIG = {"provider": "scheduler", "connection": CONNECTION_SETTING}
ON_SCHEDULER = [*RETIRE, "--scheduler", "shop-dts"]


@pytest.fixture(scope="module")
def engine() -> Iterator[InMemoryScheduler]:
    """A scheduler without instances, for which every task hub name is new."""
    engine = InMemoryScheduler()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def shifted_server(storage: StorageSettings, engine: InMemoryScheduler) -> Iterator[ShiftedServer]:
    """A server that can read the scheduler."""
    with serve_with_shifted_clock(storage, **{CONNECTION_SETTING: engine.connection}) as shifted_server:
        yield shifted_server


@pytest.fixture
def releases(shifted_server: ShiftedServer, fork_server: ForkServer, tmp_path: Path) -> Iterator[ReleaseFixture]:
    """An app with releases side by side on the server that can read the scheduler, and none yet."""
    with open_admin_client(shifted_server.url) as client:
        yield create_release_fixture(client, fork_server, tmp_path, shifted_server.clock)


@pytest.fixture
def drained(releases: ReleaseFixture, engine: InMemoryScheduler) -> ReleaseFixture:
    """1.0 has drained and 1.1 is active, with task hubs on shop-dts."""
    releases.create(taskHubs=SCHEDULER_CONFIG)
    releases.register_and_promote("1.0", "1.1")
    releases.let_routers_stop()
    create_schedulers(releases, f"http://{engine.address}")
    return releases


def create_schedulers(releases: ReleaseFixture, endpoint: str | None, name: str = "shop-dts") -> None:
    """Let Azure have a scheduler with this endpoint, the task hub of 1.0 and another one, the Function App of 1.0, and
    the server's."""
    task_hub = releases.task_hub_of("1.0")
    function_app = {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {"settings": {"TASK_HUB": task_hub}}}}
    scheduler = {"resourceGroup": RESOURCE_GROUP, "taskHubs": [task_hub, "other"], "endpoint": endpoint}
    server = {"resourceGroup": RESOURCE_GROUP, "slots": {"production": {}}}
    releases.cli.fake_azure.reset({name_of("1.0"): function_app, "shop-state": server}, {name: scheduler})


@pytest.mark.parametrize("failure", [None, "taskhub delete", "scheduler show"])
def test_the_task_hub_on_a_scheduler_is_deleted_before_the_release_is_removed(
    drained: ReleaseFixture, failure: str | None
) -> None:
    azure = drained.cli.fake_azure
    arguments = drained.retire("sh", "-c", DELETE_ONCE, options=ON_SCHEDULER)
    if failure is not None:
        azure.set_fault(failure, call_count=1)
        assert_exit(drained.run(arguments), ExitCode.FAILURE, "the release stays Removing")
        assert drained.states()["1.0"] == "Removing"
    assert_exit(drained.run(arguments), ExitCode.DONE)
    assert azure.task_hubs("shop-dts") == ["other"]
    assert drained.states()["1.0"] == "Removed"


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_endpoint_is_compared_without_its_final_slash(
    drained: ReleaseFixture, engine: InMemoryScheduler, ending: str
) -> None:
    create_schedulers(drained, f"HTTP://{engine.address}{ending}")
    assert_exit(drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=ON_SCHEDULER)), ExitCode.DONE)
    assert drained.cli.fake_azure.task_hubs("shop-dts") == ["other"]


@pytest.mark.parametrize("endpoint", ["https://team-b-dts.westeurope.durabletask.io", None])
def test_a_task_hub_of_the_same_name_on_another_scheduler_is_kept(
    drained: ReleaseFixture, endpoint: str | None
) -> None:
    """The server never asked that scheduler whether the name was new there."""
    create_schedulers(drained, endpoint, "team-b-dts")
    task_hub = drained.task_hub_of("1.0")
    options = [*RETIRE, "--scheduler", "team-b-dts"]
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=options))
    assert_exit(result, ExitCode.DONE, f"task hub {task_hub} stays on the scheduler", endpoint or "az does not show")
    assert drained.cli.fake_azure.task_hubs("team-b-dts") == [task_hub, "other"]
    assert drained.states()["1.0"] == "Removed"


def test_a_task_hub_that_was_new_in_a_storage_account_is_kept_on_a_scheduler(
    releases: ReleaseFixture, storage: StorageSettings, engine: InMemoryScheduler
) -> None:
    releases.create(taskHubs=PROVIDER_CONFIG)
    for version in ("1.0", "1.1"):
        releases.register(version)
        create_provider_hub(storage, releases.task_hub_of(version))
        releases.route(version)
    releases.let_routers_stop()
    create_schedulers(releases, f"http://{engine.address}")
    result = releases.run(releases.retire("sh", "-c", DELETE_ONCE, options=ON_SCHEDULER))
    assert_exit(result, ExitCode.DONE, "stays on the scheduler: the server has on record that it was new at")
    assert releases.cli.fake_azure.task_hubs("shop-dts") == [releases.task_hub_of("1.0"), "other"]


def test_a_task_hub_that_was_not_new_is_kept(releases: ReleaseFixture, engine: InMemoryScheduler) -> None:
    releases.create()
    releases.register_and_promote("1.0", "1.1")
    releases.let_routers_stop()
    create_schedulers(releases, f"http://{engine.address}")
    result = releases.run(releases.retire("sh", "-c", DELETE_ONCE, options=ON_SCHEDULER))
    assert_exit(result, ExitCode.DONE, "the server has no record that it was new")
    assert releases.cli.fake_azure.task_hubs("shop-dts") == [releases.task_hub_of("1.0"), "other"]


def test_the_task_hub_is_kept_if_another_run_has_taken_the_removal_over(
    drained: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """The other run decides what becomes of the task hub."""
    reads = 0

    def take_over(_: int, request: Request) -> bool:
        """Let another run take over before the app is read for the fourth time, which is after the command."""
        nonlocal reads
        reads += request == ("GET", f"/api/apps/{drained.app}")
        if reads == 4:
            reads += 1
            drained.clock.advance(SECONDS_UNTIL_REMOVAL_EXPIRES)
            drained.request("DELETE", "/releases/1.0", params={"outcome": "Pending"}, run_url=OTHER_RUN)
        return False

    releases_proxy.cut_before_request = take_over
    result = drained.run(drained.retire("sh", "-c", DELETE_ONCE, options=ON_SCHEDULER))
    assert_exit(
        result, ExitCode.CONFLICT, "its Function App is deleted, and another run is removing the release now", OTHER_RUN
    )
    assert drained.cli.fake_azure.task_hubs("shop-dts") == [drained.task_hub_of("1.0"), "other"]
    assert drained.states()["1.0"] == "Removing"
