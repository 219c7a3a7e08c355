"""Fixtures of the CLI's tests: a server with a key for every role, and an app on it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.state_server import ServerProcess
from state_api.settings import StorageSettings
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.connection_proxy import ConnectionProxy, run_connection_proxy
from tests.safe_deploy.deployment_fixture import (
    DeploymentFixture,
    ForkServer,
    create_deployment_fixture,
    open_admin_client,
    run_fork_server,
)
from tests.safe_deploy.doctor_runner import register_verified_app
from tests.safe_deploy.fault_proxy import FaultProxy, run_fault_proxy
from tests.safe_deploy.injections import AppWithInjections
from tests.safe_deploy.processes import server_key_entries, state_server
from tests.safe_deploy.release_fixture import ReleaseFixture, create_release_fixture
from tests.safe_deploy.shifted_server import ShiftedServer, serve_with_shifted_clock
from tests.safe_deploy.slot_rollout_fixture import SlotRolloutFixture, create_slot_rollout_fixture
from tests.safe_deploy.wait_scenario import WaitScenario


@pytest.fixture(scope="session")
def served(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with keys. The app's task hubs are in the server's own storage account."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    with state_server(
        storage, tmp_path_factory.mktemp("server"), server_key_entries(), STATE_TASKHUBS_SHOP=connection
    ) as state_server_process:
        yield state_server_process


@pytest.fixture
def app_client(served: ServerProcess) -> AppClient:
    """A client of an app of its own on the session's state server."""
    return AppClient(served.url)


@pytest.fixture(scope="session")
def server(served: ServerProcess) -> Iterator[httpx.Client]:
    """An HTTP client with the key of an administrator."""
    with open_admin_client(served.url) as client:
        yield client


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Starts CLI processes by a fork, which is much faster than starting Python for each."""
    with run_fork_server(tmp_path_factory.mktemp("exits")) as fork_server:
        yield fork_server


@pytest.fixture
def deployment_fixture(server: httpx.Client, fork_server: ForkServer, tmp_path: Path, app: str) -> DeploymentFixture:
    """An app with slots at the fake `az`, and a task hub that is ready to be deployed."""
    return create_deployment_fixture(server, fork_server, tmp_path, app)


@pytest.fixture
def staged(deployment_fixture: DeploymentFixture) -> DeploymentFixture:
    """The new task hub is staged on the server, and in the slot in Azure."""
    deployment_fixture.stage()
    return deployment_fixture


@pytest.fixture
def swapped(staged: DeploymentFixture) -> DeploymentFixture:
    """The new task hub is in production and the old one in the slot, on the server and in Azure."""
    staged.report_swap(staged.new, "Done")
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert staged.is_swapped()
    return staged


@pytest.fixture
def connection_proxy(server: httpx.Client, deployment_fixture: DeploymentFixture) -> Iterator[ConnectionProxy]:
    """A proxy through which safe-deploy reaches the server."""
    direct_url = deployment_fixture.url
    with run_connection_proxy(direct_url) as connection_proxy:
        deployment_fixture.url = connection_proxy.url
        yield connection_proxy
    deployment_fixture.url = direct_url


@pytest.fixture(scope="session")
def shifted_server(storage: StorageSettings) -> Iterator[ShiftedServer]:
    """A server with keys, whose clock tests can advance."""
    with serve_with_shifted_clock(storage) as shifted_server:
        yield shifted_server


@pytest.fixture(scope="session")
def shifted_client(shifted_server: ShiftedServer) -> Iterator[httpx.Client]:
    with open_admin_client(shifted_server.url) as client:
        yield client


@pytest.fixture
def releases(
    shifted_server: ShiftedServer, shifted_client: httpx.Client, fork_server: ForkServer, tmp_path: Path
) -> ReleaseFixture:
    """An app with releases side by side, and none yet."""
    releases = create_release_fixture(shifted_client, fork_server, tmp_path, shifted_server.clock)
    releases.create()
    return releases


@pytest.fixture
def releases_proxy(releases: ReleaseFixture) -> Iterator[ConnectionProxy]:
    """A proxy through which safe-deploy reaches the server."""
    with run_connection_proxy(releases.cli.url) as connection_proxy:
        releases.cli.url = connection_proxy.url
        yield connection_proxy


@pytest.fixture
def proxy(served: ServerProcess) -> Iterator[FaultProxy]:
    """A proxy to the server that can inject faults."""
    with run_fault_proxy(served.url) as proxy:
        yield proxy


@pytest.fixture
def wait_scenario(app_client: AppClient) -> WaitScenario:
    """An app whose slot becomes ready when the test says so."""
    return WaitScenario(app_client)


@pytest.fixture
def azure_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAzure:
    """A fake `az` on this process's PATH."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return FakeAzure(tmp_path / "cloud.json")


@pytest.fixture
def registered_app(app_client: AppClient, storage: StorageSettings) -> AppClient:
    """An app that passes every check except those of Azure."""
    return register_verified_app(app_client, storage)


@pytest.fixture(scope="session")
def app_with_injections(served: ServerProcess) -> AppWithInjections:
    """An app whose names and reasons hold what a log or a terminal would take for commands."""
    return AppWithInjections(AppClient(served.url))


@pytest.fixture
def slot_rollout(
    shifted_server: ShiftedServer, shifted_client: httpx.Client, fork_server: ForkServer, tmp_path: Path, app: str
) -> Iterator[SlotRolloutFixture]:
    """A version in slot staging that is ready for a rollout."""
    with run_connection_proxy(shifted_server.url) as proxy:
        yield create_slot_rollout_fixture(shifted_client, fork_server, tmp_path, shifted_server.clock, proxy, app)
