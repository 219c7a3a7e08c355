"""The function app on the storage of the test run, configured by environment variables as in Azure."""

import importlib.util
import json
from collections.abc import AsyncIterator, Iterator

import pytest

import function_app
from harness.processes import free_port
from state_api.settings import (
    DOCUMENTED_SETTINGS,
    STATE_KEYS,
    STATE_STORAGE,
    StorageSettings,
    emulator_connection_string,
)
from tests.functions.invocations import ADMIN_KEY
from tests.keys import key_entry

# Microsoft's runtime library exists for Python 3.13 and newer; dev/test-functions installs it.
collect_ignore = [] if importlib.util.find_spec("azure_functions_runtime") else ["runtime"]


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment has no setting except an admin's key, and no server exists yet."""
    for name in DOCUMENTED_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(STATE_KEYS, json.dumps([key_entry(ADMIN_KEY, "admin")]))
    function_app.server.cache_clear()
    yield
    function_app.server.cache_clear()


@pytest.fixture
async def function_app_settings(
    no_settings: None, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[None]:
    """The environment has the storage of the test run and an admin's key. Closes the server at the end."""
    assert storage.connection_string is not None
    monkeypatch.setenv(STATE_STORAGE, storage.connection_string.get_secret_value())
    yield
    await function_app.server().close()


@pytest.fixture
async def unreachable_storage(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[None]:
    """The setting of the state storage names a port at which no storage listens. Closes the server at the end."""
    monkeypatch.setenv(STATE_STORAGE, emulator_connection_string("127.0.0.1", free_port()))
    yield
    await function_app.server().close()
