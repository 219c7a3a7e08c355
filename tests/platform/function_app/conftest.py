"""Fixtures: one Functions host for all these tests, because it takes seconds to start, with a storage account of its
own."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

import function_app
from harness.functions_host import FunctionsHost, copy_deployed_app, run_functions_host
from harness.processes import free_ports
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings
from tests.platform.function_app.server_keys import KEYS_BY_ROLE, key_header, server_key_entries


class Azurite:
    """A storage account that a test can stop and start again. It keeps its data."""

    def __init__(self, folder: Path) -> None:
        """Start the emulator with its data in this folder, on ports that stay the same."""
        self._folder = folder
        self._ports = EmulatorPorts(*free_ports(3))
        self._running = ExitStack()
        self.start()

    @property
    def connection(self) -> str:
        return self._ports.connection_string()

    @property
    def settings(self) -> StorageSettings:
        return StorageSettings.model_validate({"connection_string": self.connection})

    def start(self) -> None:
        self._running.enter_context(storage_emulator(self._ports, self._folder))

    def stop(self) -> None:
        self._running.close()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A storage emulator that a test can stop and start again, with its data on disk."""
    azurite = Azurite(tmp_path_factory.mktemp("azurite"))
    yield azurite
    azurite.stop()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the project as it is deployed."""
    return copy_deployed_app(Path(function_app.__file__).parent, tmp_path_factory.mktemp("package") / "app")


@pytest.fixture(scope="session")
def host(azurite: Azurite, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FunctionsHost]:
    """The Function App with the settings of docs/azure.md."""
    settings = {
        "AzureWebJobsStorage": azurite.connection,
        "AzureWebJobsDisableHomepage": "true",
        "STATE_STORAGE": azurite.connection,
        "STATE_TASKHUBS_SHOP": azurite.connection,
        "STATE_KEYS": json.dumps(server_key_entries()),
    }
    with run_functions_host(package, tmp_path_factory.mktemp("host"), settings) as host:
        yield host


@pytest.fixture
def admin(host: FunctionsHost) -> Iterator[httpx.Client]:
    """A client with an administrator's key for all apps."""
    with httpx.Client(base_url=host.url, headers=key_header(KEYS_BY_ROLE["admin"]), timeout=60) as client:
        yield client


@pytest.fixture
def anonymous(host: FunctionsHost) -> Iterator[httpx.Client]:
    """A client without a key."""
    with host.client() as client:
        yield client
