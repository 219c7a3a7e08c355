"""Task hubs and storage accounts of apps, for tests of the whole server with verification."""

from collections.abc import AsyncIterator

import httpx
import pytest

from harness.storage_proxy import StorageProxy, run_storage_proxy
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderAccount, ProviderTaskHub
from tests.backends.storage_account import RawAccount, connection_string_of
from tests.conftest import new_hub_name
from tests.http.operations import PROVIDER_CONFIG, post_staging, post_swap, put_app


@pytest.fixture
async def provider_hub(storage: StorageSettings, hub: str, anyio_backend: str) -> AsyncIterator[ProviderTaskHub]:
    """The task hub at its provider, without tables and queues until a test creates them."""
    async with ProviderTaskHub(storage, hub) as task_hub:
        yield task_hub


@pytest.fixture
async def drained_provider_hub(http: httpx.AsyncClient, app: str, provider_hub: ProviderTaskHub) -> ProviderTaskHub:
    """A drained task hub in the staging slot of an app with verification and without a settle window."""
    await provider_hub.create()
    await put_app(
        http,
        app,
        slots={"staging": {"taskHub": provider_hub.hub}},
        policy={"settleSeconds": 0},
        taskHubs=PROVIDER_CONFIG,
    )
    return provider_hub


@pytest.fixture
async def provider_account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[ProviderAccount]:
    """The storage account in which the provider keeps the task hubs of the tests' apps."""
    async with ProviderAccount(storage) as account:
        yield account


@pytest.fixture
async def hubs_with_common_prefix(http: httpx.AsyncClient, app: str, provider_account: ProviderAccount) -> list[str]:
    """Three task hubs, like v10, v100 and v10x: the first name is a prefix of the others. The first task hub is
    retired, the others are in slots."""
    first = new_hub_name()[:12]
    names = [first, f"{first}0", f"{first}x"]
    await provider_account.add_queue(f"{first}-control-backup")
    await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)
    for name in names:
        assert (await post_staging(http, app, name)).status_code == 200
        # The app starts and creates the task hub.
        await provider_account.add_task_hub(name, ("order-1", "Completed"), ("@counter@shop", "Running"))
        assert (await post_swap(http, app, name)).status_code == 200
    return names


@pytest.fixture
async def raw_account(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[RawAccount]:
    """The app's storage account, to create single tables, queues and containers in it."""
    account = RawAccount(connection_string_of(storage))
    yield account
    await account.close()


@pytest.fixture
async def app_with_provider(http: httpx.AsyncClient, app: str) -> str:
    """An app with a provider and without a settle window."""
    assert (await put_app(http, app, policy={"settleSeconds": 0}, taskHubs=PROVIDER_CONFIG)).status_code == 200
    return app


@pytest.fixture
async def proxy(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[StorageProxy]:
    """A proxy in front of the storage of the task hubs. The server reaches its own storage directly."""
    async with run_storage_proxy(storage) as running_proxy:
        yield running_proxy
