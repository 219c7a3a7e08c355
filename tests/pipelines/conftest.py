"""Fixtures: a state server with keys, a CI machine, and an app for every test."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.processes import stop_after, wait_until
from harness.state_server import ROOT, ServerProcess, run_server
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name, run_storage
from tests.keys import key_entries
from tests.pipelines.ci_machine import KEYS, Machine, PipelineApp
from tests.pipelines.deploy_script import DeployScript
from tests.pipelines.job_killer import JobKiller
from tests.pipelines.side_by_side_cloud import (
    ShiftedServer,
    SideBySideCloud,
    run_app_starter,
    run_router,
    run_shifted_server,
)
from tests.pipelines.workflow_releases import ReleaseRunner
from tests.safe_deploy.connection_proxy import run_connection_proxy


@pytest.fixture(scope="session")
def state_server(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all pipelines."""
    keys = key_entries(KEYS)
    with run_server(storage, tmp_path_factory.mktemp("server"), keys) as served:
        yield served


@pytest.fixture(scope="session")
def fork_server_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process that has imported `safe_deploy`."""
    address = tmp_path_factory.mktemp("fork-server") / "socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.pipelines.fork_server", address], cwd=ROOT)
    with stop_after(process):
        wait_until(lambda: address.exists() or process.poll() is not None, "the fork server listens")
        yield address


@pytest.fixture
def machine(tmp_path: Path, fork_server_address: Path) -> Machine:
    """A machine on which pipelines run, with a fake `az` and a home of its own."""
    return Machine(tmp_path, fork_server_address)


@pytest.fixture
def pipeline_app(state_server: ServerProcess, machine: Machine, app: str) -> Iterator[PipelineApp]:
    """An app on the state server that no pipeline has deployed yet."""
    headers = {"x-functions-key": KEYS["admin"], "X-Actor": "the test"}
    with httpx.Client(base_url=state_server.url, headers=headers, timeout=60) as admin:
        yield PipelineApp(app, state_server.url, machine.fake_azure, admin)


@pytest.fixture
def release_runner(machine: Machine, pipeline_app: PipelineApp) -> ReleaseRunner:
    """Runs GitHub workflows that deploy the app."""
    return ReleaseRunner(machine, pipeline_app)


@pytest.fixture
def deploy_script(machine: Machine, pipeline_app: PipelineApp) -> DeployScript:
    """Runs deploy.sh for the app."""
    return DeployScript(machine, pipeline_app)


@pytest.fixture
def staged(pipeline_app: PipelineApp, deploy_script: DeployScript) -> tuple[str, str]:
    """The task hubs in production and in the slot, after a release was staged over an empty slot and deployed."""
    old_hub, new_hub = new_hub_name(), new_hub_name()
    pipeline_app.put_app({"slots": {"production": {"taskHub": old_hub}}})
    deploy_script.run("stage", task_hub=new_hub, version="1.5.0")
    assert deploy_script.exit_code == ExitCode.DONE, deploy_script.stderr
    pipeline_app.reset_azure({"TASK_HUB": old_hub}, {"TASK_HUB": new_hub})
    return old_hub, new_hub


@pytest.fixture(scope="session")
def shifted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShiftedServer]:
    """One server whose clock tests advance. It has a storage of its own, because its timer would change the rollouts of
    other tests at times that lie in the future."""
    folder = tmp_path_factory.mktemp("shifted-server")
    with run_storage() as storage, run_shifted_server(storage, folder) as server:
        yield server


@pytest.fixture
def job_killer(shifted_server: ShiftedServer, machine: Machine) -> Iterator[JobKiller]:
    with run_connection_proxy(shifted_server.url) as proxy:
        yield JobKiller(machine, proxy)


@pytest.fixture
def side_by_side_cloud(
    shifted_server: ShiftedServer, machine: Machine, job_killer: JobKiller, app: str
) -> Iterator[SideBySideCloud]:
    """An app without releases, with a router. Jobs send their requests to the server through the proxy that can kill
    them."""
    headers = {"x-functions-key": KEYS["admin"], "X-Actor": "the test"}
    with (
        run_app_starter(shifted_server.connection) as starter_port,
        httpx.Client(base_url=shifted_server.url, headers=headers, timeout=60) as admin,
    ):
        pipeline_app = PipelineApp(app, job_killer.proxy.url, machine.fake_azure, admin)
        cloud = SideBySideCloud(pipeline_app, shifted_server)
        cloud.create(starter_port)
        with run_router(shifted_server.url, app):
            yield cloud
