"""App state and its audit log, in one partition per app. One transaction writes a new state together with its audit
record, so neither is ever stored without the other."""

import asyncio

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.data.tables import UpdateMode

from state_api.domain.names import AppKey, app_key
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.releases import ForgottenRouter, RouterAcknowledgement
from state_api.services.change_signals import ChangeSignals
from state_api.services.ports import AuditRecord, Page
from state_api.storage.app_rows import (
    APP_ROW_KEY,
    AUDIT_KEYS_FROM,
    AUDIT_KEYS_TO,
    INDEX_PARTITION,
    app_from_row,
    app_index_row,
    app_row,
    audit_record_from_row,
    audit_row,
    task_hub_from_version_row,
    version_row,
    version_row_key,
)
from state_api.storage.routers import acknowledgement_from_row, router_row, router_row_key
from state_api.storage.schema import APP_INDEX_SCHEMA
from state_api.storage.tables import (
    APPS_TABLE,
    Tables,
    etag_of,
    if_match,
    is_table_missing,
    is_write_conflict,
    read_page,
    submit_transaction,
    translate_storage_errors,
)
from state_api.storage.transactions import TableOperation


class AppStore:
    """Reads and writes apps. A write succeeds only if the app is still at the revision that the caller decided on. What
    was written is passed on as `signals`."""

    def __init__(self, tables: Tables, signals: ChangeSignals | None = None) -> None:
        self._tables = tables
        self._signals = signals or ChangeSignals()
        self._table = tables.client(APPS_TABLE)
        self._etags: dict[AppKey, tuple[int, str]] = {}
        """The revision and the ETag of each app as it was read last. A write on that revision needs no other read: the
        storage refuses it if the row has changed since."""

    async def get(self, name: str) -> App | None:
        """The app; None also if it was deleted."""
        app = await self.get_including_deleted(name)
        return None if app is None or app.deleted else app

    async def get_including_deleted(self, name: str) -> App | None:
        """The app, also if it was deleted: its name and its revisions go on when it is created again."""
        stored = await self._read_with_etag(name)
        return stored[0] if stored else None

    async def find_task_hub_of_version(self, name: str, version: str) -> str | None:
        """The task hub of the release that has or had this version."""
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(app_key(name), version_row_key(version))
            except ResourceNotFoundError:
                return None
        return task_hub_from_version_row(row)

    async def commit(
        self, before: App, after: App, audit: AuditRecord, *, forgotten_router: ForgottenRouter | None = None
    ) -> bool:
        """Write `after`, its new versions and its audit record if the stored app is still `before`.

        The same transaction replaces the acknowledgement of a forgotten router, so a query sees it or what is
        remembered of it. False if the app has changed, or the acknowledgement of the router."""
        etag = await self._find_etag(before)
        if etag is None:
            return False
        router_operations: list[TableOperation] = []
        if forgotten_router is not None:
            router_etag = await self._find_router_etag(after.name, forgotten_router.last)
            if router_etag is None:
                return False
            router_operations = _forget_operations(after.name, forgotten_router, router_etag)
        if not etag:
            # List the app before it is written: `list_page` skips a listed name without an app, but would miss an app
            # that is not listed.
            await self._add_to_index(after.name)
            write: TableOperation = ("create", app_row(after))
        else:
            write = ("update", app_row(after), {**if_match(etag), "mode": UpdateMode.REPLACE})
        async with translate_storage_errors():
            try:
                await submit_transaction(
                    self._table, [write, *_further_operations(before, after, audit), *router_operations]
                )
            except HttpResponseError as error:
                if not is_write_conflict(error):
                    raise
                return False
        self._signals.signal_app(after)
        return True

    async def list_page(self, top: int, token: str | None) -> Page[App]:
        """Up to `top` apps by name."""
        keys = await self.list_keys_page(top, token)
        apps = await asyncio.gather(*map(self.get, keys.items))
        return Page(tuple(app for app in apps if app is not None), keys.continuation_token)

    async def list_keys_page(self, top: int, token: str | None) -> Page[AppKey]:
        """Up to `top` keys of apps, in order."""
        rows = await read_page(
            self._table, "PartitionKey eq @p", {"p": INDEX_PARTITION}, top=top, token=token, list_name="apps"
        )
        for row in rows.items:
            APP_INDEX_SCHEMA.check(row)
        return Page(tuple(AppKey(row["RowKey"]) for row in rows.items), rows.continuation_token)

    async def list_history(self, app: App, top: int, token: str | None) -> Page[AuditRecord]:
        """Up to `top` audit records of the app, newest first."""
        query = "PartitionKey eq @partition and RowKey ge @from and RowKey lt @to"
        parameters = {"partition": app_key(app.name), "from": AUDIT_KEYS_FROM, "to": AUDIT_KEYS_TO}
        rows = await read_page(self._table, query, parameters, top=top, token=token, list_name="history")
        return Page(tuple(audit_record_from_row(row) for row in rows.items), rows.continuation_token)

    async def _read_with_etag(self, name: str) -> tuple[App, str] | None:
        """The stored app, also a deleted one, and the ETag that a conditional write needs. None if there is no row."""
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(app_key(name), APP_ROW_KEY)
            except ResourceNotFoundError:
                return None
        app, etag = app_from_row(row), etag_of(row)
        self._etags[app_key(name)] = app.revision, etag
        return app, etag

    async def _find_etag(self, before: App) -> str | None:
        """The ETag of this revision of an app; empty if the app was never written. None if the app has changed."""
        revision, etag = self._etags.get(app_key(before.name), (0, ""))
        if revision != before.revision or not etag:
            stored = await self._read_with_etag(before.name)
            revision, etag = (stored[0].revision, stored[1]) if stored else (0, "")
        return etag if revision == before.revision else None

    async def _find_router_etag(self, name: str, known: RouterAcknowledgement) -> str | None:
        """The ETag of the row with this acknowledgement. None if the router has acknowledged something else since: it
        may be behind again."""
        async with translate_storage_errors():
            try:
                row = await self._table.get_entity(app_key(name), router_row_key(known.router))
            except ResourceNotFoundError:
                return None
        return etag_of(row) if acknowledgement_from_row(row) == known else None

    async def _add_to_index(self, name: str) -> None:
        """Add the app to the list of apps, unless it is there. Creates the table when it is missing."""
        for _ in range(2):
            async with translate_storage_errors():
                try:
                    await submit_transaction(self._table, [("create", app_index_row(name))])
                    return
                except HttpResponseError as error:
                    if is_write_conflict(error):
                        return
                    if not is_table_missing(error):
                        raise
                    await self._tables.create_table(APPS_TABLE)


def _further_operations(before: App, after: App, audit: AuditRecord) -> list[TableOperation]:
    """What one transaction writes besides the app."""
    operations: list[TableOperation] = [("create", audit_row(after.name, audit))]
    for version, release in after.releases.items():
        if version not in before.releases:
            # The version of a deleted app's release may be adopted again.
            operations.append(
                ("upsert", version_row(after.name, version, release.task_hub), {"mode": UpdateMode.REPLACE})
            )
    return operations


def _forget_operations(name: str, forgotten: ForgottenRouter, etag: str) -> list[TableOperation]:
    """Remove the row of a forgotten router if it still has this ETag, and write the one of all forgotten routers."""
    key = {"PartitionKey": app_key(name), "RowKey": router_row_key(forgotten.last.router)}
    # The same transaction writes the app on condition of its ETag, so no other ForgetRouter can have written the row.
    return [
        ("delete", key, if_match(etag)),
        ("upsert", router_row(name, forgotten.remembered), {"mode": UpdateMode.REPLACE}),
    ]
