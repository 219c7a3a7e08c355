"""The backend `azureStorage` on every recorded row of the real extension."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
from azure.data.tables.aio import TableServiceClient

from state_api.backends.azure_storage import AzureStorageBackend
from state_api.domain.instants import parse_instant
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.settings import StorageSettings
from state_api.storage.instance_keys import unescape_instance_id
from tests import recordings
from tests.backends.azure_storage_task_hub import provider_row

pytestmark = pytest.mark.anyio

ODD_IDS = ("Case", "case", "[brackets]", "a+b&c=d", "it's", "per%cent", "semi;colon", "z" * 100, "ünï cödé", "日本語")
WAITS_WITH_ODD_IDS = dict.fromkeys(ODD_IDS, "Running")
ORPHANED_CHILDREN = {"parent-terminated:0": "Running", "parent-terminated:1": "Running"}
"""Terminating a parent leaves its sub-orchestrations running."""

ACTIVE_BY_SNAPSHOT: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("suspended", "Recorded"): {"wait-suspended": "Suspended"},
    ("rewound", "Recorded"): {},
    ("rewound and active", "Recorded"): {recordings.REWOUND_INSTANCE_ID: "Pending"},
    ("parent with two children", "Recorded"): {
        "mends-not": "Pending",
        "parent-2": "Running",
        "parent-2:0": "Running",
        "parent-2:1": "Running",
    },
    ("parent terminated, children not", "Recorded"): {"mends-not": "Pending", **ORPHANED_CHILDREN},
    ("odd ids running", "Recorded"): {
        "mends-not": "Pending",
        "timer-long": "Running",
        **ORPHANED_CHILDREN,
        **WAITS_WITH_ODD_IDS,
    },
    ("end", "Recorded"): {"mends-not": "Pending", **ORPHANED_CHILDREN, **WAITS_WITH_ODD_IDS},
    ("end", "RecordedV2"): {
        "versioned-parent": "Running",
        "versioned-parent:0": "Running",
        "versioned-waits": "Running",
    },
    ("end", "RecordedSessions"): {},
}
"""The active instances of each recorded snapshot, with their statuses."""

PYTHON_ACTIVE = dict.fromkeys(("[b]", "a b&c=d", "it's", "per�nt", "x y", "日"), "Running")


@pytest.fixture
async def backend(storage: StorageSettings, anyio_backend: str) -> AsyncIterator[AzureStorageBackend]:
    """The backend that reads task hubs in the emulator."""
    backend = AzureStorageBackend(storage, "STATE_TASKHUBS_SHOP")
    yield backend
    await backend.close()


async def write_rows(storage: StorageSettings, hub: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Write recorded rows as those of this task hub. Return the ids of the orchestrations."""
    assert storage.connection_string is not None
    connection = storage.connection_string.get_secret_value()
    ids = []
    async with TableServiceClient.from_connection_string(connection) as service:
        table = await service.create_table(f"{hub}Instances")
        for recorded in rows:
            await table.create_entity(recordings.to_table_entity(recorded, TaskHubName=hub))
            ids.append(unescape_instance_id(recorded["PartitionKey"]))
    return [instance_id for instance_id in ids if not instance_id.startswith("@")]


async def scan(backend: AzureStorageBackend, hub: str) -> list[ObservedInstance]:
    """The instances that a whole scan reads."""
    start = await backend.begin_scan(hub)
    cursors, instances = list(start.cursors), list[ObservedInstance]()
    while cursors:
        page = await backend.read_page(hub, start.changed_since, cursors.pop())
        instances += page.instances
        cursors += page.cursors
    return instances


def list_active_statuses(observed_instances: Iterable[ObservedInstance | None]) -> dict[str, str]:
    """Return the runtime statuses of the active instances by id."""
    return {
        observed.instance_id: observed.runtime_status
        for observed in observed_instances
        if observed is not None and observed.active
    }


def test_every_recorded_snapshot_is_tested() -> None:
    assert set(recordings.list_recorded_moments()) == set(ACTIVE_BY_SNAPSHOT)


@pytest.mark.parametrize(("snapshot", "recorded_hub"), ACTIVE_BY_SNAPSHOT)
async def test_the_recorded_rows_show_what_was_active(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str, snapshot: str, recorded_hub: str
) -> None:
    rows = recordings.read_instance_rows(snapshot, recorded_hub)
    ids = await write_rows(storage, hub, rows)
    active = ACTIVE_BY_SNAPSHOT[snapshot, recorded_hub]
    instances = await scan(backend, hub)
    assert list_active_statuses(instances) == active
    # Entities are returned because they have changed. They are never active.
    assert {observed.instance_id for observed in instances if not observed.instance_id.startswith("@")} <= set(ids)
    looked_up = await backend.find_instances(hub, ids)
    assert list_active_statuses(looked_up.values()) == active
    by_id = {unescape_instance_id(recorded["PartitionKey"]): recorded for recorded in rows}
    for instance_id, observed in looked_up.items():
        assert observed is not None
        recorded = by_id[instance_id]
        assert (observed.function_name, observed.runtime_status) == (recorded["Name"], recorded["RuntimeStatus"])
        assert observed.created_at == parse_instant(recorded["CreatedTime"])
        assert observed.version == recorded.get("Version")


async def test_the_recorded_rows_of_a_python_app_show_what_was_active(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    """Orchestrations whose ends were never published are not active."""
    ids = await write_rows(storage, hub, recordings.read_lines("python-instances"))
    assert list_active_statuses(await scan(backend, hub)) == PYTHON_ACTIVE
    observed_by_id = await backend.find_instances(hub, ids)
    assert list_active_statuses(observed_by_id.values()) == PYTHON_ACTIVE
    for instance_id in ("EventOrTimerCancel", "EventOrTimerCancelThenFail", "ActivityOrTimerCancel"):
        observed = observed_by_id[instance_id]
        assert observed is not None
        assert not observed.active


async def test_the_default_version_of_an_app_is_shown(
    storage: StorageSettings, backend: AzureStorageBackend, hub: str
) -> None:
    await write_rows(storage, hub, recordings.read_instance_rows("end", "RecordedV2"))
    assert {observed.version for observed in await scan(backend, hub)} == {"2.0"}


@pytest.mark.parametrize(("key", "status"), [("chain-3", "Completed"), ("Case", "Running")])
def test_generated_rows_have_the_columns_of_recorded_rows(key: str, status: str) -> None:
    recorded = recordings.to_table_entity(recordings.read_instance_row(key))
    assert set(provider_row("hub", key, status)) == set(recorded)
