"""Commands of releases side by side that are killed before or after any request to the server, or while the user's
command runs, and then run again."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.safe_deploy.connection_proxy import ConnectionProxy, run_connection_proxy
from tests.safe_deploy.deployment_fixture import ForkServer
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub
from tests.safe_deploy.killer import Killer
from tests.safe_deploy.release_fixture import ReleaseFixture, create_release_fixture
from tests.safe_deploy.shifted_server import ShiftedServer

Prepare = Callable[[ReleaseFixture, StorageSettings], list[str]]


def prepare_release(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """Returns the arguments that deploy 1.1 beside 1.0."""
    releases.register_and_promote("1.0")
    return releases.release("1.1")


def prepare_release_with_provider(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """The same with a provider. The release is registered, because its task hub exists only after that."""
    releases.create(taskHubs=PROVIDER_CONFIG)
    releases.register("1.1")
    create_provider_hub(storage, releases.task_hub_of("1.1"))
    return releases.release("1.1")


def prepare_promotion(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """Returns the arguments that promote 1.1 after 1.0."""
    releases.register_and_promote("1.0")
    releases.register("1.1")
    return ["promote", "--version", "1.1"]


def prepare_rollback(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """Returns the arguments that roll back from 1.2 to 1.1."""
    releases.register_and_promote("1.0", "1.1", "1.2")
    return ["rollback"]


def prepare_retirement(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """Returns the arguments that retire 1.0 and 1.1, which have drained."""
    releases.register_and_promote("1.0", "1.1", "1.2")
    releases.let_routers_stop()
    return releases.retire()


def prepare_retirement_with_provider(releases: ReleaseFixture, storage: StorageSettings) -> list[str]:
    """Returns the arguments that retire 1.0, whose task hub is read at its provider."""
    releases.create(taskHubs=PROVIDER_CONFIG)
    for version in ("1.0", "1.1"):
        releases.register(version)
        create_provider_hub(storage, releases.task_hub_of(version))
        releases.route(version)
    releases.let_routers_stop()
    return releases.retire(options=["--version", "1.0"])


COMMANDS = pytest.mark.parametrize(
    ("prepare", "final_states"),
    [
        pytest.param(prepare_release, {"1.0": "Serving", "1.1": "Staged"}, id="release"),
        pytest.param(prepare_release_with_provider, {"1.1": "Staged"}, id="release with a provider"),
        pytest.param(prepare_promotion, {"1.0": "Draining", "1.1": "Serving"}, id="promote"),
        pytest.param(prepare_rollback, {"1.0": "Draining", "1.1": "Serving", "1.2": "Draining"}, id="rollback"),
        pytest.param(prepare_retirement, {"1.0": "Removed", "1.1": "Removed", "1.2": "Serving"}, id="retire"),
        pytest.param(
            prepare_retirement_with_provider, {"1.0": "Removed", "1.1": "Serving"}, id="retire with a provider"
        ),
    ],
)


@pytest.fixture(scope="module")
def connection_proxy(shifted_server: ShiftedServer) -> Iterator[ConnectionProxy]:
    """A proxy in front of the state server, at whose requests a test kills the CLI."""
    with run_connection_proxy(shifted_server.url) as connection_proxy:
        yield connection_proxy


@pytest.fixture
def new_releases(
    shifted_server: ShiftedServer,
    shifted_client: httpx.Client,
    fork_server: ForkServer,
    connection_proxy: ConnectionProxy,
    tmp_path: Path,
) -> Callable[[], ReleaseFixture]:
    """Creates a new app on every call. safe-deploy reaches the server through the proxy."""

    def create_app() -> ReleaseFixture:
        """A new app without releases, whose commands go through the proxy."""
        folder = tmp_path / new_hub_name()
        folder.mkdir()
        releases = create_release_fixture(
            shifted_client, fork_server, folder, shifted_server.clock, url=connection_proxy.url
        )
        releases.create()
        return releases

    return create_app


def read_state(releases: ReleaseFixture) -> tuple[object, ...]:
    """Everything that a run of safe-deploy can change."""
    app = releases.get_app()
    return app["routing"], app["releases"], app["deployment"], app["removedReleases"], releases.list_commands()


@COMMANDS
@pytest.mark.parametrize("server_answers", [False, True])
def test_the_next_run_ends_in_the_same_state_after_a_kill_at_any_request(
    new_releases: Callable[[], ReleaseFixture],
    connection_proxy: ConnectionProxy,
    storage: StorageSettings,
    prepare: Prepare,
    final_states: dict[str, str],
    *,
    server_answers: bool,
) -> None:
    connection_proxy.clear()
    uninterrupted = new_releases()
    result = uninterrupted.run(prepare(uninterrupted, storage))
    assert result.code == ExitCode.DONE, result.stderr
    assert uninterrupted.states() == final_states
    expected_history = list_operations(uninterrupted)
    requests = list(connection_proxy.requests)
    assert len(requests) >= 2, "one changes the app, and others read it"
    releases: ReleaseFixture | None = None
    for number, (method, _) in enumerate(requests, 1):
        if server_answers and method == "GET":
            # A GET changes nothing: a kill after it equals a kill before the next request.
            continue
        if releases is None:
            releases = new_releases()
            arguments = prepare(releases, storage)
            initial_state = read_state(releases)
        Killer(connection_proxy, number, server_answers=server_answers).run_until_killed(releases.start, arguments)
        connection_proxy.clear()
        if read_state(releases) == initial_state and number < len(requests):
            # The killed run changed nothing, so the app is reused for the next kill.
            continue
        again = releases.run(arguments)
        assert again.code == ExitCode.DONE, f"after request {number}: {again.stderr}"
        assert releases.states() == final_states, f"after request {number}: {again.stderr}"
        assert list_operations(releases) == expected_history, f"after request {number}: {again.stderr}"
        executed = {tuple(command) for command in releases.list_commands()}
        assert executed == {tuple(command) for command in uninterrupted_commands(uninterrupted, releases)}
        releases = None


def uninterrupted_commands(uninterrupted: ReleaseFixture, releases: ReleaseFixture) -> list[list[str]]:
    """What the user's command was run for without an interruption, with the task hubs of `releases`."""
    return [[version, releases.task_hub_of(version), address] for version, _, address in uninterrupted.list_commands()]


def list_operations(releases: ReleaseFixture) -> list[str]:
    """The changes on record, oldest first: a step that is repeated is on record once."""
    history = releases.request("GET", "/history", params={"top": 100})["history"]
    return [entry["operation"] for entry in reversed(history)]


@pytest.mark.parametrize("has_deployed", [False, True])
def test_the_next_run_deploys_again_after_a_kill_while_the_command_runs(
    releases: ReleaseFixture, *, has_deployed: bool
) -> None:
    *_, script = releases.record_command
    first_run = releases.cli.folder / "first-run"
    kill = f"[ -e {first_run} ] || {{ touch {first_run}; kill -9 $PPID; exit 1; }}"
    arguments = releases.release("1.0", "sh", "-c", f"{script}; {kill}" if has_deployed else f"{kill}; {script}")
    assert releases.start(arguments).wait_for_result().code == -signal.SIGKILL
    assert releases.states() == {"1.0": "Staged"}
    again = releases.run(arguments)
    assert again.code == ExitCode.DONE, again.stderr
    assert len(releases.list_commands()) == (2 if has_deployed else 1)
