"""What all stores share: long texts in rows, credentials and cached clients."""

import pytest

from harness.storage_proxy import run_storage_proxy
from state_api.settings import StorageSettings
from state_api.storage.tables import Tables, instance_table_name, join_property, split_property


@pytest.mark.parametrize("length", [0, 1, 29_999, 30_000, 30_001, 95_000])
def test_a_long_text_is_split_into_properties_and_joined_again(length: int) -> None:
    text = "ü" * length
    columns = split_property("State", text)
    assert all(len(piece) <= 30_000 for piece in columns.values())
    assert join_property("State", columns) == text


def test_the_longest_task_hub_name_gives_a_valid_table_name() -> None:
    assert len(instance_table_name("h" * 45)) == 63


@pytest.mark.parametrize("suffix", ["Instances", "History", "Partitions"])
def test_no_instance_table_has_the_name_of_a_providers_table(suffix: str) -> None:
    assert not instance_table_name("v41").endswith(suffix)


@pytest.mark.anyio
async def test_a_managed_identity_is_used_without_a_connection_string(anyio_backend: str) -> None:
    tables = Tables(StorageSettings(table_service_uri="https://state.table.core.windows.net", client_id="some-id"))
    assert tables.client("SafeDeployApps").url == "https://state.table.core.windows.net"
    await tables.close()


@pytest.mark.anyio
async def test_the_clients_that_were_used_last_stay_cached(
    storage: StorageSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state_api.storage.tables._MAX_CACHED_CLIENTS", 2)
    tables = Tables(storage)
    first, second = tables.client("one"), tables.client("two")
    assert tables.client("one") is first
    third = tables.client("three")
    assert (tables.client("three"), tables.client("one")) == (third, first)
    assert tables.client("two") is not second
    await tables.close()


@pytest.mark.anyio
async def test_a_table_is_created_although_the_connection_breaks(storage: StorageSettings, hub: str) -> None:
    """A storage closes connections that were idle, maybe in the moment in which the next request is sent."""
    paths: list[str] = []

    def is_first(method: str, path: str) -> bool:
        paths.append(f"{method} {path}")
        return len(paths) == 1

    async with run_storage_proxy(storage) as proxy:
        tables = Tables(proxy.settings)
        proxy.drops_response = is_first
        await tables.create_table(instance_table_name(hub))
        await tables.close()
    assert len(paths) == 2, paths
