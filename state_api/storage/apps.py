"""App state and its audit log in one partition per app, so that a transition and its audit record are written in one
transaction or not at all. Here, and only here, an App is JSON."""

import asyncio
import functools
import json
from collections.abc import Mapping
from typing import Any

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import TableEntity, UpdateMode
from pydantic import TypeAdapter

from state_api.domain.names import app_key
from state_api.domain.releases.apps import App
from state_api.services.ports import AuditRecord, Page
from state_api.storage.schema import APP_INDEX_SCHEMA, APP_SCHEMA, AUDIT_SCHEMA
from state_api.storage.tables import (
    APPS_TABLE,
    Tables,
    etag_of,
    if_match,
    is_table_missing,
    is_write_conflict,
    join_property,
    read_page,
    split_property,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation

_APP_ROW_KEY = "app"
_INDEX_PARTITION = "|apps"
"""The partition that lists the apps; no app can have its name."""
_MAX_REVISION = 10**10

# Made when first used: that costs a cold start 60 ms.


@functools.cache
def _app_adapter() -> TypeAdapter[App]:
    return TypeAdapter(App)


@functools.cache
def _audit_adapter() -> TypeAdapter[AuditRecord]:
    return TypeAdapter(AuditRecord)


class AppStore:
    """Compare-and-swap by revision: the row's ETag guards the write, the revision what it was decided on."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(APPS_TABLE)

    async def get(self, name: str) -> App | None:
        app = await self.get_including_deleted(name)
        return None if app is None or app.deleted else app

    async def get_including_deleted(self, name: str) -> App | None:
        known = await self._read_with_etag(name)
        return known[0] if known else None

    async def commit(self, before: App, after: App, audit: AuditRecord) -> bool:
        """Write `after`, provided the state is still `before`. False if somebody else has changed it."""
        partition = app_key(after.name)
        known = await self._read_with_etag(after.name)
        if (known[0].revision if known else 0) != before.revision:
            return False
        if known is None:
            await self._add_to_index(after.name)
        key = {"PartitionKey": partition, "RowKey": _APP_ROW_KEY}
        state = {
            **key,
            **APP_SCHEMA.schema_property,
            "Name": after.name,
            **split_property("State", _serialize_app(after)),
        }
        operations: list[TableOperation] = [
            ("create", state)
            if known is None
            else ("update", state, {**if_match(known[1]), "mode": UpdateMode.REPLACE}),
            ("create", {"PartitionKey": partition, "RowKey": _audit_row_key(after.revision), **_audit_row(audit)}),
        ]
        async with translate_storage_errors():
            try:
                await submit_transaction(self._table, operations)
            except HttpResponseError as error:
                if not is_write_conflict(error):
                    raise
                return False
        return True

    async def list_page(self, top: int, token: str | None) -> Page[App]:
        rows = await read_page(self._table, "PartitionKey eq @p", {"p": _INDEX_PARTITION}, top, token, "apps")
        for row in rows.items:
            APP_INDEX_SCHEMA.check(row)
        apps = await asyncio.gather(*(self.get(row["RowKey"]) for row in rows.items))
        return Page(tuple(app for app in apps if app is not None), rows.continuation_token)

    async def list_history(self, app: App, top: int, token: str | None) -> Page[AuditRecord]:
        """Newest first."""
        query = "PartitionKey eq @p and RowKey ge 'audit|' and RowKey lt 'audit}'"
        rows = await read_page(self._table, query, {"p": app_key(app.name)}, top, token, "history")
        return Page(tuple(_audit_record_from_row(row) for row in rows.items), rows.continuation_token)

    async def _read_with_etag(self, name: str) -> tuple[App, str] | None:
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(app_key(name), _APP_ROW_KEY)
            except ResourceNotFoundError:
                return None
        APP_SCHEMA.check(row)
        return _app_adapter().validate_json(join_property("State", row)), etag_of(row)

    async def _add_to_index(self, name: str) -> None:
        """Put the app on the list before it is first written: a name on the list without an app is skipped."""
        for _ in range(2):
            async with translate_storage_errors():
                try:
                    row = {
                        "PartitionKey": _INDEX_PARTITION,
                        "RowKey": app_key(name),
                        **APP_INDEX_SCHEMA.schema_property,
                    }
                    await submit_transaction(self._table, [("create", row)])
                    return
                except HttpResponseError as error:
                    if is_write_conflict(error):
                        return
                    if not is_table_missing(error):
                        raise
                    await self._tables.create_table(APPS_TABLE)


def _serialize_app(app: App) -> str:
    return _app_adapter().dump_json(app).decode()


def _audit_row_key(revision: int) -> str:
    """Descending, because a range comes in the order of its keys."""
    return f"audit|{_MAX_REVISION - revision:010d}"


def _audit_row(audit: AuditRecord) -> dict[str, Any]:
    return {
        **AUDIT_SCHEMA.schema_property,
        **split_property("Record", json.dumps(_audit_adapter().dump_python(audit, mode="json"))),
    }


def _audit_record_from_row(row: TableEntity | Mapping[str, Any]) -> AuditRecord:
    AUDIT_SCHEMA.check(row)
    return _audit_adapter().validate_json(join_property("Record", row))
