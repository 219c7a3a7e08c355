"""What several tests of the command line share: a server with a key for every role, and an app on it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.safe_deploy.place import Place
from tests.safe_deploy.processes import roles, state_server
from tests.safe_deploy.shop import Shop, Starter, Way, admin, open_shop, starter, way_to
from tests.server.processes import Served


@pytest.fixture(scope="session")
def served(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with keys. The apps' task hubs live in its own storage."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    with state_server(storage, tmp_path_factory.mktemp("server"), roles(), STATE_TASKHUBS_SHOP=connection) as one:
        yield one


@pytest.fixture
def place(served: Served) -> Place:
    return Place(served.url)


@pytest.fixture(scope="session")
def server(served: Served) -> Iterator[httpx.Client]:
    with admin(served.url) as client:
        yield client


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with starter(tmp_path_factory.mktemp("exits")) as one:
        yield one


@pytest.fixture
def shop(server: httpx.Client, start: Starter, tmp_path: Path, app: str) -> Shop:
    return open_shop(server, start, tmp_path, app)


@pytest.fixture
def staged(shop: Shop) -> Shop:
    """The new hub is staged, and the slot carries it."""
    shop.stage()
    return shop


@pytest.fixture
def swapped(staged: Shop) -> Shop:
    """The new hub is in production, and the old one in the slot."""
    staged.tell(staged.new, "Done")
    staged.carry(production=staged.new, staging=staged.old)
    assert staged.is_swapped()
    return staged


@pytest.fixture
def way(server: httpx.Client, shop: Shop) -> Iterator[Way]:
    """safe-deploy reaches the server by this way."""
    direct = shop.url
    with way_to(direct) as way:
        shop.url = way.url
        yield way
    shop.url = direct
