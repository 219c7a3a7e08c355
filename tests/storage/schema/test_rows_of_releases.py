"""Used versions and acknowledgements of routers with another schema number: they are refused, and never changed."""

import httpx
import pytest

from state_api.app import StateServer
from state_api.storage.tables import APPS_TABLE
from tests.http.operations import assert_problem
from tests.http.release_operations import (
    delete_release,
    get_routing,
    post_release,
    put_side_by_side_app,
    register_and_promote,
)
from tests.storage.schema.stored_app import NEWER_SCHEMA, StoredApp

pytestmark = pytest.mark.anyio


async def test_rows_of_releases_of_another_schema(server: StateServer, http: httpx.AsyncClient, app: str) -> None:
    """A version that may have been used, and a router that may be behind, are not taken for what they are not."""
    await put_side_by_side_app(http, app)
    await register_and_promote(http, app, "1", "2")
    await get_routing(http, app, router="envoy-1")
    stored = StoredApp(server, app)
    router = stored.with_schema_number(APPS_TABLE, lambda row: row["RowKey"] == "router|envoy-1", NEWER_SCHEMA)
    async with router as new_http:
        for response in (
            await new_http.get(f"/api/apps/{app}/releases/1/status"),
            await new_http.get(f"/api/apps/{app}/releases"),
            await delete_release(new_http, app, "1", "Pending"),
            await get_routing(new_http, app, router="envoy-1"),
        ):
            assert "acknowledgements of routers" in assert_problem(response, 503, "UnsupportedSchema")["detail"]
        assert (await get_routing(new_http, app)).status_code == 200, "it needs no such row"
    assert (await http.get(f"/api/apps/{app}/releases/1/status")).status_code == 200
    version = stored.with_schema_number(APPS_TABLE, lambda row: row["RowKey"] == "version|3", NEWER_SCHEMA)
    assert (await post_release(http, app, "3")).status_code == 200
    assert (await delete_release(http, app, "3", "Done")).status_code == 200
    async with version as new_http:
        refused = await post_release(new_http, app, "3")
        assert "used versions" in assert_problem(refused, 503, "UnsupportedSchema")["detail"]
