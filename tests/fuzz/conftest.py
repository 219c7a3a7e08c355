"""A server that takes deliveries, and what it keeps of each."""

from collections.abc import Iterator

import pytest

from state_api.settings import StorageSettings
from tests.fuzz.deliveries import Deliveries
from tests.server.processes import serving


@pytest.fixture(scope="module")
def deliveries(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deliveries]:
    with (
        serving(storage, tmp_path_factory.mktemp("fuzzed")) as served,
        served.client() as client,
        Deliveries.to(client, storage) as deliveries,
    ):
        yield deliveries
