"""The running sample app that the tests of a module share."""

from collections.abc import Iterator

import pytest

from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import (
    run_engine,
    run_slot,
    run_topic,
)
from tests.durable_app.running_app import RunningApp


@pytest.fixture(scope="module")
def running_app(storage: StorageSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """A running engine and slot of the sample app, for all tests of this module."""
    folder = tmp_path_factory.mktemp("durable_app")
    with (
        run_topic() as topic,
        run_engine(new_hub_name(), storage, topic, folder) as engine,
        run_slot(engine, "v1", folder) as slot,
    ):
        yield RunningApp(topic, engine, slot, storage)
