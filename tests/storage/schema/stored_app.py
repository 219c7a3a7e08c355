"""An app whose stored rows get another schema number, and every operation as a request about it."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from azure.data.tables import TableEntity, UpdateMode

from state_api.app import StateServer
from state_api.storage.schema import (
    SCHEMA_PROPERTY,
)
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.http.operations import assert_problem

NEWER_SCHEMA = 99


OLDER_SCHEMA = 0


NO_SCHEMA = None


Row = dict[str, Any]


@dataclass
class StoredApp:
    """An app with a task hub in each slot and a stored probe result. The staged task hub has an active and a finished
    instance."""

    server: StateServer
    app: str
    hub: str = field(default_factory=new_hub_name)
    production: str = field(default_factory=new_hub_name)

    async def list_rows(self, table: str, matches: Callable[[Row], bool]) -> list[TableEntity]:
        """The rows of a table that match."""
        all_rows = self.server.tables.client(table).list_entities()
        return [row async for row in all_rows if matches(row)]

    @asynccontextmanager
    async def with_schema_number(
        self, table: str, matches: Callable[[Row], bool], number: int | None
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Give these rows another schema number, start a new server, and check that it changes none of them."""
        client = self.server.tables.client(table)
        before = await self.list_rows(table, matches)
        assert before, "there are such rows"
        for row in before:
            changed = {name: value for name, value in row.items() if name != SCHEMA_PROPERTY}
            changed |= {} if number is None else {SCHEMA_PROPERTY: number}
            await client.upsert_entity(changed, mode=UpdateMode.REPLACE)
        renumbered = await self.list_rows(table, matches)
        try:
            async with client_of_new_server(self.server) as http:
                yield http
            after = await self.list_rows(table, matches)
            assert [(dict(row), row.metadata["etag"]) for row in after] == [
                (dict(row), row.metadata["etag"]) for row in renumbered
            ]
        finally:
            for row in before:
                await client.upsert_entity(row, mode=UpdateMode.REPLACE)


@asynccontextmanager
async def client_of_new_server(server: StateServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a new server, which has no cached rows, on the same storage."""
    new_server = StateServer(server.api.state.settings)
    transport = httpx.ASGITransport(new_server.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://new", timeout=60) as client:
        yield client
    await new_server.close()


Request = tuple[str, str, Any]


def requests_of(stored_app: StoredApp) -> dict[str, Request]:
    """Every operation as a request about the stored app and its task hub."""
    app, hub = f"/api/apps/{stored_app.app}", stored_app.hub
    return {
        "GetStagingStatus": ("GET", f"{app}/staging?verify=none", None),
        "GetStagingStatus cached": ("GET", f"{app}/staging", None),
        "GetStagingStatus fresh": ("GET", f"{app}/staging?verify=fresh", None),
        "PostStaging": ("POST", f"{app}/staging", {"taskHub": new_hub_name()}),
        "PostStaging forced": ("POST", f"{app}/staging", {"taskHub": new_hub_name(), "force": True, "reason": "x"}),
        "DeleteStaging": ("DELETE", f"{app}/staging?taskHub={hub}", None),
        "Cleanup": ("POST", f"{app}/cleanup", {}),
        "ListApps": ("GET", "/api/apps", None),
        "GetApp": ("GET", app, None),
        "PutApp": ("PUT", app, {"slots": {"staging": None}}),
        "DeleteApp": ("DELETE", app, None),
        # After the operations that a pending swap makes the server refuse.
        "PostSwap": ("POST", f"{app}/swap", {"taskHub": hub, "outcome": "Pending"}),
        "GetHistory": ("GET", f"{app}/history", None),
        "PostWaiver": (
            "POST",
            f"{app}/waivers",
            {"taskHub": hub, "instanceId": "order-1", "reason": "x", "expiresAt": timestamp(3600)},
        ),
        "DeleteWaiver": ("DELETE", f"{app}/waivers?taskHub={hub}&instanceId=order-1", None),
        "GetTaskHub": ("GET", f"/api/taskhubs/{hub}", None),
        "DeleteTaskHub": ("DELETE", f"/api/taskhubs/{hub}", None),
        "ListInstances": ("GET", f"/api/taskhubs/{hub}/instances", None),
        "ListInstances ended": ("GET", f"/api/taskhubs/{hub}/instances?active=false&status=Completed", None),
        "GetTimeline": ("GET", f"/api/taskhubs/{hub}/timeline", None),
        "GetVersions": ("GET", f"/api/taskhubs/{hub}/versions", None),
        "PostEvents": ("POST", "/api/events", [event(hub, "order-1", "Completed"), event(hub, "order-2", "Failed")]),
        "ListQuarantine": ("GET", "/api/quarantine", None),
        "PurgeQuarantine": ("DELETE", "/api/quarantine?before=2020-01-01", None),
    }


async def assert_only_refused(
    http: httpx.AsyncClient, stored_app: StoredApp, operations: Collection[str], *, number: int | None, row_kind: str
) -> None:
    """Each of these operations is refused with 503 because of this kind of row. No other operation fails."""
    responses = {
        name: await http.request(method, path, json=body)
        for name, (method, path, body) in requests_of(stored_app).items()
    }
    assert {name for name, response in responses.items() if response.status_code >= 500} == set(operations)
    for name in operations:
        problem = assert_problem(responses[name], 503, "UnsupportedSchema")
        assert row_kind in problem["detail"], (name, problem)
        assert ("Run the server version" if number is not None else "empty storage account") in problem["detail"]
        assert int(responses[name].headers["retry-after"]) > 0


OPERATIONS_ON_APPS = (
    "GetStagingStatus",
    "GetStagingStatus cached",
    "GetStagingStatus fresh",
    "PostStaging",
    "PostStaging forced",
    "DeleteStaging",
    "PostSwap",
    "Cleanup",
    "ListApps",
    "GetApp",
    "PutApp",
    "DeleteApp",
    "GetHistory",
    "PostWaiver",
    "DeleteWaiver",
    "GetTaskHub",
    "GetVersions",
)


OPERATIONS_WITH_VERDICT = (
    "GetStagingStatus",
    "GetStagingStatus cached",
    "GetStagingStatus fresh",
    "PostStaging",
    "PostStaging forced",
    "PutApp",
    "DeleteApp",
)


other_schemas = pytest.mark.parametrize(
    "number", [NEWER_SCHEMA, OLDER_SCHEMA, NO_SCHEMA], ids=["newer", "older", "without a number"]
)
