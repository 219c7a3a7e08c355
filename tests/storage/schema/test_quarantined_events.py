"""Events in quarantine with another schema number: they are refused, and never changed."""

import pytest

from state_api.app import StateServer
from state_api.domain.instants import Instant
from state_api.services.ports import QuarantinedEvent
from state_api.settings import Settings, StorageSettings
from state_api.storage.quarantine import QuarantineStore
from state_api.storage.tables import QUARANTINE_TABLE
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem, post_staging, put_app
from tests.storage.schema.stored_app import (
    StoredApp,
    assert_only_refused,
    client_of_new_server,
    other_schemas,
)

pytestmark = pytest.mark.anyio


@other_schemas
async def test_an_event_of_another_schema_in_quarantine_is_refused(stored_app: StoredApp, number: int | None) -> None:
    store = QuarantineStore(stored_app.server.tables)
    await store.add([QuarantinedEvent(Instant(1), "BadTime", "message", "webhook", '"event"')])
    async with stored_app.with_schema_number(
        QUARANTINE_TABLE, lambda row: row["PartitionKey"] == "quarantine", number
    ) as http:
        operations = ("ListQuarantine", "PurgeQuarantine")
        await assert_only_refused(http, stored_app, operations, number=number, row_kind="events in quarantine")


@other_schemas
async def test_a_waiting_event_of_another_schema_is_refused(
    stored_app: StoredApp, storage: StorageSettings, number: int | None
) -> None:
    hub = new_hub_name()
    limited = StateServer(Settings(storage=storage, max_unclaimed_task_hubs=0))
    await limited.services.recorder.record([event(hub)], "webhook")
    await limited.close()
    async with stored_app.with_schema_number(
        QUARANTINE_TABLE, lambda row: row["PartitionKey"] == f"waiting|{hub}", number
    ) as http:
        for response in (
            await http.get(f"/api/taskhubs/{hub}"),
            await http.delete(f"/api/taskhubs/{hub}"),
            await post_staging(http, f"{stored_app.app}-b", hub),
            await put_app(http, f"{stored_app.app}-b", slots={"staging": {"taskHub": hub}}),
            await http.delete("/api/quarantine", params={"before": timestamp(1)}),
        ):
            assert "events in quarantine" in assert_problem(response, 503, "UnsupportedSchema")["detail"]
    # With its schema restored, the claim is on record and the event is recorded.
    async with client_of_new_server(stored_app.server) as http:
        assert (await put_app(http, f"{stored_app.app}-b", slots={"staging": {"taskHub": hub}})).status_code == 200
        assert (await http.get(f"/api/taskhubs/{hub}")).json()["activeCount"] == 1
