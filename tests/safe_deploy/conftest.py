"""What several tests of the command line share: a server with a key for every role, and an app on it."""

from collections.abc import Iterator

import pytest

from state_api.settings import StorageSettings
from tests.safe_deploy.place import Place
from tests.safe_deploy.processes import roles, state_server
from tests.server.processes import Served


@pytest.fixture(scope="module")
def served(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys. The apps' task hubs live in its own storage."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    with state_server(storage, tmp_path_factory.mktemp("server"), roles(), DURABLE_STORAGE=connection) as one:
        yield one


@pytest.fixture
def place(served: Served) -> Place:
    return Place(served.url)
