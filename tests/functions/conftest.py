"""The function app on the run's storage, set up through the environment as in Azure."""

import importlib.util
from collections.abc import AsyncIterator, Iterator

import pytest

import function_app
from state_api.settings import DOCUMENTED, STORAGE, StorageSettings

# Microsoft's runtime library exists for Python 3.13 and newer; dev/test-functions installs it.
collect_ignore = [] if importlib.util.find_spec("azure_functions_runtime") else ["runtime"]


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting at all, and no server yet."""
    for name in DOCUMENTED:
        monkeypatch.delenv(name, raising=False)
    function_app.server.cache_clear()
    yield
    function_app.server.cache_clear()


@pytest.fixture
async def hosted(
    unset: None, storage: StorageSettings, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[None]:
    """The app's only setting is the run's storage. Closes whatever server the test has made."""
    assert storage.connection_string is not None
    monkeypatch.setenv(STORAGE, storage.connection_string.get_secret_value())
    yield
    await function_app.server().close()
