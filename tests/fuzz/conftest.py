"""A server for deliveries, and a checker of what it stores."""

from collections.abc import Iterator

import pytest

from harness.state_server import run_server
from state_api.settings import StorageSettings
from tests.fuzz.deliveries import DeliveryChecker


@pytest.fixture(scope="module")
def deliveries(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeliveryChecker]:
    """Sends deliveries to a server process, and checks what it has recorded of them."""
    with (
        run_server(storage, tmp_path_factory.mktemp("fuzzed")) as server_process,
        server_process.client() as client,
        DeliveryChecker.connect(client, storage) as checker,
    ):
        yield checker
