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

from state_api.domain.apps import App
from state_api.domain.names import app_key
from state_api.services.ports import AuditRecord, Page
from state_api.storage.schema import APP, APP_NAME, AUDIT
from state_api.storage.tables import (
    APPS,
    Tables,
    chunked,
    etag_of,
    is_lost_race,
    is_no_table,
    read_page,
    transact,
    translated,
    unchanged_since,
    unchunked,
)
from state_api.storage.transactions import Operation

_STATE = "app"
_INDEX = "|apps"
"""The partition that lists the apps; no app can have its name."""
_LAST = 10**10

# Made when first used: that costs a cold start 60 ms.


@functools.cache
def _app() -> TypeAdapter[App]:
    return TypeAdapter(App)


@functools.cache
def _audit() -> TypeAdapter[AuditRecord]:
    return TypeAdapter(AuditRecord)


class AppStore:
    """Compare-and-swap by revision: the row's ETag guards the write, the revision what it was decided on."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._table = tables.client(APPS)

    async def get(self, name: str) -> App | None:
        app = await self.read(name)
        return None if app is None or app.deleted else app

    async def read(self, name: str) -> App | None:
        known = await self._read(name)
        return known[0] if known else None

    async def commit(self, before: App, after: App, audit: AuditRecord) -> bool:
        """Write `after`, provided the state is still `before`. False if somebody else has changed it."""
        partition = app_key(after.name)
        known = await self._read(after.name)
        if (known[0].revision if known else 0) != before.revision:
            return False
        if known is None:
            await self._list(after.name)
        key = {"PartitionKey": partition, "RowKey": _STATE}
        state = {**key, **APP.stamp, "Name": after.name, **chunked("State", _dump(after))}
        operations: list[Operation] = [
            ("create", state)
            if known is None
            else ("update", state, {**unchanged_since(known[1]), "mode": UpdateMode.REPLACE}),
            ("create", {"PartitionKey": partition, "RowKey": _audit_key(after.revision), **_audit_row(audit)}),
        ]
        async with translated():
            try:
                await transact(self._table, operations)
            except HttpResponseError as error:
                if not is_lost_race(error):
                    raise
                return False
        return True

    async def page(self, top: int, token: str | None) -> Page[App]:
        rows = await read_page(self._table, "PartitionKey eq @p", {"p": _INDEX}, top, token, "apps")
        for row in rows.items:
            APP_NAME.check(row)
        apps = await asyncio.gather(*(self.get(row["RowKey"]) for row in rows.items))
        return Page(tuple(app for app in apps if app is not None), rows.continuation_token)

    async def history(self, app: App, top: int, token: str | None) -> Page[AuditRecord]:
        """Newest first."""
        query = "PartitionKey eq @p and RowKey ge 'audit|' and RowKey lt 'audit}'"
        rows = await read_page(self._table, query, {"p": app_key(app.name)}, top, token, "history")
        return Page(tuple(_audit_from(row) for row in rows.items), rows.continuation_token)

    async def _read(self, name: str) -> tuple[App, str] | None:
        async with translated():
            try:
                row = await self._table.get_entity(app_key(name), _STATE)
            except ResourceNotFoundError:
                return None
        APP.check(row)
        return _app().validate_json(unchunked("State", row)), etag_of(row)

    async def _list(self, name: str) -> None:
        """Put the app on the list before it is first written: a name on the list without an app is skipped."""
        for _ in range(2):
            async with translated():
                try:
                    row = {"PartitionKey": _INDEX, "RowKey": app_key(name), **APP_NAME.stamp}
                    await transact(self._table, [("create", row)])
                    return
                except HttpResponseError as error:
                    if is_lost_race(error):
                        return
                    if not is_no_table(error):
                        raise
                    await self._tables.make(APPS)


def _dump(app: App) -> str:
    return _app().dump_json(app).decode()


def _audit_key(revision: int) -> str:
    """Descending, because a range comes in the order of its keys."""
    return f"audit|{_LAST - revision:010d}"


def _audit_row(audit: AuditRecord) -> dict[str, Any]:
    return {**AUDIT.stamp, **chunked("Record", json.dumps(_audit().dump_python(audit, mode="json")))}


def _audit_from(row: TableEntity | Mapping[str, Any]) -> AuditRecord:
    AUDIT.check(row)
    return _audit().validate_json(unchunked("Record", row))
